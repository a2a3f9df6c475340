//! What was extracted of one file: the worker's opaque tables in one sealed memfd.
//!
//! The worker writes and later maps it; the agent only holds it and hands it on. Sealed means that nobody can change
//! or shrink it any more, so that mapping it is safe.
//!
//! **In**: tables (the worker's), or a memfd (hostile on the agent's side; made by an earlier worker, so hostile on
//! the worker's side too). **Out**: a memfd, or the sections in it. **Units**: bytes.
//! **Limits**: [`MAX_TABLE_BYTES`]; larger tables are left out, and the file counts as one with a parse error.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The largest memfd with tables.
pub(crate) const MAX_TABLE_BYTES: u64 = 192 << 20;
/// Size of the head: magic, version, and the sizes of both sections.
pub(crate) const HEAD_BYTES: u64 = 32;

const MAGIC: [u8; 8] = *b"prftabl1";
/// The symbols start at a multiple of this, so that readers may look at them as integers.
const ALIGN: u64 = 16;
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Why a memfd is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TablesError {
    /// Sections larger than allowed.
    #[error("{bytes} bytes of tables are more than the limit of {MAX_TABLE_BYTES}")]
    TooLarge {
        /// Their size.
        bytes: u64,
    },
    /// Not a sealed memfd, or not of the size it should have.
    #[error("not a sealed table: {0}")]
    Malformed(&'static str),
    /// The system refused.
    #[error("the table cannot be read or written")]
    Io(#[from] io::Error),
}

impl From<Errno> for TablesError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Where the sections lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    unwind: Range<u64>,
    symbols: Range<u64>,
}

impl Layout {
    /// The layout of sections of these sizes.
    pub(crate) fn new(unwind_bytes: u64, symbol_bytes: u64) -> Result<Self, TablesError> {
        let layout = || {
            let unwind = HEAD_BYTES..HEAD_BYTES.checked_add(unwind_bytes)?;
            let symbols_start = unwind.end.checked_next_multiple_of(ALIGN)?;
            Some(Self { symbols: symbols_start..symbols_start.checked_add(symbol_bytes)?, unwind })
        };
        let layout = layout().ok_or(TablesError::TooLarge { bytes: u64::MAX })?;
        if layout.bytes() > MAX_TABLE_BYTES {
            return Err(TablesError::TooLarge { bytes: layout.bytes() });
        }
        Ok(layout)
    }

    /// The memfd's size.
    pub(crate) fn bytes(&self) -> u64 {
        self.symbols.end
    }
}

/// Puts both tables into a new sealed memfd.
pub(crate) fn write(unwind: &[u8], symbols: &[u8]) -> Result<OwnedFd, TablesError> {
    let (unwind_bytes, symbol_bytes) = (size(unwind), size(symbols));
    let layout = Layout::new(unwind_bytes, symbol_bytes)?;
    let file = File::from(sealable_memfd("profiler-table")?);
    ftruncate(&file, layout.bytes())?;
    let mut head = Vec::with_capacity(32);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&unwind_bytes.to_le_bytes());
    head.extend_from_slice(&symbol_bytes.to_le_bytes());
    file.write_all_at(&head, 0)?;
    file.write_all_at(unwind, layout.unwind.start)?;
    file.write_all_at(symbols, layout.symbols.start)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// A sealed memfd with these bytes: how an image in memory becomes a file.
pub(crate) fn sealed_copy(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(sealable_memfd(name)?);
    file.write_all_at(bytes, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// Checks that a memfd is sealed and exactly as large as sections of these sizes make it. Does not look inside.
pub(crate) fn check(memfd: BorrowedFd<'_>, unwind_bytes: u64, symbol_bytes: u64) -> Result<u64, TablesError> {
    let expected = Layout::new(unwind_bytes, symbol_bytes)?.bytes();
    let bytes = sealed_size(memfd)?;
    if bytes == expected { Ok(bytes) } else { Err(TablesError::Malformed("size")) }
}

/// An object's tables as the agent holds them.
#[derive(Debug)]
pub(crate) struct StoredTables {
    pub(crate) memfd: OwnedFd,
    /// Of the table for unwinding.
    pub(crate) unwind_bytes: u64,
    /// Of the table for naming.
    pub(crate) symbol_bytes: u64,
    /// The memfd's size.
    pub(crate) bytes: u64,
}

impl StoredTables {
    /// Takes a memfd if it is sealed and as large as tables of these sizes make it.
    pub(crate) fn new(memfd: OwnedFd, unwind_bytes: u64, symbol_bytes: u64) -> Result<Self, TablesError> {
        let bytes = check(memfd.as_fd(), unwind_bytes, symbol_bytes)?;
        Ok(Self { memfd, unwind_bytes, symbol_bytes, bytes })
    }
}

/// Tables as the worker reads them.
pub(crate) struct Tables {
    file: File,
    layout: Layout,
}

impl Tables {
    /// Takes a memfd from the agent.
    pub(crate) fn open(memfd: OwnedFd) -> Result<Self, TablesError> {
        let bytes = sealed_size(memfd.as_fd())?;
        let file = File::from(memfd);
        let mut head = [0; 24];
        file.read_exact_at(&mut head, 0)?;
        let (magic, sizes) = head.split_at(8);
        let (unwind, symbols) = sizes.split_at(8);
        if magic != MAGIC {
            return Err(TablesError::Malformed("magic number"));
        }
        let number = |raw: &[u8]| raw.try_into().map(u64::from_le_bytes).map_err(|_| TablesError::Malformed("head"));
        let layout = Layout::new(number(unwind)?, number(symbols)?)?;
        if layout.bytes() != bytes {
            return Err(TablesError::Malformed("size"));
        }
        Ok(Self { file, layout })
    }

    /// The table for unwinding, copied.
    pub(crate) fn unwind(&self) -> Result<Vec<u8>, TablesError> {
        let range = &self.layout.unwind;
        let bytes = usize::try_from(range.end - range.start).map_err(|_| TablesError::Malformed("size"))?;
        let mut unwind = vec![0; bytes];
        self.file.read_exact_at(&mut unwind, range.start)?;
        Ok(unwind)
    }

    /// The table for naming, mapped: only what is looked at costs memory.
    pub(crate) fn symbols(&self) -> Result<SymbolMap, TablesError> {
        let word = |value: u64| usize::try_from(value).map_err(|_| TablesError::Malformed("size"));
        let range = word(self.layout.symbols.start)?..word(self.layout.symbols.end)?;
        let length = range.end;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anyone.
        let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, &self.file, 0) }?;
        Ok(SymbolMap { start, length, range })
    }
}

/// A mapped table for naming.
#[derive(Debug)]
pub(crate) struct SymbolMap {
    start: *mut std::ffi::c_void,
    length: usize,
    range: Range<usize>,
}

impl SymbolMap {
    /// The table's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start..start + length` is our mapping until drop; the memfd is sealed (checked in `Tables::open`),
        // so nobody can write to it or shrink it, and it is `length` bytes long.
        let all = unsafe { std::slice::from_raw_parts(self.start.cast::<u8>(), self.length) };
        all.get(self.range.clone()).unwrap_or_default()
    }
}

impl Drop for SymbolMap {
    fn drop(&mut self) {
        // SAFETY: our own mapping; slices of it borrow `self` and are gone.
        let unmapped = unsafe { munmap(self.start, self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

fn sealable_memfd(name: &str) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags), // before 6.3
        other => other,
    }
}

fn sealed_size(memfd: BorrowedFd<'_>) -> Result<u64, TablesError> {
    let seals = fcntl_get_seals(memfd).map_err(|_| TablesError::Malformed("cannot be sealed"))?;
    if !seals.contains(SEALS) {
        return Err(TablesError::Malformed("not sealed"));
    }
    u64::try_from(fstat(memfd)?.st_size).map_err(|_| TablesError::Malformed("size"))
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_cannot_be_changed() {
        let memfd = write(b"unwind", b"symbols").unwrap();
        assert_eq!(check(memfd.as_fd(), 6, 7).unwrap(), Layout::new(6, 7).unwrap().bytes());
        let file = File::from(memfd.try_clone().unwrap());
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(10).is_err() && file.set_len(1 << 20).is_err());
        let tables = Tables::open(memfd).unwrap();
        assert_eq!(tables.unwind().unwrap(), b"unwind");
        assert_eq!(tables.symbols().unwrap().bytes(), b"symbols");
    }

    #[test]
    fn other_descriptors_are_refused() {
        let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
        let unsealed = || {
            let file = File::from(sealable_memfd("test").unwrap());
            file.set_len(64).unwrap();
            OwnedFd::from(file)
        };
        for descriptor in [open("/dev/zero"), open("/etc/passwd"), open("/proc/self/maps"), unsealed()] {
            assert!(check(descriptor.as_fd(), 16, 16).is_err());
            assert!(Tables::open(descriptor).is_err());
        }
        let sealed = sealed_copy("test", &[0; 64]).unwrap();
        assert!(check(sealed.as_fd(), 16, 16).is_ok(), "the agent does not look inside");
        assert!(check(sealed.as_fd(), 16, 17).is_err());
        assert!(Tables::open(sealed).is_err(), "the worker does");
    }

    #[test]
    fn sizes_are_bounded() {
        for (unwind, symbols) in [(MAX_TABLE_BYTES, 0), (0, MAX_TABLE_BYTES), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(Layout::new(unwind, symbols).is_err());
        }
        assert!(Layout::new(MAX_TABLE_BYTES - 64, 16).is_ok());
    }

    proptest! {
        #[test]
        fn tables_come_back(
            unwind in proptest::collection::vec(any::<u8>(), 0..5000),
            symbols in proptest::collection::vec(any::<u8>(), 0..5000),
        ) {
            let tables = Tables::open(write(&unwind, &symbols).unwrap()).unwrap();
            prop_assert_eq!(tables.unwind().unwrap(), unwind);
            let map = tables.symbols().unwrap();
            prop_assert_eq!(map.bytes(), &symbols[..]);
            prop_assert_eq!(map.bytes().as_ptr().align_offset(16), 0);
        }

        #[test]
        fn damaged_tables_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), sizes in any::<[u8; 2]>()) {
            if bytes.len() >= 32 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..24].fill(0);
                (bytes[8], bytes[16]) = (sizes[0], sizes[1]);
            }
            if let Ok(tables) = Tables::open(sealed_copy("test", &bytes).unwrap()) {
                prop_assert_eq!(tables.unwind().unwrap().len(), usize::from(sizes[0]));
                prop_assert_eq!(tables.symbols().unwrap().bytes().len(), usize::from(sizes[1]));
            }
        }
    }
}
