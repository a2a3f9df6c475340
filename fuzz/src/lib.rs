//! What the targets share: an ELF file around a section, and a look at what was compiled.
#![forbid(unsafe_code)]

use unwind::{Limits, compile, extract};
use unwind_table::{Arena, End, FileTable, LocalShards, MAX_FRAMES, Snapshot, Walk, X86_64, step};

const BIAS: u64 = 0x5555_0000_0000;
const STACK: u64 = 0x7fff_0000_0000;
/// Where the code of [`elf`] starts.
pub const TEXT: u64 = 0x1000;
const TEXT_BYTES: u64 = 0x2_0000;

/// An ELF file of one executable segment and one `.eh_frame`.
pub fn elf(eh_frame: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.eh_frame\0.shstrtab\0";
    let frame = 0x100u64;
    let names = frame + eh_frame.len() as u64;
    let sections = (names + NAMES.len() as u64).next_multiple_of(8);
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>, words: &[u64]| words.iter().for_each(|word| out.extend(word.to_le_bytes()));
    out.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // A shared file for x86-64; entry, program headers, section headers; sizes and counts.
    put(&mut out, &[3 | 62 << 16 | 1 << 32, 0, 64, sections, 64 << 32 | 56 << 48, 1 | 64 << 16 | 3 << 32 | 2 << 48]);
    put(&mut out, &[1 | 5 << 32, 0, TEXT, TEXT, TEXT_BYTES, TEXT_BYTES, 4096]);
    out.resize(0x100, 0);
    out.extend(eh_frame);
    out.extend(NAMES);
    out.resize(usize::try_from(sections).unwrap_or(0), 0);
    put(&mut out, &[0; 8]);
    put(&mut out, &[1 | 1 << 32, 2, 0x20_0000, frame, eh_frame.len() as u64, 0, 8, 0]);
    put(&mut out, &[11 | 3 << 32, 0, 0, names, NAMES.len() as u64, 0, 1, 0]);
    out
}

/// Everything that is done with a file. Nothing panics, and what was kept is what was made.
pub fn use_file(file: &[u8], stack: &[u8]) {
    let Ok(extracted) = extract(file, &Limits::default()) else { return };
    // A file whose code lies in the last 8 GiB of all addresses is extracted, and then refused.
    let Ok(compiled) = compile(extracted, None) else { return };
    let kept = FileTable::parse(&compiled.table.to_bytes());
    assert_eq!(kept.as_ref(), Ok(&compiled.table));
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(8));
    let Ok(placed) = arena.load(1, &compiled.table, 1, &mut shards) else { return };
    let mapping = placed.mapping(BIAS, BIAS + (1 << 20), BIAS);
    let Ok(mappings) = arena.place_mappings(&[mapping], &mut shards) else { return };
    let mut walk = Walk::default();
    for pc in (0..64).map(|i| TEXT + i * 37) {
        let mut memory = Snapshot::new(&shards, STACK, stack);
        walk.begin([BIAS + pc, STACK, STACK + 32, 0], mappings.0.0, mappings.1, MAX_FRAMES);
        let mut steps = 0;
        while step::<X86_64, _>(&mut walk, &mut memory) == End::GOING_ON {
            steps += 1;
            assert!(steps <= MAX_FRAMES);
        }
    }
}

/// A stack whose words are code, addresses of the stack, and small numbers.
pub fn stack() -> Vec<u8> {
    let word = |i: u64| match i % 5 {
        0 | 3 => BIAS + TEXT + i * 61 % 2048,
        1 => STACK + i * 8 + 16,
        _ => i,
    };
    (0..256).map(word).flat_map(u64::to_le_bytes).collect()
}
