//! The bytes between [`crate::extract`] and [`crate::Unwinder::load`].
//!
//! **In** (of [`Blob::parse`]): bytes that another worker process made from a hostile file, perhaps while that file
//! had the better of it: they are checked like the file itself. They may be mapped memory: only the head is looked at
//! here, and each row of an index where it is used. **Out**: a [`Blob`], whose ranges lie in its bytes.
//! **Units**: little-endian words of 8 bytes, then the sections. **Limits**: [`MAX_SEGMENTS`], [`MAX_ROOTS`],
//! [`MAX_RESTORERS`], [`MAX_SECTION_BYTES`]; more is refused.

use std::ops::{Deref, Range};
use std::sync::Arc;

use profile::Segment;

use crate::UnwindError;
use crate::arch::native;

const MAGIC: u64 = u64::from_le_bytes(*b"unwind\0\x02");

pub(crate) const MAX_SEGMENTS: usize = 64;
pub(crate) const MAX_ROOTS: usize = 32;
pub(crate) const MAX_RESTORERS: usize = 8;
pub(crate) const MAX_SECTION_BYTES: u64 = 256 << 20;

/// Room for what comes before the sections: enough for all files but odd ones.
const HEAD_BYTES: usize = 1024;
/// The header of an `.eh_frame_hdr` of our own making, before its table.
pub(crate) const INDEX_HEAD_BYTES: usize = 16;
/// One row of the table: where a function starts, and its entry's offset in the section.
pub(crate) const INDEX_ROW_BYTES: usize = 8;

/// A function above which there is nothing, by its ELF addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootFunction {
    pub(crate) range: Range<u64>,
    /// The root wherever it is met; otherwise only where no row tells how to go on from it.
    pub(crate) always: bool,
}

/// `.eh_frame` or `.debug_frame`, and where its functions start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Section {
    /// Its ELF address.
    pub(crate) address: u64,
    pub(crate) bytes: Part,
    /// [`INDEX_HEAD_BYTES`], then rows sorted by start, counted from [`Blob::base`].
    pub(crate) index: Part,
}

/// Bytes of whatever kind: allocated, or mapped.
type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Some bytes of a larger piece, which lives as long as any part of it.
#[derive(Clone)]
pub(crate) struct Part {
    whole: Bytes,
    range: Range<usize>,
}

impl Part {
    pub(crate) fn all(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { whole: Arc::new(bytes), range }
    }
}

impl Default for Part {
    fn default() -> Self {
        Self { whole: Arc::new([0_u8; 0]), range: 0..0 }
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Part {}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.whole).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// What unwinding needs of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blob {
    /// The load segments, in file order.
    pub(crate) segments: Vec<Segment>,
    /// The ELF address that indexes count from; all code lies in the 4 GiB above it.
    pub(crate) base: u64,
    /// ELF address of `.text`, 0 where unknown.
    pub(crate) text: u64,
    /// ELF address of `.got`, 0 where unknown.
    pub(crate) got: u64,
    pub(crate) roots: Vec<RootFunction>,
    /// ELF addresses of code that returns from a signal handler.
    pub(crate) restorers: Vec<u64>,
    pub(crate) eh_frame: Option<Section>,
    pub(crate) debug_frame: Option<Section>,
    /// Rows of (start from the base, how far the stack pointer is below the return address): see `go`.
    pub(crate) distances: Part,
}

impl Blob {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let sections = [&self.eh_frame, &self.debug_frame];
        let bytes = sections.into_iter().flatten().map(|s| s.bytes.len().saturating_add(s.index.len()));
        let mut out =
            Vec::with_capacity(bytes.sum::<usize>().saturating_add(self.distances.len()).saturating_add(HEAD_BYTES));
        let mut put = |n: u64| out.extend_from_slice(&n.to_le_bytes());
        for n in [MAGIC, u64::from(native::MACHINE), self.base, self.text, self.got] {
            put(n);
        }
        put(self.segments.len() as u64);
        for s in &self.segments {
            for n in [s.elf_address, s.file_offset, s.file_bytes, u64::from(s.executable)] {
                put(n);
            }
        }
        put(self.roots.len() as u64);
        for r in &self.roots {
            for n in [r.range.start, r.range.end, u64::from(r.always)] {
                put(n);
            }
        }
        put(self.restorers.len() as u64);
        self.restorers.iter().for_each(|&n| put(n));
        for section in sections {
            match section {
                None => put(0),
                Some(s) => [1, s.address, s.bytes.len() as u64, s.index.len() as u64].into_iter().for_each(&mut put),
            }
        }
        put(self.distances.len() as u64);
        for s in sections.into_iter().flatten() {
            out.extend_from_slice(&s.bytes);
            out.extend_from_slice(&s.index);
        }
        out.extend_from_slice(&self.distances);
        out
    }

    pub(crate) fn parse(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self, UnwindError> {
        Self::of(&(Arc::new(bytes) as Bytes))
    }

    fn of(whole: &Bytes) -> Result<Self, UnwindError> {
        let bytes = (**whole).as_ref();
        let mut words = Words { bytes, at: 0 };
        if words.next()? != MAGIC {
            return Err(UnwindError::Blob("its first word"));
        }
        if words.next()? != u64::from(native::MACHINE) {
            return Err(UnwindError::Blob("its machine"));
        }
        let (base, text, got) = (words.next()?, words.next()?, words.next()?);
        let segments = words.list(MAX_SEGMENTS, |w| {
            Ok(Segment {
                elf_address: w.next()?,
                file_offset: w.next()?,
                file_bytes: w.next()?,
                executable: w.next()? != 0,
            })
        })?;
        let roots =
            words.list(MAX_ROOTS, |w| Ok(RootFunction { range: w.next()?..w.next()?, always: w.next()? != 0 }))?;
        let restorers = words.list(MAX_RESTORERS, Words::next)?;
        let heads = [words.section()?, words.section()?];
        let distances = bounded(words.next()?)?;
        let mut at = words.at;
        let mut part = |n: usize| {
            let range = at..at.saturating_add(n);
            at = range.end;
            Part { whole: Arc::clone(whole), range }
        };
        let [eh_frame, debug_frame] = heads.map(|head| {
            head.map(|(address, bytes, index)| Section { address, bytes: part(bytes), index: part(index) })
        });
        let distances = part(distances);
        if at != bytes.len() {
            return Err(UnwindError::Blob("its length"));
        }
        for section in [&eh_frame, &debug_frame].into_iter().flatten() {
            check_index(section, base)?;
        }
        // Code addresses are computed from `base` by adding 32 bits.
        if base.checked_add(1 << 33).is_none() {
            return Err(UnwindError::Blob("its base"));
        }
        Ok(Self { segments, base, text, got, roots, restorers, eh_frame, debug_frame, distances })
    }
}

/// The head is the one that [`index_head`] makes, for as many rows as there are. The rows are not looked at: there may
/// be a million of them, in memory that is mapped, and few are ever used.
fn check_index(section: &Section, base: u64) -> Result<(), UnwindError> {
    let Some((head, rows)) = section.index.split_first_chunk::<INDEX_HEAD_BYTES>() else {
        return Err(UnwindError::Blob("an index's head"));
    };
    let (rows, rest) = rows.as_chunks::<INDEX_ROW_BYTES>();
    if rows.is_empty() || !rest.is_empty() {
        return Err(UnwindError::Blob("an index's rows"));
    }
    if u32::try_from(rows.len()).map(|n| index_head(base, n)).as_ref() != Ok(head) {
        return Err(UnwindError::Blob("an index's head"));
    }
    Ok(())
}

/// The head of an `.eh_frame_hdr` with so many rows, whose pointers count from `base`.
pub(crate) fn index_head(base: u64, rows: u32) -> [u8; INDEX_HEAD_BYTES] {
    let mut head = [0; INDEX_HEAD_BYTES];
    // Version 1; the section's address absolute in 8 bytes, the count in 4, rows of 4 + 4 bytes from a base.
    let parts = [[1, 0x04, 0x03, 0x33].as_slice(), &base.to_le_bytes(), &rows.to_le_bytes()];
    for (to, from) in head.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    head
}

/// (start counted from the base, offset in the section).
pub(crate) fn index_row(row: &[u8; INDEX_ROW_BYTES]) -> (u32, usize) {
    let [a, b, c, d, e, f, g, h] = *row;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) as usize)
}

struct Words<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Words<'_> {
    fn next(&mut self) -> Result<u64, UnwindError> {
        let word = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>);
        self.at = self.at.saturating_add(8);
        word.map(|w| u64::from_le_bytes(*w)).ok_or(UnwindError::Blob("its head is cut"))
    }

    fn list<T>(
        &mut self,
        limit: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, UnwindError>,
    ) -> Result<Vec<T>, UnwindError> {
        let n = self.next()?;
        if n > limit as u64 {
            return Err(UnwindError::Blob("a list's length"));
        }
        (0..n).map(|_| each(self)).collect()
    }

    /// Address, bytes and bytes of the index.
    fn section(&mut self) -> Result<Option<(u64, usize, usize)>, UnwindError> {
        if self.next()? == 0 {
            return Ok(None);
        }
        Ok(Some((self.next()?, bounded(self.next()?)?, bounded(self.next()?)?)))
    }
}

fn bounded(bytes: u64) -> Result<usize, UnwindError> {
    let size = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_SECTION_BYTES);
    size.ok_or(UnwindError::Blob("a section's size"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob() -> Blob {
        let index = [index_head(0, 1).as_slice(), &[7, 0, 0, 0, 1, 0, 0, 0]].concat();
        Blob {
            segments: vec![Segment { elf_address: 4096, file_offset: 0, file_bytes: 99, executable: true }],
            base: 0,
            text: 5,
            got: 6,
            roots: vec![RootFunction { range: 4100..4120, always: true }],
            restorers: vec![4200],
            eh_frame: Some(Section { address: 3, bytes: Part::all(vec![1, 2, 3]), index: Part::all(index) }),
            debug_frame: None,
            distances: Part::all(vec![9; 16]),
        }
    }

    fn content(blob: &Blob) -> (Vec<u8>, Vec<u8>) {
        let s = blob.eh_frame.as_ref().unwrap();
        (s.bytes.to_vec(), s.index.to_vec())
    }

    #[test]
    fn parsing_undoes_writing() {
        let (want, got) = (blob(), Blob::parse(blob().to_bytes()).unwrap());
        assert_eq!((&want.segments, &want.roots, &want.restorers), (&got.segments, &got.roots, &got.restorers));
        assert_eq!((want.base, want.text, want.got), (got.base, got.text, got.got));
        assert_eq!(content(&want), content(&got));
        assert!(got.debug_frame.is_none());
        assert_eq!(*got.distances, [9; 16]);
    }

    #[test]
    fn an_index_that_points_outside_covers_nothing() {
        use crate::cfi::{Cfi, Rule};
        for at in [3u32, 4096, u32::MAX] {
            let mut bad = blob();
            let index = [index_head(0, 1).as_slice(), &[7, 0, 0, 0], &at.to_le_bytes()].concat();
            bad.eh_frame.as_mut().unwrap().index = Part::all(index);
            let parsed = Blob::parse(bad.to_bytes()).unwrap();
            assert_eq!(Cfi::default().rule(&parsed, 8), Rule::Uncovered);
            let mut debug = parsed.clone();
            debug.debug_frame = debug.eh_frame.take();
            assert_eq!(Cfi::default().rule(&debug, 8), Rule::Uncovered);
        }
    }

    #[test]
    fn an_index_of_another_length_is_refused() {
        for rows in [0, 2, u32::MAX] {
            let mut bad = blob();
            let index = [index_head(0, rows).as_slice(), &[7, 0, 0, 0, 1, 0, 0, 0]].concat();
            bad.eh_frame.as_mut().unwrap().index = Part::all(index);
            assert!(matches!(Blob::parse(bad.to_bytes()), Err(UnwindError::Blob("an index's head"))));
        }
    }

    proptest! {
        #[test]
        fn broken_bytes_are_refused_or_harmless(at in 0usize..300, byte: u8, keep in 0usize..400) {
            let mut bytes = blob().to_bytes();
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            bytes.truncate(keep);
            if let Ok(parsed) = Blob::parse(bytes) {
                for s in [&parsed.eh_frame, &parsed.debug_frame].into_iter().flatten() {
                    prop_assert!(s.index.len() >= INDEX_HEAD_BYTES);
                }
            }
        }
    }
}
