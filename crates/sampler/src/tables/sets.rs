//! Sets of mappings: written once for all processes that share them.
//!
//! **In**: [`MapSet`]s. **Out**: lists of mappings in shards. **Limits**: [`MAX_MAPPINGS`] of one set; memory without a file is
//! left out first, then what lies highest: samples there carry snapshots.

use std::sync::Arc;

use profile::{ObjectId, bias};
use rustc_hash::FxHashSet;
use unwind_table::{ArenaError, MAX_MAPPINGS, Mapping, Place};

use super::files::Table;
use super::{Kernel, State};
use crate::process::{FileKind, MapSet, Mapping as Mapped};

/// A place and a number of mappings, and the tables that they name.
type Written = ((Place, u32), Vec<Use>);

/// A table that mappings name, and for which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) object: ObjectId,
    pub(super) key: u64,
}

/// A set that a published process has.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) maps: Arc<MapSet>,
    pub(super) processes: FxHashSet<u32>,
    /// Where its mappings are, and how many.
    pub(super) placed: Option<(Place, u32)>,
    /// Tables that these name.
    pub(super) uses: Vec<Use>,
}

/// Whether a mapping may have a table.
pub(super) fn has_file(mapping: &Mapped) -> bool {
    mapping.file.kind != FileKind::Anonymous
}

impl State {
    /// Enters a set that is not known yet, and its files.
    pub(super) fn enter_set(&mut self, maps: &Arc<MapSet>) {
        let serial = maps.serial();
        if self.sets.contains_key(&serial) {
            return;
        }
        for mapping in maps.list().iter().filter(|mapping| has_file(mapping)) {
            self.files.entry(Arc::clone(&mapping.file)).or_default().sets.insert(serial);
        }
        let set = Set { maps: Arc::clone(maps), processes: FxHashSet::default(), placed: None, uses: Vec::new() };
        self.sets.insert(serial, set);
    }

    /// Whether a set is written, and as its files are now.
    pub(super) fn is_placed(&self, serial: u64) -> bool {
        self.sets.get(&serial).is_some_and(|set| set.placed.is_some()) && !self.stale.contains(&serial)
    }

    /// Writes a set, or writes it anew: then its processes are published with the new place, and only then the old one is given
    /// back. False where there is no room, nor any to be made where `may_make_room`: then none of its processes is published any
    /// more.
    pub(super) fn write_set(&mut self, serial: u64, may_make_room: bool, kernel: &mut impl Kernel) -> bool {
        let mut written = self.try_write(serial, kernel);
        if let Some(Err(ArenaError::NoRoom { bytes })) = written
            && may_make_room
            && self.may_displace_files(kernel)
            && self.make_room(bytes, u64::MAX, kernel)
        {
            // With the files that are left.
            written = self.try_write(serial, kernel);
        }
        let Some(set) = self.sets.get_mut(&serial) else { return false };
        let processes: Vec<u32> = set.processes.iter().copied().collect();
        let Some(Ok((placed, uses))) = written else {
            for tgid in processes {
                self.refused_processes += 1;
                self.gone(tgid, kernel);
            }
            return false;
        };
        let old = set.placed.replace(placed);
        for before in std::mem::replace(&mut set.uses, uses) {
            self.arena.release(before.key);
        }
        for now in &set.uses {
            self.arena.acquire(now.key);
        }
        for tgid in processes {
            self.publish_anew(tgid, serial, kernel);
        }
        if let Some((place, _)) = old {
            self.arena.free_mappings(place, self.epoch);
        }
        self.sets.contains_key(&serial)
    }

    /// Where a set's mappings are written, and the files that they name. None where the set has gone.
    fn try_write(&mut self, serial: u64, kernel: &mut impl Kernel) -> Option<Result<Written, ArenaError>> {
        self.stale.remove(&serial);
        let (mappings, uses) = self.mappings(&self.sets.get(&serial)?.maps);
        Some(self.arena.place_mappings(&mappings, kernel).map(|placed| (placed, uses)))
    }

    fn publish_anew(&mut self, tgid: u32, serial: u64, kernel: &mut impl Kernel) {
        let Some(started_by_mono_ns) = self.processes.get(&tgid).map(|process| process.started_by_mono_ns) else {
            return;
        };
        // An entry that is gone belonged to the program before.
        if !self.is_published(tgid, kernel) {
            self.forget(tgid);
        } else if !self.publish(tgid, started_by_mono_ns, serial, kernel) {
            self.gone(tgid, kernel);
        }
    }

    /// The set's files have changed: it is written anew when its turn comes.
    pub(super) fn outdate(&mut self, sets: impl IntoIterator<Item = u64>) {
        self.stale.extend(sets);
    }

    /// Writes sets anew whose files have changed, at most so many. Whether there are more.
    pub(crate) fn rewrite(&mut self, count: usize, kernel: &mut impl Kernel) -> bool {
        for _ in 0..count {
            let Some(serial) = self.stale.pop_first() else { return false };
            self.write_set(serial, true, kernel);
        }
        !self.stale.is_empty()
    }

    /// A process does not have this set any more.
    pub(super) fn leave_set(&mut self, serial: u64, tgid: u32) {
        if let Some(set) = self.sets.get_mut(&serial) {
            set.processes.remove(&tgid);
        }
        self.leave_set_if_unused(serial);
    }

    /// Lets a set go that no process has.
    pub(super) fn leave_set_if_unused(&mut self, serial: u64) {
        if self.sets.get(&serial).is_none_or(|set| !set.processes.is_empty()) {
            return;
        }
        self.stale.remove(&serial);
        let Some(set) = self.sets.remove(&serial) else { return };
        for before in &set.uses {
            self.arena.release(before.key);
        }
        if let Some((place, _)) = set.placed {
            self.arena.free_mappings(place, self.epoch);
        }
        for mapping in set.maps.list().iter().filter(|mapping| has_file(mapping)) {
            self.leave_file(&mapping.file, serial);
        }
    }

    /// A set's mappings as they are written now, and the tables that they name.
    fn mappings(&self, maps: &MapSet) -> (Vec<Mapping>, Vec<Use>) {
        let most = usize::try_from(MAX_MAPPINGS).unwrap_or(usize::MAX);
        let all = maps.list();
        let with_files_only = all.len() > most;
        let mut uses = Vec::new();
        let mut mappings: Vec<Mapping> = Vec::with_capacity(all.len().min(most));
        // The end of the last one, where it has no table: neighbours of its kind are one with it.
        let mut blank_end = None;
        for mapping in all.iter().filter(|mapping| !with_files_only || has_file(mapping)) {
            let (start, end) = (mapping.start, mapping.end);
            match self.table_of(mapping) {
                Table::At(used, placed, bias) => {
                    mappings.push(placed.mapping(start, end, bias));
                    if !uses.contains(&used) {
                        uses.push(used);
                    }
                    blank_end = None;
                }
                Table::Pending => {
                    mappings.push(Mapping::pending(start, end));
                    blank_end = None;
                }
                Table::None => {
                    match mappings.last_mut().filter(|_| blank_end == Some(start)) {
                        Some(last) => *last = Mapping::without_table(last.start, end),
                        None => mappings.push(Mapping::without_table(start, end)),
                    }
                    blank_end = Some(end);
                }
            }
            if mappings.len() >= most {
                break;
            }
        }
        (mappings, uses)
    }

    fn table_of(&self, mapping: &Mapped) -> Table {
        let Some(file) = self.files.get(&mapping.file).filter(|_| has_file(mapping)) else { return Table::None };
        let Some(object) = file.object.and_then(|id| self.objects.get(&id)) else {
            return if file.is_unreadable() { Table::None } else { Table::Pending };
        };
        if object.is_without_table() {
            return Table::None;
        }
        let table = object.table.and_then(|key| Some((key, self.arena.placed(key)?)));
        let Some((key, placed)) = table else { return Table::Pending };
        // The kernel's own object starts with its first byte, whatever the record says.
        let offset = if mapping.file.kind == FileKind::Vdso { 0 } else { mapping.offset };
        bias(&object.info.segments, mapping.start, mapping.end, offset)
            .map_or(Table::None, |bias| Table::At(Use { object: object.info.id, key }, placed, bias))
    }
}
