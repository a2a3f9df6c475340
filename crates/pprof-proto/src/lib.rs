//! pprof's messages: types, gzip, and the rules that pprof itself checks when it opens a file.
//!
//! **In**: [`Profile`] values, or bytes of a file (not trusted). **Out**: bytes, or [`Profile`] values.
//! **Limits**: decoding takes the largest size that a file may unpack to and fails above it.
#![forbid(unsafe_code)]

mod check;
mod gzip;

// Written by prost: `tests/generated.rs` compares it to the letter.
#[rustfmt::skip]
mod generated;

pub use check::{CheckError, check};
pub use generated::{Function, Label, Line, Location, Mapping, Profile, Sample, ValueType};
pub use gzip::{DecodeError, decode, encode};
