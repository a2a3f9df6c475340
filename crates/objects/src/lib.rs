//! Target files: identity, opening, limits, and the door to the worker process.
//!
//! The agent finds the file behind a mapping, opens it, and hands its descriptor to the worker: a process of the same
//! binary without privileges that alone parses bytes of targets. What comes back is small and checked: what the file
//! is, and its tables for unwinding and naming in a sealed memfd that the agent keeps without looking into it.
//!
//! **In**: mappings as the kernel reports them (trusted numbers, hostile paths); snapshots (hostile); the worker's
//! replies (hostile). **Out**: [`profile::ObjectInfo`], [`profile::UserStack`], [`profile::SymbolName`].
//! **Units**: addresses of a process, ELF addresses and file offsets are told apart by name; sizes are bytes.
//! **Limits**: [`ObjectsConfig`] and the constants of each module; what goes past them is counted in
//! [`profile::stats::ObjectStats`].
#![deny(unsafe_op_in_unsafe_fn)]

mod births;
mod cache;
mod checks;
mod client;
mod config;
mod counters;
mod debug_file;
mod fingerprint;
mod held;
mod identity;
mod mapped;
mod naming;
mod needed;
mod objects;
mod offenders;
mod open;
mod process;
mod protocol;
mod reader;
mod reading;
mod registry;
mod request;
mod secret;
mod shared;
mod tables;
mod timed;
mod unused;
mod unwinding;
mod vdso;
mod walking;
mod wire;

pub mod file;
pub mod tools;
pub mod worker;

pub use config::{ObjectsConfig, Timeouts, WorkerCommand};
pub use fingerprint::Fingerprint;
pub use objects::{Objects, ObjectsError};
pub use protocol::SandboxReport;
pub use request::{MappedFile, UnwindRequest, UserSample};
