//! The executable mappings of one program, shared between processes until one of them changes.
//!
//! **In**: mappings in the order in which they were made. **Out**: sorted ranges without overlap. **Units**: addresses
//! of the process, bytes of the file. **Limits**: [`MAX_BYTES`] a set and [`MAX_TOTAL_BYTES`] in all; a mapping past
//! them is refused, and the caller counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use objects::MappedFile;

/// What the mappings of one set may cost, paths included.
const MAX_BYTES: usize = 4 << 20;
/// What all sets may cost together.
const MAX_TOTAL_BYTES: usize = 64 << 20;

/// What the kernel writes behind the path of a file that has no name any more.
const DELETED: &str = " (deleted)";

/// What lies behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileKind {
    /// A file with an inode.
    File,
    /// The kernel's own shared object.
    Vdso,
    /// Memory without a file: JIT output and the like.
    Anonymous,
}

/// The file behind mappings, shared by all that map it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct MapFile {
    /// As the kernel named it.
    pub(crate) mapped: MappedFile,
    /// Its path, lossily decoded.
    pub(crate) name: Arc<str>,
    /// What it is.
    pub(crate) kind: FileKind,
}

impl MapFile {
    /// Takes what the kernel said and sorts it in.
    pub(crate) fn new(mapped: MappedFile) -> Self {
        let kind = if mapped.path == b"[vdso]" {
            FileKind::Vdso
        } else if mapped.inode != 0 && mapped.path.first() == Some(&b'/') {
            FileKind::File
        } else {
            FileKind::Anonymous
        };
        Self { name: String::from_utf8_lossy(&mapped.path).into(), kind, mapped }
    }

    /// Whether both are the same file by the kernel's numbers.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        let id = |f: &Self| (f.mapped.major, f.mapped.minor, f.mapped.inode);
        let (a, b) = (self.mapped.generation, other.mapped.generation);
        id(self) == id(other) && (a == b || a == 0 || b == 0)
    }

    /// Whether /proc means this file. It knows no generations, and the file may have been deleted since.
    pub(crate) fn is_as_scanned(&self, scanned: &MappedFile) -> bool {
        fn path(file: &MappedFile) -> &[u8] {
            file.path.strip_suffix(DELETED.as_bytes()).unwrap_or(&file.path)
        }
        let id = |f: &MappedFile| (f.major, f.minor, f.inode);
        id(&self.mapped) == id(scanned) && path(&self.mapped) == path(scanned)
    }

    /// The last component of the path, without ` (deleted)`; empty where there is none.
    pub(crate) fn file_name(&self) -> &str {
        let path = self.name.strip_suffix(DELETED).unwrap_or(&self.name);
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// One executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The file's byte at `start`.
    pub(crate) offset: u64,
    pub(crate) file: Arc<MapFile>,
}

impl Mapping {
    fn cost_bytes(&self) -> usize {
        size_of::<Self>() + self.file.mapped.path.len()
    }
}

/// What all sets of one table have in common.
#[derive(Debug, Default)]
pub(crate) struct MapBudget {
    bytes: AtomicUsize,
    serial: AtomicU64,
}

/// A set of mappings. Its serial changes whenever its content does, and no two contents share one.
#[derive(Debug)]
pub(crate) struct MapSet {
    serial: u64,
    list: Vec<Mapping>,
    cost_bytes: usize,
    budget: Arc<MapBudget>,
}

impl MapSet {
    /// An empty set.
    pub(crate) fn new(budget: &Arc<MapBudget>) -> Self {
        Self { serial: next(budget), list: Vec::new(), cost_bytes: 0, budget: Arc::clone(budget) }
    }

    /// The content's number.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// The mappings, sorted, without overlap.
    pub(crate) fn list(&self) -> &[Mapping] {
        &self.list
    }

    /// The mapping that an address lies in.
    pub(crate) fn find(&self, address: u64) -> Option<&Mapping> {
        let after = self.list.partition_point(|m| m.start <= address);
        self.list.get(after.checked_sub(1)?).filter(|m| address < m.end)
    }

    /// Whether the same memory without a file is there already. Who makes code at run time changes the protection of its memory
    /// for each piece, and each time that is a mapping once more. A file may have other bytes than the last time.
    fn has(&self, new: &Mapping) -> bool {
        let is_same = |known: &Mapping| new.end <= known.end && known.file == new.file;
        new.file.kind == FileKind::Anonymous && new.start < new.end && self.find(new.start).is_some_and(is_same)
    }

    /// Adds a mapping to a set that other processes may share: then this one gets a copy of its own first. False where
    /// there is no room, for the copy either: one program with many mappings and many children costs what one costs.
    pub(crate) fn insert_into(set: &mut Arc<Self>, new: Mapping) -> bool {
        if set.has(&new) {
            return true;
        }
        let is_shared = Arc::strong_count(set) > 1;
        if is_shared && set.budget.bytes.load(Ordering::Relaxed) + set.cost_bytes > MAX_TOTAL_BYTES {
            return false;
        }
        Arc::make_mut(set).insert(new)
    }

    /// Adds a mapping; what lay there before is replaced. False where there is no room.
    pub(crate) fn insert(&mut self, new: Mapping) -> bool {
        if self.has(&new) {
            return true;
        }
        let cost = new.cost_bytes();
        // The worst case: the new one lands in the middle of another, which becomes two.
        let worst = cost + self.find(new.start).map_or(0, Mapping::cost_bytes);
        if self.cost_bytes + worst > MAX_BYTES
            || self.budget.bytes.load(Ordering::Relaxed) + worst > MAX_TOTAL_BYTES
            || new.start >= new.end
        {
            return false;
        }
        let from = self.list.partition_point(|m| m.end <= new.start);
        let to = self.list.partition_point(|m| m.start < new.end);
        let overlapped = self.list.get(from..to).unwrap_or_default();
        let left = overlapped.first().filter(|m| m.start < new.start).map(|m| Mapping { end: new.start, ..m.clone() });
        let right = overlapped.last().filter(|m| m.end > new.end).map(|m| Mapping {
            start: new.end,
            offset: m.offset.wrapping_add(new.end - m.start),
            ..m.clone()
        });
        let before: usize = overlapped.iter().map(Mapping::cost_bytes).sum();
        let after = cost + left.iter().chain(&right).map(Mapping::cost_bytes).sum::<usize>();
        self.list.splice(from..to.max(from), left.into_iter().chain([new]).chain(right));
        self.cost_bytes = self.cost_bytes - before + after;
        self.budget.bytes.fetch_add(after, Ordering::Relaxed);
        self.budget.bytes.fetch_sub(before, Ordering::Relaxed);
        self.serial = next(&self.budget);
        true
    }
}

fn next(budget: &MapBudget) -> u64 {
    budget.serial.fetch_add(1, Ordering::Relaxed) + 1
}

impl Clone for MapSet {
    fn clone(&self) -> Self {
        self.budget.bytes.fetch_add(self.cost_bytes, Ordering::Relaxed);
        Self {
            serial: self.serial,
            list: self.list.clone(),
            cost_bytes: self.cost_bytes,
            budget: Arc::clone(&self.budget),
        }
    }
}

impl Drop for MapSet {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.cost_bytes, Ordering::Relaxed);
    }
}

impl PartialEq for MapSet {
    /// By content, not by serial.
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(inode: u64) -> Arc<MapFile> {
        Arc::new(MapFile::new(MappedFile {
            major: 8,
            minor: 1,
            inode,
            generation: 0,
            path: format!("/f{inode}").into_bytes(),
        }))
    }

    proptest! {
        /// Against an array that says for each byte which file's byte it is.
        #[test]
        fn later_mappings_replace_what_they_overlap(
            maps in proptest::collection::vec((0u64..60, 1u64..20, 0u64..1000), 0..40)
        ) {
            let budget = Arc::new(MapBudget::default());
            let mut set = MapSet::new(&budget);
            let mut bytes: Vec<Option<(u64, u64)>> = vec![None; 100];
            for (i, &(start, length, offset)) in maps.iter().enumerate() {
                let inode = i as u64 + 1;
                let serial = set.serial();
                let is_in = set.insert(Mapping { start, end: start + length, offset, file: file(inode) });
                prop_assert!(is_in);
                prop_assert_ne!(set.serial(), serial);
                for at in start..start + length {
                    bytes[usize::try_from(at).unwrap()] = Some((inode, offset + at - start));
                }
            }
            for (address, expected) in bytes.iter().enumerate() {
                let found = set.find(address as u64).map(|m| (m.file.mapped.inode, m.offset + address as u64 - m.start));
                prop_assert_eq!(found, *expected, "at {}", address);
            }
            for pair in set.list().windows(2) {
                prop_assert!(pair[0].end <= pair[1].start);
            }
            let cost: usize = set.list().iter().map(Mapping::cost_bytes).sum();
            prop_assert_eq!(budget.bytes.load(Ordering::Relaxed), cost);
            let copy = set.clone();
            prop_assert_eq!(budget.bytes.load(Ordering::Relaxed), 2 * cost);
            drop((set, copy));
            prop_assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn memory_that_is_there_already_changes_nothing() {
        let mut set = MapSet::new(&Arc::new(MapBudget::default()));
        let memory = Arc::new(MapFile::new(MappedFile { path: b"//anon".to_vec(), ..MappedFile::default() }));
        let at = |start, end, file: &Arc<MapFile>| Mapping { start, end, offset: start, file: Arc::clone(file) };
        assert!(set.insert(at(0x1000, 0x5000, &memory)));
        let serial = set.serial();
        assert!(set.insert(at(0x1000, 0x5000, &memory)) && set.insert(at(0x2000, 0x3000, &memory)));
        let mut shared = Arc::new(set);
        let other = Arc::clone(&shared);
        assert!(MapSet::insert_into(&mut shared, at(0x4000, 0x5000, &memory)));
        assert!(Arc::ptr_eq(&shared, &other) && shared.serial() == serial);
        for new in [at(0x4000, 0x6000, &memory), at(0x2000, 0x3000, &file(1)), at(0x2000, 0x3000, &file(1))] {
            let serial = shared.serial();
            assert!(MapSet::insert_into(&mut shared, new) && shared.serial() != serial);
        }
    }

    #[test]
    fn a_flood_of_mappings_is_refused_at_the_limit() {
        let budget = Arc::new(MapBudget::default());
        let mut set = MapSet::new(&budget);
        let refused = (0..200_000u64)
            .filter(|i| !set.insert(Mapping { start: i * 2, end: i * 2 + 1, offset: 0, file: file(1) }))
            .count();
        assert!(refused > 0);
        assert!(set.cost_bytes <= MAX_BYTES);
    }

    #[test]
    fn copies_of_large_sets_are_refused_at_the_limit_too() {
        let budget = Arc::new(MapBudget::default());
        let mut parent = MapSet::new(&budget);
        let at = |i: u64| Mapping { start: i * 2, end: i * 2 + 1, offset: 0, file: file(1) };
        assert!((0..20_000).all(|i| parent.insert(at(i))));
        let parent = Arc::new(parent);
        let mut children = vec![Arc::clone(&parent); 1000];
        let own = children.iter_mut().filter_map(|child| MapSet::insert_into(child, at(20_000)).then_some(())).count();
        assert!(own > 0 && own < 1000, "{own}");
        assert!(budget.bytes.load(Ordering::Relaxed) <= MAX_TOTAL_BYTES);
        assert!(Arc::ptr_eq(&parent, &children[999]), "a child without room keeps what it was forked with");
    }

    #[test]
    fn kinds_and_names() {
        let kind =
            |inode, path: &[u8]| MapFile::new(MappedFile { inode, path: path.to_vec(), ..MappedFile::default() }).kind;
        assert_eq!(kind(0, b"[vdso]"), FileKind::Vdso);
        assert_eq!(kind(0, b"//anon"), FileKind::Anonymous);
        assert_eq!(kind(7, b"/usr/bin/x"), FileKind::File);
        let name = |path: &[u8]| {
            MapFile::new(MappedFile { inode: 1, path: path.to_vec(), ..MappedFile::default() }).file_name().to_owned()
        };
        assert_eq!(name(b"/usr/bin/x (deleted)"), "x");
        assert_eq!(name(b"/a/\xff\n"), "\u{fffd}\n");
    }
}
