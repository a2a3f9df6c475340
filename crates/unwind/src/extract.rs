//! From an ELF file to the bytes that unwinding needs.

use object::read::ReadRef;

use crate::UnwindError;

/// Bounds on what is taken out of one file.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of each unwind section.
    pub section_bytes: u64,
    /// Load segments.
    pub segments: usize,
    /// Bytes of executable segments searched for signal restorers; more than that are not searched.
    pub searched_text_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { section_bytes: 64 << 20, segments: 64, searched_text_bytes: 8 << 20 }
    }
}

/// Takes out of an ELF file what [`crate::Unwinder::load`] needs. Never empty: an ELF file without any unwind section
/// still gives its load segments, so that its frames get ELF addresses.
///
/// # Errors
/// No ELF file for this machine, or a limit.
pub fn extract<'data>(file: impl ReadRef<'data>, limits: &Limits) -> Result<Vec<u8>, UnwindError> {
    let _ = (file.len(), limits);
    Err(UnwindError::Blob("not yet"))
}
