//! Unwinding of stack snapshots.
//!
//! [`extract`] boils an ELF file down to the bytes that unwinding needs; [`Unwinder`] takes those of many files and
//! turns (mappings, registers, a piece of stack) into frames. Two steps, because they may happen in different
//! processes: the bytes are kept, the file is closed.
//!
//! How a frame's caller is found, in this order:
//! 1. a signal frame (augmentation `S`, or the restorer's instructions): the registers that the kernel saved;
//! 2. a row of `.eh_frame`: `framehop`, where the row is of a kind that it carries out exactly; rows with
//!    expressions and rows of `.debug_frame` by the module `cfi`;
//! 3. no row: the frame pointer, believed only where it makes sense; for a leaf of Go code first the runtime's table.
//!
//! **In**: bytes of target files, and registers, mappings and stack bytes of target processes: all hostile.
//! **Out**: [`profile::UserFrame`]s (lookup addresses, leaf first) and a [`profile::StackEnd`].
//! **Units**: addresses as `profile` names them; everything else in bytes.
//! **Limits**: see [`Limits`] and [`Unwinder`]. No I/O, no clocks, no threads.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod arch;
mod blob;
mod cfi;
mod compile;
mod error;
mod expression;
mod extract;
mod go;
mod roots;
mod unwinder;
mod walk;

pub use compile::{Compiled, Unsupported, compile};
pub use error::UnwindError;
pub use extract::{Limits, extract, extract_debug};
pub use unwinder::{MAX_FRAMES, MAX_OBJECTS, Unwinder};
