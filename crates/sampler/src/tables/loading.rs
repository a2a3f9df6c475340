//! Objects get tables, have them in common, and lose them.
//!
//! **In**: tables that were fetched, and what they are made of. **Out**: sets that are to be written anew. **Limits**: those of the
//! arena; [`MAX_TAKEN_OFF`].

use profile::ObjectId;
use unwind_table::FileTable;

use super::files::Progress;
use super::shared::Content;
use super::{Kernel, State};

/// Objects that are remembered as taken off.
const MAX_TAKEN_OFF: usize = 1 << 16;

impl State {
    /// Whether a table that is made of this is loaded: then the object has it too, and its own need not be fetched.
    pub(crate) fn share(&mut self, id: ObjectId, content: Option<Content>) -> bool {
        let Some(object) = self.objects.get_mut(&id).filter(|object| object.can_be_loaded()) else { return false };
        let Some(key) = content.and_then(|content| self.shared.join(content, id)) else { return false };
        object.is_queued = false;
        object.progress = Progress::Loaded;
        object.table = Some(key);
        tracing::debug!(file = %object.info.path, "a file's table is that of another");
        self.outdate_users(id);
        true
    }

    /// An object's table was fetched; none: it has none. `content`: what it is made of, where others may have the same.
    pub(crate) fn load(
        &mut self,
        id: ObjectId,
        content: Option<Content>,
        table: Option<&FileTable>,
        kernel: &mut impl Kernel,
    ) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.is_queued = false;
        let (heat, before) = (object.heat, object.progress);
        if !object.can_be_loaded() {
            return;
        }
        let key = self.shared.new_key();
        let progress = match table {
            None => Progress::WithoutTable,
            Some(table) if self.place(key, table, heat, kernel) => Progress::Loaded,
            Some(_) => {
                self.refused_files += 1;
                Progress::Refused(heat)
            }
        };
        if let Some(object) = self.objects.get_mut(&id) {
            let [rows, unsupported] =
                [FileTable::rows, FileTable::unsupported_rows].map(|count| table.map_or(0, count));
            object.progress = progress;
            if progress == Progress::Loaded {
                object.table = Some(key);
                self.shared.enter(key, content, id, unsupported);
            }
            tracing::debug!(file = %object.info.path, rows, unsupported, ?progress, "a file's table");
        } else {
            // Its last process was found gone while room was made.
            self.arena.evict(key, self.epoch);
        }
        if progress != before && (before == Progress::WithoutTable || !matches!(progress, Progress::Refused(_))) {
            self.outdate_users(id);
        }
    }

    /// A file's table is wrong: samples that come through it carry snapshots from now on.
    pub(crate) fn take_off(&mut self, id: ObjectId) {
        let marked = self.objects.values().filter(|object| object.progress == Progress::TakenOff).count();
        let Some(object) = self.objects.get_mut(&id) else { return };
        if object.progress == Progress::TakenOff || marked >= MAX_TAKEN_OFF {
            return;
        }
        object.progress = Progress::TakenOff;
        self.taken_off += 1;
        self.unload(id);
    }

    /// An object gives up its table, which leaves the shards where no other has it.
    pub(super) fn unload(&mut self, id: ObjectId) {
        let Some(key) = self.objects.get_mut(&id).and_then(|object| object.table.take()) else { return };
        for _ in 0..self.disuse(id) {
            self.arena.release(key);
        }
        if self.shared.leave(key, id) {
            self.arena.evict(key, self.epoch);
        }
    }

    /// An object does not have a table any more: who named it is written anew. Returns how many did.
    pub(super) fn disuse(&mut self, id: ObjectId) -> usize {
        let mut count = 0;
        for serial in self.users(id) {
            if let Some(set) = self.sets.get_mut(&serial) {
                let before = set.uses.len();
                set.uses.retain(|used| used.object != id);
                count += before - set.uses.len();
            }
        }
        self.outdate_users(id);
        count
    }

    /// An object's table has left the shards.
    pub(super) fn has_lost_table(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.table = None;
        object.progress = Progress::Unloaded;
        if object.names.is_empty() {
            self.objects.remove(&id);
        }
    }

    fn outdate_users(&mut self, id: ObjectId) {
        let users = self.users(id);
        self.outdate(users);
    }

    /// The sets that map an object.
    fn users(&self, id: ObjectId) -> Vec<u64> {
        let names = self.objects.get(&id).map(|object| &object.names);
        let files = names.into_iter().flatten().filter_map(|name| self.files.get(name));
        files.flat_map(|file| file.sets.iter().copied()).collect()
    }
}
