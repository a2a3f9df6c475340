//! The arena under any order of events: nothing overlaps, nothing is lost, what is placed stays readable.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use proptest::prelude::*;
use unwind_table::{
    Arena, ArenaError, Builder, End, FileTable, Kind, LocalShards, MAX_MAPPINGS, Mapping, Place, Placed, Rule,
    SHARD_BYTES, Slot, Snapshot, Walk, X86_64, step,
};

/// How many times larger a shard is than a quarter of a MiB: files grow with it, so that they fill it.
const SCALE: u64 = SHARD_BYTES as u64 / (256 << 10);
const STACK: u64 = 0x7fff_0000_0000;

/// A file whose rows are told by its number; about 20 KB for each unit of size.
fn file(number: u64, size: u64) -> FileTable {
    let mut builder = Builder::new(62, 0x1000..0x1000 + size * 65_536);
    for (i, address) in (0x1000..0x1000 + size * 65_536).step_by(7).enumerate() {
        let frame = (number * 3 + i as u64 * 31) % 60 + 1;
        builder.push(address, Rule::new(Kind::SP, i64::try_from(frame).unwrap() * 8, Slot::Kept, Some(-8)).unwrap());
    }
    builder.finish().0
}

/// How large the frame at an address is.
fn frame(shards: &LocalShards, mappings: (Place, u32), address: u64) -> (End, u64) {
    let stack = vec![1; 1024];
    let mut walk = Walk::default();
    walk.begin([address, STACK, 0, 0], mappings.0.0, mappings.1, 1);
    (step::<X86_64, _>(&mut walk, &mut Snapshot::new(shards, STACK, &stack)), (walk.sp - STACK) / 8)
}

fn readable(shards: &mut LocalShards, arena: &mut Arena, number: u64, size: u64, placed: Placed) {
    let mapping = placed.mapping(0x10_0000, 0x10_0000 + (size + 1) * 65_536, 0x10_0000);
    let mappings = arena.place_mappings(&[mapping], shards).unwrap();
    for i in [0, 1, 1000, size * 9000] {
        let want = (End::GOING_ON, (number * 3 + i * 31) % 60 + 1);
        assert_eq!(frame(shards, mappings, 0x10_0000 + 0x1000 + i * 7), want, "file {number}, row {i}");
    }
    arena.free_mappings(mappings.0, 0);
}

#[derive(Clone, Debug)]
enum Event {
    Load(u64, u64),
    Acquire(u64),
    Release(u64),
    Room(u64, u64),
    Collect,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u64..12, 0u64..100).prop_map(|(file, heat)| Event::Load(file, heat)),
        2 => (0u64..12).prop_map(Event::Acquire),
        2 => (0u64..12).prop_map(Event::Release),
        2 => (0u64..400_000 * SCALE, 0u64..100).prop_map(|(bytes, heat)| Event::Room(bytes, heat)),
        2 => Just(Event::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_events(events in proptest::collection::vec(event(), 1..60)) {
        let size = |number: u64| (number % 4 + 1) * SCALE;
        static TABLES: OnceLock<BTreeMap<u64, FileTable>> = OnceLock::new();
        let tables = TABLES.get_or_init(|| (0..12).map(|number| (number, file(number, size(number)))).collect());
        let (mut shards, mut arena) = (LocalShards::new(), Arena::new(2));
        let mut model: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        let mut stamp = 1;
        for event in events {
            stamp += 1;
            match event {
                Event::Load(number, heat) => match arena.load(number, &tables[&number], heat, &mut shards) {
                    Ok(placed) => {
                        let entry = model.entry(number).or_insert((0, heat));
                        entry.1 = entry.1.max(heat);
                        prop_assert_eq!(arena.placed(number), Some(placed));
                    }
                    Err(error) => {
                        let is_full = matches!(error, ArenaError::NoRoom { .. });
                        prop_assert!(is_full);
                        prop_assert!(!model.contains_key(&number));
                    }
                },
                Event::Acquire(number) => {
                    let here = arena.acquire(number);
                    prop_assert_eq!(here, model.contains_key(&number));
                    if let Some(entry) = model.get_mut(&number) {
                        entry.0 += 1;
                    }
                }
                Event::Release(number) => {
                    arena.release(number);
                    if let Some(entry) = model.get_mut(&number) {
                        entry.0 = entry.0.saturating_sub(1);
                    }
                }
                Event::Room(bytes, heat) => {
                    let evicted = arena.make_room(bytes, heat, stamp);
                    let victims: Vec<_> = evicted.iter().map(|number| model.remove(number).unwrap()).collect();
                    // First those that nobody uses, then the coldest; never one that is as hot and used.
                    prop_assert!(victims.iter().all(|&(users, of)| users == 0 || of < heat));
                    prop_assert!(victims.windows(2).all(|w| (w[0].0 > 0, w[0].1) <= (w[1].0 > 0, w[1].1)));
                }
                Event::Collect => arena.collect(stamp + 1),
            }
            let stats = arena.stats();
            prop_assert_eq!(stats.files, model.len() as u64);
            prop_assert_eq!(stats.used_files, model.values().filter(|entry| entry.0 > 0).count() as u64);
            prop_assert!(stats.free_bytes + stats.retired_bytes <= stats.total_bytes);
            if stats.free_bytes > 4096 {
                for &number in model.keys() {
                    let placed = arena.placed(number).unwrap();
                    readable(&mut shards, &mut arena, number, size(number), placed);
                }
            }
        }
        // All of it comes back.
        for number in 0..12 {
            arena.evict(number, stamp);
        }
        arena.collect(u64::MAX);
        let stats = arena.stats();
        prop_assert_eq!(stats.free_bytes, stats.total_bytes);
        prop_assert_eq!(stats.retired_bytes, 0);
        prop_assert_eq!(stats.total_bytes, 2 * u64::from(SHARD_BYTES) - 16);
    }
}

#[test]
fn what_was_evicted_stays_until_no_walk_reads_it() {
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(1));
    let table = file(1, 6 * SCALE);
    let placed = arena.load(1, &table, 5, &mut shards).unwrap();
    let mapping = placed.mapping(0x10_0000, 0x80_0000, 0x10_0000);
    let mappings = arena.place_mappings(&[mapping], &mut shards).unwrap();
    let before = frame(&shards, mappings, 0x10_1000);
    assert_eq!(arena.make_room(arena.stats().total_bytes / 4 * 3, 0, 10), [1]);
    // Loading takes other room, or none.
    for number in 2..20 {
        let _ = arena.load(number, &file(number, 2 * SCALE), 9, &mut shards);
    }
    assert_eq!(frame(&shards, mappings, 0x10_1000), before);
    assert!(arena.stats().refused > 0);
    arena.collect(10);
    assert!(arena.stats().retired_bytes > 0, "the stamp itself is not before it");
    arena.collect(11);
    assert_eq!(arena.stats().retired_bytes, 0);
    assert!(arena.load(30, &file(30, 2 * SCALE), 9, &mut shards).is_ok());
}

#[test]
fn a_process_with_too_many_mappings_is_refused() {
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(4));
    let mapping = |i: u64| Mapping::without_table(0x1000 * (i * 2 + 1), 0x1000 * (i * 2 + 2));
    let all: Vec<_> = (0..u64::from(MAX_MAPPINGS) + 1).map(mapping).collect();
    assert!(matches!(arena.place_mappings(&all, &mut shards), Err(ArenaError::TooLarge(_))));
    let most = arena.place_mappings(&all[1..], &mut shards).unwrap();
    // Code is found in each of them, and in none of the holes between: the word on top of the stack is code or not.
    for i in [1, 2, 77, 2048, 4095, 4096u64] {
        for (inside, code) in [(0x10, true), (0x1010, false)] {
            let pc = 0x1000 * (i * 2 + 1) + inside;
            let stack: Vec<u8> = [pc + 1].into_iter().cycle().take(8).flat_map(u64::to_le_bytes).collect();
            let mut walk = Walk::default();
            walk.begin([0x3010, STACK, 0, 0], most.0.0, most.1, 4);
            let end = step::<X86_64, _>(&mut walk, &mut Snapshot::new(&shards, STACK, &stack));
            assert_eq!(end, if code { End::GOING_ON } else { End::NO_TABLE }, "{i} {inside:#x}");
        }
    }
}

#[test]
fn shards_are_added_as_they_are_needed() {
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(0));
    let table = file(1, 8 * SCALE);
    assert!(matches!(arena.load(1, &table, 0, &mut shards), Err(ArenaError::NoRoom { .. })));
    assert!(!arena.fits(table.bytes() as u64));
    let mut number = 0;
    while arena.shards() < 3 {
        assert!(arena.add_shard());
        assert!(arena.fits(table.bytes() as u64), "a new shard is free");
        while arena.load(number, &file(number, 8 * SCALE), 0, &mut shards).is_ok() {
            number += 1;
        }
    }
    assert!(number > 3);
    assert_eq!(arena.stats().total_bytes, 3 * u64::from(SHARD_BYTES) - 16);
    for loaded in 0..number {
        assert!(arena.placed(loaded).is_some());
        arena.evict(loaded, 1);
    }
    arena.collect(2);
    assert_eq!(arena.stats().free_bytes, arena.stats().total_bytes);
    let placed = arena.load(7, &file(7, 8 * SCALE), 0, &mut shards).unwrap();
    readable(&mut shards, &mut arena, 7, 8 * SCALE, placed);
}
