//! Target files: identity, opening, limits, and the door to the worker process.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod tools;
