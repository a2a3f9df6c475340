//! What the sampler may be asked for.

use std::time::Duration;

use sampler_abi::{
    CONTROL_FOLLOW_CHILDREN, CONTROL_NO_KERNEL_THREADS, CONTROL_NO_SELF, CONTROL_ONLY_LISTED, CONTROL_TABLES,
    CONTROL_VERDICTS, Control, DEFAULT_SNAPSHOT_BYTES, MAX_FILTERED_TGIDS, MAX_SNAPSHOT_BYTES, MAX_VERDICTS,
};
use unwind_table::{SHARD_BYTES, SHARDS};

use crate::checks::CheckRate;
use crate::error::SamplerError;
use crate::kernel::{KernelConfig, MAX_RATE_HZ, MAX_RING_BYTES, MIN_RING_BYTES};

/// The shortest window.
const MIN_WINDOW: Duration = Duration::from_millis(100);
/// The longest window.
const MAX_WINDOW: Duration = Duration::from_secs(3600);
/// The reader is woken when this share of the ring is full.
const WAKEUP_SHARE: u32 = 8;

/// The least memory for tables: one file's.
const MIN_TABLE_BYTES: u64 = 1 << 20;
/// The most memory for tables.
const MAX_TABLE_BYTES: u64 = 4 << 30;
/// The longest user stack that the kernel unwinds.
const MAX_WALK_FRAMES: u32 = 1024;
/// The rarest comparison.
const MAX_CHECK_EVERY: u32 = 1_000_000;

/// Which processes are sampled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// All.
    #[default]
    All,
    /// These.
    Processes {
        /// Their thread group ids in the initial pid namespace.
        tgids: Vec<u32>,
        /// Also their descendants, those that run and those to come.
        children: bool,
    },
}

/// How many of the stacks that the kernel unwound also carry a snapshot, from which they are unwound again and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// None.
    Off,
    /// As many as make about one a second for the whole machine, and never more than one in 200.
    #[default]
    Adaptive,
    /// One in so many, on each CPU; 1 to a million.
    OneIn(u32),
}

/// How user stacks are unwound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwindConfig {
    /// Whether the kernel unwinds by tables where it can; else every sample carries a snapshot.
    pub tables: bool,
    /// What tables may hold in the kernel, in bytes; at most 4 GiB.
    pub memory_bytes: u64,
    /// User frames of one stack that the kernel unwinds; 1 to 1024.
    pub max_frames: u32,
    /// How many of these stacks are compared.
    pub check: Check,
}

impl Default for UnwindConfig {
    fn default() -> Self {
        Self { tables: true, memory_bytes: 64 << 20, max_frames: 256, check: Check::Adaptive }
    }
}

impl UnwindConfig {
    fn check(&self) -> Result<(), SamplerError> {
        let invalid = |what| Err(SamplerError::Config { what });
        if !(MIN_TABLE_BYTES..=MAX_TABLE_BYTES).contains(&self.memory_bytes) {
            return invalid("the memory for unwind tables must be 1 MiB to 4 GiB");
        }
        if !(1..=MAX_WALK_FRAMES).contains(&self.max_frames) {
            return invalid("the kernel unwinds 1 to 1024 user frames of a stack");
        }
        if let Check::OneIn(every) = self.check
            && !(1..=MAX_CHECK_EVERY).contains(&every)
        {
            return invalid("one in 1 to 1000000 stacks may be compared");
        }
        Ok(())
    }

    /// The shards that the memory suffices for.
    fn shards(&self) -> u32 {
        let shards = self.memory_bytes / u64::from(SHARD_BYTES);
        u32::try_from(shards).unwrap_or(SHARDS).clamp(1, SHARDS)
    }
}

/// The sampler's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplerConfig {
    /// Ticks a second on each CPU, 1 to 1000.
    pub rate_hz: u32,
    /// Which processes.
    pub target: Target,
    /// How much of a user stack a sample carries, in bytes; at most 64 KiB.
    pub snapshot_bytes: u32,
    /// How long a window is.
    pub window: Duration,
    /// Whether samples of different threads are told apart.
    pub per_thread: bool,
    /// Whether the time of every sample is kept.
    pub timestamps: bool,
    /// The size of the kernel's ring buffer; a power of two.
    pub ring_bytes: u32,
    /// Whether the profiler itself is sampled.
    pub include_self: bool,
    /// Whether kernel threads are sampled.
    pub kernel_threads: bool,
    /// What samples may hold that wait to be merged and unwound, in bytes.
    pub merge_bytes: usize,
    /// Whether `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are looked for in the environments of processes.
    pub environment: bool,
    /// How user stacks are unwound.
    pub unwind: UnwindConfig,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            rate_hz: 19,
            target: Target::All,
            snapshot_bytes: DEFAULT_SNAPSHOT_BYTES,
            window: Duration::from_secs(5),
            per_thread: false,
            timestamps: false,
            ring_bytes: 8 << 20,
            include_self: true,
            kernel_threads: true,
            merge_bytes: 32 << 20,
            environment: true,
            unwind: UnwindConfig::default(),
        }
    }
}

impl SamplerConfig {
    /// Checks what needs no look at the system.
    pub(crate) fn check(&self) -> Result<(), SamplerError> {
        let invalid = |what| Err(SamplerError::Config { what });
        if !(1..=MAX_RATE_HZ).contains(&self.rate_hz) {
            return invalid("the rate must be 1 to 1000 Hz");
        }
        if !(512..=MAX_SNAPSHOT_BYTES).contains(&(self.snapshot_bytes as usize)) {
            return invalid("the snapshot of the user stack must be 512 to 65536 bytes");
        }
        if !(MIN_WINDOW..=MAX_WINDOW).contains(&self.window) {
            return invalid("the window must be 100 ms to one hour");
        }
        if !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&self.ring_bytes) || !self.ring_bytes.is_power_of_two() {
            return invalid("the ring buffer must be a power of two from 4096 bytes to 256 MiB");
        }
        if self.merge_bytes < MAX_SNAPSHOT_BYTES * 2 {
            return invalid("the room for merging must be 128 KiB at least");
        }
        self.unwind.check()?;
        if let Target::Processes { tgids, .. } = &self.target {
            if tgids.is_empty() {
                return invalid("no process is named");
            }
            if tgids.len() > MAX_FILTERED_TGIDS as usize {
                return invalid("more processes are named than the filter holds (16384)");
            }
        }
        Ok(())
    }

    pub(crate) fn period_ns(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate_hz.max(1))
    }

    /// `filters`: verdicts will be given.
    pub(crate) fn kernel(&self, self_tgid: u32, filters: bool) -> KernelConfig {
        let mut flags = 0;
        let mut flag = |condition: bool, flag: u32| flags |= if condition { flag } else { 0 };
        flag(!self.include_self, CONTROL_NO_SELF);
        flag(!self.kernel_threads, CONTROL_NO_KERNEL_THREADS);
        flag(self.target != Target::All, CONTROL_ONLY_LISTED);
        flag(matches!(self.target, Target::Processes { children: true, .. }), CONTROL_FOLLOW_CHILDREN);
        flag(filters, CONTROL_VERDICTS);
        flag(self.unwind.tables, CONTROL_TABLES);
        let tgids = match &self.target {
            Target::All => Vec::new(),
            Target::Processes { tgids, .. } => tgids.clone(),
        };
        KernelConfig {
            rate_hz: self.rate_hz,
            control: Control {
                flags,
                snapshot_bytes: self.snapshot_bytes,
                wakeup_bytes: self.ring_bytes / WAKEUP_SHARE,
                max_user_frames: self.unwind.max_frames,
                check_every: CheckRate::new(self.unwind.check, 0).every(),
            },
            tgids,
            own_tgids: vec![self_tgid],
            max_verdicts: if filters { MAX_VERDICTS } else { 0 },
            max_shards: if self.unwind.tables { self.unwind.shards() } else { 0 },
            ring_bytes: self.ring_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert!(SamplerConfig::default().check().is_ok());
        let check = |change: fn(&mut SamplerConfig), words: &str| {
            let mut config = SamplerConfig::default();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(|c| c.rate_hz = 0, "1 to 1000");
        check(|c| c.rate_hz = 1001, "1 to 1000");
        check(|c| c.snapshot_bytes = 65_537, "65536");
        check(|c| c.window = Duration::ZERO, "window");
        check(|c| c.ring_bytes = 5000, "power of two");
        check(|c| c.merge_bytes = 0, "merging");
        check(|c| c.target = Target::Processes { tgids: vec![], children: false }, "no process");
        check(|c| c.unwind.memory_bytes = 4096, "1 MiB");
        check(|c| c.unwind.memory_bytes = u64::MAX, "4 GiB");
        check(|c| c.unwind.max_frames = 0, "1 to 1024");
        check(|c| c.unwind.max_frames = 1025, "1 to 1024");
        check(|c| c.unwind.check = Check::OneIn(0), "compared");
    }

    #[test]
    fn what_the_kernel_side_is_told() {
        let config = SamplerConfig {
            target: Target::Processes { tgids: vec![7], children: true },
            include_self: false,
            unwind: UnwindConfig { tables: false, ..UnwindConfig::default() },
            ..SamplerConfig::default()
        };
        let kernel = config.kernel(42, false);
        assert_eq!(kernel.tgids, [7]);
        assert_eq!(kernel.control.flags, CONTROL_NO_SELF | CONTROL_ONLY_LISTED | CONTROL_FOLLOW_CHILDREN);
        assert_eq!(kernel.own_tgids, [42]);
        let unwind = UnwindConfig { tables: false, ..UnwindConfig::default() };
        let plain = SamplerConfig { unwind, ..SamplerConfig::default() };
        assert_eq!((plain.kernel(42, false).control.flags, plain.kernel(42, false).max_shards), (0, 0));
        let filtering = plain.kernel(42, true);
        assert_eq!((filtering.control.flags, filtering.max_verdicts), (CONTROL_VERDICTS, MAX_VERDICTS));
        let walking = SamplerConfig::default().kernel(42, false);
        assert_eq!(walking.control.flags, CONTROL_TABLES);
        assert_eq!((walking.control.max_user_frames, walking.control.check_every), (256, 200));
        assert_eq!(u64::from(walking.max_shards) * u64::from(SHARD_BYTES), 64 << 20);
    }
}
