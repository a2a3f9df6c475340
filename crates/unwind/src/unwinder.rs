//! The walk.

use profile::{MapEntry, ObjectId, StackEnd, UserFrame, UserRegisters};

use crate::UnwindError;

/// Unwinds snapshots of any number of processes.
#[derive(Default)]
pub struct Unwinder {}

impl Unwinder {
    /// Knows no object yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an object known by what [`crate::extract`] gave for it; replaces what was known under that number.
    ///
    /// # Errors
    /// The bytes are not what [`crate::extract`] gives.
    pub fn load(&mut self, object: ObjectId, bytes: Vec<u8>) -> Result<(), UnwindError> {
        let _ = (object, bytes);
        Ok(())
    }

    /// Forgets an object.
    pub fn forget(&mut self, object: ObjectId) {
        let _ = object;
    }

    /// Unwinds one snapshot. `maps` are the executable mappings, sorted and not overlapping; `stack` is memory from
    /// `registers.sp` upwards. Appends to `frames`, leaf first.
    pub fn unwind(
        &mut self,
        maps: &[MapEntry],
        registers: &UserRegisters,
        stack: &[u8],
        frames: &mut Vec<UserFrame>,
    ) -> StackEnd {
        let _ = (maps, registers, stack, frames);
        StackEnd::NoTable
    }
}
