//! The kernel side's door: the loaded eBPF program, one timer per CPU, the ring of samples, the counters.
//!
//! **In**: [`KernelConfig`]; the running kernel's BTF; records of the ring buffer, which the program made and whose
//! snapshots hold foreign memory.
//! **Out**: [`RawSample`]s, counters and expected ticks per CPU, errors that say what to do.
//! **Units**: times are `CLOCK_MONOTONIC` nanoseconds, lengths are bytes, rates are ticks a second and CPU.
//! **Limits**: rates of 1 to [`MAX_RATE_HZ`]; rings of [`MIN_RING_BYTES`] to [`MAX_RING_BYTES`];
//! `sampler_abi::MAX_FILTERED_TGIDS` listed processes; `sampler_abi::MAX_VERDICTS` verdicts; the
//! shards that were asked for and `sampler_abi::MAX_PROCESSES` processes with tables; one [`KernelSide::drain`] reads at most one ring's size. A record that
//! does not parse is counted in [`Counters::malformed`] and skipped.

mod btf;
mod cgroups;
mod counters;
mod cpus;
mod error;
mod events;
mod load;
mod memory;
mod probe;
mod record;
mod side;
mod sys;
mod tables;
mod verdicts;

pub use self::cgroups::CgroupIds;
pub use self::counters::{Counters, CountersHandle, CpuReading};
pub(crate) use self::cpus::online as online_cpus;
pub use self::error::KernelError;
pub use self::events::HotplugReport;
pub use self::probe::{Finding, KernelReport, Verdict, probe};
pub use self::record::{RawSample, RecordError};
pub use self::side::{KernelConfig, KernelSide};
pub use self::tables::TablesHandle;
pub use self::verdicts::{OwnTgidsHandle, TickVerdict, VerdictsHandle};

/// The highest rate.
pub const MAX_RATE_HZ: u32 = 1000;
/// The smallest ring buffer.
pub const MIN_RING_BYTES: u32 = 4096;
/// The largest ring buffer.
pub const MAX_RING_BYTES: u32 = 256 * 1024 * 1024;
