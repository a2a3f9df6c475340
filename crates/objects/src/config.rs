//! What the binary may set: the worker's command, budgets, timeouts.
//!
//! **In**: the operator's choice (trusted). **Units**: bytes, counts, wall-clock durations.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How the worker process is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program. Its standard input is the socket to the agent.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether it writes to the agent's standard error (for debugging: what it writes comes from hostile bytes).
    pub inherit_stderr: bool,
}

impl Default for WorkerCommand {
    /// The running binary with the argument `worker`.
    fn default() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), args: vec![OsString::from("worker")], inherit_stderr: false }
    }
}

/// How long the agent waits for the worker before it replaces it, and for a file system before it gives a file up.
///
/// A worker that had little CPU time (a machine under load) gets up to four times as long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From start to the first message.
    pub hello: Duration,
    /// Reading one file.
    pub extract: Duration,
    /// Taking one object's tables.
    pub load: Duration,
    /// One batch of stacks.
    pub unwind: Duration,
    /// One batch of names.
    pub names: Duration,
    /// Opening one file (a dead network or FUSE file system blocks).
    pub open: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            extract: Duration::from_secs(10),
            load: Duration::from_secs(5),
            unwind: Duration::from_secs(2),
            names: Duration::from_secs(5),
            open: Duration::from_secs(2),
        }
    }
}

/// Settings of [`crate::Objects`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectsConfig {
    /// The worker's command.
    pub worker: WorkerCommand,
    /// Files known at the most; the least recently used is forgotten first.
    pub max_objects: usize,
    /// Bytes of extracted tables held at the most; the least recently used go first and are read again when needed.
    pub table_bytes: u64,
    /// Tables held at the most, each one descriptor; a quarter of the soft limit of open files if that is less.
    pub max_tables: usize,
    /// Bytes of unwind tables that the worker holds at the most.
    pub worker_unwind_bytes: u64,
    /// Bytes of symbol tables that the worker maps at the most.
    pub worker_symbol_bytes: u64,
    /// Where extracted tables are kept over restarts; none: nowhere. Made if it is absent, used if only the agent's user
    /// may write to it.
    pub cache: Option<PathBuf>,
    /// Bytes that they may take there.
    pub cache_bytes: u64,
    /// How long to wait.
    pub timeouts: Timeouts,
}

impl Default for ObjectsConfig {
    fn default() -> Self {
        Self {
            worker: WorkerCommand::default(),
            max_objects: 16 * 1024,
            table_bytes: 256 << 20,
            max_tables: 4096,
            worker_unwind_bytes: 64 << 20,
            worker_symbol_bytes: 256 << 20,
            cache: None,
            cache_bytes: 512 << 20,
            timeouts: Timeouts::default(),
        }
    }
}
