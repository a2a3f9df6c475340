//! A target file behind its descriptor.
//!
//! Files of targets are read, never mapped: truncating a mapped file raises SIGBUS in whoever reads it.
//!
//! **In**: a descriptor; the file's bytes are hostile, and it may change or shrink at any time. **Out**:
//! [`BoundedFile`], for [`object::read::ReadCache`]. **Units**: bytes.
//! **Limits**: [`MAX_FILE_BYTES`], [`MAX_READ_BYTES`]; past them the file counts as one that could not be parsed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use object::read::ReadCacheOps;
use rustix::fs::{FileType, fstat};

/// The largest file that is read at all. Browsers with debug information reach 4 GiB.
pub const MAX_FILE_BYTES: u64 = 16 << 30;
/// What may be read of one file, all reads together: what is read stays in memory until the file is done.
pub const MAX_READ_BYTES: u64 = 512 << 20;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not a regular file: reading could block or have effects.
    #[error("not a regular file")]
    NotRegular,
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("{bytes} bytes are more than the limit of {MAX_FILE_BYTES}")]
    TooLarge {
        /// The file's size.
        bytes: u64,
    },
    /// Its size or time of modification changed since it was opened.
    #[error("it changed while it was read")]
    Changed,
    /// The system refused.
    #[error("it could not be examined")]
    Io(#[from] io::Error),
}

/// A regular file of bounded size, read by position.
#[derive(Debug)]
pub struct BoundedFile {
    file: File,
    position: u64,
    budget: u64,
    stamp: Stamp,
}

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: (i64, u64),
}

impl Stamp {
    fn of(file: &File) -> Result<Self, FileError> {
        // Not by the standard library: its call tells of other files too, so the worker may not make it.
        let stat = fstat(file).map_err(io::Error::from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FileError::NotRegular);
        }
        let bytes = u64::try_from(stat.st_size).map_err(io::Error::other)?;
        Ok(Self { bytes, modified: (stat.st_mtime, stat.st_mtime_nsec) })
    }
}

impl BoundedFile {
    /// Takes a descriptor.
    ///
    /// # Errors
    /// It is no regular file, or too large.
    pub fn new(descriptor: OwnedFd) -> Result<Self, FileError> {
        let file = File::from(descriptor);
        let stamp = Stamp::of(&file)?;
        if stamp.bytes > MAX_FILE_BYTES {
            return Err(FileError::TooLarge { bytes: stamp.bytes });
        }
        Ok(Self { file, position: 0, budget: MAX_READ_BYTES, stamp })
    }

    /// The size when it was opened.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// Says whether what was read is of one state of the file.
    ///
    /// # Errors
    /// Size or time of modification changed since it was opened.
    pub fn check_unchanged(&self) -> Result<(), FileError> {
        if Stamp::of(&self.file)? == self.stamp { Ok(()) } else { Err(FileError::Changed) }
    }

    /// Reads exactly `buffer.len()` bytes from `offset`; fails where the file ends before.
    ///
    /// # Errors
    /// The file is shorter, the budget is spent, or the system refused.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.spend(buffer.len())?;
        self.file.read_exact_at(buffer, offset)
    }

    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.budget = self.budget.checked_sub(bytes).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(())
    }
}

impl ReadCacheOps for BoundedFile {
    fn len(&mut self) -> Result<u64, ()> {
        Ok(self.stamp.bytes)
    }

    fn seek(&mut self, pos: u64) -> Result<u64, ()> {
        self.position = pos;
        Ok(pos)
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ()> {
        self.spend(buf.len()).map_err(drop)?;
        let read = self.file.read_at(buf, self.position).map_err(drop)?;
        self.position = self.position.checked_add(u64::try_from(read).map_err(drop)?).ok_or(())?;
        Ok(read)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ()> {
        self.read_at(buf, self.position).map_err(drop)?;
        self.position = self.position.checked_add(u64::try_from(buf.len()).map_err(drop)?).ok_or(())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use object::ReadRef as _;
    use object::read::ReadCache;

    use super::*;

    fn bounded(file: &File) -> Result<BoundedFile, FileError> {
        BoundedFile::new(file.try_clone().unwrap().into())
    }

    #[test]
    fn only_regular_files_of_bounded_size() {
        for path in ["/dev/zero", "/dev/null", "/proc", "/tmp"] {
            assert!(matches!(bounded(&File::open(path).unwrap()), Err(FileError::NotRegular)), "{path}");
        }
        let huge = tempfile::tempfile().unwrap();
        huge.set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(bounded(&huge), Err(FileError::TooLarge { bytes }) if bytes == MAX_FILE_BYTES + 1));
    }

    #[test]
    fn a_file_that_shrinks_gives_errors() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let cache = ReadCache::new(bounded(&file).unwrap());
        assert_eq!((&cache).read_bytes_at(0, 10), Ok(&[7; 10][..]));
        file.set_len(100).unwrap();
        assert!((&cache).read_bytes_at(5000, 10).is_err());
        assert!((&cache).read_bytes_at(95, 10).is_err());
        assert!((&cache).read_bytes_at_until(5000..6000, 0).is_err());
        assert_eq!((&cache).read_bytes_at(90, 10), Ok(&[7; 10][..]));
        assert!(matches!(cache.into_inner().check_unchanged(), Err(FileError::Changed)));
    }

    #[test]
    fn a_file_that_is_written_is_noticed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let reader = bounded(&file).unwrap();
        reader.check_unchanged().unwrap();
        std::thread::sleep(Duration::from_millis(20)); // file times are as coarse as the timer's tick
        file.write_all_at(&[8], 50).unwrap();
        assert!(reader.check_unchanged().is_err());
    }

    #[test]
    fn what_is_read_is_bounded() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * MAX_READ_BYTES).unwrap();
        let mut reader = bounded(&file).unwrap();
        reader.budget = 1000;
        let cache = ReadCache::new(reader);
        for at in 0..10 {
            assert!((&cache).read_bytes_at(at * 100, 100).is_ok());
        }
        assert!((&cache).read_bytes_at(5000, 1).is_err());
        assert!((&cache).read_bytes_at(0, 100).is_ok(), "read already");
        assert!((&cache).read_bytes_at(1 << 60, 1).is_err());
        assert!((&cache).read_bytes_at(u64::MAX, u64::MAX).is_err());
    }
}
