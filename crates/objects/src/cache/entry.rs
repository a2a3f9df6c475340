//! One entry: a file with a result of reading, and the tables.
//!
//! ```text
//! magic 8, producer 8, bytes of the result 8, bytes of the tables 8, checksum of the result 16, of the tables 16
//! the result, by postcard
//! the tables, as they lie in their memfd
//! ```
//!
//! **In**: bytes of a disk (damaged perhaps), tables. **Out**: the same, checked. **Units**: bytes, little-endian.
//! **Limits**: [`MAX_RESULT_BYTES`], those of `tables`.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::Fingerprint;
use crate::checks;
use crate::protocol::Extracted;
use crate::shared::Key;
use crate::tables::{Layout, StoredTables, sealed_from};

const MAGIC: [u8; 8] = *b"prfcach1";
/// Bytes before the result.
const HEAD_BYTES: usize = 64;
/// Bytes of a result.
const MAX_RESULT_BYTES: u64 = 1 << 20;
/// Bytes read or written at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Which programs may use an entry: those of the same build as the one that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Producer(pub(crate) [u8; 8]);

/// An entry's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) key: Key,
    /// The first half of the fingerprint.
    pub(crate) fingerprint: [u8; 16],
    pub(crate) producer: Producer,
}

impl Name {
    pub(crate) fn new(key: Key, fingerprint: &Fingerprint, producer: Producer) -> Self {
        Self { key, fingerprint: short(fingerprint), producer }
    }

    /// A name as it is written.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.split(|byte| matches!(byte, b'-' | b'.'));
        let name = Self {
            key: Key(bytes(parts.next()?)?),
            fingerprint: bytes(parts.next()?)?,
            producer: Producer(bytes(parts.next()?)?),
        };
        // Written in another way it is another file's.
        (name.to_string().as_bytes() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = |bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        hex(&self.key.0)?;
        write!(f, "-")?;
        let mut hex = |bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        hex(&self.fingerprint)?;
        write!(f, ".")?;
        self.producer.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The half of a fingerprint that names have.
pub(crate) fn short(fingerprint: &Fingerprint) -> [u8; 16] {
    fingerprint.bytes().first_chunk().copied().unwrap_or_default()
}

fn bytes<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = hex.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Why an entry is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    /// Not what was written.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// The system refused.
    #[error("it cannot be read or written")]
    Io(#[source] io::Error),
}

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Damaged("too short") } else { Self::Io(error) }
    }
}

/// An entry whose result was read, and whose tables can be.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) extracted: Arc<Extracted>,
    file: File,
    tables_start: u64,
    tables_bytes: u64,
    tables_sum: [u8; 16],
}

impl Entry {
    /// Reads the result.
    pub(crate) fn open(name: Name, file: File) -> Result<Self, EntryError> {
        let mut head = [[0; 8]; HEAD_BYTES / 8];
        file.read_exact_at(head.as_flattened_mut(), 0)?;
        let [magic, producer, result_bytes, tables_bytes, sums @ ..] = head;
        if magic != MAGIC || producer != name.producer.0 {
            return Err(EntryError::Damaged("head"));
        }
        let [result_bytes, tables_bytes] = [result_bytes, tables_bytes].map(u64::from_le_bytes);
        let [a, b, c, d] = sums;
        let [result_sum, tables_sum] = [[a, b], [c, d]].map(|sum| sum.as_flattened().try_into().unwrap_or_default());
        if result_bytes > MAX_RESULT_BYTES {
            return Err(EntryError::Damaged("size of the result"));
        }
        let mut result = vec![0; usize::try_from(result_bytes).map_err(io::Error::other)?];
        file.read_exact_at(&mut result, size(HEAD_BYTES))?;
        if checksum(&blake3::hash(&result)) != result_sum {
            return Err(EntryError::Damaged("checksum of the result"));
        }
        let extracted: Extracted = postcard::from_bytes(&result).map_err(|_| EntryError::Damaged("result"))?;
        checks::extracted(&extracted).map_err(|_| EntryError::Damaged("result"))?;
        let layout = Layout::new(extracted.sizes).map_err(|_| EntryError::Damaged("sizes"))?;
        let is_of_its_name = extracted.covered.as_ref().is_some_and(|covered| {
            short(&covered.fingerprint) == name.fingerprint && Key::of(&extracted) == Some(name.key)
        });
        if !is_of_its_name || layout.bytes() != tables_bytes {
            return Err(EntryError::Damaged("another file's"));
        }
        let tables_start = size(HEAD_BYTES).saturating_add(result_bytes);
        Ok(Self { name, extracted: Arc::new(extracted), file, tables_start, tables_bytes, tables_sum })
    }

    /// Copies the tables into a sealed memfd.
    pub(crate) fn tables(&self) -> Result<StoredTables, EntryError> {
        let mut sum = blake3::Hasher::new();
        let memfd = sealed_from(self.tables_bytes, CHUNK_BYTES, |chunk, offset| {
            self.file.read_exact_at(chunk, self.tables_start.saturating_add(offset))?;
            sum.update(chunk);
            Ok(())
        })?;
        if checksum(&sum.finalize()) != self.tables_sum {
            return Err(EntryError::Damaged("checksum of the tables"));
        }
        let fingerprint = self.extracted.covered.as_ref().map(|covered| covered.fingerprint);
        StoredTables::new(memfd, self.extracted.sizes, fingerprint).map_err(|_| EntryError::Damaged("tables"))
    }
}

/// A result as bytes.
pub(crate) fn encode(extracted: &Extracted) -> Result<Vec<u8>, EntryError> {
    let result = postcard::to_stdvec(extracted).map_err(io::Error::other)?;
    if size(result.len()) > MAX_RESULT_BYTES { Err(EntryError::Damaged("size of the result")) } else { Ok(result) }
}

/// Bytes of an entry.
pub(crate) fn bytes_of(result: &[u8], tables: &StoredTables) -> u64 {
    size(HEAD_BYTES).saturating_add(size(result.len())).saturating_add(tables.bytes)
}

/// Writes an entry into an empty file.
pub(crate) fn write(file: &File, producer: Producer, result: &[u8], tables: &StoredTables) -> Result<(), EntryError> {
    let start = size(HEAD_BYTES).saturating_add(size(result.len()));
    let mut sum = blake3::Hasher::new();
    tables.each_chunk(CHUNK_BYTES, |chunk, offset| {
        sum.update(chunk);
        file.write_all_at(chunk, start.saturating_add(offset))
    })?;
    file.write_all_at(result, size(HEAD_BYTES))?;
    // The head comes last: without it nobody takes the file for an entry.
    let head = [MAGIC, producer.0, size(result.len()).to_le_bytes(), tables.bytes.to_le_bytes()];
    let sums = [checksum(&blake3::hash(result)), checksum(&sum.finalize())];
    file.write_all_at(&[head.as_flattened(), sums.as_flattened()].concat(), 0)?;
    Ok(())
}

fn checksum(hash: &blake3::Hash) -> [u8; 16] {
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = Name { key: Key([0xab; 16]), fingerprint: [7; 16], producer: Producer([1, 2, 3, 4, 5, 6, 7, 0xff]) };
        let text = name.to_string();
        assert_eq!(text, format!("{}-{}.01020304050607ff", "ab".repeat(16), "07".repeat(16)));
        assert_eq!(Name::parse(text.as_bytes()), Some(name));
        let wrong = ["", "x", &text[1..], &text.to_uppercase(), &text.replace('-', "."), &format!("{text}.tmp")];
        for wrong in wrong {
            assert_eq!(Name::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
