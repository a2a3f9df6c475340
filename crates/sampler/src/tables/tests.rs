use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use objects::MappedFile;
use profile::{BuildId, ObjectId, ObjectInfo, Segment};
use proptest::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use sampler_abi::ProcessEntry;
use unwind_table::{Builder, End, FileTable, Kind, Rule, Slot};

use super::desk::Why;
use super::fakes::FakeKernel;
use super::queue::Work;
use super::shared::Content;
use super::{Mapped, State};
use crate::process::{MapBudget, MapFile, MapSet, Mapping};

mod orders;
mod properties;

/// Files of these tests, by inode.
const FILES: u64 = 10;
/// Their code starts here, in the file and as an ELF address.
const CODE: u64 = 0x1000;

/// 64 KiB pieces of code of a file; about 20 KB of table each.
fn pieces(inode: u64) -> u64 {
    [3, 8, 16, 24, 5][usize::try_from(inode % 5).unwrap()]
}

/// Files 7 and 8 are copies of 2 and 3.
fn original(object: ObjectId) -> ObjectId {
    ObjectId(if matches!(object.0 % FILES, 7 | 8) { object.0 - 5 } else { object.0 })
}

/// What is known of an object's content: of some nothing is.
fn content(object: ObjectId) -> Option<Content> {
    let original = original(object).0;
    matches!(original % FILES, 2 | 3).then(|| [u8::try_from(original).unwrap(); 32])
}

/// The table of an object: its rows are told by its number. Objects of the same inode are of the same size.
fn table(object: ObjectId) -> &'static FileTable {
    static TABLES: OnceLock<BTreeMap<u64, FileTable>> = OnceLock::new();
    let make = |object: u64| {
        let end = CODE + pieces(object % FILES) * 65_536;
        let mut builder = Builder::new(62, CODE..end);
        for (i, address) in (CODE..end).step_by(7).enumerate() {
            let words = i64::try_from(frame(ObjectId(object), i as u64)).unwrap();
            builder.push(address, Rule::new(Kind::SP, words * 8, Slot::Kept, Some(-8)).unwrap());
        }
        builder.finish().0
    };
    &TABLES.get_or_init(|| (0..FILES * 2).map(|object| (object, make(object))).collect())[&object.0]
}

/// The words of a frame in an object's code, by the row.
fn frame(object: ObjectId, row: u64) -> u64 {
    (original(object).0 * 3 + row * 31) % 60 + 1
}

fn info(object: ObjectId) -> Arc<ObjectInfo> {
    let segment = Segment {
        elf_address: CODE,
        file_offset: CODE,
        file_bytes: pieces(object.0 % FILES) * 65_536,
        executable: true,
    };
    Arc::new(ObjectInfo {
        id: object,
        path: format!("/f{}", object.0).into(),
        build_id: BuildId::default(),
        segments: vec![segment],
        readable: true,
    })
}

fn name(inode: u64) -> Arc<MapFile> {
    let path = format!("/f{inode}").into_bytes();
    // Some have no file.
    let inode = if inode == 9 { 0 } else { inode + 100 };
    Arc::new(MapFile::new(MappedFile { inode, path, ..MappedFile::default() }))
}

/// Where processes map a file's code.
fn start(inode: u64) -> u64 {
    0x10_0000_0000 * (inode + 1)
}

/// A set that maps the code of these files.
fn maps(budget: &Arc<MapBudget>, inodes: impl IntoIterator<Item = u64>) -> Arc<MapSet> {
    let mut set = MapSet::new(budget);
    for inode in inodes {
        let start = start(inode);
        let end = start + pieces(inode) * 65_536;
        assert!(set.insert(Mapping { start, end, offset: CODE, file: name(inode) }));
    }
    Arc::new(set)
}

fn mapped(tgid: u32, maps: &Arc<MapSet>, why: Why) -> Mapped {
    Mapped { tgid, started_by_mono_ns: u64::from(tgid) + 7, maps: Arc::clone(maps), executable: None, why }
}

/// Does what is next as the thread does. False where there is nothing.
fn work(state: &mut State, kernel: &mut FakeKernel, object_of: impl Fn(u64) -> ObjectId) -> bool {
    match state.next_work() {
        Some(Work::Open { file, tgid, range }) => {
            assert!(kernel.published.contains_key(&tgid) || kernel.has_executed.contains(&tgid));
            let inode = file.mapped.inode - 100;
            assert_eq!(range.start, start(inode));
            state.opened(&file, &info(object_of(inode)));
            true
        }
        Some(Work::Load { object }) => {
            if !state.share(object, content(object)) {
                state.load(object, content(object), Some(table(object)), kernel);
            }
            true
        }
        None => false,
    }
}

/// All that there is to do.
fn settle(state: &mut State, kernel: &mut FakeKernel) {
    while work(state, kernel, ObjectId) || state.rewrite(8, kernel) {}
}

/// What a walk finds in a file's code.
fn found(kernel: &FakeKernel, entry: &ProcessEntry, inode: u64) -> End {
    let mut ends = BTreeSet::new();
    for row in [0, 1, 1000, pieces(inode) * 9000] {
        let (end, words) = kernel.step(entry, start(inode) + row * 7);
        let is_of = |object: u64| end == End::GOING_ON && words == frame(ObjectId(object), row);
        if is_of(inode) || is_of(inode + FILES) {
            ends.insert(End::GOING_ON.0);
        } else {
            assert_ne!(end, End::GOING_ON, "file {inode}, row {row}: a frame of {words} words is nobody's");
            ends.insert(end.0);
        }
    }
    assert_eq!(ends.len(), 1, "one file, one answer: {ends:?}");
    End(*ends.first().unwrap())
}
