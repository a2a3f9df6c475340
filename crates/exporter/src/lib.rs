//! Named profiles out: encoders (pprof, OTLP, folded text, flame graph, table), delivery to a collector, the published
//! window, metrics and the web page.
//!
//! **In**: [`profile::Profile`]s that pass [`profile::Profile::check`], and the plain numbers of [`profile::stats`].
//! **Out**: bytes, text, requests, a listening socket's answers. Knows nothing of BPF, processes or object files.
#![forbid(unsafe_code)]

pub mod delivery;
pub mod flamegraph;
pub mod folded;
pub mod health;
pub mod metrics;
pub mod otlp;
pub mod pprof;
pub mod store;
pub mod table;
pub mod web;

mod names;
mod rfc3339;

#[cfg(test)]
#[path = "../tests/common/fixture.rs"]
mod fixture;

#[cfg(test)]
#[path = "../tests/synthetic/mod.rs"]
mod synthetic;
