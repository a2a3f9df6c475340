//! Tables in the arena, and the objects that have them in common: containers map the same code from different files.
//!
//! No I/O, no bytes. **In**: what objects' tables are made of, as whoever reads files tells it. **Out**: the arena's keys of tables.
//! **Limits**: one entry for each table in the arena, which bounds them.

use profile::ObjectId;
use rustc_hash::{FxHashMap, FxHashSet};

/// A hash of what a table is made of: objects with the same have the same table.
pub(crate) type Content = [u8; 32];

/// One table.
#[derive(Debug)]
struct Table {
    content: Option<Content>,
    objects: FxHashSet<ObjectId>,
    /// Rows at which a walk ends.
    unsupported_rows: u64,
}

/// All tables.
#[derive(Debug, Default)]
pub(super) struct Shared {
    keys: FxHashMap<Content, u64>,
    tables: FxHashMap<u64, Table>,
    last_key: u64,
}

impl Shared {
    /// A key that no table has had.
    pub(super) fn new_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    /// A table came into the arena, for an object. `content`: none where nobody else may have it.
    pub(super) fn enter(&mut self, key: u64, content: Option<Content>, object: ObjectId, unsupported_rows: u64) {
        if let Some(content) = content {
            self.keys.insert(content, key);
        }
        self.tables.insert(key, Table { content, objects: FxHashSet::from_iter([object]), unsupported_rows });
    }

    /// One object more has the table that is made of this. None where there is none.
    pub(super) fn join(&mut self, content: Content, object: ObjectId) -> Option<u64> {
        let key = *self.keys.get(&content)?;
        self.tables.get_mut(&key)?.objects.insert(object);
        Some(key)
    }

    /// An object does not have its table any more. True where nobody has: then it is forgotten.
    pub(super) fn leave(&mut self, key: u64, object: ObjectId) -> bool {
        let Some(table) = self.tables.get_mut(&key) else { return false };
        table.objects.remove(&object);
        let is_last = table.objects.is_empty();
        if is_last {
            self.remove(key);
        }
        is_last
    }

    /// A table has left the arena. Returns who had it.
    pub(super) fn remove(&mut self, key: u64) -> FxHashSet<ObjectId> {
        let Some(table) = self.tables.remove(&key) else { return FxHashSet::default() };
        if let Some(content) = table.content
            && self.keys.get(&content) == Some(&key)
        {
            self.keys.remove(&content);
        }
        table.objects
    }

    /// Rows at which a walk ends, of all tables.
    pub(super) fn unsupported_rows(&self) -> u64 {
        self.tables.values().map(|table| table.unsupported_rows).sum()
    }
}
