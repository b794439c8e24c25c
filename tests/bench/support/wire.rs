//! The parts of HTTP/1.1 that the load and the sinks need: the end of a head and the length of a body. No chunked bodies.

use anyhow::{Result, bail};
use memchr::memmem;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The maximum number of bytes that are kept of an unfinished body.
const KEPT: usize = 256 * 1024;

/// The fields of a message's head that matter here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// The status of an answer; 0 for a request.
    pub status: u16,
    /// The length of the body in bytes.
    pub body: usize,
    /// Whether the sender closes the connection after this message.
    pub closes: bool,
}

/// Reads one message and leaves the bytes after it in `buffer`; `None` when the peer closed before the first byte.
pub(crate) async fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Head>> {
    let (head, length) = loop {
        if let Some(end) = memmem::find(buffer, b"\r\n\r\n") {
            let head = parse_head(&buffer[..end + 2])?;
            break (head, end + 4 + head.body);
        }
        if stream.read_buf(buffer).await? == 0 {
            if buffer.is_empty() {
                return Ok(None);
            }
            bail!("closed within a head");
        }
    };
    let mut length = length;
    while buffer.len() < length {
        if buffer.len() > KEPT {
            length -= buffer.len();
            buffer.clear();
        }
        if stream.read_buf(buffer).await? == 0 {
            bail!("closed within a body");
        }
    }
    buffer.drain(..length);
    Ok(Some(head))
}

fn parse_head(head: &[u8]) -> Result<Head> {
    let text = std::str::from_utf8(head)?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0);
    let mut parsed = Head { status, body: 0, closes: false };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            parsed.body = value.trim().parse()?;
        } else if name.eq_ignore_ascii_case("connection") {
            parsed.closes = value.trim().eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("a chunked message: {first}");
        }
    }
    Ok(parsed)
}
