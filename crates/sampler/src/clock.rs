//! The clocks, read in one place; state machines are handed what is read here.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// One instant on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// `CLOCK_MONOTONIC`, the clock of samples and records.
    pub(crate) mono_ns: u64,
    /// Since the Unix epoch.
    pub(crate) unix_ns: u64,
}

/// Now.
pub(crate) fn now() -> Now {
    Now { mono_ns: read(ClockId::CLOCK_MONOTONIC), unix_ns: read(ClockId::CLOCK_REALTIME) }
}

/// How long the machine has slept since it booted.
pub(crate) fn boottime_ahead_of_monotonic_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

fn read(clock: ClockId) -> u64 {
    // These clocks exist on every Linux; 0 would only make a span odd.
    let time = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether the pids that the kernel reports are those that this process sees.
pub(crate) fn in_initial_pid_namespace() -> bool {
    /// The initial namespace's inode is a constant of the kernel (`PROC_PID_INIT_INO`).
    const INITIAL: &str = "pid:[4026531836]";
    // Where /proc does not tell, other errors will.
    std::fs::read_link("/proc/self/ns/pid").map_or(true, |link| link.as_os_str() == INITIAL)
}
