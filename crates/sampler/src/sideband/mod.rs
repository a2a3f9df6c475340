//! The kernel's side-band records: what happens to processes, one ring for each CPU.
//!
//! **In**: perf rings (the kernel's). **Out**: [`Record`]s, in order within a CPU. **Units**: bytes, monotonic
//! nanoseconds. **Limits**: at most [`RING_BYTES`] a CPU, less where the kernel allows less; what does not fit there
//! arrives as [`Kind::Lost`] and heals by reading /proc again.

mod record;
mod ring;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

pub(crate) use record::{Kind, MapRecord, Record};
use record::{Parsed, parse};
use ring::Ring;

/// Bytes of each CPU's ring: at 1,000 new programs a second a reader may sleep 100 ms.
const RING_BYTES: usize = 256 * 1024;
/// The same on hosts with more than [`MANY_CPUS`].
const RING_BYTES_MANY_CPUS: usize = 128 * 1024;
const MANY_CPUS: usize = 64;
/// Below this nothing is gained by a smaller ring.
const MIN_RING_BYTES: usize = 16 * 1024;

/// Why the records cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SideBandError {
    /// `perf_event_open` was refused.
    #[error("the kernel refused process records on CPU {cpu}: run as root or with CAP_PERFMON and CAP_SYS_PTRACE")]
    Open {
        /// The CPU.
        cpu: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Not even the smallest ring could be mapped.
    #[error(
        "no memory for process records on CPU {cpu}: raise kernel.perf_event_mlock_kb or RLIMIT_MEMLOCK, \
         or grant CAP_IPC_LOCK"
    )]
    Memory {
        /// The CPU.
        cpu: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// All rings.
#[derive(Debug)]
pub(crate) struct SideBand {
    rings: BTreeMap<u32, Ring>,
    page_bytes: usize,
    ring_bytes: usize,
    cgroups: bool,
    scratch: Vec<u8>,
}

/// What one call of [`SideBand::drain`] brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Records read, of any kind.
    pub(crate) records: u64,
    /// Rings whose bytes made no sense.
    pub(crate) malformed: u64,
}

impl SideBand {
    /// Opens a ring for every CPU of `online`; recording begins at once. `cgroups`: also of new cgroups, where that can be.
    pub(crate) fn open(online: &[u32], page_bytes: usize, cgroups: bool) -> Result<Self, SideBandError> {
        let ring_bytes = if online.len() > MANY_CPUS { RING_BYTES_MANY_CPUS } else { RING_BYTES };
        let mut all = Self { rings: BTreeMap::new(), page_bytes, ring_bytes, cgroups, scratch: Vec::new() };
        for &cpu in online {
            all.add(cpu)?;
        }
        Ok(all)
    }

    /// Hands over every record that is in the rings now, ring by ring.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Record)) -> Drained {
        let mut drained = Drained::default();
        for (&cpu, ring) in &mut self.rings {
            let sound = ring.drain(&mut self.scratch, |bytes| {
                drained.records += 1;
                match parse(bytes, cpu) {
                    Parsed::Record(record) => each(record),
                    Parsed::Skipped => (),
                    Parsed::Malformed => drained.malformed += 1,
                }
            });
            drained.malformed += u64::from(!sound);
        }
        drained
    }

    /// Opens rings for CPUs that came online and lets those go that went (drained before, by the caller). Returns the
    /// CPUs whose ring is new.
    pub(crate) fn follow(&mut self, online: &[u32]) -> Vec<u32> {
        self.rings.retain(|cpu, _| online.contains(cpu));
        let new: Vec<u32> = online.iter().copied().filter(|cpu| !self.rings.contains_key(cpu)).collect();
        // A CPU may be gone again by now; the next round tries once more.
        new.into_iter().filter(|&cpu| self.add(cpu).is_ok()).collect()
    }

    /// Each ring's descriptor, readable when some records are new.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.rings.iter().map(|(&cpu, ring)| (cpu, ring.as_fd()))
    }

    /// One CPU's descriptor.
    pub(crate) fn fd(&self, cpu: u32) -> Option<BorrowedFd<'_>> {
        self.rings.get(&cpu).map(AsFd::as_fd)
    }

    fn add(&mut self, cpu: u32) -> Result<(), SideBandError> {
        loop {
            match Ring::open(cpu, self.page_bytes, self.ring_bytes.max(self.page_bytes), self.cgroups) {
                Ok(ring) => {
                    self.rings.insert(cpu, ring);
                    return Ok(());
                }
                // Without CAP_IPC_LOCK the kernel allows 516 KiB a CPU and RLIMIT_MEMLOCK, then says EPERM.
                Err(e)
                    if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOMEM))
                        && self.ring_bytes > MIN_RING_BYTES =>
                {
                    self.ring_bytes /= 2;
                }
                Err(source) if matches!(source.raw_os_error(), Some(libc::ENOMEM)) => {
                    return Err(SideBandError::Memory { cpu, source });
                }
                Err(source) => return Err(SideBandError::Open { cpu, source }),
            }
        }
    }
}
