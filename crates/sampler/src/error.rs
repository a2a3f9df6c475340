//! Why the sampler does not start.

use std::io;

use crate::kernel::KernelError;
use crate::sideband::SideBandError;

/// Why the sampler does not start. Each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// A setting is out of its limits.
    #[error("{what}")]
    Config {
        /// What must be.
        what: &'static str,
    },
    /// A process to be sampled does not run.
    #[error("no process with pid {tgid}")]
    NoProcess {
        /// As asked.
        tgid: u32,
    },
    /// A thread was named instead of a process.
    #[error("{tid} is a thread of process {tgid}: name the process")]
    Thread {
        /// As asked.
        tid: u32,
        /// Its process.
        tgid: u32,
    },
    /// The kernel reports pids that this process cannot see.
    #[error("not in the host's pid namespace: start the container with --pid=host (hostPID: true)")]
    PidNamespace,
    /// The kernel's list of CPUs could not be read.
    #[error("the list of online CPUs could not be read")]
    Cpus(#[source] io::Error),
    /// The eBPF program or its timers.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The records of processes.
    #[error(transparent)]
    SideBand(#[from] SideBandError),
    /// A descriptor or thread could not be made.
    #[error("{what} could not be made")]
    System {
        /// What.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}
