//! What this room needs of `objects`.

use std::ops::Range;
use std::sync::Arc;

use objects::{MappedFile, Objects};
use profile::{ObjectId, ObjectInfo};

use super::shared::Content;

/// Files and their tables; [`Objects`] but for tests.
pub(crate) trait TableSource {
    /// The file, if it is known already. No I/O, and no word on whether it has changed since.
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>>;
    /// The file as it is now; may take long.
    fn object(&self, file: &MappedFile, tgid: u32, range: Range<u64>) -> Arc<ObjectInfo>;
    /// What its table is made of, if that is known: objects with the same have the same table. No I/O.
    fn content(&self, object: ObjectId) -> Option<Content>;
    /// The bytes of its table; may take long.
    fn walk_table(&self, object: ObjectId) -> Option<Vec<u8>>;
}

impl TableSource for Arc<Objects> {
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        Objects::known(self, file)
    }

    fn object(&self, file: &MappedFile, tgid: u32, range: Range<u64>) -> Arc<ObjectInfo> {
        Objects::object(self, file, tgid, range)
    }

    fn content(&self, object: ObjectId) -> Option<Content> {
        Objects::fingerprint(self, object).map(|fingerprint| *fingerprint.bytes())
    }

    fn walk_table(&self, object: ObjectId) -> Option<Vec<u8>> {
        Objects::walk_table(self, object)
    }
}
