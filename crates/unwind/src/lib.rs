//! Unwinding of stack snapshots.
//!
//! [`extract`] boils an ELF file down to the bytes that unwinding needs; [`Unwinder`] takes those of many files and
//! turns (mappings, registers, a piece of stack) into frames. Two steps, because they may happen in different
//! processes: the bytes are kept, the file is closed.
//!
//! **In**: bytes of target files, and registers, mappings and stack bytes of target processes: all hostile.
//! **Out**: [`profile::UserFrame`]s (lookup addresses, leaf first) and a [`profile::StackEnd`].
//! **Units**: addresses as `profile` names them; everything else in bytes.
//! **Limits**: see [`Limits`] and [`Unwinder`]. No I/O, no clocks, no threads.
#![forbid(unsafe_code)]

mod error;
mod extract;
mod unwinder;

pub use error::UnwindError;
pub use extract::{Limits, extract};
pub use unwinder::Unwinder;
