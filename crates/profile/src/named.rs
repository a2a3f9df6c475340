//! Stacks with names, in flat tables: what every sink encodes from.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use crate::{BuildId, Owner, Span};

/// A named profile. Tables refer to each other by index; index 0 of `strings` is the empty string.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The time it covers.
    pub span: Span,
    /// Nanoseconds between two ticks of one CPU: what one sample stands for.
    pub period_ns: u64,
    /// All texts, each once; `strings[0]` is empty.
    pub strings: Vec<Arc<str>>,
    /// The files (and `[kernel]`).
    pub mappings: Vec<Mapping>,
    /// The functions.
    pub functions: Vec<Function>,
    /// The distinct frames.
    pub locations: Vec<Location>,
    /// The distinct stacks: indices into `locations`, leaf first.
    pub stacks: Vec<Box<[u32]>>,
    /// Whom stacks belong to.
    pub owners: Vec<Arc<Owner>>,
    /// For each owner, the mapping of its executable, if known.
    pub owner_mappings: Vec<Option<u32>>,
    /// Counts per (owner, stack), each pair once.
    pub entries: Vec<Entry>,
}

/// A file that code came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The path as the process sees it, or `[kernel]`, `[vdso]`.
    pub path: u32,
    /// What identifies the file's content.
    pub build_id: BuildId,
    /// ELF address of the first executable segment's first byte (0 where unknown).
    pub memory_start: u64,
    /// ELF address behind the last executable segment (0 where unknown).
    pub memory_limit: u64,
    /// File offset of the first executable segment.
    pub file_offset: u64,
    /// The kernel's own text.
    pub kernel: bool,
}

/// A function. Equal names in different files are different functions only by their locations' mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// The name to show, demangled; never the empty string.
    pub name: u32,
    /// The name as the file has it; equals `name` where nothing was demangled.
    pub system_name: u32,
    /// The source file; 0 where unknown.
    pub file: u32,
}

/// What kind of code a location is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LocationKind {
    /// Compiled code.
    Native,
    /// The kernel.
    Kernel,
    /// Not code: the stack was cut here.
    Cut,
}

/// The functions at one address: nearly always one, for which nothing is allocated.
pub type Lines = SmallVec<[Line; 2]>;

/// A distinct frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The file, if any.
    pub mapping: Option<u32>,
    /// The ELF address (kernel: the address; no file: the process's address; cut: 0).
    pub address: u64,
    /// The functions at this address, innermost (inlined) first; at least one.
    pub lines: Lines,
    /// What kind of code it is.
    pub kind: LocationKind,
    /// The name is a function's, not `binary+0xoffset`.
    pub named: bool,
}

/// A function and a line in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Index into [`Profile::functions`].
    pub function: u32,
    /// The source line; 0 where unknown.
    pub line: u32,
}

/// One stack of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index into [`Profile::owners`].
    pub owner: u32,
    /// Index into [`Profile::stacks`].
    pub stack: u32,
    /// How many samples.
    pub count: u64,
    /// Their times (nanoseconds since the Unix epoch) where asked for, else empty.
    pub times_unix_ns: Vec<u64>,
}

/// The first rule that a profile breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table}[{index}]: {what}")]
pub struct ProfileError {
    /// The table.
    pub table: &'static str,
    /// The row.
    pub index: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Profile {
    /// The number of samples: the sum of the entries' counts.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.entries.iter().map(|e| e.count).sum()
    }

    /// The text at `index`; empty where there is none.
    #[must_use]
    pub fn text(&self, index: u32) -> &str {
        self.strings.get(index as usize).map_or("", |s| s)
    }

    /// The shown name of the innermost function at a location; empty only for an index out of range.
    #[must_use]
    pub fn location_name(&self, location: u32) -> &str {
        self.locations
            .get(location as usize)
            .and_then(|l| l.lines.first())
            .and_then(|l| self.functions.get(l.function as usize))
            .map_or("", |f| self.text(f.name))
    }

    /// A rough count of the bytes that the profile holds, for bounded stores.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + self.strings.iter().map(|s| s.len() + 32).sum::<usize>()
            + self.mappings.len() * (size_of::<Mapping>() + 80)
            + self.functions.len() * size_of::<Function>()
            + self.locations.len() * size_of::<Location>()
            + self.stacks.iter().map(|s| s.len() * 4 + 32).sum::<usize>()
            + self.owners.len() * (size_of::<Owner>() + 16)
            + self.entries.iter().map(|e| size_of::<Entry>() + e.times_unix_ns.len() * 8).sum::<usize>()
    }

    /// Checks what every sink relies on: indices in range, every location named, every pair once.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn check(&self) -> Result<(), ProfileError> {
        let err = |table, index, what| Err(ProfileError { table, index, what });
        if self.strings.first().is_none_or(|s| !s.is_empty()) {
            return err("strings", 0, "is not the empty string");
        }
        let text = |i: u32| (i as usize) < self.strings.len();
        for (i, m) in self.mappings.iter().enumerate() {
            if !text(m.path) {
                return err("mappings", i, "path out of range");
            }
        }
        for (i, f) in self.functions.iter().enumerate() {
            if !text(f.name) || !text(f.system_name) || !text(f.file) {
                return err("functions", i, "text out of range");
            }
            if self.text(f.name).is_empty() {
                return err("functions", i, "has no name");
            }
        }
        for (i, l) in self.locations.iter().enumerate() {
            if l.mapping.is_some_and(|m| m as usize >= self.mappings.len()) {
                return err("locations", i, "mapping out of range");
            }
            if l.lines.is_empty() || l.lines.iter().any(|x| x.function as usize >= self.functions.len()) {
                return err("locations", i, "no function, or function out of range");
            }
        }
        for (i, s) in self.stacks.iter().enumerate() {
            if s.is_empty() || s.iter().any(|&l| l as usize >= self.locations.len()) {
                return err("stacks", i, "empty, or location out of range");
            }
        }
        if self.owner_mappings.len() != self.owners.len() {
            return err("owner_mappings", self.owner_mappings.len(), "not one per owner");
        }
        let mut seen = FxHashSet::default();
        for (i, e) in self.entries.iter().enumerate() {
            if e.owner as usize >= self.owners.len() || e.stack as usize >= self.stacks.len() {
                return err("entries", i, "owner or stack out of range");
            }
            if e.count == 0 {
                return err("entries", i, "counts nothing");
            }
            if !e.times_unix_ns.is_empty() && e.times_unix_ns.len() as u64 != e.count {
                return err("entries", i, "not one time per sample");
            }
            if !seen.insert((e.owner, e.stack)) {
                return err("entries", i, "stands twice");
            }
        }
        Ok(())
    }
}
