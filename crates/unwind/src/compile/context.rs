//! Memory to interpret call frame instructions in: less than `gimli` takes by itself, so that files made to be slow are
//! not, and rows stay near.

use gimli::{ReaderOffset, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindTableRow};

/// Registers that one row may have rules for. Compilers save 20 at the most (arm64, with the vector registers).
const MAX_RULES: usize = 40;
/// States remembered at a time, and one more.
const MAX_STATES: usize = 4;

/// Where rows live while they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage;

impl<T: ReaderOffset> UnwindContextStorage<T> for Storage {
    type Rules = [(Register, RegisterRule<T>); MAX_RULES];
    type Stack = Box<[UnwindTableRow<T, Self>; MAX_STATES]>;
}

pub(super) type Context = UnwindContext<usize, Storage>;
