//! Who a process is: its container, its pod, its service.
//!
//! **In**: [`profile::Owner`]s with what their cgroup and environment tell; what the kubelet, the API server, the CRI socket
//! and the container runtimes' own files say of containers. Labels, annotations and names are their authors' texts.
//! **Out**: [`profile::Identity`] for every owner; [`Workload`] for filters. **Units**: durations are `Duration`.
//! **Limits**: [`IdentitySettings::max_containers`] containers and as many pods; every answer, text and list is bounded where
//! it is read; what finds no room is counted in [`profile::stats::IdentityStats`]. Nobody waits for a source: what is not
//! known yet is said as unknown.
#![forbid(unsafe_code)]

mod asking;
mod attributes;
mod bounds;
mod controllers;
mod identities;
mod pods;
mod probe;
mod record;
mod settings;
mod shared;
mod source;
mod store;
mod tasks;
mod workload;

pub use attributes::service_name;
pub use identities::Identities;
pub use probe::{Probe, Trouble, probe};
pub use settings::{IdentityError, IdentitySettings, OPTIONAL_ATTRIBUTES, Source};
pub use workload::{Pod, Workload, WorkloadKind};
