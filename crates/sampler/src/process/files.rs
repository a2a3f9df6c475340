//! One [`MapFile`] for each file, however many processes map it.
//!
//! **Limits**: holds what mappings hold; what nobody maps any more is let go when the table has doubled.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use hashbrown::HashTable;
use objects::MappedFile;
use rustc_hash::FxHasher;

use super::maps::MapFile;

/// Below this many files nothing is swept.
const MIN_SWEEP: usize = 1024;

/// The files that are mapped somewhere.
#[derive(Debug, Default)]
pub(crate) struct Files {
    table: HashTable<Arc<MapFile>>,
    sweep_at: usize,
}

impl Files {
    /// The shared value for a file.
    pub(crate) fn intern(&mut self, file: &MappedFile) -> Arc<MapFile> {
        let hash = |f: &MappedFile| BuildHasherDefault::<FxHasher>::default().hash_one(f);
        let key = hash(file);
        if let Some(found) = self.table.find(key, |f| f.mapped == *file) {
            return Arc::clone(found);
        }
        if self.table.len() >= self.sweep_at.max(MIN_SWEEP) {
            self.table.retain(|f| Arc::strong_count(f) > 1);
            self.sweep_at = self.table.len() * 2;
        }
        let new = Arc::new(MapFile::new(file.clone()));
        self.table.insert_unique(key, Arc::clone(&new), |f| hash(&f.mapped));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_files_are_one_and_unused_ones_go() {
        let file = |inode| MappedFile { inode, path: b"/x".to_vec(), ..MappedFile::default() };
        let mut files = Files::default();
        let kept = files.intern(&file(0));
        assert!(Arc::ptr_eq(&kept, &files.intern(&file(0))));
        for inode in 1..10_000 {
            files.intern(&file(inode));
        }
        assert!(files.table.len() <= 2 * MIN_SWEEP);
        assert!(Arc::ptr_eq(&kept, &files.intern(&file(0))));
    }
}
