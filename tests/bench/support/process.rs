//! The resources of a process and its descendants as the kernel counts them: processor time and resident memory. Linux only.

use std::collections::BTreeMap;
use std::fs;

/// Microseconds in one tick of `/proc/PID/stat`; the kernel shows 100 ticks a second to programs on every machine.
const TICK_US: u64 = 10_000;

/// The resources of a tree of processes, summed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time since its start, user and system, all threads, in µs.
    pub cpu_us: u64,
    /// The kernel's part of `cpu_us`.
    pub kernel_us: u64,
    /// Resident memory now, in bytes.
    pub resident: u64,
    /// The peak of resident memory so far, in bytes.
    pub peak: u64,
}

/// The usage of `root` and all running processes that it started.
pub(crate) fn usage(root: u32) -> Usage {
    tree(root).into_iter().fold(Usage::default(), |sum, pid| {
        let one = usage_of(pid);
        Usage {
            cpu_us: sum.cpu_us + one.cpu_us,
            kernel_us: sum.kernel_us + one.kernel_us,
            resident: sum.resident + one.resident,
            peak: sum.peak + one.peak,
        }
    })
}

/// `root` and its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        found.extend(children.get(&found[at]).into_iter().flatten());
        at += 1;
    }
    found
}

fn usage_of(pid: u32) -> Usage {
    let fields = stat(pid).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Usage {
        cpu_us: (ticks(11) + ticks(12)) * TICK_US,
        kernel_us: ticks(12) * TICK_US,
        resident: bytes("VmRSS:"),
        peak: bytes("VmHWM:"),
    }
}

/// The fields of `/proc/PID/stat` behind the name, which may hold spaces: state, parent, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}
