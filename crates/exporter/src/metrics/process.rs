//! What the agent and its worker cost, as values: who reads them is outside of this room.
//!
//! **In**: a [`Processes`], asked once for each collection. **Units**: nanoseconds of CPU time, bytes. **Limits**: as many thread
//! names as [`MAX_THREAD_NAMES`], and one for the rest; whoever reads keeps to it, and what is past it is not told.

/// More names of threads than this are told as one.
pub const MAX_THREAD_NAMES: usize = 48;

/// Series of threads at the most: the names, and those for threads without one and for threads that ended.
pub(super) const MAX_THREAD_SERIES: usize = MAX_THREAD_NAMES + 2;

/// Whoever can read what the agent and its worker cost.
pub trait Processes: Send + Sync {
    /// Everything, now. CPU times never go back, not when threads end and not when the worker is replaced.
    ///
    /// `worker_pid`: the worker process; 0 where none runs.
    fn read(&self, worker_pid: u32) -> ProcessReading;
}

/// CPU time in user and kernel mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Nanoseconds in user mode.
    pub user_ns: u64,
    /// Nanoseconds in kernel mode.
    pub system_ns: u64,
}

/// Threads of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadReading {
    /// The name, without the number behind it.
    pub name: String,
    /// How many are alive.
    pub threads: u64,
    /// The CPU time of all that had the name so far.
    pub cpu: CpuTime,
}

/// One reading of both processes. What could not be read is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessReading {
    /// The agent's threads, by name; [`MAX_THREAD_NAMES`].
    pub threads: Vec<ThreadReading>,
    /// The agent's CPU time.
    pub agent: CpuTime,
    /// The CPU time of all worker processes that ran so far.
    pub worker: CpuTime,
    /// Resident memory of the agent, in bytes.
    pub agent_rss_bytes: u64,
    /// Resident memory of the worker, in bytes.
    pub worker_rss_bytes: u64,
    /// Virtual memory of the agent, in bytes.
    pub virtual_bytes: u64,
    /// Threads of the worker.
    pub worker_threads: u64,
    /// Open file descriptors of the agent.
    pub agent_open_fds: u64,
    /// Open file descriptors of the worker.
    pub worker_open_fds: u64,
    /// Most file descriptors that the agent may open.
    pub max_fds: u64,
    /// When the agent started, in seconds since the Unix epoch.
    pub start_time_unix_s: u64,
}
