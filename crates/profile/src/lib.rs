//! The values that travel from room to room: [`Window`] (stacks without names), [`Profile`] (stacks with names),
//! [`Ledger`] (what became of every sample), and the plain numbers that the rooms publish about themselves
//! ([`stats`]).
//!
//! **In**: nothing. **Out**: plain data. No I/O, no clocks, no threads of its own.
//! **Units**: times end in `_mono_ns` (`CLOCK_MONOTONIC`) or `_unix_ns`; addresses are newtypes.
#![forbid(unsafe_code)]

pub mod address;
pub mod frame;
pub mod ledger;
pub mod merge;
pub mod named;
pub mod object;
pub mod owner;
pub mod span;
pub mod stats;
pub mod user;
pub mod window;

pub use address::{ElfAddress, FileOffset, UserAddress};
pub use frame::{Frame, StackEnd};
pub use ledger::{DropReason, Ledger, LedgerSnapshot, Stage};
pub use merge::merge;
pub use named::Profile;
pub use object::{BuildId, ObjectId, ObjectInfo, Segment, bias};
pub use owner::{Container, Declared, Identity, Owner, Place, PodRef, ProcessKey, Qos, Runtime};
pub use span::Span;
pub use user::{MapEntry, SymbolName, UserFrame, UserRegisters, UserStack};
pub use window::Window;
