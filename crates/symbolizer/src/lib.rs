//! From addresses to names of functions.
//!
//! In the worker: [`table::extract`] makes a flat table of a file's symbols, [`table::lookup`] finds an address in
//! it, [`demangle`] makes the name readable ([`name`] is both). In the agent: [`KernelSymbols`] names kernel
//! addresses, and [`Namer`] turns a [`profile::Window`] into a [`profile::Profile`], asking a [`NameSource`] for
//! each distinct address once.
//!
//! **In**: bytes of target files, symbol names of targets, the worker's replies: hostile. **Out**: names that are
//! never empty and hold no control characters. **Units**: ELF addresses and kernel addresses. **Limits**:
//! [`table::Limits`], [`NamerLimits`], and the constants of each module. No I/O of its own.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod build;
mod cache;
mod demangle;
mod gopclntab;
mod kernel;
mod namer;
mod pick;
mod plt;
mod ranges;
pub mod table;
mod tables;
mod text;

pub use demangle::demangle;
pub use kernel::{KernelSymbol, KernelSymbols};
pub use namer::{NameSource, Namer, NamerCounters, NamerLimits};

/// Names an ELF address from the bytes that [`table::extract`] made: [`table::lookup`], then [`demangle`].
#[must_use]
pub fn name(symbols: &[u8], address: u64) -> Option<profile::SymbolName> {
    let symbol = table::lookup(symbols, address)?;
    Some(profile::SymbolName { addresses: symbol.addresses, ..demangle(symbol.name) })
}
