//! HTTP/1.1 by hand: one connection to the relay. A test sees exactly what arrives and when the connection breaks.
//!
//! Rule: nothing is repeated and nothing is hidden; an error of the connection is the caller's to judge.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::envelopes::KEY;

/// A timeout that is longer than any answer of the relay may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The parts of an answer that tests look at.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Header names in lower case, with their values.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header; `None` when it is absent.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Whether the answer says that the connection closes after it.
    pub(crate) fn is_last(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects to `host:port`.
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The head of an envelope POST with a body of `length` bytes, authenticated in the query.
    pub(crate) fn head(length: usize) -> String {
        format!(
            "POST /api/1/envelope/?sentry_version=7&sentry_key={KEY} HTTP/1.1\r\nhost: relay\r\n\
             content-length: {length}\r\n\r\n"
        )
    }

    /// Sends bytes unchanged.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Posts an envelope and reads the answer.
    pub(crate) async fn post(&mut self, envelope: &str) -> io::Result<Answer> {
        let request = format!("{}{envelope}", Self::head(envelope.len()));
        self.write(request.as_bytes()).await?;
        self.answer().await
    }

    /// Reads one answer.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        timeout(PATIENCE, self.read()).await?
    }

    async fn read(&mut self) -> io::Result<Answer> {
        let first = self.line().await?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let mut body = vec![0; length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)];
        self.0.read_exact(&mut body).await?;
        Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Reads a line and returns it without its end; the end of the stream is an error.
    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
