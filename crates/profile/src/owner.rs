//! Whom a stack belongs to.

use std::sync::Arc;

/// A process for as long as the machine runs: pids are reused, start times are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Start time of the group's leader, `CLOCK_MONOTONIC` nanoseconds.
    pub leader_start_mono_ns: u64,
}

/// Whom a stack belongs to. Two stacks of equal owners are one entry.
///
/// Texts come from the target and may hold anything that is valid UTF-8 (lossily decoded): whoever shows them escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The process.
    pub process: ProcessKey,
    /// The thread, where threads are asked for.
    pub tid: Option<u32>,
    /// The name of the thread (comm).
    pub comm: Arc<str>,
    /// The name of the process: its executable's file name, else its leader's comm; never empty.
    pub process_name: Arc<str>,
    /// The path of the executable as the process sees it; empty for kernel threads and where unknown.
    pub executable_path: Arc<str>,
    /// The object that is the executable, for pprof's `mapping[0]`.
    pub executable: Option<crate::ObjectId>,
    /// The cgroup (v2) that the task was in.
    pub cgroup_id: u64,
    /// The container's id, if it runs in one.
    pub container_id: Option<Arc<str>>,
    /// The task is a kernel thread.
    pub kernel_thread: bool,
}
