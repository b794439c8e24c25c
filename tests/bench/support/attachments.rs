//! Eight attachments of 100 MiB on their way in at once: what they take of memory, not of disk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::contender::{Contender, Kind};
use super::envelope::KEY;
use super::sink::Sinks;

const COUNT: usize = 8;
const SIZE: usize = 100 * 1024 * 1024;

/// The most resident bytes of Switchyard from the first byte of the attachments to their last answer.
pub(crate) fn measure(place: &Path, sinks: &Sinks) -> Result<u64> {
    let files = place.join("attachments");
    let relay = Contender::start_with_room(Kind::Switchyard, &files, sinks, "16GiB")?;
    let address = relay.address;
    let senders: Vec<_> = (0..COUNT).map(|n| std::thread::spawn(move || send(address, n))).collect();
    for sender in senders {
        let status = sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        ensure!(status.starts_with("HTTP/1.1 200"), "an attachment of 100 MiB was answered: {status}");
    }
    let peak = relay.usage().peak;
    drop(relay);
    std::fs::remove_dir_all(&files)?;
    Ok(peak)
}

/// Sends one envelope with one attachment; the answer's first line.
fn send(address: SocketAddr, number: usize) -> Result<String> {
    let head = format!(
        "{{\"event_id\":\"{number:032x}\"}}\n{{\"type\":\"attachment\",\"filename\":\"core.bin\",\"length\":{SIZE}}}\n"
    );
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "POST /api/1/envelope/?sentry_key={KEY}&sentry_version=7 HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{head}",
        head.len() + SIZE
    )?;
    let block = vec![b'x'; 256 * 1024];
    for _ in 0..SIZE / block.len() {
        stream.write_all(&block)?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
