//! Broken files, forged blobs, random stacks: nothing panics, nothing runs on, nothing is read outside the snapshot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use profile::{MapEntry, ObjectId, StackEnd, UserFrame, UserRegisters};
use proptest::prelude::*;
use proptest::sample::Index;
use unwind::{Limits, MAX_FRAMES, UnwindError, Unwinder, extract};

const OBJECT: ObjectId = ObjectId(7);
const CODE: u64 = 0x5555_5555_0000;
const CODE_BYTES: u64 = 0x10_0000;
const STACK: u64 = 0x7fff_0000_0000;

/// A small program with tables, a PLT and everything that a C library starts with.
fn file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deep.c");
        assert!(Command::new("cc").args(["-O2", "-g", "-o"]).arg(&out).arg(source).status().unwrap().success());
        fs::read(out).unwrap()
    })
}

fn maps() -> Vec<MapEntry> {
    vec![
        MapEntry { start: CODE, end: CODE + CODE_BYTES, file_offset: 0, object: Some(OBJECT) },
        MapEntry { start: CODE + 0x20_0000, end: CODE + 0x21_0000, file_offset: 0, object: None },
        MapEntry {
            start: CODE + 0x30_0000,
            end: CODE + 0x31_0000,
            file_offset: u64::MAX - 5,
            object: Some(ObjectId(99)),
        },
    ]
}

/// Unwinds and checks what holds for any input.
fn unwind(unwinder: &mut Unwinder, maps: &[MapEntry], registers: UserRegisters, stack: &[u8]) -> StackEnd {
    let mut frames: Vec<UserFrame> = Vec::new();
    let start = Instant::now();
    let end = unwinder.unwind(maps, &registers, stack, &mut frames);
    assert!(frames.len() <= MAX_FRAMES);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?} for {} frames", start.elapsed(), frames.len());
    assert_eq!(end == StackEnd::TooManyFrames, frames.len() == MAX_FRAMES && end != StackEnd::Root);
    end
}

/// Words that a stack may hold: code, stack addresses, small numbers, anything.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..CODE_BYTES / 64).prop_map(|n| CODE + n * 3),
        1 => (0u64..0x10_0000).prop_map(|n| CODE + 0x20_0000 + n),
        3 => (0u64..600).prop_map(|n| STACK + n * 8),
        1 => 0u64..40,
        1 => any::<u64>(),
    ]
}

fn stack() -> impl Strategy<Value = Vec<u8>> {
    (proptest::collection::vec(word(), 0..400), 0usize..8).prop_map(|(words, cut)| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.truncate(bytes.len().saturating_sub(cut));
        bytes
    })
}

fn registers() -> impl Strategy<Value = UserRegisters> {
    let sp = prop_oneof![8 => Just(STACK), 1 => any::<u64>(), 1 => Just(0u64), 1 => Just(u64::MAX - 3)];
    (word(), sp, word(), word()).prop_map(|(pc, sp, fp, lr)| UserRegisters { pc, sp, fp, lr })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn random_stacks(registers in registers(), stack in stack()) {
        let mut unwinder = Unwinder::new();
        unwinder.load(OBJECT, extract(file(), &Limits::default()).unwrap()).unwrap();
        unwind(&mut unwinder, &maps(), registers, &stack);
    }

    #[test]
    fn random_maps(
        ranges in proptest::collection::btree_map(any::<u64>(), (any::<u64>(), any::<u64>(), any::<bool>()), 0..12),
        registers in registers(),
        stack in stack(),
    ) {
        let mut unwinder = Unwinder::new();
        unwinder.load(OBJECT, extract(file(), &Limits::default()).unwrap()).unwrap();
        let maps: Vec<_> = ranges
            .into_iter()
            .map(|(start, (end, file_offset, object))| MapEntry { start, end, file_offset, object: object.then_some(OBJECT) })
            .collect();
        unwind(&mut unwinder, &maps, registers, &stack);
    }

    #[test]
    fn broken_files(
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..16),
        place in 0usize..4,
        keep in prop::option::weighted(0.1, any::<Index>()),
        registers in registers(),
        stack in stack(),
    ) {
        let whole = file();
        let mut bytes = whole.to_vec();
        // Anywhere; the headers; the tables' sections; both ends.
        let frame = whole.windows(5).position(|w| w == b"\x01zR\x00\x01").unwrap();
        let sections = usize::try_from(u64::from_le_bytes(whole[0x28..0x30].try_into().unwrap())).unwrap();
        for (at, value) in changes {
            let at = match place {
                0 => at.index(whole.len()),
                1 => at.index(0x400),
                2 => frame - 8 + at.index(0x300),
                _ => sections + at.index(whole.len() - sections),
            };
            bytes[at] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(whole.len()));
        }
        let mut unwinder = Unwinder::new();
        if let Ok(blob) = extract(bytes.as_slice(), &Limits::default()) {
            unwinder.load(OBJECT, blob).unwrap();
        }
        for pc in [CODE + 0x1000, CODE + 0x1050, CODE + 0x1140, registers.pc] {
            unwind(&mut unwinder, &maps(), UserRegisters { pc, ..registers }, &stack);
        }
    }

    #[test]
    fn forged_blobs(
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..10),
        in_head: bool,
        registers in registers(),
        stack in stack(),
    ) {
        let mut bytes = extract(file(), &Limits::default()).unwrap();
        for (at, value) in changes {
            let n = if in_head { bytes.len().min(900) } else { bytes.len() };
            bytes[at.index(n)] = value;
        }
        let mut unwinder = Unwinder::new();
        match unwinder.load(OBJECT, bytes) {
            Ok(()) | Err(UnwindError::Blob(_)) => {}
            Err(other) => panic!("{other}"),
        }
        for pc in [CODE + 0x1000, CODE + 0x1050, CODE + 0x1140, registers.pc] {
            unwind(&mut unwinder, &maps(), UserRegisters { pc, ..registers }, &stack);
        }
    }
}

/// A section of one endless function, of many functions that share one endless common entry, and of nothing but zeros.
#[test]
fn tables_made_to_be_slow() {
    let sections: [Vec<u8>; 3] = [cie_and_fde(0, 4 << 20), cie_and_fde(4 << 20, 64), vec![0; 4 << 20]];
    for (i, eh_frame) in sections.into_iter().enumerate() {
        let file = elf_with(&eh_frame);
        let start = Instant::now();
        let blob = extract(file.as_slice(), &Limits::default()).unwrap();
        let mut unwinder = Unwinder::new();
        unwinder.load(OBJECT, blob).unwrap();
        let stack: Vec<u8> = (0..8000u64).flat_map(|i| (CODE + 0x1000 + i).to_le_bytes()).collect();
        let registers = UserRegisters { pc: CODE + 0x1001, sp: STACK, fp: STACK + 16, lr: 0 };
        unwind(&mut unwinder, &maps(), registers, &stack);
        assert!(start.elapsed() < Duration::from_secs(60), "section {i}: {:?}", start.elapsed());
    }
}

#[test]
fn not_for_this_machine() {
    let mut other = file().to_vec();
    other[18] = 3;
    assert!(matches!(extract(other.as_slice(), &Limits::default()), Err(UnwindError::Machine { machine: 3 })));
    assert!(matches!(extract(b"#!/bin/sh\n".as_slice(), &Limits::default()), Err(UnwindError::Elf(_))));
    assert!(matches!(extract(b"".as_slice(), &Limits::default()), Err(UnwindError::Elf(_))));
    let few = Limits { segments: 1, ..Limits::default() };
    assert!(matches!(extract(file(), &few), Err(UnwindError::TooLarge { .. })));
}

#[test]
fn objects_come_and_go() {
    let blob = extract(file(), &Limits::default()).unwrap();
    let mut unwinder = Unwinder::new();
    let (registers, stack) = (UserRegisters { pc: CODE + 0x1050, sp: STACK, fp: 0, lr: 0 }, [0; 64]);
    let mut frames = Vec::new();
    unwinder.unwind(&maps(), &registers, &stack, &mut frames);
    assert_eq!(frames[0], UserFrame::Unmapped { address: CODE + 0x1050 });
    for _ in 0..3 {
        unwinder.load(OBJECT, blob.clone()).unwrap();
    }
    frames.clear();
    unwinder.unwind(&maps(), &registers, &stack, &mut frames);
    assert!(matches!(frames[0], UserFrame::Object { object: OBJECT, .. }));
    unwinder.forget(OBJECT);
    unwinder.forget(OBJECT);
    frames.clear();
    unwinder.unwind(&maps(), &registers, &stack, &mut frames);
    assert_eq!(frames[0], UserFrame::Unmapped { address: CODE + 0x1050 });
    assert_eq!(unwinder.unwind(&[], &registers, &stack, &mut frames), StackEnd::UnknownProcess);
}

/// A common entry with so many bytes of padding, and functions all over the text with so many.
fn cie_and_fde(cie_padding: usize, fde_padding: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let entry = |out: &mut Vec<u8>, body: &[u8]| {
        out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        out.extend_from_slice(body);
    };
    let mut cie = b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\x00\x0c\x07\x08\x90\x01".to_vec();
    cie.resize(cie.len() + cie_padding, 0);
    entry(&mut out, &cie);
    for i in 0..2000u64 {
        if fde_padding > 4096 && i > 0 {
            break;
        }
        let back = u32::try_from(out.len() + 4).unwrap();
        let mut fde = back.to_le_bytes().to_vec();
        fde.extend_from_slice(&(0x1000 + i * 8).to_le_bytes());
        fde.extend_from_slice(&8u64.to_le_bytes());
        fde.push(0);
        fde.resize(fde.len() + fde_padding, 0);
        entry(&mut out, &fde);
    }
    out
}

/// An ELF file of one executable segment and one section.
fn elf_with(eh_frame: &[u8]) -> Vec<u8> {
    let mut out = file()[..64].to_vec();
    let names = b"\0.eh_frame\0.shstrtab\0";
    let (text, frame) = (64 + 56, 0x8000usize);
    let strings = frame + eh_frame.len();
    let sections = (strings + names.len()).next_multiple_of(8);
    out[0x20..0x28].copy_from_slice(&64u64.to_le_bytes());
    out[0x28..0x30].copy_from_slice(&(sections as u64).to_le_bytes());
    out[0x38..0x3a].copy_from_slice(&1u16.to_le_bytes());
    out[0x3c..0x3e].copy_from_slice(&3u16.to_le_bytes());
    out[0x3e..0x40].copy_from_slice(&2u16.to_le_bytes());
    for word in [1 | 5 << 32, 0, 0, 0, strings as u64, strings as u64, 4096u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    assert_eq!(out.len(), text);
    out.resize(frame, 0);
    out.extend_from_slice(eh_frame);
    out.extend_from_slice(names);
    out.resize(sections + 64, 0);
    for (name, kind, at, size) in [(1u64, 1u64, frame, eh_frame.len()), (11, 3, strings, names.len())] {
        for word in [name | kind << 32, 2, at as u64, at as u64, size as u64, 0, 1, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out
}
