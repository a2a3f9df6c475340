//! What a process's environment declares of it: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, nothing else.
//!
//! Other variables hold secrets: bytes that are not these variables' are passed over as they come, and the buffers are
//! wiped. Reading may wait for the process's memory, which may lie in a file system of its own making: so it happens on a
//! thread of its own, which is given up when it does not answer.
//!
//! **In**: `/proc/PID/environ` (the process's own memory: hostile). **Out**: [`profile::Declared`]. **Units**: bytes.
//! **Limits**: see [`environ`], [`attributes`] and [`reader`].

mod attributes;
mod environ;
mod reader;

pub(crate) use reader::{Environment, Environments};
