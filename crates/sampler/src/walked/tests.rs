use objects::MappedFile;
use proptest::prelude::*;

use super::*;
use crate::process::{MapBudget, MapFile};

const PAGES: u64 = 16;
const PAGE_COUNT: usize = 16;
const PAGE: u64 = 0x1000;

/// One page of an address space: nothing, memory without a file, or a page of one of three files.
type Page = Option<(u64, u64)>;

fn file(number: u64) -> Arc<MapFile> {
    let path = if number == 0 { b"//anon".to_vec() } else { format!("/f{number}").into_bytes() };
    Arc::new(MapFile::new(MappedFile { inode: number, path, ..MappedFile::default() }))
}

fn set(pages: &[Page]) -> MapSet {
    let mut set = MapSet::new(&Arc::new(MapBudget::default()));
    for (start, page) in (0u64..).map(|i| i * PAGE).zip(pages) {
        if let Some((number, offset)) = page {
            let file = file(*number);
            assert!(set.insert(Mapping { start, end: start + PAGE, offset: offset * PAGE, file }));
        }
    }
    set
}

/// What the code at an address leads to: a pure function of the file and the place in it, as a table is. Without a table the
/// stack alone says it.
fn caller(maps: &MapSet, address: u64, stack: u64) -> u64 {
    let code = maps.find(address).filter(|m| m.file.kind == FileKind::File);
    let code = code.map_or(0, |m| m.file.mapped.inode * 1000 + (m.offset + address - m.start) / 64);
    (code.wrapping_mul(0x9e37_79b9) ^ stack) % (PAGES * PAGE)
}

fn walk(maps: &MapSet, leaf: u64, stack: &[u64]) -> Vec<u64> {
    let mut addresses = vec![leaf];
    for word in stack {
        addresses.extend(addresses.last().map(|&address| caller(maps, address, *word)));
    }
    addresses
}

fn page() -> impl Strategy<Value = Page> {
    prop_oneof![1 => Just(None), 2 => Just(Some((0, 0))), 6 => (1u64..4, 0u64..4).prop_map(Some)]
}

proptest! {
    /// What is believed of a walk over old mappings is what a walk over those of the sample's time finds.
    #[test]
    fn no_frame_is_believed_that_a_table_of_other_code_led_to(
        (before, changes) in (
            proptest::collection::vec(page(), PAGE_COUNT),
            proptest::collection::vec((0..PAGE_COUNT, page()), 0..8),
        ),
        leaf in 0..PAGES * PAGE,
        stack in proptest::collection::vec(0u64..1 << 40, 0..20),
    ) {
        let mut after = before.clone();
        for (at, page) in changes {
            after[at] = page;
        }
        let (before, after) = (set(&before), set(&after));
        let (walked, right) = (walk(&before, leaf, &stack), walk(&after, leaf, &stack));
        let misled = misled(&before, &after, &walked);
        let count = misled.map_or(walked.len(), |at| at + 1);
        prop_assert_eq!(&walked[..count], &right[..count]);
        // And nothing is thrown away for no reason.
        if let Some(at) = misled {
            let code = |maps: &MapSet| maps.find(walked[at]).map(|m| (m.file.mapped.inode, m.offset + walked[at] - m.start));
            let guesses = at == 0 && before != after && code(&before).is_none_or(|(inode, _)| inode == 0);
            prop_assert!(guesses || code(&before) != code(&after));
        }
    }
}

#[test]
fn mappings_that_only_grew_or_were_cut_are_the_same_code() {
    let one = |start: u64, end: u64| {
        let mut set = MapSet::new(&Arc::new(MapBudget::default()));
        set.insert(Mapping { start, end, offset: start, file: file(1) });
        set
    };
    let (whole, half) = (one(0x1000, 0x5000), one(0x2000, 0x3000));
    assert_eq!(misled(&whole, &half, &[0x2000, 0x2fff, 0x2008]), None);
    assert_eq!(misled(&whole, &half, &[0x2000, 0x3000, 0x2008]), Some(1));
    assert_eq!(misled(&half, &whole, &[0x1000, 0x2000]), Some(0));
    assert_eq!(misled(&half, &whole, &[0x2000, 0x1000]), Some(1), "that the stack ends there is not believed either");
}

#[test]
fn ends_are_those_that_the_walk_documents() {
    for (end, shown) in [
        (End::ROOT, StackEnd::Root),
        (End::UNREADABLE, StackEnd::TruncatedSnapshot),
        (End::NO_TABLE, StackEnd::NoTable),
        (End::BAD_FRAME, StackEnd::BadFrame),
        (End::TOO_MANY_FRAMES, StackEnd::TooManyFrames),
        (End::UNKNOWN_PROCESS, StackEnd::UnknownProcess),
        (End::PENDING, StackEnd::NoTable),
        (End::NO_SHARD, StackEnd::NoTable),
        (End(77), StackEnd::BadFrame),
    ] {
        assert_eq!(stack_end(end), shown, "{end:?}");
    }
}
