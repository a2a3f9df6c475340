//! What the worker process does with the bytes of a target. The rooms that know how (`unwind`, `symbolizer`) are not
//! known here: the binary puts them behind this trait and hands it to the worker's loop.

use object::read::ReadCache;
use profile::{MapEntry, ObjectId, StackEnd, SymbolName, UserFrame, UserRegisters};

use crate::file::BoundedFile;
pub use crate::mapped::MappedTable;

/// A target file in the worker, read piece by piece, never mapped: a file truncated while mapped is SIGBUS.
/// It is an [`object::ReadRef`].
pub type FileRef<'a> = &'a ReadCache<BoundedFile>;

/// The worker's tools. Every method gets hostile bytes; none may panic, and each is bounded in memory.
pub trait Tools {
    /// Compiles what unwinding needs of a file into bytes that [`Tools::load_unwind`] takes later, also in another
    /// worker process. Empty where the file has no unwind information.
    ///
    /// # Errors
    /// A short reason.
    fn extract_unwind(&self, file: FileRef<'_>) -> Result<Vec<u8>, String>;

    /// Compiles what unwinding can use of a separate debug file into bytes for [`Tools::compile_walk`]. Empty where there is
    /// nothing.
    ///
    /// # Errors
    /// A short reason.
    fn extract_debug(&self, file: FileRef<'_>) -> Result<Vec<u8>, String>;

    /// Compiles what [`Tools::extract_unwind`] gave, and [`Tools::extract_debug`] of the file's debug file, into the compact
    /// table for the walk in the kernel (the bytes of an `unwind_table::FileTable`). Empty where that would tell of nothing.
    ///
    /// # Errors
    /// A short reason.
    fn compile_walk(&self, unwind: Vec<u8>, debug: Option<Vec<u8>>) -> Result<Vec<u8>, String>;

    /// Compiles a file's symbol tables into bytes that [`Tools::name`] takes later. Empty where it has none.
    ///
    /// # Errors
    /// A short reason.
    fn extract_symbols(&self, file: FileRef<'_>) -> Result<Vec<u8>, String>;

    /// Makes an object's unwind bytes known under its number. They are mapped: looking at all of them would cost as much
    /// memory as they are large.
    ///
    /// # Errors
    /// A short reason: the bytes are not what [`Tools::extract_unwind`] gives.
    fn load_unwind(&mut self, object: ObjectId, bytes: MappedTable) -> Result<(), String>;

    /// Forgets an object.
    fn forget(&mut self, object: ObjectId);

    /// Unwinds one snapshot. `maps` are sorted and do not overlap; `stack` is memory from `registers.sp` upwards.
    /// Appends to `frames`, leaf first.
    fn unwind(
        &mut self,
        maps: &[MapEntry],
        registers: &UserRegisters,
        stack: &[u8],
        frames: &mut Vec<UserFrame>,
    ) -> StackEnd;

    /// Names an ELF address from an object's symbol bytes.
    fn name(&self, symbols: &[u8], address: u64) -> Option<SymbolName>;
}
