//! The names that were asked for before.
//!
//! **In**: the worker's answers. **Out**: the same, without asking. **Limits**: so many addresses as the constructor
//! says and [`MAX_TEXT_BYTES`], in two halves: what was not used while the younger half filled up is forgotten. That an address has no name
//! is believed for [`NEGATIVE_WINDOWS`] windows, since a worker that had just died says the same.

use std::sync::Arc;

use profile::{ElfAddress, ObjectId};
use rustc_hash::{FxHashMap, FxHashSet};

/// Bytes of names in each half. A hostile file has one of kilobytes for every address.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// A minute of windows.
const NEGATIVE_WINDOWS: u64 = 12;

/// A name to show, and as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: Arc<str>,
    pub(crate) system_name: Arc<str>,
}

#[derive(Clone, Debug)]
enum Answer {
    Named(Named),
    /// Asked in this window, and there was none.
    Unnamed(u64),
}

type Key = (ObjectId, ElfAddress);

/// Names by object and address.
#[derive(Debug)]
pub(crate) struct Cache {
    half: usize,
    young: FxHashMap<Key, Answer>,
    old: FxHashMap<Key, Answer>,
    /// Texts of the names in `young`, each once.
    texts: FxHashSet<Arc<str>>,
    /// Bytes of `texts`.
    text_bytes: usize,
    window: u64,
}

impl Cache {
    pub(crate) fn new(addresses: usize) -> Self {
        Self {
            half: (addresses / 2).max(1),
            young: FxHashMap::default(),
            old: FxHashMap::default(),
            texts: FxHashSet::default(),
            text_bytes: 0,
            window: 0,
        }
    }

    /// Another window begins.
    pub(crate) fn next_window(&mut self) {
        self.window = self.window.saturating_add(1);
    }

    /// The answer for an address: outer none, if it is to be asked for.
    #[expect(clippy::option_option, reason = "not asked yet, and asked in vain, are two answers")]
    pub(crate) fn get(&mut self, key: Key) -> Option<Option<Named>> {
        if !self.young.contains_key(&key) {
            let mut answer = self.old.remove(&key)?;
            if let Answer::Named(named) = &mut answer {
                named.name = self.adopt(&named.name);
                named.system_name = self.adopt(&named.system_name);
            }
            self.insert(key, answer);
        }
        match self.young.get(&key)? {
            Answer::Named(named) => Some(Some(named.clone())),
            Answer::Unnamed(window) => (self.window.saturating_sub(*window) < NEGATIVE_WINDOWS).then_some(None),
        }
    }

    pub(crate) fn put(&mut self, key: Key, name: Option<(&str, &str)>) -> Option<Named> {
        let named = name.map(|(name, system)| Named { name: self.text(name), system_name: self.text(system) });
        let answer = named.clone().map_or(Answer::Unnamed(self.window), Answer::Named);
        self.insert(key, answer);
        named
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }

    fn insert(&mut self, key: Key, answer: Answer) {
        if self.young.len() >= self.half || self.text_bytes >= MAX_TEXT_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.texts.clear();
            self.text_bytes = 0;
        }
        self.young.insert(key, answer);
    }

    /// A text of the older half, shared with equal ones of the younger.
    fn adopt(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        self.text_bytes = self.text_bytes.saturating_add(text.len());
        self.texts.insert(Arc::clone(text));
        Arc::clone(text)
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        self.adopt(&Arc::from(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        (ObjectId(1), ElfAddress(n))
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut cache = Cache::new(10);
        for n in 0..100 {
            cache.put(key(n), Some(("name", "system")));
            assert_eq!(cache.get(key(0)).flatten().map(|n| n.name.to_string()).as_deref(), Some("name"));
            assert!(cache.len() <= 10);
        }
        assert_eq!(cache.get(key(1)), None);
    }

    #[test]
    fn long_names_are_bounded_by_their_bytes() {
        let mut cache = Cache::new(1 << 20);
        for n in 0..20_000 {
            let long = format!("{n:04096}");
            cache.put(key(n), Some((&long, &long)));
            // What is used stays, and does not make the rest grow.
            assert!(cache.get(key(0)).flatten().is_some());
            assert!(cache.len() * 4096 <= 2 * MAX_TEXT_BYTES + 4 * 4096, "{}", cache.len());
        }
    }

    #[test]
    fn no_name_is_asked_for_again_later() {
        let mut cache = Cache::new(10);
        cache.put(key(1), None);
        assert_eq!(cache.get(key(1)), Some(None));
        for _ in 0..NEGATIVE_WINDOWS {
            cache.next_window();
        }
        assert_eq!(cache.get(key(1)), None);
    }

    #[test]
    fn equal_texts_are_one() {
        let mut cache = Cache::new(10);
        let (a, b) = (cache.put(key(1), Some(("f", "f"))).unwrap(), cache.put(key(2), Some(("f", "_Z1f"))).unwrap());
        assert!(Arc::ptr_eq(&a.name, &b.name) && Arc::ptr_eq(&a.name, &a.system_name));
    }
}
