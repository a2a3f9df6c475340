//! The unwind tables in the kernel: shards, and which process's mappings are where.
//!
//! **In**: bytes of tables, places of mappings; what they mean is `unwind-table`'s. **Out**: what the program walks over, from the next
//! tick on. **Units**: bytes. **Limits**: the shards that were asked for at load; [`sampler_abi::MAX_PROCESSES`]. A shard that cannot be
//! written ends the publishing: see [`TablesHandle::publish`].

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::maps::{ArrayOfMaps, HashMap, MapData, MapError};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use sampler_abi::ProcessEntry;
use unwind_table::{SHARD_BYTES, Shards};

use super::{
    error::{KernelError, errno},
    memory, sys,
    verdicts::is_absent,
};

const SHARDS: &str = "SHARDS";
const PROCESSES: &str = "PROCESSES";
const KEY_BYTES: u32 = 4;

#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct EntryValue(ProcessEntry);

// SAFETY: `repr(transparent)` over a `repr(C)` struct of integers without padding.
unsafe impl aya::Pod for EntryValue {}

/// Fills the tables. There is one for each kernel side; it may go to any thread, and may outlive the kernel side.
pub struct TablesHandle {
    outer: ArrayOfMaps<MapData, MapData>,
    shards: Vec<MapData>,
    processes: HashMap<MapData, u32, EntryValue>,
    max_shards: u32,
    /// Bytes of all maps that are there from the start.
    fixed_bytes: u64,
    /// Why a shard could not be written.
    failure: Option<io::Error>,
}

impl std::fmt::Debug for TablesHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TablesHandle")
            .field("shards", &self.shards.len())
            .field("max_shards", &self.max_shards)
            .finish_non_exhaustive()
    }
}

impl TablesHandle {
    pub(super) fn new(
        outer: ArrayOfMaps<MapData, MapData>,
        processes: HashMap<MapData, u32, EntryValue>,
        max_shards: u32,
        fixed_bytes: u64,
    ) -> Self {
        Self { outer, shards: Vec::new(), processes, max_shards, fixed_bytes, failure: None }
    }

    /// How many shards there may be.
    #[must_use]
    pub fn max_shards(&self) -> u32 {
        self.max_shards
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u32 {
        u32::try_from(self.shards.len()).unwrap_or(u32::MAX)
    }

    /// Adds a shard, empty; returns its number. Waits for a grace period of the kernel, some 10 ms.
    ///
    /// # Errors
    /// [`KernelError::ShardsFull`]; [`KernelError::Map`] where the kernel has no memory for it.
    pub fn add_shard(&mut self) -> Result<u32, KernelError> {
        let number = self.shards();
        if number >= self.max_shards {
            return Err(KernelError::ShardsFull(self.max_shards));
        }
        let error = |source| KernelError::Map { name: SHARDS, source };
        let kind = BPF_MAP_TYPE_ARRAY as u32;
        let map = aya_obj::Map::new_from_params(kind, KEY_BYTES, SHARD_BYTES, 1, BPF_F_MMAPABLE);
        let map = MapData::create(map, "shard", None).map_err(error)?;
        self.outer.set(number, &map, 0).map_err(error)?;
        self.shards.push(map);
        Ok(number)
    }

    /// Has samples of a process walked from the next tick on, or walked with other mappings. Returns whether there was room for it.
    /// One system call.
    ///
    /// # Errors
    /// [`KernelError::Map`]; [`KernelError::Shard`] for good where bytes before did not get into a shard, since nobody knows any more
    /// what is in the tables.
    pub fn publish(&mut self, tgid: u32, entry: &ProcessEntry) -> Result<bool, KernelError> {
        if let Some(failure) = &self.failure {
            return Err(KernelError::Shard(failure.kind().into()));
        }
        match self.processes.insert(tgid, EntryValue(*entry), 0) {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::E2BIG) => Ok(false),
            Err(source) => Err(KernelError::Map { name: PROCESSES, source }),
        }
    }

    /// Has samples of a process carry snapshots again, from the next tick on. Returns whether it was published. (The kernel side does
    /// so too when the process executes another program.)
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn withdraw(&mut self, tgid: u32) -> Result<bool, KernelError> {
        match self.processes.remove(&tgid) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(source) => Err(KernelError::Map { name: PROCESSES, source }),
        }
    }

    /// The entry of a process, if it is published.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn published(&self, tgid: u32) -> Result<Option<ProcessEntry>, KernelError> {
        match self.processes.get(&tgid, 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(KernelError::Map { name: PROCESSES, source }),
        }
    }

    /// Who is published, in no order.
    #[must_use]
    pub fn all_published(&self) -> Vec<u32> {
        self.processes.keys().filter_map(Result::ok).collect()
    }

    /// Waits until every walk that had begun is over: what was withdrawn or replaced before is read by nobody then. A grace period of the
    /// kernel, some 10 ms.
    ///
    /// # Errors
    /// [`KernelError::Map`]: walks may still be under way.
    pub fn wait_for_walks(&mut self) -> Result<(), KernelError> {
        // Replacing a map in a map of maps waits for all programs; `membarrier(2)` does not do so on every kernel.
        match self.shards.first() {
            None => Ok(()),
            Some(first) => {
                self.outer.set(0, first, 0).map_err(|source: MapError| KernelError::Map { name: SHARDS, source })
            }
        }
    }

    /// What the kernel has allocated for all maps of the kernel side, in bytes, as it accounts for them.
    #[must_use]
    pub fn kernel_bytes(&self) -> u64 {
        let shards = self.shards.iter().map(|shard| memory::of_map(shard.fd().as_fd()).unwrap_or(0));
        self.fixed_bytes.saturating_add(shards.sum())
    }

    fn try_write(&self, shard: u32, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let shard: BorrowedFd<'_> = usize::try_from(shard)
            .ok()
            .and_then(|shard| self.shards.get(shard))
            .map(|shard| shard.fd().as_fd())
            .ok_or(io::ErrorKind::NotFound)?;
        let end = u64::from(offset).saturating_add(bytes.len() as u64);
        if end > u64::from(SHARD_BYTES) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sys::write_mapped(shard, offset, bytes)
    }
}

impl Shards for TablesHandle {
    /// The bytes' pages are in this process's memory only for the time of the call.
    fn write(&mut self, shard: u32, offset: u32, bytes: &[u8]) {
        if let Err(error) = self.try_write(shard, offset, bytes) {
            self.failure.get_or_insert(error);
        }
    }
}
