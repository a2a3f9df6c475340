//! A table in a sealed memfd, mapped: it is never copied, and only what is looked at costs memory.
//!
//! **In**: a memfd of which `tables` has checked that nobody can change or shrink it. **Out**: [`MappedTable`].
//! **Units**: bytes. **Limits**: what was looked at counts as memory of this process until [`MappedTable::release`].

use std::fmt;
use std::ops::{Deref, Range};
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Mappings begin at a multiple of the largest page that there is on the machines that we know.
const PAGE: u64 = 64 << 10;

/// Bytes of one table. Clones share them.
#[derive(Clone)]
pub struct MappedTable(Arc<Mapping>);

struct Mapping {
    start: *mut std::ffi::c_void,
    length: usize,
    /// Where the table is in it.
    range: Range<usize>,
}

// SAFETY: the memory is read only, nobody changes it, and it stays where it is until the last owner drops it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl MappedTable {
    /// Maps a range of a memfd that is sealed against writing and shrinking, and reaches to the end of the range.
    pub(crate) fn new(memfd: BorrowedFd<'_>, range: Range<u64>) -> Result<Self, Errno> {
        if range.is_empty() {
            return Ok(Self(Arc::new(Mapping { start: ptr::null_mut(), length: 0, range: 0..0 })));
        }
        let from = range.start - range.start % PAGE;
        let inside = |at: u64| usize::try_from(at - from).map_err(|_| Errno::OVERFLOW);
        let (range, length) = (inside(range.start)?..inside(range.end)?, inside(range.end)?);
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anyone.
        let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, memfd, from) }?;
        Ok(Self(Arc::new(Mapping { start, length, range })))
    }

    /// Gives back the memory that looking at the table has taken. It can be looked at again.
    pub(crate) fn release(&self) {
        if self.0.length > 0 {
            // SAFETY: the mapping is ours and shared: its pages stay in the memfd, and come back as they were.
            let released = unsafe { madvise(self.0.start, self.0.length, Advice::LinuxDontNeed) };
            debug_assert!(released.is_ok());
        }
    }
}

impl Deref for MappedTable {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.0.length == 0 {
            return &[];
        }
        // SAFETY: `start..start + length` is our mapping until drop; the memfd is sealed (`new`'s caller knows), so nobody
        // can write to it or shrink it, and it is at least `length` bytes long.
        let all = unsafe { std::slice::from_raw_parts(self.0.start.cast::<u8>(), self.0.length) };
        all.get(self.0.range.clone()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for MappedTable {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for MappedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mapped bytes", self.0.range.len())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: our own mapping; slices of it borrow its last owner and are gone.
            let unmapped = unsafe { munmap(self.start, self.length) };
            debug_assert!(unmapped.is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::tables::sealed_copy;

    /// Bytes of a mapping of this process that are in memory.
    fn resident(table: &MappedTable) -> u64 {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let head = format!("{:x}-", table.0.start.addr());
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&head));
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    #[test]
    fn looking_costs_memory_until_it_is_given_back() {
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        let memfd = sealed_copy("test", &bytes).unwrap();
        let table = MappedTable::new(memfd.as_fd(), 100_000..3_900_001).unwrap();
        drop(memfd);
        assert!(resident(&table) < 1 << 20, "nothing was looked at");
        for _ in 0..2 {
            assert_eq!(table[..], bytes[100_000..3_900_001]);
            assert!(resident(&table) > 3 << 20);
            table.release();
            assert_eq!(resident(&table), 0);
        }
        assert_eq!(table.clone()[0], bytes[100_000]);
    }

    #[test]
    fn an_empty_table_is_nothing() {
        let memfd = sealed_copy("test", b"abc").unwrap();
        for at in [0, 3] {
            let table = MappedTable::new(memfd.as_fd(), at..at).unwrap();
            assert!(table.is_empty());
            table.release();
        }
        assert_eq!(*MappedTable::new(memfd.as_fd(), 1..3).unwrap(), *b"bc");
    }
}
