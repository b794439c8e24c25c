//! The two upstreams: a child process that takes envelopes as cheaply as possible, counts them, and can go down or hang.
//!
//! The bench talks to it over standard input and output, one line for each line; it ends when its input does.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::{ROLE, ports, wire};

/// How an upstream behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Takes everything at once.
    Up,
    /// Accepts connections, reads requests, never answers.
    Hung,
    /// Refuses connections.
    Down,
}

/// The running sinks; dropping this ends them.
pub(crate) struct Sinks {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The addresses of the first and the second upstream.
    pub addresses: [SocketAddr; 2],
}

impl Sinks {
    /// Starts both in the mode [`Mode::Up`]. They answer with an event id as trackers do, or with an empty body if `bare`.
    pub(crate) fn start(bare: bool) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, if bare { "bare-sink" } else { "sink" }])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the sinks do not start")?;
        let input = child.stdin.take().context("no input")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let Some((a, b)) = line.trim().split_once(' ') else { bail!("the sinks said {line:?}") };
        let addresses = [a.parse()?, b.parse()?];
        Ok(Self { child, input, output, addresses })
    }

    /// Changes the mode of an upstream; it is in force when this returns.
    pub(crate) fn set(&mut self, upstream: usize, mode: Mode) -> Result<()> {
        let word = match mode {
            Mode::Up => "up",
            Mode::Hung => "hung",
            Mode::Down => "down",
        };
        self.ask(&format!("{word} {upstream}")).map(drop)
    }

    /// Changes the mode of both upstreams.
    pub(crate) fn set_both(&mut self, mode: Mode) -> Result<()> {
        self.set(0, mode)?;
        self.set(1, mode)
    }

    /// The number of envelopes that each upstream has taken.
    pub(crate) fn counts(&mut self) -> Result<[u64; 2]> {
        let line = self.ask("count")?;
        let Some((a, b)) = line.trim().split_once(' ') else { bail!("the sinks said {line:?}") };
        Ok([a.parse()?, b.parse()?])
    }

    /// Waits until both have taken `each` more than `before`, or until the timeout; returns the last counts.
    pub(crate) fn wait(&mut self, before: [u64; 2], each: u64, patience: Duration) -> Result<[u64; 2]> {
        let deadline = Instant::now() + patience;
        loop {
            let now = self.counts()?;
            let taken = [now[0] - before[0], now[1] - before[1]];
            if taken.iter().all(|n| *n >= each) || Instant::now() >= deadline {
                return Ok(taken);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        let read = self.output.read_line(&mut answer)?;
        ensure!(read > 0, "the sinks ended");
        Ok(answer)
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        // The child may have ended by itself already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs the child.
pub(crate) fn play(bare: bool) -> Result<()> {
    let answer = if bare { EMPTY } else { WITH_ID };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(answer))
}

/// The answer of trackers.
const WITH_ID: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 41\r\n\r\n\
    {\"id\":\"fc6d8c0c43fc4630ad850ee518f1b9d0\"}";

/// nginx closes a mirror's connection whose answer has a body, so this answer has none.
const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

struct Upstream {
    address: SocketAddr,
    answer: &'static [u8],
    taken: AtomicU64,
    mode: watch::Sender<Mode>,
    /// The mode that the listener has applied.
    in_force: watch::Sender<Mode>,
}

async fn serve(answer: &'static [u8]) -> Result<()> {
    let upstreams = [upstream(answer)?, upstream(answer)?];
    for upstream in &upstreams {
        tokio::spawn(listen(Arc::clone(upstream)));
        in_force(upstream, Mode::Up).await?;
    }
    let mut lines = lines();
    let mut answer = format!("{} {}\n", upstreams[0].address, upstreams[1].address);
    loop {
        stdout().write_all(answer.as_bytes())?;
        stdout().flush()?;
        let Some(line) = lines.recv().await else { return Ok(()) };
        answer = obey(&line, &upstreams).await?;
    }
}

/// The lines of standard input, read by a thread; the channel closes at their end.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn obey(line: &str, upstreams: &[Arc<Upstream>; 2]) -> Result<String> {
    let (word, index) = line.split_once(' ').unwrap_or((line, "0"));
    let upstream = upstreams.get(index.parse::<usize>()?).context("no such upstream")?;
    let mode = match word {
        "count" => {
            let [a, b] = upstreams;
            return Ok(format!("{} {}\n", a.taken.load(Ordering::Relaxed), b.taken.load(Ordering::Relaxed)));
        }
        "up" => Mode::Up,
        "hung" => Mode::Hung,
        "down" => Mode::Down,
        other => bail!("no such word: {other}"),
    };
    upstream.mode.send_replace(mode);
    in_force(upstream, mode).await?;
    Ok("done\n".into())
}

async fn in_force(upstream: &Upstream, mode: Mode) -> Result<()> {
    upstream.in_force.subscribe().wait_for(|now| *now == mode).await.map(drop).context("the listener ended")
}

fn upstream(answer: &'static [u8]) -> Result<Arc<Upstream>> {
    let (mode, in_force) = (watch::Sender::new(Mode::Up), watch::Sender::new(Mode::Down));
    Ok(Arc::new(Upstream { address: ports::free()?, answer, taken: AtomicU64::new(0), mode, in_force }))
}

/// Listens while the upstream is not down.
async fn listen(upstream: Arc<Upstream>) -> Result<()> {
    let mut mode = upstream.mode.subscribe();
    loop {
        let now = *mode.wait_for(|mode| *mode != Mode::Down).await?;
        let listener = TcpListener::bind(upstream.address).await.context("the port was taken meanwhile")?;
        upstream.in_force.send_replace(now);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    tokio::spawn(connection(accepted?.0, Arc::clone(&upstream)));
                }
                changed = mode.changed() => {
                    changed?;
                    if *mode.borrow_and_update() == Mode::Down { break }
                    upstream.in_force.send_replace(*mode.borrow());
                }
            }
        }
        drop(listener);
        upstream.in_force.send_replace(Mode::Down);
    }
}

/// Takes envelopes until the peer closes or the upstream goes down.
async fn connection(mut stream: TcpStream, upstream: Arc<Upstream>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut mode = upstream.mode.subscribe();
    let mut down = upstream.mode.subscribe();
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let head = tokio::select! {
            read = wire::read_message(&mut stream, &mut buffer) => read?,
            _ = down.wait_for(|mode| *mode == Mode::Down) => return Ok(()),
        };
        let Some(head) = head else { return Ok(()) };
        mode.wait_for(|mode| *mode != Mode::Hung).await?;
        if head.body > 0 {
            upstream.taken.fetch_add(1, Ordering::Relaxed);
        }
        stream.write_all(upstream.answer).await?;
        if head.closes {
            return Ok(());
        }
    }
}
