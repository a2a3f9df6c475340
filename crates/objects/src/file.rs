//! A target file behind its descriptor.
//!
//! Files of targets are read, never mapped: truncating a mapped file raises SIGBUS in whoever reads it. They are read in
//! whole blocks, and every block is hashed as it is read: so what the tables of a file are made of has a fingerprint.
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

use crate::fingerprint::{BLOCK_BYTES, Covered, Fingerprint, Run, Trace, of_runs};

/// The largest file that is read at all. Browsers with debug information reach 4 GiB.
pub const MAX_FILE_BYTES: u64 = 16 << 30;
/// What may be read of one file, all reads together: what is read stays in memory until the file is done.
pub const MAX_READ_BYTES: u64 = 512 << 20;
/// Blocks of which only a part was asked for, kept for the next such question.
const KEPT_BLOCKS: usize = 8;

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
    /// Its size, its time of modification or a block of it changed since it was opened.
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
    trace: Trace,
    kept: Vec<(u64, Vec<u8>)>,
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
        Ok(Self { file, position: 0, budget: MAX_READ_BYTES, stamp, trace: Trace::default(), kept: Vec::new() })
    }

    /// The size when it was opened.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// Says whether what was read is of one state of the file.
    ///
    /// # Errors
    /// Size, time of modification, or a block that was read twice changed since it was opened.
    pub fn check_unchanged(&self) -> Result<(), FileError> {
        if Stamp::of(&self.file)? == self.stamp && !self.trace.is_torn() { Ok(()) } else { Err(FileError::Changed) }
    }

    /// The fingerprint of all that was read. None where that is too scattered, or could not all be read.
    pub(crate) fn covered(&self) -> Option<Covered> {
        self.trace.covered(self.stamp.bytes)
    }

    /// The fingerprint of some runs of blocks of it. None where it has no such runs.
    pub(crate) fn fingerprint(&mut self, runs: &[Run]) -> io::Result<Option<Fingerprint>> {
        of_runs(self.stamp.bytes, runs, |buffer, offset| {
            spend(&mut self.budget, buffer.len())?;
            self.file.read_exact_at(buffer, offset)
        })
    }

    /// Reads exactly `buffer.len()` bytes from `offset`; fails where the file ends before.
    ///
    /// # Errors
    /// The file is shorter, the budget is spent, or the system refused.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = u64::try_from(buffer.len()).ok().and_then(|bytes| offset.checked_add(bytes));
        if end.is_none_or(|end| end > self.stamp.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (block, inside) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
            let left = u64::try_from(rest.len()).unwrap_or(u64::MAX);
            // As far as whole blocks are asked for; the file's last is whole, too.
            let is_to_end = at.saturating_add(left) == self.stamp.bytes;
            let whole = if is_to_end { left } else { left - left % BLOCK_BYTES };
            let done = if inside == 0 && whole > 0 {
                let (now, _) = rest.split_at_mut(usize::try_from(whole).map_err(io::Error::other)?);
                self.read_blocks(now, block)?;
                now.len()
            } else {
                let kept = self.keep(block)?;
                let part = usize::try_from(inside).ok().and_then(|inside| kept.get(inside..)).unwrap_or_default();
                let bytes = part.len().min(rest.len());
                if bytes == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                rest.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
                bytes
            };
            rest = rest.get_mut(done..).unwrap_or_default();
            at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Reads blocks from the one with this number on.
    fn read_blocks(&mut self, buffer: &mut [u8], first: u64) -> io::Result<()> {
        spend(&mut self.budget, buffer.len())?;
        let read = self.file.read_exact_at(buffer, first.saturating_mul(BLOCK_BYTES));
        read.inspect_err(|_| self.trace.missed())?;
        let blocks = buffer.chunks(usize::try_from(BLOCK_BYTES).map_err(io::Error::other)?);
        (first..).zip(blocks).for_each(|(number, block)| self.trace.saw(number, block));
        Ok(())
    }

    /// A block, read unless it was just now; the last one used is the last in the list.
    fn keep(&mut self, number: u64) -> io::Result<&[u8]> {
        let kept = match self.kept.iter().position(|(kept, _)| *kept == number) {
            Some(at) => self.kept.remove(at),
            None => {
                let start = number.saturating_mul(BLOCK_BYTES);
                let bytes = self.stamp.bytes.saturating_sub(start).min(BLOCK_BYTES);
                let mut block = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
                self.read_blocks(&mut block, number)?;
                if self.kept.len() >= KEPT_BLOCKS {
                    self.kept.remove(0);
                }
                (number, block)
            }
        };
        self.kept.push(kept);
        Ok(self.kept.last().map(|(_, block)| block.as_slice()).unwrap_or_default())
    }
}

fn spend(budget: &mut u64, bytes: usize) -> io::Result<()> {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    *budget = budget.checked_sub(bytes).ok_or(io::ErrorKind::QuotaExceeded)?;
    Ok(())
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
        let left = usize::try_from(self.stamp.bytes.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let read = left.min(buf.len());
        self.read_exact(buf.get_mut(..read).ok_or(())?)?;
        Ok(read)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ()> {
        self.read_at(buf, self.position).map_err(drop)?;
        self.position = self.position.checked_add(u64::try_from(buf.len()).map_err(drop)?).ok_or(())?;
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
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
        file.write_all(&[7; 50_000]).unwrap();
        let cache = ReadCache::new(bounded(&file).unwrap());
        assert_eq!((&cache).read_bytes_at(0, 10), Ok(&[7; 10][..]));
        file.set_len(100).unwrap();
        assert!((&cache).read_bytes_at(20_000, 10).is_err());
        assert!((&cache).read_bytes_at(8_190, 10).is_err());
        assert!((&cache).read_bytes_at_until(20_000..21_000, 0).is_err());
        assert_eq!((&cache).read_bytes_at(90, 10), Ok(&[7; 10][..]));
        assert_eq!((&cache).read_bytes_at(95, 10), Ok(&[7; 10][..]), "of the block that was read already");
        assert!(matches!(cache.into_inner().check_unchanged(), Err(FileError::Changed)));
    }

    #[test]
    fn a_block_that_changes_is_noticed_whatever_its_times_say() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * BLOCK_BYTES as usize]).unwrap();
        let times = file.metadata().unwrap().modified().unwrap();
        let mut reader = bounded(&file).unwrap();
        let mut block = [0; BLOCK_BYTES as usize];
        reader.read_at(&mut block, 0).unwrap();
        file.write_all_at(&[8], 50).unwrap();
        file.set_modified(times).unwrap();
        reader.read_at(&mut block, BLOCK_BYTES).unwrap();
        reader.check_unchanged().unwrap();
        reader.read_at(&mut block, 0).unwrap();
        assert!(reader.check_unchanged().is_err());
        assert!(reader.covered().is_none());
    }

    proptest::proptest! {
        // Hashing is slow without optimisation.
        #![proptest_config(proptest::test_runner::Config::with_cases(48))]
        #[test]
        fn reads_are_those_of_the_file(reads in proptest::collection::vec((0_u64..40_000, 0_usize..20_000), 1..20)) {
            let content: Vec<u8> = (0..30_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            let mut reader = bounded(&file).unwrap();
            for (offset, bytes) in reads {
                let mut buffer = vec![0; bytes];
                let expected = usize::try_from(offset).ok().and_then(|at| content.get(at..at + bytes));
                let read = reader.read_at(&mut buffer, offset).ok().map(|()| buffer.as_slice());
                proptest::prop_assert_eq!(read, expected);
            }
            let covered = reader.covered().unwrap();
            let again = bounded(&file).unwrap().fingerprint(&covered.runs).unwrap();
            proptest::prop_assert_eq!(again, Some(covered.fingerprint));
        }
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
        reader.budget = 10 * BLOCK_BYTES;
        let cache = ReadCache::new(reader);
        for at in 0..10 {
            assert!((&cache).read_bytes_at(at * BLOCK_BYTES, 100).is_ok());
        }
        assert!((&cache).read_bytes_at(20 * BLOCK_BYTES, 1).is_err());
        assert!((&cache).read_bytes_at(0, 100).is_ok(), "read already");
        assert!((&cache).read_bytes_at(1 << 60, 1).is_err());
        assert!((&cache).read_bytes_at(u64::MAX, u64::MAX).is_err());
    }
}
