//! A switch of the primary, timed from the saved file to the metric that shows it live.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::contender::{Contender, Kind, get};
use super::sink::Sinks;

/// The median time of several switches back and forth.
pub(crate) fn measure(times: usize, place: &Path, sinks: &Sinks) -> Result<Duration> {
    let files = place.join("switch");
    let relay = Contender::start(Kind::Switchyard, &files, sinks)?;
    let path = files.join("config.toml");
    let mut took = Vec::new();
    for (from, to) in [("a", "b"), ("b", "a")].into_iter().cycle().take(times) {
        let changed =
            fs::read_to_string(&path)?.replacen(&format!("primary = \"{from}\""), &format!("primary = \"{to}\""), 1);
        let saved = Instant::now();
        fs::write(&path, changed)?;
        let live = format!("switchyard_primary{{upstream=\"{to}\"}} 1");
        while !get(relay.admin, "/metrics")?.contains(&live) {
            ensure!(saved.elapsed() < Duration::from_secs(10), "ten seconds after the switch /metrics lacks {live}");
            std::thread::sleep(Duration::from_millis(2));
        }
        took.push(saved.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}
