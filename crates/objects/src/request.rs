//! What callers hand in.

use std::fmt;

use profile::{MapEntry, UserRegisters};

use crate::secret::wipe;

/// A mapped file, as an MMAP2 record or `/proc/PID/maps` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MappedFile {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// The inode; 0 for what is no file.
    pub inode: u64,
    /// The inode's generation as an MMAP2 record says it, which tells a reused inode number; 0 where it is not known
    /// (`/proc/PID/maps` has none).
    pub generation: u64,
    /// The path as the process sees it, perhaps with ` (deleted)` behind it.
    pub path: Vec<u8>,
}

/// Snapshots to unwind, and the executable mappings of the processes they are from.
#[derive(Debug, Default)]
pub struct UnwindRequest {
    /// The executable mappings of each process, sorted by start, without overlap.
    pub processes: Vec<Vec<MapEntry>>,
    /// The snapshots.
    pub samples: Vec<UserSample>,
}

/// The user half of one sample. The snapshot holds secrets of its process: it is wiped when the value goes.
pub struct UserSample {
    /// Index into [`UnwindRequest::processes`].
    pub process: u32,
    /// The registers.
    pub registers: UserRegisters,
    /// Memory from `registers.sp` upwards.
    pub stack: Vec<u8>,
}

impl Drop for UserSample {
    fn drop(&mut self) {
        wipe(&mut self.stack);
    }
}

impl fmt::Debug for UserSample {
    /// Without the snapshot's bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserSample")
            .field("process", &self.process)
            .field("registers", &self.registers)
            .field("stack_bytes", &self.stack.len())
            .finish()
    }
}
