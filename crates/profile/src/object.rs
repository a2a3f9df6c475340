//! What is known of a mapped file once the worker has read it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::{ElfAddress, FileOffset};

/// The agent's own number for one file (one device, inode and change); never reused while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId(pub u64);

/// What identifies a file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BuildId {
    /// The GNU build id note, lower-case hex; empty where there is none.
    pub gnu: String,
    /// Go's build id, as text; empty where there is none.
    pub go: String,
    /// OpenTelemetry's `htlhash`: the first 16 bytes of SHA-256 over (first 4096 bytes, last 4096 bytes, size as
    /// big-endian u64), lower-case hex.
    pub htlhash: String,
}

/// One `PT_LOAD` program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// `p_vaddr`.
    pub elf_address: u64,
    /// `p_offset`.
    pub file_offset: u64,
    /// `p_filesz`.
    pub file_bytes: u64,
    /// `p_flags & PF_X != 0`.
    pub executable: bool,
}

impl Segment {
    /// The ELF address of a byte of the file, if the segment loads it.
    ///
    /// Loaders map whole pages, so the bytes of the segment's first and last page count as loaded by it.
    #[must_use]
    pub fn elf_address_of(&self, offset: FileOffset) -> Option<ElfAddress> {
        const PAGE: u64 = 4096;
        let start = self.file_offset & !(PAGE - 1);
        let end = self.file_offset.checked_add(self.file_bytes)?.checked_add(PAGE - 1)? & !(PAGE - 1);
        (start <= offset.0 && offset.0 < end)
            .then(|| ElfAddress(self.elf_address.wrapping_add(offset.0).wrapping_sub(self.file_offset)))
    }
}

/// What is added to an ELF address of a file to get the address in a process that maps the file's byte `file_offset`, and what
/// follows, from `start` to `end`. Wraps. None where the mapping holds nothing of an executable segment.
#[must_use]
pub fn bias(segments: &[Segment], start: u64, end: u64, file_offset: u64) -> Option<u64> {
    let last = file_offset.saturating_add(end.checked_sub(start)?);
    let within = |s: &&Segment| s.file_offset < last && file_offset < s.file_offset.saturating_add(s.file_bytes);
    let found = |executable: bool| segments.iter().filter(|s| s.executable == executable).find(within);
    // Mappings are of whole pages, segments are not: the mapping may start below its segment.
    let segment = found(true).or_else(|| found(false))?;
    Some(start.wrapping_sub(file_offset).wrapping_add(segment.file_offset).wrapping_sub(segment.elf_address))
}

/// A mapped file, as naming and encoding need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The agent's number for it.
    pub id: ObjectId,
    /// The path as the process sees it, lossily decoded; `[vdso]` for the vDSO.
    pub path: Arc<str>,
    /// What identifies its content.
    pub build_id: BuildId,
    /// Its load segments in file order; empty where it could not be read.
    pub segments: Vec<Segment>,
    /// Whether its content could be read and was an ELF file.
    pub readable: bool,
}

impl ObjectInfo {
    /// The last component of the path, never empty.
    #[must_use]
    pub fn file_name(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        if name.is_empty() { "[unknown]" } else { name }
    }

    /// The ELF address of a byte of the file: executable segments first, then any.
    #[must_use]
    pub fn elf_address_of(&self, offset: FileOffset) -> Option<ElfAddress> {
        let find = |executable: bool| {
            self.segments.iter().filter(|s| s.executable == executable).find_map(|s| s.elf_address_of(offset))
        };
        find(true).or_else(|| find(false))
    }
}
