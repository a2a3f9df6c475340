//! Unwind information that lies, from ELF file to walk: whatever a file says, the walk ends within its bounds, and it reads
//! nothing but the stack that it was led to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]
#![cfg(target_arch = "x86_64")]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use profile::{MapEntry, ObjectId, StackEnd, UserFrame, UserRegisters};
use proptest::prelude::*;
use unwind::{Limits, Unwinder, compile, extract};
use unwind_table::{
    Arena, End, FileTable, LocalShards, MAX_FRAMES, Mapping, Memory, Place, Snapshot, WINDOW_WORDS, Walk, X86_64, step,
};

const OBJECT: ObjectId = ObjectId(1);
const TEXT: u64 = 0x1000;
const TEXT_BYTES: u64 = 0x2_0000;
const BIAS: u64 = 0x5555_0000_0000;
const STACK: u64 = 0x7fff_0000_0000;
/// Reads of the stack that one step may make.
const MAX_READS: usize = 8;

const SP: u8 = 7;
const FP: u8 = 6;
const RA: u8 = 16;

// `DW_CFA_*` and `DW_OP_*`.
const ADVANCE_0: u8 = 0x40;
const DEF_CFA: u8 = 0x0c;
const DEF_CFA_OFFSET: u8 = 0x0e;
const DEF_CFA_OFFSET_SF: u8 = 0x13;
const DEF_CFA_EXPRESSION: u8 = 0x0f;
const OFFSET: u8 = 0x80;
const OFFSET_SF: u8 = 0x11;
const EXPRESSION: u8 = 0x10;
const REMEMBER: u8 = 0x0a;
const RESTORE: u8 = 0x0b;
const OP_ADDR: u8 = 0x03;
const OP_DEREF: u8 = 0x06;
const OP_SKIP: u8 = 0x2f;
const OP_BRA: u8 = 0x28;
const OP_BREG_SP: u8 = 0x77;

/// An `.eh_frame` by hand, so that it may be wrong in every way.
#[derive(Clone, Default)]
struct Frames(Vec<u8>);

impl Frames {
    /// With a usual common entry at 0.
    fn new() -> Self {
        let mut it = Self::default();
        it.cie(&[DEF_CFA, SP, 8, OFFSET | RA, 1]);
        it
    }

    fn entry(&mut self, body: &[u8]) -> u32 {
        let at = u32::try_from(self.0.len()).unwrap();
        self.0.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        self.0.extend(body);
        at
    }

    fn cie(&mut self, instructions: &[u8]) -> u32 {
        // Version 1, no augmentation, code in bytes, data in eights, the return address's column.
        self.entry(&[b"\0\0\0\0\x01\0\x01\x78\x10".as_slice(), instructions].concat())
    }

    /// A function whose common entry is at an offset.
    fn fde(&mut self, cie: u32, start: u64, bytes: u64, instructions: &[u8]) -> u32 {
        let back = u32::try_from(self.0.len()).unwrap().wrapping_add(4).wrapping_sub(cie);
        let head = [back.to_le_bytes().as_slice(), &start.to_le_bytes(), &bytes.to_le_bytes()].concat();
        self.entry(&[&head, instructions].concat())
    }

    /// An ELF file of one executable segment and this section.
    fn elf(&self) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.eh_frame\0.shstrtab\0";
        let (frame, bytes) = (0x100u64, self.0.len() as u64);
        let names = frame + bytes;
        let sections = (names + NAMES.len() as u64).next_multiple_of(8);
        let mut out = Vec::with_capacity(self.0.len() + 512);
        let put = |out: &mut Vec<u8>, words: &[u64]| words.iter().for_each(|word| out.extend(word.to_le_bytes()));
        out.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        // A shared file for x86-64; entry, program headers, section headers; sizes and counts.
        put(
            &mut out,
            &[3 | 62 << 16 | 1 << 32, 0, 64, sections, 64 << 32 | 56 << 48, 1 | 64 << 16 | 3 << 32 | 2 << 48],
        );
        put(&mut out, &[1 | 5 << 32, 0, TEXT, TEXT, TEXT_BYTES, TEXT_BYTES, 4096]);
        out.resize(0x100, 0);
        out.extend(&self.0);
        out.extend(NAMES);
        out.resize(usize::try_from(sections).unwrap(), 0);
        put(&mut out, &[0; 8]);
        put(&mut out, &[1 | 1 << 32, 2, 0x20_0000, frame, bytes, 0, 8, 0]);
        put(&mut out, &[11 | 3 << 32, 0, 0, names, NAMES.len() as u64, 0, 1, 0]);
        out
    }

    fn load(&self) -> Loaded {
        Loaded::of(&self.elf())
    }
}

/// A file in both unwinders.
struct Loaded {
    unwinder: RefCell<Unwinder>,
    shards: LocalShards,
    arena: Arena,
    mappings: (Place, u32),
}

impl Loaded {
    fn of(file: &[u8]) -> Self {
        let extracted = extract(file, &Limits::default()).unwrap();
        let compiled = compile(extracted.clone(), None).unwrap();
        let table = FileTable::parse(&compiled.table.to_bytes()).unwrap();
        assert_eq!(table, compiled.table);
        let mut unwinder = Unwinder::new();
        unwinder.load(OBJECT, extracted).unwrap();
        let (mut shards, mut arena) = (LocalShards::new(), Arena::new(64));
        let placed = arena.load(1, &table, 0, &mut shards).unwrap();
        let mapping = placed.mapping(BIAS + TEXT, BIAS + TEXT + TEXT_BYTES, BIAS);
        let mappings = arena.place_mappings(&[mapping], &mut shards).unwrap();
        Self { unwinder: RefCell::new(unwinder), shards, arena, mappings }
    }

    /// The process has these mappings now.
    fn remap(&mut self, mappings: &[Mapping]) {
        self.mappings = self.arena.place_mappings(mappings, &mut self.shards).unwrap();
    }

    /// Walks, and checks what holds of any walk. Returns the frames, the end, and the addresses that were read.
    fn walk(&self, pc: u64, sp: u64, fp: u64, stack: &[u64]) -> (Vec<u64>, End, Vec<u64>) {
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut memory = Watched { of: Snapshot::new(&self.shards, STACK, &bytes), read: Vec::new() };
        let mut walk = Walk::default();
        walk.begin([pc, sp, fp, 0], self.mappings.0.0, self.mappings.1, MAX_FRAMES);
        let end = loop {
            let (frames, before, signals) = (walk.frames, walk.sp, walk.signals);
            let reads = memory.read.len();
            let end = step::<X86_64, _>(&mut walk, &mut memory);
            assert!(memory.read.len() - reads <= MAX_READS);
            assert!(walk.frames <= frames + 1 && walk.frames <= MAX_FRAMES);
            if end != End::GOING_ON {
                break end;
            }
            assert!(walk.sp > before || walk.signals > signals, "upwards");
        };
        (walk.stack().to_vec(), end, memory.read)
    }

    /// The other unwinder at the same place, which must come to an end too.
    fn snapshot(&self, pc: u64, fp: u64, stack: &[u64]) -> (usize, StackEnd) {
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let maps =
            [MapEntry { start: BIAS + TEXT, end: BIAS + TEXT + TEXT_BYTES, file_offset: 0, object: Some(OBJECT) }];
        let mut frames: Vec<UserFrame> = Vec::new();
        let registers = UserRegisters { pc, sp: STACK, fp, lr: 0 };
        let end = self.unwinder.borrow_mut().unwind(&maps, &registers, &bytes, &mut frames);
        assert!(frames.len() <= unwind::MAX_FRAMES);
        (frames.len(), end)
    }

    /// How far above the leaf's the caller's stack pointer is, by each of them; none where there is no row that leads on.
    fn frame(&self, address: u64) -> Option<u64> {
        // Every word leads to code without a row, where frame pointers lead nowhere.
        let stack = [BIAS + TEXT + TEXT_BYTES - 1; 64];
        let (frames, _, _) = self.walk(BIAS + address, STACK, 3, &stack);
        let (others, _) = self.snapshot(BIAS + address, 3, &stack);
        assert_eq!(frames.len() > 1, others > 1, "{address:#x}");
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut walk = Walk::default();
        walk.begin([BIAS + address, STACK, 3, 0], self.mappings.0.0, self.mappings.1, MAX_FRAMES);
        let end = step::<X86_64, _>(&mut walk, &mut Snapshot::new(&self.shards, STACK, &bytes));
        (end == End::GOING_ON && walk.guesses == 0).then(|| walk.sp - STACK)
    }
}

/// Remembers what of the process's memory was asked for.
struct Watched<'a> {
    of: Snapshot<'a>,
    read: Vec<u64>,
}

impl<'a> Memory for Watched<'a> {
    type Shard = <Snapshot<'a> as Memory>::Shard;

    fn shard(&mut self, shard: u32) -> Option<Self::Shard> {
        self.of.shard(shard)
    }

    fn load16(&self, shard: Self::Shard, at: u32) -> u32 {
        self.of.load16(shard, at)
    }

    fn load32(&self, shard: Self::Shard, at: u32) -> u32 {
        self.of.load32(shard, at)
    }

    fn load64(&self, shard: Self::Shard, at: u32) -> u64 {
        self.of.load64(shard, at)
    }

    fn stack(&mut self, address: u64, window: &mut [u64; WINDOW_WORDS]) -> u32 {
        self.read.push(address);
        self.of.stack(address, window)
    }
}

/// A frame of so many bytes.
fn of_bytes(bytes: u8) -> [u8; 2] {
    [DEF_CFA_OFFSET, bytes]
}

#[test]
fn functions_that_cross_nest_repeat_and_are_empty() {
    let mut frames = Frames::new();
    // In the order of falling addresses.
    for (start, bytes, frame) in [
        (0x1900, 0x10, 120),
        (0x1800, u64::MAX, 112), // its end wraps around
        (0x1700, u64::MAX - 0x1700, 104),
        (0x1600, 0, 96),
        (0x1500, 0x80, 80),
        (0x1500, 0x40, 88), // the same start again
        (0x1440, 0x20, 72), // nested
        (0x1400, 0x100, 64),
        (0x1380, 0x100, 56), // crossing the one above
        (0x1300, 0x100, 48),
        (0x1200, 0x100, 40),
        (u64::MAX - 7, 16, 32), // around the end of all addresses
        (0, 0x1100, 24),        // left out by a linker
    ] {
        frames.fde(0, start, bytes, &of_bytes(frame));
    }
    let loaded = frames.load();
    for (address, want) in [
        (0x1008, None),
        (0x1200, Some(40)),
        (0x12ff, Some(40)),
        (0x1300, Some(48)),
        (0x137f, Some(48)),
        (0x1380, Some(56)),
        (0x1400, Some(64)),
        (0x143f, Some(64)),
        (0x1440, Some(72)),
        // Behind the inner function the outer one has no say any more, as for who searches by the start.
        (0x1470, None),
        (0x1620, None),
        (0x1700, Some(104)),
        (0x17ff, Some(104)),
        (0x1900, Some(120)),
        (0x190f, Some(120)),
        (0x1910, None),
    ] {
        assert_eq!(loaded.frame(address), want, "{address:#x}");
    }
    assert!(matches!(loaded.frame(0x1500), Some(80 | 88)), "one of both");
}

#[test]
fn common_entries_that_are_none() {
    let mut base = Frames::new();
    let good = base.fde(0, 0x1100, 0x100, &of_bytes(32));
    let own = u32::try_from(base.0.len()).unwrap();
    // (what is claimed to be the common entry, of the second function)
    for cie in [own, good, good + 4, 4, 1, own + 20, own + 1000, u32::MAX, 0u32.wrapping_sub(16)] {
        let mut frames = base.clone();
        frames.fde(cie, 0x1300, 0x100, &of_bytes(40));
        let loaded = frames.load();
        assert_eq!(loaded.frame(0x1300), None, "{cie:#x}");
        assert_eq!(loaded.frame(0x1100), Some(32), "{cie:#x}: what came before stands");
    }
    // Two that name each other.
    let mut frames = Frames::new();
    let first = frames.fde(0, 0x1100, 0x100, &of_bytes(32));
    let second = frames.fde(first, 0x1300, 0x100, &of_bytes(40));
    let at = first as usize + 4;
    let back = u32::try_from(at).unwrap().wrapping_sub(second);
    frames.0[at..at + 4].copy_from_slice(&back.to_le_bytes());
    let loaded = frames.load();
    assert_eq!((loaded.frame(0x1100), loaded.frame(0x1300)), (None, None));
    // Lengths: none, all there is, more than there is, and those of the long form.
    for length in [0, 1, 3, 16, 0x7fff_ffff, 0xffff_fff0, u32::MAX] {
        let mut frames = base.clone();
        frames.0.extend(length.to_le_bytes());
        frames.0.extend([0xff; 8]);
        frames.fde(0, 0x1300, 0x100, &of_bytes(40));
        assert_eq!(frames.load().frame(0x1100), Some(32), "{length:#x}");
    }
}

/// Runs a file of one function, with a limit on time.
fn timed(instructions: &[u8]) -> Loaded {
    let start = Instant::now();
    let mut frames = Frames::new();
    frames.fde(0, 0x1100, 0x100, instructions);
    let loaded = frames.load();
    let stack = [BIAS + 0x1180; 400];
    for pc in [0x1100, 0x1101, 0x1180, 0x11ff] {
        loaded.walk(BIAS + pc, STACK, STACK + 64, &stack);
        loaded.snapshot(BIAS + pc, STACK + 64, &stack);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    loaded
}

#[test]
fn instructions_that_go_nowhere() {
    const MANY: usize = 200_000;
    let nested: Vec<u8> = [REMEMBER].repeat(MANY);
    let restored: Vec<u8> = [REMEMBER, RESTORE].repeat(MANY / 2);
    for instructions in [nested, [RESTORE].repeat(MANY), restored, [ADVANCE_0].repeat(MANY), of_bytes(16).repeat(MANY)]
    {
        timed(&instructions);
    }
    // An expression that jumps back to its own start, with and without a condition, and one that pushes for ever.
    for operations in [
        vec![OP_SKIP, 0xfd, 0xff],
        vec![OP_BREG_SP, 0, OP_BRA, 0xfb, 0xff],
        vec![OP_BREG_SP, 0, OP_SKIP, 0xfb, 0xff],
        [OP_BREG_SP, 0].repeat(60),
    ] {
        let length = u8::try_from(operations.len()).unwrap();
        let cfa = [vec![DEF_CFA_EXPRESSION, length], operations.clone()].concat();
        assert_eq!(timed(&cfa).frame(0x1100), None);
        timed(&[vec![EXPRESSION, RA, length], operations.clone()].concat());
        timed(&[vec![EXPRESSION, FP, length], operations].concat());
    }
}

#[test]
fn rows_that_lead_nowhere() {
    let code = BIAS + 0x1180;
    let walk = |instructions: &[u8], fp: u64, stack: &[u64]| {
        let loaded = timed(instructions);
        let (frames, end, read) = loaded.walk(code, STACK, fp, stack);
        let (others, other) = loaded.snapshot(code, fp, stack);
        assert_eq!(frames.len(), others, "{end:?} {other:?}");
        (frames.len(), end, read)
    };
    let stack = [code; 200];
    // Into itself, where the frame has no bytes; downwards. Both also where there is nothing to read below.
    for instructions in [of_bytes(0), [DEF_CFA_OFFSET_SF, 4]] {
        let (frames, end, _) = timed(&instructions).walk(code, STACK + 128, 0, &stack);
        assert_eq!((frames.len(), end), (1, End::BAD_FRAME), "{instructions:x?}");
        assert_eq!(walk(&instructions, 0, &stack).1, End::UNREADABLE);
    }
    // Up, beyond what there is: by 2 MiB, by all that a number can say.
    assert_eq!(walk(&[DEF_CFA_OFFSET, 0x80, 0x80, 0x80, 0x01], 0, &stack).1, End::UNREADABLE);
    assert_eq!(walk(&[DEF_CFA, FP, 16], STACK + (1 << 20), &stack).1, End::UNREADABLE);
    let largest = [DEF_CFA_OFFSET, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let (frames, end, read) = walk(&largest, 0, &stack);
    assert_eq!((frames, read.is_empty()), (1, true), "{end:?}");
    // One word at a time, as far as the stack goes; and further than a walk goes.
    assert_eq!(walk(&of_bytes(8), 0, &stack), (201, End::UNREADABLE, walk(&of_bytes(8), 0, &stack).2));
    assert_eq!(walk(&of_bytes(8), 0, &[code; 3000]).1, End::TOO_MANY_FRAMES);
    // A frame pointer that leads to itself, down, to half a word.
    for fp in [STACK, STACK - 8, STACK + 4, 0, 8, u64::MAX - 7] {
        let mut stack = stack;
        stack[0] = fp;
        let (frames, end, _) = walk(&[DEF_CFA, FP, 16, OFFSET | FP, 2], fp, &stack);
        assert!(frames <= 2 && end != End::GOING_ON, "{fp:#x} {end:?}");
    }
}

#[test]
fn rows_that_lead_to_other_memory() {
    let (code, stack) = (BIAS + 0x1180, [BIAS + 0x1180; 64]);
    let addresses = [
        0xffff_8880_0000_0000_u64, // the kernel's
        0xffff_ffff_ff60_0000,
        0x0000_6000_0000_0000, // another mapping
        0x10,
        u64::MAX - 3,
    ];
    for address in addresses {
        let constant = [[OP_ADDR].as_slice(), &address.to_le_bytes(), &[OP_DEREF]].concat();
        let there = [[OP_ADDR].as_slice(), &address.to_le_bytes()].concat();
        let length = |operations: &[u8]| u8::try_from(operations.len()).unwrap();
        for instructions in [
            [&[DEF_CFA_EXPRESSION, length(&constant)], constant.as_slice()].concat(),
            [&[DEF_CFA_EXPRESSION, length(&there)], there.as_slice()].concat(),
            [&[EXPRESSION, RA, length(&there)], there.as_slice()].concat(),
            [&[EXPRESSION, FP, length(&there)], there.as_slice()].concat(),
        ] {
            let mut frames = Frames::new();
            frames.fde(0, 0x1100, 0x100, &instructions);
            let loaded = frames.load();
            for fp in [3, STACK + 64] {
                let (_, _, read) = loaded.walk(code, STACK, fp, &stack);
                let near = |&at: &u64| at.wrapping_sub(STACK) <= 64 * 8 + 64;
                assert!(read.iter().all(near), "{address:#x}: {read:x?}");
                loaded.snapshot(code, fp, &stack);
            }
        }
        // The stack itself may name such places: what is asked for there cannot be read, and the walk ends.
        let mut frames = Frames::new();
        frames.fde(0, 0x1100, 0x100, &[DEF_CFA, FP, 16, OFFSET | FP, 2]);
        let loaded = frames.load();
        let mut stack = stack;
        stack[2] = address;
        let (frames, end, _) = loaded.walk(code, STACK, STACK + 16, &stack);
        assert!(frames.len() <= 2 && [End::UNREADABLE, End::BAD_FRAME].contains(&end), "{address:#x} {end:?}");
    }
    // The return address far away from its frame: above, below, at odd places.
    for instructions in [
        [OFFSET_SF, RA, 0x80, 0x80, 0x40].as_slice(),
        &[OFFSET_SF, RA, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[OFFSET | RA, 0xff, 0xff, 0x03],
    ] {
        let loaded = timed(instructions);
        let (frames, end, _) = loaded.walk(code, STACK, 3, &stack);
        assert!(frames.len() == 1 && end != End::GOING_ON, "{end:?}");
    }
}

#[test]
fn code_that_was_mapped_anew() {
    let mut frames = Frames::new();
    frames.fde(0, 0x1100, 0x100, &of_bytes(16));
    frames.fde(0, 0x1200, 0x100, &of_bytes(32));
    let mut loaded = frames.load();
    let code = BIAS + 0x1180;
    let stack = [[3, code].as_slice(), &[4, code], &[0, 0]].concat();
    assert_eq!(loaded.walk(code, STACK, 0, &stack), (vec![code, code - 1, code - 1], End::ROOT, vec![STACK + 8]));
    // Now it is memory without a file: the words on the stack are believed only where frame pointers lead.
    loaded.remap(&[Mapping::without_table(BIAS + TEXT, BIAS + TEXT + TEXT_BYTES)]);
    assert_eq!(loaded.walk(code, STACK, 3, &stack).1, End::NO_TABLE);
    let (frames, end, _) = loaded.walk(code, STACK, STACK + 16, &stack);
    assert_eq!((frames.len(), end), (2, End::NO_TABLE));
    // Another file, of which nothing is known yet; then nothing at all.
    loaded.remap(&[Mapping::pending(BIAS + TEXT, BIAS + TEXT + TEXT_BYTES)]);
    assert_eq!(loaded.walk(code, STACK, 3, &stack).1, End::PENDING);
    loaded.remap(&[]);
    assert_eq!(loaded.walk(code, STACK, 3, &stack), (vec![], End::UNKNOWN_PROCESS, vec![]));
    // Half of it: the caller is outside.
    let placed = loaded.arena.placed(1).unwrap();
    loaded.remap(&[placed.mapping(code, BIAS + TEXT + TEXT_BYTES, BIAS)]);
    assert_eq!(loaded.walk(code, STACK, 3, &stack).1, End::BAD_FRAME);
}

/// musl's debug information tells of the code in which a thread begins as if it had a caller there.
#[test]
fn a_thread_without_a_caller() {
    const SOURCE: &str = "
        .globl _start
        _start: ud2
        .org 0x100
        .type leaf, @function
        leaf: .cfi_startproc; ud2; .cfi_endproc
        .size leaf, . - leaf
        .org 0x200
        .type __clone, @function
        __clone: .cfi_startproc; mov $56, %eax; syscall; test %eax, %eax; jnz 1f; xor %ebp, %ebp; pop %rdi
        call *%r9
        mov %eax, %edi; xor %eax, %eax; mov $60, %al; syscall; hlt
        1: ret; .cfi_endproc
        .skip 64
        .section .note.GNU-stack, \"\", @progbits
    ";
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("a.s"), folder.path().join("a"));
    std::fs::write(&source, SOURCE).unwrap();
    let mut cc = std::process::Command::new("cc");
    cc.args(["-nostdlib", "-static", "-Wl,-Ttext=0x2000", "-o"]).arg(&program).arg(&source);
    assert!(cc.status().unwrap().success());
    let file = std::fs::read(program).unwrap();
    let extracted = extract(file.as_slice(), &Limits::default()).unwrap();
    let table = compile(extracted.clone(), None).unwrap().table;
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(4));
    let mapping = arena.load(1, &table, 0, &mut shards).unwrap().mapping(0x2000, 0x3000, 0);
    let mappings = arena.place_mappings(&[mapping], &mut shards).unwrap();
    let mut unwinder = Unwinder::new();
    unwinder.load(OBJECT, extracted).unwrap();
    let code = u64::try_from(file.windows(3).position(|bytes| bytes == [0x41, 0xff, 0xd1]).unwrap()).unwrap();
    let (start, file_offset) = (0x2000, code - (0x200 + 14)); // of `.text`
    let loaded = Loaded { unwinder: RefCell::new(unwinder), shards, arena, mappings };
    let walk = |pc: u64, stack: &[u64]| {
        let (frames, end, _) = loaded.walk(pc, STACK, 0, stack);
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let maps = [MapEntry { start, end: start + 0x1000, file_offset, object: Some(OBJECT) }];
        let (mut others, registers) = (Vec::new(), UserRegisters { pc, sp: STACK, fp: 0, lr: 0 });
        let other = loaded.unwinder.borrow_mut().unwind(&maps, &registers, &bytes, &mut others);
        assert_eq!(frames.len(), others.len(), "{end:?} {other:?}");
        (frames, end, other)
    };
    let (leaf, clone) = (start + 0x100, start + 0x200);
    let called = clone + 14 + 3;
    assert_eq!(walk(leaf, &[called, 1, 2, 3]), (vec![leaf, called - 1], End::ROOT, StackEnd::Root));
    // Who makes a thread has a caller.
    assert_eq!(walk(clone + 7, &[leaf + 1, called, 3]), (vec![clone + 7, leaf, called - 1], End::ROOT, StackEnd::Root));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]
    /// The same file at another place than its addresses say, on any stack: other functions' rows lead on, and end.
    #[test]
    fn mapped_anywhere(
        shift in 0u64..0x2000,
        functions in proptest::collection::vec((0u64..0x1800, 1u64..0x200, 0u8..16), 1..20),
        words in proptest::collection::vec((0u64..0x2000, any::<bool>()), 1..300),
        fp in 0u64..300,
    ) {
        let mut frames = Frames::new();
        for (start, bytes, size) in functions {
            frames.fde(0, TEXT + start, bytes, &of_bytes(size * 8));
        }
        let mut loaded = frames.load();
        let placed = loaded.arena.placed(1).unwrap();
        loaded.remap(&[placed.mapping(BIAS + TEXT, BIAS + TEXT + 0x2000, BIAS + shift)]);
        let word = |&(n, code): &(u64, bool)| if code { BIAS + TEXT + n } else { STACK + n / 8 * 8 };
        let stack: Vec<u64> = words.iter().map(word).collect();
        let (_, end, _) = loaded.walk(BIAS + TEXT + 0x800, STACK, STACK + fp * 8, &stack);
        prop_assert!(end != End::GOING_ON);
    }
}

/// Entries of the smallest size, as many as a section may have and more: what is above the limits is not looked at.
#[test]
fn ten_million_functions() {
    let section = |functions: u64| {
        let mut frames = Frames::default();
        // Addresses and lengths in four bytes: 17 bytes an entry.
        frames.entry(b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\x03\x0c\x07\x08\x90\x01");
        frames.0.reserve(usize::try_from(functions * 17).unwrap());
        for n in 0..functions {
            let back = u32::try_from(frames.0.len() + 4).unwrap();
            let start = u32::try_from(TEXT + n % (TEXT_BYTES - 1)).unwrap();
            for word in [13, back, start, 2] {
                frames.0.extend(u32::to_le_bytes(word));
            }
            frames.0.push(0);
        }
        frames
    };
    let before = peak_bytes();
    let start = Instant::now();
    // 170 MB, in which the first function says what all of them say: not read.
    let loaded = section(10_000_000).load();
    assert_eq!(loaded.frame(TEXT + 8), None, "the section counts as absent");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    drop(loaded);
    let start = Instant::now();
    let file = section(600_000).elf();
    let loaded = Loaded::of(&file);
    assert_eq!(loaded.frame(TEXT + 8), Some(8));
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    let used = peak_bytes().saturating_sub(before);
    assert!(used < 700 << 20, "{used} bytes");
}

/// The most memory that this process has had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
