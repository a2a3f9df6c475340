//! Whose tables are whose: files that were read with the same result share their tables.
//!
//! A container's libc is another file than the next container's, and yet the same. [`Key`] says which files may be the same
//! (what their headers say is), [`Fingerprint`] says which are. No I/O.
//!
//! **In**: what the worker found (checked). **Out**: candidates for a file that has to be compared with them.
//! **Units**: bytes. **Limits**: [`MAX_CANDIDATES`] of one key and [`MAX_SHARED`] in all: the oldest go, which costs an
//! extraction. Tables are held by whoever uses them, not here.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use crate::Fingerprint;
use crate::protocol::Extracted;
use crate::tables::StoredTables;

/// Files with the same key that are compared with a new one: each comparison reads as much as the tables are made of.
pub(crate) const MAX_CANDIDATES: usize = 4;
/// Results remembered.
const MAX_SHARED: usize = 8192;

/// What an identity says, as a hash: files with different keys differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub(crate) [u8; 16]);

impl Key {
    /// The key of an identity. None where it is not of an ELF file.
    pub(crate) fn of(identity: &Extracted) -> Option<Self> {
        let elf = identity.elf.as_ref()?;
        let bytes = postcard::to_stdvec(&(&identity.htlhash, elf)).ok()?;
        blake3::hash(&bytes).as_bytes().first_chunk().copied().map(Self)
    }
}

/// A result, and the tables as long as somebody holds them.
#[derive(Debug)]
struct Known {
    extracted: Arc<Extracted>,
    tables: Weak<StoredTables>,
}

/// Results by key.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    by_key: FxHashMap<Key, VecDeque<Known>>,
    results: usize,
}

impl Shared {
    /// Results whose tables are held, for files with this key: the newest first.
    pub(crate) fn candidates(&self, key: Key) -> Vec<(Arc<Extracted>, Arc<StoredTables>)> {
        let known = self.by_key.get(&key).into_iter().flatten();
        known.filter_map(|known| Some((Arc::clone(&known.extracted), known.tables.upgrade()?))).collect()
    }

    /// Tables with this fingerprint that somebody holds.
    pub(crate) fn held(&self, wanted: Fingerprint) -> Option<Arc<StoredTables>> {
        let known = self.by_key.values().flatten().filter(|known| fingerprint(known) == Some(wanted));
        known.filter_map(|known| known.tables.upgrade()).next()
    }

    /// Remembers a result that has a fingerprint.
    pub(crate) fn insert(&mut self, key: Key, extracted: Arc<Extracted>, tables: &Arc<StoredTables>) {
        if self.results >= MAX_SHARED {
            self.prune();
            // Still held, all of them: whoever comes later has to read again.
            if self.results >= MAX_SHARED {
                return;
            }
        }
        let known = self.by_key.entry(key).or_default();
        let before = known.len();
        known.retain(|known| fingerprint(known) != extracted.covered.as_ref().map(|covered| covered.fingerprint));
        known.push_front(Known { extracted, tables: Arc::downgrade(tables) });
        known.truncate(MAX_CANDIDATES);
        self.results = self.results + known.len() - before;
    }

    /// Forgets a result: no worker gets along with its tables.
    pub(crate) fn forget(&mut self, unwanted: Fingerprint) {
        self.retain(|known| fingerprint(known) != Some(unwanted));
    }

    /// Forgets results whose tables nobody holds any more.
    pub(crate) fn prune(&mut self) {
        self.retain(|_| true);
    }

    fn retain(&mut self, mut keep: impl FnMut(&Known) -> bool) {
        self.by_key.retain(|_, known| {
            known.retain(|known| known.tables.strong_count() > 0 && keep(known));
            !known.is_empty()
        });
        self.results = self.by_key.values().map(VecDeque::len).sum();
    }
}

fn fingerprint(known: &Known) -> Option<Fingerprint> {
    known.extracted.covered.as_ref().map(|covered| covered.fingerprint)
}
