//! One pc of a stack, and why a stack ended where it did.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ElfAddress, ObjectId, UserAddress};

/// One frame of an unnamed stack.
///
/// Addresses are **lookup addresses**: the pc for the leaf and for a frame that a signal interrupted, the return
/// address minus one for callers, so that naming needs no further knowledge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Frame {
    /// A kernel address.
    Kernel(u64),
    /// Code of a mapped file.
    Object {
        /// The file.
        object: ObjectId,
        /// The place in it.
        address: ElfAddress,
    },
    /// Code that belongs to no readable file: JIT output, anonymous memory, a file that could not be opened.
    Unmapped {
        /// What the kernel calls the mapping (`//anon`, a path), lossily decoded; empty where no mapping is known.
        mapping: Arc<str>,
        /// The address in the process.
        address: UserAddress,
    },
    /// Not code: says that the stack was cut here, and why. Always the outermost frame.
    Cut(StackEnd),
}

/// Why a user stack ended. [`StackEnd::Root`] and [`StackEnd::NoUserHalf`] are whole stacks; all others are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StackEnd {
    /// The outermost function was reached.
    Root,
    /// A kernel thread, or a task that is ending and has no user memory any more.
    NoUserHalf,
    /// The walk needed bytes above the snapshot's end.
    TruncatedSnapshot,
    /// No unwind table covers the address and the frame pointer led nowhere.
    NoTable,
    /// The next frame made no sense: not above the last, or not in executable memory.
    BadFrame,
    /// More frames than the limit.
    TooManyFrames,
    /// The process's mappings were not known.
    UnknownProcess,
    /// A 32-bit program.
    Compat,
    /// The worker died or hung on it, twice.
    WorkerFailed,
    /// The sample carried no user registers.
    NoRegisters,
}

impl StackEnd {
    /// Every value, for counters that must exist before they are first needed.
    pub const ALL: [Self; 10] = [
        Self::Root,
        Self::NoUserHalf,
        Self::TruncatedSnapshot,
        Self::NoTable,
        Self::BadFrame,
        Self::TooManyFrames,
        Self::UnknownProcess,
        Self::Compat,
        Self::WorkerFailed,
        Self::NoRegisters,
    ];

    /// The value's label on `/metrics`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::NoUserHalf => "no_user_half",
            Self::TruncatedSnapshot => "truncated_snapshot",
            Self::NoTable => "no_table",
            Self::BadFrame => "bad_frame",
            Self::TooManyFrames => "too_many_frames",
            Self::UnknownProcess => "unknown_process",
            Self::Compat => "compat_32bit",
            Self::WorkerFailed => "worker_failed",
            Self::NoRegisters => "no_registers",
        }
    }

    /// Whether the stack is whole.
    #[must_use]
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Root | Self::NoUserHalf)
    }

    /// The value's place in [`StackEnd::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}
