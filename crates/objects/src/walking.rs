//! Tables for the walk in the kernel: handed out as bytes, which whoever places them checks.
//!
//! **In**: objects. **Out**: opaque bytes that a worker made (hostile: a file may have had the better of it).
//! **Units**: bytes. **Limits**: those of `tables`.

use profile::ObjectId;

use crate::registry::TableState;
use crate::{Fingerprint, Objects};

impl Objects {
    /// The fingerprint of what an object's tables are made of: objects with the same have the same tables, also if they are
    /// different files. None where it has no tables, or it is not known whether others have the same.
    #[must_use]
    pub fn fingerprint(&self, object: ObjectId) -> Option<Fingerprint> {
        self.registry().fingerprint(object)
    }

    /// An object's table for the walk in the kernel: the bytes of an `unwind_table::FileTable`. None where its file has
    /// none, or it cannot be had at the moment.
    ///
    /// Reads the held bytes, without the worker. Where they were let go, the file is read again, which may take as long
    /// as [`Objects::object`].
    #[must_use]
    pub fn walk_table(&self, object: ObjectId) -> Option<Vec<u8>> {
        if !self.registry().has_walk(object) {
            return None;
        }
        let now = self.now();
        let state = self.registry().tables(object, now);
        let tables = match state {
            TableState::Held(tables) => tables,
            TableState::Evicted(..) => self.stored(&mut self.client(), object)?,
            TableState::None => return None,
        };
        let table = tables.walk().inspect_err(|error| tracing::debug!(?object, %error, "its table cannot be read"));
        table.ok().flatten()
    }
}
