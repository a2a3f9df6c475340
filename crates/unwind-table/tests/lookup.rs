//! What is looked up is what was pushed: builder, kept bytes, arena and search together, against a linear scan.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of test functions")]

use proptest::prelude::*;
use proptest::sample::Index;
use unwind_table::{
    Arena, Builder, End, FLAG_EXACT, FileTable, Kind, LocalShards, Mapping, Place, Rule, Slot, Snapshot, Walk, X86_64,
    step,
};

const BIAS: u64 = 0x7000_0000_0000;
const STACK: u64 = 0x7fff_0000_0000;

/// Rules that are told apart by where they lead: the frame's size.
fn rule(number: u32) -> Rule {
    match number {
        0 => Rule::GAP,
        1 => Rule::END,
        n => Rule::new(Kind::SP, i64::from(n) * 8, Slot::Kept, Some(-8)).unwrap(),
    }
}

/// The rule that a walk finds at an address of the file.
fn found(shards: &LocalShards, mappings: (Place, u32), address: u64) -> Option<Rule> {
    let mut memory = Snapshot::new(shards, STACK, &[7; 72_000]);
    let mut walk = Walk::default();
    walk.begin([BIAS + address, STACK, 0, 0], mappings.0.0, mappings.1, 4);
    match step::<X86_64, _>(&mut walk, &mut memory) {
        End::ROOT => Some(Rule::END),
        // Without a row: nothing on the stack is code, and there is no frame pointer.
        End::NO_TABLE => Some(Rule::GAP),
        End::GOING_ON => {
            assert_eq!(walk.flags & FLAG_EXACT, 0);
            Some(rule(u32::try_from((walk.sp - STACK) / 8).unwrap()))
        }
        End::UNREADABLE => None,
        other => panic!("{other:?}"),
    }
}

fn rows() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let dense = (1u64..6, 0u32..8);
    let sparse = (1u64..3000, 0u32..40);
    let varied = (1u64..40, 0u32..3000);
    let huge = (1u64..200_000, 0u32..9);
    prop_oneof![
        proptest::collection::vec(dense, 0..3000),
        proptest::collection::vec(sparse, 0..600),
        proptest::collection::vec(varied, 0..2500),
        proptest::collection::vec(huge, 0..30),
        proptest::collection::vec((1u64..2, 0u32..600), 0..9000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_was_pushed(rows in rows(), start in 0u64..200_000, looks in proptest::collection::vec(any::<Index>(), 60)) {
        let mut at = start;
        let mut pushed = Vec::new();
        for (gap, number) in rows {
            at += gap;
            pushed.push((at, rule(number)));
        }
        let end = at + 5000;
        let mut builder = Builder::new(62, start..end);
        pushed.iter().for_each(|&(address, rule)| builder.push(address, rule));
        let (table, stats) = builder.finish();
        prop_assert_eq!(stats.too_large_blocks + stats.too_many_rows + stats.too_many_rules, 0);
        prop_assert_eq!(stats.bytes, table.bytes() as u64);
        let table = FileTable::parse(&table.to_bytes()).unwrap();

        let (mut shards, mut arena) = (LocalShards::new(), Arena::new(64));
        let placed = arena.load(7, &table, 0, &mut shards).unwrap();
        let others = [
            Mapping::without_table(0x1000, 0x2000),
            placed.mapping(BIAS + (start & !0xfff), BIAS + end, BIAS),
            Mapping::pending(BIAS + (1 << 40), BIAS + (1 << 40) + 4096),
            Mapping::without_table(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000),
        ];
        let mappings = arena.place_mappings(&others, &mut shards).unwrap();
        let edges = pushed.iter().take(300).flat_map(|&(at, _)| [at - 1, at, at + 1]);
        let anywhere = looks.iter().map(|look| start + look.index(usize::try_from(end - start).unwrap()) as u64);
        for address in edges.chain(anywhere).filter(|&a| a >= start) {
            let want = pushed.iter().rev().find(|row| row.0 <= address).map_or(Rule::GAP, |row| row.1);
            let got = found(&shards, mappings, address);
            prop_assert_eq!(got, Some(want), "at {:#x}", address);
        }
    }

    #[test]
    fn damaged_tables_are_refused(rows in rows(), at in any::<Index>(), value: u8, keep in prop::option::of(any::<Index>())) {
        let mut builder = Builder::new(62, 0..1 << 20);
        let mut address = 0;
        for (gap, number) in rows {
            address += gap;
            builder.push(address, rule(number));
        }
        let table = builder.finish().0;
        let mut bytes = table.to_bytes();
        let at = at.index(bytes.len());
        let same = bytes[at] == value;
        bytes[at] = value;
        if let Some(keep) = keep {
            let keep = keep.index(bytes.len());
            bytes.truncate(keep);
            prop_assert!(FileTable::parse(&bytes).is_err());
        } else {
            prop_assert_eq!(FileTable::parse(&bytes).is_ok(), same);
        }
    }
}

#[test]
fn the_last_row_at_an_address_counts_and_order_is_kept() {
    let mut builder = Builder::new(62, 0x1000..0x2000);
    for (address, number) in [(0x1000, 2), (0x1010, 3), (0x1010, 2), (0x1020, 4), (0x1020, 5), (0x1008, 9), (0x3000, 6)]
    {
        builder.push(address, rule(number));
    }
    let (table, stats) = builder.finish();
    assert_eq!(stats.rows, 2, "0x1000 and 0x1020");
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(1));
    let placed = arena.load(1, &table, 0, &mut shards).unwrap();
    let mappings = arena.place_mappings(&[placed.mapping(BIAS, BIAS + 0x2000, BIAS)], &mut shards).unwrap();
    for (address, number) in [(0xfff, 0), (0x1000, 2), (0x100f, 2), (0x101f, 2), (0x1020, 5), (0x1fff, 5)] {
        assert_eq!(found(&shards, mappings, address), Some(rule(number)), "{address:#x}");
    }
}

/// 600,000 bytes of code where each has a row of its own, with more rules than there may be: nothing grows beyond its bound.
#[test]
fn more_than_the_format_holds() {
    let mut builder = Builder::new(62, 0..600_000);
    for address in 0..600_000u64 {
        let number = u32::try_from(address * 7919 % 20_011).unwrap() + 2;
        builder.push(address, rule(number));
    }
    let (table, stats) = builder.finish();
    assert!(stats.too_many_rules > 0 && stats.too_large_blocks > 0, "{stats:?}");
    assert_eq!(FileTable::parse(&table.to_bytes()).unwrap(), table);
    let (mut shards, mut arena) = (LocalShards::new(), Arena::new(8));
    arena.load(1, &table, 0, &mut shards).unwrap();
}

#[test]
fn rows_without_a_compact_form_are_counted() {
    let mut builder = Builder::new(62, 0..0x10_000);
    for (address, rule) in
        [(0, rule(5)), (16, Rule::UNSUPPORTED), (32, rule(6)), (48, Rule::UNSUPPORTED), (64, rule(5))]
    {
        builder.push(address, rule);
    }
    let (table, _) = builder.finish();
    assert_eq!((table.rows(), table.unsupported_rows()), (5, 2));
    assert_eq!(FileTable::parse(&table.to_bytes()).unwrap().unsupported_rows(), 2);
}
