//! Compact unwind tables, and the walk over them.
//!
//! The walk runs in the kernel, inside an eBPF program; the same code runs in user space, where tests, fuzzing and
//! comparisons with another unwinder happen. So everything outside of the feature `std` is without allocation, without
//! panics, and written so that the kernel's verifier can follow it: masks instead of checks, values passed through
//! [`Walk`] instead of through `Option`s, loops with constant bounds.
//!
//! # What is looked up
//!
//! ```text
//! process   mappings   [Mapping; n], sorted by start           32 bytes each
//!   file    anchors    [Anchor; n], one for 64 KiB of code       4 bytes each
//!             block    [u16; pages + 1] where each page's rows start, then the rows, 2 or 4 bytes each
//!           rules      [Rule; n]                                 8 bytes each
//! ```
//!
//! All of it lies in **shards**, arrays of [`SHARD_BYTES`] that user space fills and the program reads; a [`Place`] is a shard
//! and an offset in it. A block covers 64 KiB of code and chooses its own page size (256 bytes to 64 KiB): the smaller the pages,
//! the fewer bits of a row say where in its page it starts, and the more are left for the rule. A page where 16 bits do not
//! suffice for both has rows of twice the size. Each page starts with a row of its own, so that a search never
//! leaves it. Nothing but anchors names places, so a table is moved by rewriting them.
//!
//! # Stages
//!
//! [`Walk`] is the contract between the stages of a walk: it lives in per-CPU memory, and whoever holds the walk (the loop
//! over [`step`], later a program per interpreter, reached by tail call) reads where it stands from there and leaves there
//! where it came to. See [`Walk`].
//!
//! **In**: tables, which user space made of hostile files; registers and stack bytes, which are hostile. **Out**: lookup
//! addresses of frames, leaf first, and an [`End`]. **Units**: addresses of the process, ELF addresses, bytes.
//! **Limits**: [`MAX_FRAMES`], [`MAX_SIGNALS`], [`MAX_MAPPINGS`], [`MAX_BLOCKS`], [`MAX_RULES`].
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

mod arch;
mod format;
mod rule;
mod search;
mod step;
mod walk;

#[cfg(feature = "std")]
mod arena;
#[cfg(feature = "std")]
mod builder;
#[cfg(feature = "std")]
mod local;
#[cfg(feature = "std")]
mod table;

pub use arch::{Aarch64, Arch, SignalFrame, X86_64};
pub use format::{
    Anchor, BLOCK_BITS, BLOCK_BYTES, MAPPING_BYTES, MAX_BLOCKS, MAX_MAPPINGS, MAX_PAGE_BITS, MAX_RULES, MIN_PAGE_BITS,
    Mapping, NO_TABLE, PENDING, PLACE_BYTES, Place, SHARD_BYTES, SHARDS,
};
pub use rule::{Kind, Rule, Slot};
pub use search::{find, rule};
pub use step::{Memory, fill, step};
pub use walk::{
    End, FLAG_CHAINED, FLAG_EXACT, FLAG_FROM_FP, FLAG_LEAF_REGISTERS, MAX_FRAMES, MAX_SIGNALS, WINDOW_WORDS, Walk,
};

#[cfg(feature = "std")]
pub use arena::{Arena, ArenaError, ArenaStats, Placed, Shards};
#[cfg(feature = "std")]
pub use builder::{Builder, BuilderStats};
#[cfg(feature = "std")]
pub use local::{LocalShards, Snapshot};
#[cfg(feature = "std")]
pub use table::{FileTable, TableError};
