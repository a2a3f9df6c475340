//! What may be filtered, changed from any thread while the program runs: verdicts, and the profiler's own processes.
//!
//! **In**: keys and verdicts of user space. **Out**: entries of the program's maps, valid from the next tick on. **Units**: none.
//! **Limits**: as many verdicts as were asked for at load, at most [`sampler_abi::MAX_VERDICTS`]; what has no room is said so to the
//! caller, who has to filter by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, HashMap, MapData, MapError};
use sampler_abi::{MAX_OWN_TGIDS, OwnTgids, VERDICT_FILTER, VERDICT_TAKE, VerdictKey};

use super::error::{KernelError, errno};

/// From `linux/bpf.h`: only a key that is not there yet.
const BPF_NOEXIST: u64 = 1;
const VERDICTS: &str = "VERDICTS";
const OWN_TGIDS: &str = "OWN_TGIDS";

/// What happens to the ticks of a process or a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickVerdict {
    /// They become samples, whatever the cgroup's verdict is.
    Take,
    /// They are counted as filtered and nothing more.
    Filter,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct KeyValue(VerdictKey);

// SAFETY: `repr(transparent)` over a `repr(C)` struct of integers without padding.
unsafe impl aya::Pod for KeyValue {}

struct Entries {
    map: HashMap<MapData, KeyValue, u32>,
    /// How many there are: nobody else changes the map.
    len: usize,
}

struct Shared {
    entries: Mutex<Entries>,
    capacity: usize,
}

/// Sets and removes verdicts. They count while `Control::flags` has [`sampler_abi::CONTROL_VERDICTS`].
#[derive(Clone)]
pub struct VerdictsHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for VerdictsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerdictsHandle").field("capacity", &self.shared.capacity).finish_non_exhaustive()
    }
}

impl VerdictsHandle {
    pub(super) fn new(map: HashMap<MapData, KeyValue, u32>, capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { entries: Mutex::new(Entries { map, len: 0 }), capacity }) }
    }

    /// Sets a verdict, or changes it. Returns whether there was room for it. One or two system calls.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn set(&self, key: VerdictKey, verdict: TickVerdict) -> Result<bool, KernelError> {
        let value = match verdict {
            TickVerdict::Take => VERDICT_TAKE,
            TickVerdict::Filter => VERDICT_FILTER,
        };
        let mut entries = self.entries();
        if entries.len < self.shared.capacity {
            match entries.map.insert(KeyValue(key), value, BPF_NOEXIST) {
                Ok(()) => {
                    entries.len += 1;
                    return Ok(true);
                }
                Err(error) if errno(&error) == Some(libc::EEXIST) => {}
                // Not before the capacity is reached, as far as we know; but the kernel decides.
                Err(error) if errno(&error) == Some(libc::E2BIG) => return Ok(false),
                Err(source) => return Err(KernelError::Map { name: VERDICTS, source }),
            }
        } else if !present(&entries.map, key)? {
            return Ok(false);
        }
        entries
            .map
            .insert(KeyValue(key), value, 0)
            .map(|()| true)
            .map_err(|source| KernelError::Map { name: VERDICTS, source })
    }

    /// Removes a verdict. Returns whether it was there. One system call.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn remove(&self, key: VerdictKey) -> Result<bool, KernelError> {
        let mut entries = self.entries();
        match entries.map.remove(&KeyValue(key)) {
            Ok(()) => {
                entries.len = entries.len.saturating_sub(1);
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(source) => Err(KernelError::Map { name: VERDICTS, source }),
        }
    }

    /// How many verdicts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there may be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// The map. A panicking holder leaves at worst a wrong length.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn present(map: &HashMap<MapData, KeyValue, u32>, key: VerdictKey) -> Result<bool, KernelError> {
    match map.get(&KeyValue(key), 0) {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(source) => Err(KernelError::Map { name: VERDICTS, source }),
    }
}

/// Says which processes are the profiler's own. They are left out while `Control::flags` has [`sampler_abi::CONTROL_NO_SELF`].
#[derive(Clone)]
pub struct OwnTgidsHandle {
    map: Arc<Mutex<Array<MapData, OwnTgids>>>,
}

impl std::fmt::Debug for OwnTgidsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnTgidsHandle").finish_non_exhaustive()
    }
}

impl OwnTgidsHandle {
    pub(super) fn new(map: Array<MapData, OwnTgids>) -> Self {
        Self { map: Arc::new(Mutex::new(map)) }
    }

    /// Replaces all of them.
    ///
    /// # Errors
    /// [`KernelError::TooManyOwn`], [`KernelError::Map`]; then those before stay.
    pub fn set(&self, tgids: &[u32]) -> Result<(), KernelError> {
        let mut value: OwnTgids = [0; MAX_OWN_TGIDS];
        let Some(used) = value.get_mut(..tgids.len()) else { return Err(KernelError::TooManyOwn(tgids.len())) };
        used.copy_from_slice(tgids);
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(0, value, 0).map_err(|source| KernelError::Map { name: OWN_TGIDS, source })
    }
}

/// Whether a look-up or a removal found nothing.
pub(super) fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound) || errno(error) == Some(libc::ENOENT)
}
