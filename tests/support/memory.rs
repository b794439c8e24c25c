//! The memory of a process as the kernel counts it.

/// The memory of one process, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory(u32);

impl Memory {
    /// The memory of the process with this id.
    pub(crate) fn of(process: u32) -> Self {
        Self(process)
    }

    /// The resident memory now, in KiB.
    pub(crate) fn resident(self) -> u64 {
        self.figure("VmRSS:")
    }

    /// The peak of resident memory since [`forget_peak`](Self::forget_peak), in KiB.
    pub(crate) fn peak(self) -> u64 {
        self.figure("VmHWM:")
    }

    /// Resets the peak (proc(5), `clear_refs`).
    pub(crate) fn forget_peak(self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5").expect("a process of ours");
    }

    fn figure(self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).expect("a running process");
        let line = status.lines().find(|line| line.starts_with(name)).expect("the figure");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
    }
}
