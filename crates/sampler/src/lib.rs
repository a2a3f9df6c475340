//! The sampler's user-space half: loads and attaches the eBPF program, drains its ring, knows the processes, has
//! snapshots unwound, and hands over windows of equal stacks with counts.
//!
//! The way of a sample: [`kernel`] (ring) → drain (copied, bounded) → merge (in order with the records of processes) →
//! process (whose is it) → place and declared (where it runs, what it says of itself) → verdicts (is it wanted) →
//! resolve (owner, mappings, files) → walked (what the kernel unwound over tables: counted at once) or unwinding (the
//! worker, by `objects`, from a snapshot) → aggregate (window) → the channel given to [`Sampler::start`]. Of the walked ones
//! some carry a snapshot too, and are compared (checks).
//!
//! **In**: the kernel's rings and /proc; snapshots and names in them are the targets' (hostile). **Out**:
//! [`profile::Window`]s; [`profile::Ledger`] is kept exact to the sample. **Units**: `CLOCK_MONOTONIC` nanoseconds,
//! bytes, pids of the initial namespace. **Limits**: each module names its own; together they are counted in
//! [`profile::stats::SamplerStats`] and the ledger.
#![deny(unsafe_op_in_unsafe_fn)]

mod aggregate;
#[cfg(test)]
mod allocations;
mod checks;
mod clock;
mod comm;
mod config;
mod declared;
mod drain;
mod error;
#[cfg(test)]
mod fakes;
mod family;
mod inbox;
pub mod judge;
pub mod kernel;
mod merge;
mod own;
mod pipeline;
mod place;
mod proc_scan;
mod process;
mod resolve;
mod sample;
mod sampler;
mod sideband;
mod source;
mod stats;
mod tables;
mod targets;
mod unwinding;
mod verdicts;
mod walked;

pub use config::{Check, SamplerConfig, Target, UnwindConfig};
pub use error::SamplerError;
pub use sampler::Sampler;
pub use sideband::SideBandError;
pub use stats::StatsHandle;
