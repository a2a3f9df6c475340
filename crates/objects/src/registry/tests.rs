//! The registry as a state machine: time and files are made up, memfds are real.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::held::Part;
use crate::tables;

const LIMITS: Limits = Limits { objects: 64, tables: 16, table_bytes: 16 << 10 };

fn wanted(inode: u64) -> Wanted {
    let file = MappedFile { major: 8, minor: 1, inode, generation: 0, path: format!("/bin/{inode}").into() };
    Wanted { file, tgid: 7, range: 0x1000..0x2000 }
}

fn change(at_s: i64) -> Change {
    Change { bytes: 100, modified: (at_s, 0), changed: (at_s, 0) }
}

fn stored(unwind: usize, symbols: usize) -> Arc<StoredTables> {
    let mut writer = tables::Writer::new().unwrap();
    writer.unwind(&vec![1; unwind]).unwrap();
    writer.symbols(&vec![2; symbols]).unwrap();
    let (memfd, sizes) = writer.finish().unwrap().unwrap();
    Arc::new(StoredTables::new(memfd, sizes, None).unwrap())
}

fn found(change: Change, tables: Option<Arc<StoredTables>>) -> Found {
    let build_id = BuildId { gnu: "aa".into(), go: String::new(), htlhash: format!("{:?}", change.modified) };
    Found { change, deleted: false, build_id, segments: Vec::new(), is_elf: true, tables }
}

fn now(elapsed_ms: u64) -> Now {
    Now { elapsed: Duration::from_millis(elapsed_ms), unix_s: 1_000_000 }
}

const LONG_AGO: i64 = 1000;
const JUST_NOW: i64 = 999_990;

#[test]
fn a_settled_file_is_looked_at_once_a_second_and_a_fresh_one_always() {
    for (inode, changed_s) in [(1, LONG_AGO), (2, JUST_NOW)] {
        let mut registry = Registry::new(LIMITS);
        let info = registry.insert(&wanted(inode), found(change(changed_s), None), now(0));
        let mut looks = 0;
        for at in (0..3000).step_by(2) {
            match registry.look(&wanted(inode), now(at)) {
                Look::Known(_) => {}
                Look::Check(..) => {
                    looks += 1;
                    registry.confirm(info.id, 0, now(at));
                }
                Look::Open => panic!("it is known"),
            }
        }
        assert_eq!(looks, if changed_s == LONG_AGO { 2 } else { 1500 });
    }
}

#[test]
fn the_first_to_name_a_generation_is_looked_at() {
    let mut registry = Registry::new(LIMITS);
    let info = registry.insert(&wanted(1), found(change(LONG_AGO), None), now(0));
    let of = |generation| {
        let mut wanted = wanted(1);
        wanted.file.generation = generation;
        wanted
    };
    assert!(matches!(registry.look(&of(0), now(1)), Look::Known(_)));
    assert!(matches!(registry.look(&of(5), now(2)), Look::Check(..)), "not only after a second");
    registry.confirm(info.id, 5, now(2));
    assert!(matches!(registry.look(&of(5), now(3)), Look::Known(_)));
    assert!(matches!(registry.look(&of(0), now(3)), Look::Known(_)));
    assert!(matches!(registry.look(&of(6), now(3)), Look::Open));
    assert!(registry.known(&of(6).file).is_none() && registry.known(&of(5).file).is_some());
}

#[test]
fn looks_are_bounded_per_second() {
    let mut registry = Registry::new(LIMITS);
    registry.insert(&wanted(1), found(change(JUST_NOW), None), now(0));
    let looks = (0..5000).filter(|_| matches!(registry.look(&wanted(1), now(10)), Look::Check(..))).count();
    assert_eq!(looks, CHECKS_PER_SECOND as usize);
    assert!(matches!(registry.look(&wanted(1), now(1010)), Look::Check(..)));
}

#[test]
fn what_could_not_be_opened_is_tried_again_ever_more_seldom() {
    let mut registry = Registry::new(LIMITS);
    let mut tries = Vec::new();
    let mut ids = BTreeSet::new();
    for at in (0..200_000).step_by(10) {
        if matches!(registry.look(&wanted(1), now(at)), Look::Open) {
            tries.push(at);
            ids.insert(registry.insert_failed(&wanted(1), Failure::Open(OpenError::Absent), now(at)).id);
        }
    }
    let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..4], [100, 200, 400, 800]);
    assert_eq!(pauses.iter().max(), Some(&60_000));
    assert_eq!(ids.len(), 1, "it is the same object all the time");
}

#[test]
fn a_quarantined_file_is_left_alone_until_it_changes() {
    let mut registry = Registry::new(LIMITS);
    let failure = |strikes| Failure::Worker { change: change(JUST_NOW), strikes };
    registry.insert_failed(&wanted(1), failure(1), now(0));
    assert_eq!(registry.strikes(&wanted(1).file, &change(JUST_NOW)), 1);
    assert_eq!(registry.strikes(&wanted(1).file, &change(JUST_NOW + 1)), 0, "another content");
    assert!(matches!(registry.look(&wanted(1), now(59_000)), Look::Known(_)));
    assert!(matches!(registry.look(&wanted(1), now(60_000)), Look::Open));
    registry.insert_failed(&wanted(1), failure(2), now(60_000));
    for at in [60_001, 1_000_000, 100_000_000] {
        match registry.look(&wanted(1), now(at)) {
            Look::Known(info) | Look::Check(info, _) => assert!(!info.readable),
            Look::Open => panic!("not without a change"),
        }
    }
    let info = registry.insert(&wanted(1), found(change(JUST_NOW + 1), None), now(100_000_001));
    assert!(info.readable);
    assert_eq!(registry.strikes(&wanted(1).file, &change(JUST_NOW + 1)), 0);
}

#[test]
fn a_change_of_the_inode_alone_is_no_change() {
    let mut registry = Registry::new(LIMITS);
    let first = registry.insert(&wanted(1), found(change(1), Some(stored(10, 10))), now(0));
    let relinked = Change { changed: (50, 0), ..change(1) };
    assert_eq!(registry.insert(&wanted(1), found(relinked, Some(stored(10, 10))), now(1)).id, first.id);
    assert_eq!((registry.objects(), registry.holders.len()), (1, 1));
    let second = registry.insert(&wanted(1), found(change(2), Some(stored(10, 10))), now(2));
    assert_ne!(second.id, first.id);
    assert_eq!(registry.known(&wanted(1).file).unwrap().id, second.id);
    assert!(matches!(registry.tables(first.id, now(3)), TableState::Held(_)), "for frames from before");
}

#[test]
fn deadly_tables_are_given_up_at_the_second_death() {
    let mut registry = Registry::new(LIMITS);
    let id = registry.insert(&wanted(1), found(change(1), Some(stored(10, 10))), now(0)).id;
    assert!(!registry.strike(id));
    registry.forgive(id);
    assert!(!registry.strike(id));
    assert!(registry.strike(id));
    registry.give_up_tables(id);
    assert!(!registry.strike(id), "counted once");
    assert!(!registry.has(id, Part::Unwind));
    assert!(matches!(registry.tables(id, now(0)), TableState::None));
    assert_eq!((registry.holders.len(), registry.table_bytes()), (0, 0));
}

#[test]
fn evicted_tables_are_asked_for_again_but_not_at_once() {
    let mut registry = Registry::new(Limits { tables: 1, ..LIMITS });
    let first = registry.insert(&wanted(1), found(change(1), Some(stored(10, 0))), now(0)).id;
    let second = registry.insert(&wanted(2), found(change(1), Some(stored(10, 0))), now(0)).id;
    assert!(matches!(registry.tables(second, now(0)), TableState::Held(_)));
    assert!(registry.has(first, Part::Unwind) && !registry.has(first, Part::Symbols));
    let TableState::Evicted(from, state) = registry.tables(first, now(0)) else { panic!("it was let go") };
    assert_eq!((from.file.inode, state), (1, change(1)));
    registry.postpone_tables(first, now(0));
    assert!(matches!(registry.tables(first, now(9_999)), TableState::None));
    assert!(matches!(registry.tables(first, now(10_000)), TableState::Evicted(..)));
    assert!(registry.restore(first, stored(10, 0)).is_some());
    assert!(matches!(registry.tables(second, now(10_000)), TableState::Evicted(..)));
}

#[test]
fn tables_larger_than_the_budget_are_given_up() {
    let mut registry = Registry::new(LIMITS);
    let id = registry.insert(&wanted(1), found(change(1), Some(stored(20 << 10, 0))), now(0)).id;
    assert!(!registry.has(id, Part::Unwind));
    assert_eq!((registry.holders.len(), registry.table_bytes()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_books_are_right_and_the_limits_hold(
        steps in proptest::collection::vec((0_u64..100, 0_u8..8, 0_usize..3000), 1..300),
    ) {
        let mut registry = Registry::new(LIMITS);
        let mut ids = BTreeSet::new();
        let mut known = Vec::new();
        let shared: Vec<_> = (0..4).map(|number| stored(700 * number + 1, 5)).collect();
        let some = |bytes: usize| if bytes.is_multiple_of(2) { Arc::clone(&shared[bytes % 8 / 2]) } else { stored(bytes, 5) };
        for (at, (inode, step, bytes)) in (0..).zip(steps) {
            let now = now(at * 50);
            match step {
                0..3 => {
                    let info = registry.insert(&wanted(inode), found(change(bytes as i64), Some(some(bytes))), now);
                    ids.insert(info.id);
                    known.push(info.id);
                }
                3 => {
                    registry.insert_failed(&wanted(inode), Failure::Open(OpenError::Absent), now);
                }
                4 => {
                    let _ = registry.look(&wanted(inode), now);
                }
                _ => {
                    let Some(&id) = known.get(bytes % known.len().max(1)) else { continue };
                    match step {
                        5 => drop(registry.restore(id, stored(bytes, 1))),
                        6 => drop(registry.strike(id)),
                        _ => drop(registry.tables(id, now)),
                    }
                }
            }
            let held = registry.entries.values().filter_map(|entry| entry.tables.as_ref());
            let held: BTreeMap<u64, u64> = held.map(|tables| (tables.serial, tables.bytes)).collect();
            let (count, sum) = (held.len(), held.values().sum::<u64>());
            prop_assert_eq!((registry.holders.len(), registry.table_bytes), (count, sum));
            prop_assert!(count <= LIMITS.tables && sum <= LIMITS.table_bytes);
            prop_assert!(registry.objects() <= LIMITS.objects);
            for id in registry.by_key.values() {
                prop_assert!(registry.entries.contains_key(id));
            }
        }
    }
}
