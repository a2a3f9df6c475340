//! A process as the kernel sees it: tables in shards, mappings, the walk.
#![allow(dead_code, unreachable_pub, reason = "not every test needs every helper")]

use std::collections::BTreeMap;

use profile::{MapEntry, StackEnd, UserFrame, UserRegisters};
use unwind::{Limits, compile, extract};
use unwind_table::{Arena, End, LocalShards, MAX_FRAMES, Mapping, Place, Snapshot, Walk, X86_64, step};

use crate::common::Process;

/// The tables of a process's files, and its mappings.
pub struct Tables {
    pub shards: LocalShards,
    pub arena: Arena,
    pub mappings: (Place, u32),
}

impl Tables {
    /// All files of a process, compiled and placed.
    pub fn of(process: &Process) -> Self {
        let (mut shards, mut arena) = (LocalShards::new(), Arena::new(256));
        let mut placed = BTreeMap::new();
        for (object, bytes) in &process.files {
            let compiled = compile(extract(bytes.as_slice(), &Limits::default()).unwrap(), None).unwrap();
            placed.insert(*object, arena.load(object.0, &compiled.table, 1, &mut shards).unwrap());
        }
        let mapping = |map: &MapEntry| {
            let elf = map.object.and_then(|object| {
                let bias = profile::bias(&process.segments[&object], map.start, map.end, map.file_offset)?;
                Some(placed[&object].mapping(map.start, map.end, bias))
            });
            elf.unwrap_or_else(|| Mapping::without_table(map.start, map.end))
        };
        let mappings: Vec<Mapping> = process.maps.iter().map(mapping).collect();
        let mappings = arena.place_mappings(&mappings, &mut shards).unwrap();
        Self { shards, arena, mappings }
    }

    /// Walks a stack. The lookup addresses, and why it ended.
    pub fn walk(&self, registers: &UserRegisters, stack: &[u8], walk: &mut Walk) -> End {
        let r = registers;
        let mut memory = Snapshot::new(&self.shards, r.sp, stack);
        walk.begin([r.pc, r.sp, r.fp, r.lr], self.mappings.0.0, self.mappings.1, MAX_FRAMES);
        for _ in 0..=MAX_FRAMES {
            let end = step::<X86_64, _>(walk, &mut memory);
            if end != End::GOING_ON {
                return end;
            }
        }
        panic!("the walk does not end");
    }
}

/// What an end is called elsewhere.
pub fn stack_end(end: End) -> StackEnd {
    match end {
        End::ROOT => StackEnd::Root,
        End::UNREADABLE => StackEnd::TruncatedSnapshot,
        End::NO_TABLE => StackEnd::NoTable,
        End::BAD_FRAME => StackEnd::BadFrame,
        End::TOO_MANY_FRAMES => StackEnd::TooManyFrames,
        End::UNKNOWN_PROCESS => StackEnd::UnknownProcess,
        other => panic!("{other:?}"),
    }
}

/// The frames of lookup addresses, as the other unwinder tells them.
pub fn frames(process: &Process, addresses: &[u64]) -> Vec<UserFrame> {
    let frame = |&address: &u64| process.place(address).unwrap_or(UserFrame::Unmapped { address });
    addresses.iter().map(frame).collect()
}
