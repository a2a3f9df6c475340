//! What was extracted of one file: the worker's opaque tables in one sealed memfd.
//!
//! The worker writes and later maps it; the agent only holds it and hands it on. Sealed means that nobody can change
//! or shrink it any more, so that mapping it is safe.
//!
//! **In**: tables (the worker's), or a memfd (hostile on the agent's side; made by an earlier worker, so hostile on
//! the worker's side too). **Out**: a memfd, or the sections in it. **Units**: bytes.
//! **Limits**: [`MAX_TABLE_BYTES`]; larger tables are left out, and the file counts as one with a parse error.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::{Errno, pread};
use serde::{Deserialize, Serialize};

use crate::Fingerprint;

use crate::mapped::MappedTable;

/// The largest memfd with tables.
pub(crate) const MAX_TABLE_BYTES: u64 = 192 << 20;
/// Size of the head: a magic number, and the sizes of the sections.
pub(crate) const HEAD_BYTES: u64 = 32;

const MAGIC: [u8; 8] = *b"prftabl2";
/// Each section starts at a multiple of this, so that readers may look at it as integers.
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

/// Bytes of each section; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sizes {
    /// For unwinding snapshots, in the worker.
    pub(crate) unwind: u64,
    /// For the walk in the kernel.
    pub(crate) walk: u64,
    /// For naming.
    pub(crate) symbols: u64,
}

impl Sizes {
    /// Whether there is nothing at all.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Where the sections lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    unwind: Range<u64>,
    walk: Range<u64>,
    symbols: Range<u64>,
}

impl Layout {
    /// The layout of sections of these sizes.
    pub(crate) fn new(sizes: Sizes) -> Result<Self, TablesError> {
        let section = |from: u64, bytes: u64| {
            let start = from.checked_next_multiple_of(ALIGN)?;
            Some(start..start.checked_add(bytes)?)
        };
        let layout = || {
            let unwind = section(HEAD_BYTES, sizes.unwind)?;
            let walk = section(unwind.end, sizes.walk)?;
            let symbols = section(walk.end, sizes.symbols)?;
            Some(Self { unwind, walk, symbols })
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

/// Puts sections into a new memfd, one after the other: unwind, walk, symbols. So none has to wait in memory for the
/// next.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    sizes: Sizes,
}

impl Writer {
    /// A memfd without sections.
    pub(crate) fn new() -> Result<Self, TablesError> {
        Ok(Self { file: File::from(sealable_memfd("profiler-table")?), sizes: Sizes::default() })
    }

    /// The table for unwinding: the first.
    pub(crate) fn unwind(&mut self, bytes: &[u8]) -> Result<(), TablesError> {
        let sizes = Sizes { unwind: size(bytes), ..Sizes::default() };
        self.put(sizes, bytes, |layout| layout.unwind.start)
    }

    /// The table for the walk in the kernel: the second.
    pub(crate) fn walk(&mut self, bytes: &[u8]) -> Result<(), TablesError> {
        let sizes = Sizes { walk: size(bytes), symbols: 0, ..self.sizes };
        self.put(sizes, bytes, |layout| layout.walk.start)
    }

    /// The table for naming: the last.
    pub(crate) fn symbols(&mut self, bytes: &[u8]) -> Result<(), TablesError> {
        let sizes = Sizes { symbols: size(bytes), ..self.sizes };
        self.put(sizes, bytes, |layout| layout.symbols.start)
    }

    /// A section that is too large is left out.
    fn put(&mut self, sizes: Sizes, bytes: &[u8], at: impl FnOnce(&Layout) -> u64) -> Result<(), TablesError> {
        self.file.write_all_at(bytes, at(&Layout::new(sizes)?))?;
        self.sizes = sizes;
        Ok(())
    }

    /// Seals it. None where all sections are empty.
    pub(crate) fn finish(self) -> Result<Option<(OwnedFd, Sizes)>, TablesError> {
        if self.sizes.is_empty() {
            return Ok(None);
        }
        ftruncate(&self.file, Layout::new(self.sizes)?.bytes())?;
        let mut head = MAGIC.to_vec();
        for bytes in [self.sizes.unwind, self.sizes.walk, self.sizes.symbols] {
            head.extend_from_slice(&bytes.to_le_bytes());
        }
        self.file.write_all_at(&head, 0)?;
        fcntl_add_seals(&self.file, SEALS)?;
        Ok(Some((self.file.into(), self.sizes)))
    }
}

/// A sealed memfd with these bytes: how an image in memory becomes a file.
pub(crate) fn sealed_copy(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(sealable_memfd(name)?);
    file.write_all_at(bytes, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// A sealed memfd with so many bytes, which `read` gives by pieces: it fills each, told where it starts.
pub(crate) fn sealed_from(
    bytes: u64,
    piece_bytes: usize,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    if bytes > MAX_TABLE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let file = File::from(sealable_memfd("profiler-table")?);
    let mut buffer = vec![0; piece_bytes];
    pieces(bytes, &mut buffer, |piece, at| {
        read(piece, at)?;
        file.write_all_at(piece, at)
    })?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// Calls `each` with pieces of a buffer, as many and as large as make up so many bytes.
fn pieces(bytes: u64, buffer: &mut [u8], mut each: impl FnMut(&mut [u8], u64) -> io::Result<()>) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let size = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..size).filter(|piece| !piece.is_empty()).ok_or(io::ErrorKind::InvalidInput)?;
        each(piece, at)?;
        at = at.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Checks that a memfd is sealed and exactly as large as sections of these sizes make it. Does not look inside.
pub(crate) fn check(memfd: BorrowedFd<'_>, sizes: Sizes) -> Result<u64, TablesError> {
    let expected = Layout::new(sizes)?.bytes();
    let bytes = sealed_size(memfd)?;
    if bytes == expected { Ok(bytes) } else { Err(TablesError::Malformed("size")) }
}

/// An object's tables as the agent holds them.
#[derive(Debug)]
pub(crate) struct StoredTables {
    pub(crate) memfd: OwnedFd,
    /// Of its sections.
    pub(crate) sizes: Sizes,
    /// The memfd's size.
    pub(crate) bytes: u64,
    /// Of what they are made of. Files with the same have the same tables.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// A number that no other tables have had.
    pub(crate) serial: u64,
}

impl StoredTables {
    /// Takes a memfd if it is sealed and as large as tables of these sizes make it.
    pub(crate) fn new(memfd: OwnedFd, sizes: Sizes, fingerprint: Option<Fingerprint>) -> Result<Self, TablesError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let bytes = check(memfd.as_fd(), sizes)?;
        Ok(Self { memfd, sizes, bytes, fingerprint, serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// Reads all of it by pieces, each with where it starts.
    pub(crate) fn each_chunk(
        &self,
        piece_bytes: usize,
        mut each: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; piece_bytes];
        pieces(self.bytes, &mut buffer, |piece, at| {
            self.read_exact(piece, at)?;
            each(piece, at)
        })
    }

    fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..)
            && !rest.is_empty()
        {
            match pread(&self.memfd, rest, offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX))) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A copy of the table for the walk in the kernel. None where there is none.
    pub(crate) fn walk(&self) -> Result<Option<Vec<u8>>, TablesError> {
        let range = Layout::new(self.sizes)?.walk;
        if range.is_empty() {
            return Ok(None);
        }
        let bytes = usize::try_from(range.end - range.start).map_err(|_| TablesError::Malformed("size"))?;
        let mut walk = vec![0; bytes];
        self.read_exact(&mut walk, range.start)?;
        Ok(Some(walk))
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
        let mut head = [[0; 8]; 4];
        file.read_exact_at(head.as_flattened_mut(), 0)?;
        let [magic, sizes @ ..] = head;
        if magic != MAGIC {
            return Err(TablesError::Malformed("magic number"));
        }
        let [unwind, walk, symbols] = sizes.map(u64::from_le_bytes);
        let layout = Layout::new(Sizes { unwind, walk, symbols })?;
        if layout.bytes() != bytes {
            return Err(TablesError::Malformed("size"));
        }
        Ok(Self { file, layout })
    }

    /// The table for unwinding, mapped: only what is looked at costs memory.
    pub(crate) fn unwind(&self) -> Result<MappedTable, TablesError> {
        Ok(MappedTable::new(self.file.as_fd(), self.layout.unwind.clone())?)
    }

    /// The table for naming, mapped.
    pub(crate) fn symbols(&self) -> Result<MappedTable, TablesError> {
        Ok(MappedTable::new(self.file.as_fd(), self.layout.symbols.clone())?)
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
