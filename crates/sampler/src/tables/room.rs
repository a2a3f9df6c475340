//! Room for tables: more shards as long as there may be more, then colder files go.
//!
//! The order in which a file goes: it is taken out of the arena, whose room stays as it is; the mappings that name it are written
//! anew without it, and their processes published with these; every walk that had begun ends; the room is free.
//!
//! **Units**: bytes. **Limits**: the shards that there may be, of which [`RESERVE_BYTES`] stay for mappings.

use unwind_table::{FileTable, SHARD_BYTES};

use super::{Kernel, State};

/// Room that files leave to mappings.
const RESERVE_BYTES: u64 = 128 << 10;
/// Retired room is collected without need from here on.
const COLLECT_BYTES: u64 = 64 << 10;
/// What is asked for may be free, but in pieces: how often more is made free.
const ATTEMPTS: u64 = 3;

impl State {
    /// Places a table under a new key. False where there is no room for it.
    pub(super) fn place(&mut self, key: u64, table: &FileTable, heat: u64, kernel: &mut impl Kernel) -> bool {
        let bytes = table.bytes() as u64;
        for attempt in 0..ATTEMPTS {
            // A file gives way to one only that is twice as hot, so that two of them do not take turns.
            if !self.make_room(bytes.saturating_add(RESERVE_BYTES << attempt), heat / 2, kernel) {
                return false;
            }
            if self.arena.load(key, table, heat, kernel).is_ok() {
                return true;
            }
        }
        false
    }

    /// Makes room for so many bytes: new, or that of files that nobody uses or that are colder than this. False where that cannot be.
    pub(super) fn make_room(&mut self, bytes: u64, heat: u64, kernel: &mut impl Kernel) -> bool {
        if self.arena.fits(bytes) {
            return true;
        }
        if self.arena.will_fit(bytes) && self.collect(kernel) && self.arena.fits(bytes) {
            return true;
        }
        while !self.arena.fits(bytes) && self.arena.shards() < kernel.max_shards() {
            let added = kernel.add_shard();
            if self.check(added) != Some(self.arena.shards()) || !self.arena.add_shard() {
                break;
            }
        }
        if self.arena.fits(bytes) {
            return true;
        }
        let evicted = self.arena.make_room(bytes, heat, self.epoch);
        for &key in &evicted {
            self.evicted += 1;
            for id in self.shared.remove(key) {
                self.disuse(id);
                self.has_lost_table(id);
            }
        }
        !evicted.is_empty() && self.collect(kernel) && self.arena.fits(bytes)
    }

    /// Whether files give way to mappings: those may take half of all room, so that files are left to be mapped.
    pub(super) fn may_displace_files(&self, kernel: &impl Kernel) -> bool {
        let all = u64::from(kernel.max_shards()) * u64::from(SHARD_BYTES);
        self.arena.mapping_bytes() < all / 2
    }

    /// Frees what is retired: nothing that is published names it after this has written anew what is to be, and no walk reads it after
    /// those under way have ended. Takes some 10 ms. False where it cannot be known that they have.
    pub(crate) fn collect(&mut self, kernel: &mut impl Kernel) -> bool {
        // What finds no room now is withdrawn, not waited for.
        while let Some(serial) = self.stale.pop_first() {
            self.write_set(serial, false, kernel);
        }
        self.epoch += 1;
        let waited = kernel.wait_for_walks();
        let is_over = self.check(waited).is_some();
        if is_over {
            self.arena.collect(self.epoch);
        }
        is_over
    }

    /// Bytes that [`State::collect`] would free.
    pub(crate) fn retired_bytes(&self) -> u64 {
        self.arena.retired_bytes()
    }

    /// Whether so much is retired that it is worth a wait.
    pub(crate) fn is_collection_due(&self) -> bool {
        self.retired_bytes() >= COLLECT_BYTES
    }
}
