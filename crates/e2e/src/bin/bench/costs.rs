//! What one more sample, one more process and one more birth cost: measured by `scaling`, computed with by `large`.

use std::collections::BTreeMap;

/// The two rates between which the cost of a sample is measured.
pub(crate) const LOW_HZ: u32 = 99;
pub(crate) const HIGH_HZ: u32 = 1000;
/// CPU seconds for a second, by thread.
pub(crate) type Threads = BTreeMap<String, f64>;

/// What one more costs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs {
    /// Nanoseconds of CPU time in user space for a sample, by thread.
    pub(crate) sample: Threads,
    /// CPU seconds for a second, whatever is sampled.
    pub(crate) fixed: f64,
    /// A sample that finds the caches cold; one at the high rate; nanoseconds.
    pub(crate) cold_ns: f64,
    pub(crate) warm_ns: f64,
    pub(crate) walked_bytes: f64,
    pub(crate) snapshot_bytes: f64,
    /// RSS at first, and for each process, in MB.
    pub(crate) rss_mb: f64,
    pub(crate) process_mb: f64,
    /// Kernel memory of maps at first, and for each process, in MB.
    pub(crate) maps_mb: f64,
    pub(crate) process_maps_mb: f64,
    /// CPU seconds of the start for each process that is there.
    pub(crate) process_start: f64,
    /// CPU seconds for a second for each process that only is there.
    pub(crate) process_rate: f64,
    /// CPU seconds for each process that is born, runs a program and ends.
    pub(crate) birth: f64,
}
