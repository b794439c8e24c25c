//! Large payloads: the memory of Switchyard with eight attachments of 100 MiB under way at once to both upstreams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::contender::{Contender, Kind};
use super::envelope::KEY;
use super::sink::{Mode, Sinks};

/// The number of attachments, and the size of each in MiB.
const COUNT: u64 = 8;
const MIB: usize = 100;

/// The peak of resident memory in bytes while the attachments come in and go out.
pub(crate) fn measure(place: &Path, sinks: &mut Sinks) -> Result<u64> {
    let files = place.join("large");
    sinks.set_both(Mode::Up)?;
    let relay = Contender::start_with_room(Kind::Switchyard, &files, sinks, "4GiB")?;
    let (before, address) = (sinks.counts()?, relay.address);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..COUNT).map(|number| scope.spawn(move || send(address, number))).collect();
        senders.into_iter().try_for_each(|sender| sender.join().map_err(|_| anyhow!("a sender failed"))?)
    })?;
    let taken = sinks.wait(before, COUNT, Duration::from_secs(120))?;
    ensure!(taken.iter().all(|n| *n >= COUNT), "of {COUNT} large attachments the upstreams took {taken:?}");
    let peak = relay.usage().peak;
    drop(relay);
    std::fs::remove_dir_all(&files)?;
    Ok(peak)
}

/// Sends one attachment and waits for the answer.
fn send(address: SocketAddr, number: u64) -> Result<()> {
    let block = [b'x'; 64 * 1024];
    let payload = MIB << 20;
    let start = format!("{{\"event_id\":\"{number:032x}\"}}\n{{\"type\":\"attachment\",\"length\":{payload}}}\n");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "POST /api/1/envelope/?sentry_version=7&sentry_key={KEY} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{start}",
        start.len() + payload
    )?;
    for _ in 0..payload / block.len() {
        stream.write_all(&block).context("a large body is not taken")?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "a large attachment was answered with {answer:?}");
    Ok(())
}
