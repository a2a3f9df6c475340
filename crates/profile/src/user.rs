//! The user half of a sample on its way through the worker: registers and a piece of stack in, frames out.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{ObjectId, StackEnd};

/// One executable mapping of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// The file's byte at `start`.
    pub file_offset: u64,
    /// The file; none for anonymous memory and files that are not readable.
    pub object: Option<ObjectId>,
}

/// The registers of a task's user half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRegisters {
    /// Program counter.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub fp: u64,
    /// Link register (0 on x86-64).
    pub lr: u64,
}

/// One user frame. Addresses are lookup addresses (see [`crate::Frame`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserFrame {
    /// Code of a mapped file; `address` is an ELF address.
    Object {
        /// The file.
        object: ObjectId,
        /// The ELF address.
        address: u64,
    },
    /// Code that belongs to no readable file; `address` is the process's.
    Unmapped {
        /// The address in the process.
        address: u64,
    },
}

/// The user half of one stack, leaf first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserStack {
    /// The frames.
    pub frames: Vec<UserFrame>,
    /// Why it ended.
    pub end: StackEnd,
}

/// A function's name, as found in a symbol table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolName {
    /// To show: demangled where it was mangled. Never empty.
    pub name: String,
    /// As the file has it, lossily decoded.
    pub system_name: String,
    /// The ELF addresses that have this name, among them the one that was asked for; empty where only that one is known to.
    pub addresses: Range<u64>,
}
