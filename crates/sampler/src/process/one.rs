//! One process.

use std::sync::Arc;

use super::identity::Start;
use super::maps::{MapFile, MapSet};
use super::standing::Standing;
use crate::comm::Comm;
use crate::declared::Environment;

/// From the record of an exec to the new program's first instruction, mostly less than a millisecond.
const EXEC_NS: u64 = 20_000_000;

/// One process, as it is after the last record applied.
#[derive(Debug)]
pub(crate) struct Process {
    /// Thread group id.
    pub(crate) tgid: u32,
    /// When it started.
    pub(crate) start: Start,
    /// Changes whenever what names the process changes; never the same for two processes.
    pub(crate) generation: u64,
    /// The leader's name.
    pub(crate) comm: Comm,
    /// The file that it runs.
    pub(crate) executable: Option<Arc<MapFile>>,
    /// Its executable mappings.
    pub(crate) maps: Arc<MapSet>,
    /// Whether `maps` is what the process has, or only what was seen of it.
    pub(crate) maps_known: bool,
    /// What its environment declares.
    pub(crate) environment: Environment,
    /// Whether samples of it are to be expected.
    pub(crate) standing: Standing,
    /// When /proc was last read for it.
    pub(crate) reread_mono_ns: Option<u64>,
    pub(super) threads: u32,
    pub(super) executed_mono_ns: Option<u64>,
    pub(super) ended_mono_ns: Option<u64>,
    pub(super) awaits_executable: bool,
}

impl Process {
    /// Whether its end was not seen yet.
    pub(crate) fn is_running(&self) -> bool {
        self.ended_mono_ns.is_none()
    }

    /// Whether, at this time, it may not have reached its new program's first instruction: what the kernel keeps of
    /// its user half is the old program's.
    pub(crate) fn is_executing(&self, time_mono_ns: u64) -> bool {
        self.executed_mono_ns.is_some_and(|at| time_mono_ns.saturating_sub(at) < EXEC_NS)
    }

    /// Whether its program began not longer than this before a time.
    pub(super) fn has_executed_since(&self, time_mono_ns: u64, for_ns: u64) -> bool {
        self.executed_mono_ns.is_some_and(|at| time_mono_ns.saturating_sub(at) < for_ns)
    }
}
