//! A profile as OpenTelemetry messages (`opentelemetry-proto` 1.10, `v1development`).
//!
//! **In**: a profile that passes [`profile::Profile::check`]. **Out**: export requests below a size, each with the
//! number of samples it carries. **Units**: values are samples; addresses are the file's own (ELF addresses).
//!
//! What consumers make necessary:
//! - every table begins with its zero value, the link table too;
//! - resource attributes are plain strings, since references into the dictionary are not read everywhere;
//! - Pyroscope makes a series of every attribute of resources and samples: samples carry none unless asked;
//! - it knows a CPU profile by samples/count with a period type of cpu/nanoseconds and a period, takes one value or
//!   timestamps per sample, collapses profiles of equal resource and millisecond, and does not draw frames without
//!   a name.

mod attributes;
mod clock;
mod dictionary;
mod encode;
mod groups;
mod resource;
mod settings;

pub use encode::{Encoded, Encoder, Request, SCOPE_NAME};
pub use settings::{DEFAULT_MAX_ATTRIBUTES, ResourceSettings};

#[cfg(test)]
mod tests;
