//! Any rules, registers and stacks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unwind_table::{
    Aarch64, Arch, Arena, Builder, End, LocalShards, MAX_FRAMES, Mapping, Place, Rule, Snapshot, Walk, X86_64, step,
};

const CODE: u64 = 0x5555_0000_0000;
const STACK: u64 = 0x7fff_0000_0000;

/// A word: code, stack, or itself, by its first byte.
fn word(bytes: [u8; 8]) -> u64 {
    let n = u64::from_le_bytes(bytes);
    match bytes[0] % 4 {
        0 => CODE + (n >> 8) % 0x3000,
        1 => STACK + (n >> 8) % 4096,
        2 => n >> 8,
        _ => n,
    }
}

fn walk<A: Arch>(shards: &LocalShards, mappings: (Place, u32), registers: [u64; 4], stack: &[u8]) {
    let mut walk = Walk::default();
    walk.begin(registers, mappings.0.0, mappings.1, MAX_FRAMES);
    let mut memory = Snapshot::new(shards, STACK, stack);
    let (mut steps, mut sp) = (0, walk.sp);
    while step::<A, _>(&mut walk, &mut memory) == End::GOING_ON {
        steps += 1;
        assert!(steps <= MAX_FRAMES && walk.frames == steps);
        // Up, but for what a signal interrupted, and a leaf of arm64.
        assert!(walk.sp > sp || walk.signals > 0 || (!A::CALL_PUSHES && steps == 1 && walk.sp == sp));
        sp = walk.sp;
    }
    assert!(walk.frames <= MAX_FRAMES);
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (words, _) = rest.as_chunks::<8>();
    let count = usize::from(count % 32).min(words.len());
    let (rules, words) = words.split_at(count);
    let end = (rules.len() as u64 + 1) * 256;
    let mut builder = Builder::new(0, 0..end);
    for (rule, i) in rules.iter().zip(1u64..) {
        builder.push(i * 256, Rule(u64::from_le_bytes(*rule)));
    }
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(1));
    let Ok(placed) = arena.load(1, &builder.finish().0, 0, &mut shards) else { return };
    let maps = [
        placed.mapping(CODE, CODE + end.next_multiple_of(4096), CODE),
        Mapping::without_table(CODE + 0x2000, CODE + 0x3000),
    ];
    let Ok(mappings) = arena.place_mappings(&maps, &mut shards) else { return };
    let mut words = words.iter().map(|bytes| word(*bytes));
    let registers = [(); 4].map(|()| words.next().unwrap_or(CODE + 300));
    let stack: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    for registers in [registers, [registers[0], STACK, registers[2], registers[3]]] {
        walk::<X86_64>(&shards, mappings, registers, &stack);
        walk::<Aarch64>(&shards, mappings, registers, &stack);
    }
});
