//! The names that were asked for before.
//!
//! A name is kept for all addresses that have it: compilers and interpreters are at some ten addresses of a function, and each build of
//! a program brings new ones.
//!
//! **In**: the worker's answers. **Out**: the same, without asking. **Limits**: so many names as the constructor
//! says and [`MAX_TEXT_BYTES`], in two halves: what was not used while the younger half filled up, or for as long as
//! [`HALF_WINDOWS`], is forgotten. That an address has no name is believed for [`NEGATIVE_WINDOWS`] windows, since a worker
//! that had just died says the same.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use profile::{ElfAddress, ObjectId};
use rustc_hash::{FxHashMap, FxHashSet};

/// Bytes of names in each half. A hostile file has one of kilobytes for every address.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// A minute of windows.
const NEGATIVE_WINDOWS: u64 = 12;
/// Two minutes of windows. Names of programs that have ended go without others that need their place.
const HALF_WINDOWS: u64 = 24;

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

/// Answers by the addresses that they are for.
#[derive(Debug, Default)]
struct Half {
    /// For each object: first address, address behind the last, answer.
    objects: FxHashMap<ObjectId, BTreeMap<u64, (u64, Answer)>>,
    answers: usize,
}

impl Half {
    fn find(&self, (object, address): Key) -> Option<(Range<u64>, &Answer)> {
        let (start, (end, answer)) = self.objects.get(&object)?.range(..=address.0).next_back()?;
        (address.0 < *end).then_some((*start..*end, answer))
    }

    fn insert(&mut self, object: ObjectId, addresses: Range<u64>, answer: Answer) {
        let answers = self.objects.entry(object).or_default();
        // What was said of some of these addresses before would hide it.
        while let Some((&inside, _)) = answers.range(addresses.start..addresses.end).next() {
            answers.remove(&inside);
            self.answers -= 1;
        }
        let replaced = answers.insert(addresses.start, (addresses.end, answer));
        self.answers += usize::from(replaced.is_none());
    }

    fn remove(&mut self, object: ObjectId, start: u64) {
        let removed = self.objects.get_mut(&object).and_then(|answers| answers.remove(&start));
        self.answers -= usize::from(removed.is_some());
    }
}

/// Names by object and address.
#[derive(Debug)]
pub(crate) struct Cache {
    half: usize,
    young: Half,
    old: Half,
    /// Texts of the names in `young`, each once.
    texts: FxHashSet<Arc<str>>,
    /// Bytes of `texts`.
    text_bytes: usize,
    window: u64,
    /// The window in which `young` began.
    begun: u64,
}

impl Cache {
    pub(crate) fn new(names: usize) -> Self {
        Self {
            half: (names / 2).max(1),
            young: Half::default(),
            old: Half::default(),
            texts: FxHashSet::default(),
            text_bytes: 0,
            window: 0,
            begun: 0,
        }
    }

    /// Another window begins.
    pub(crate) fn next_window(&mut self) {
        self.window = self.window.saturating_add(1);
        if self.window.saturating_sub(self.begun) >= HALF_WINDOWS {
            self.age();
        }
    }

    /// The answer for an address: outer none, if it is to be asked for.
    #[expect(clippy::option_option, reason = "not asked yet, and asked in vain, are two answers")]
    pub(crate) fn get(&mut self, key: Key) -> Option<Option<Named>> {
        if let Some((_, answer)) = self.young.find(key) {
            return self.told(answer);
        }
        let (addresses, answer) = self.old.find(key)?;
        let mut answer = answer.clone();
        self.old.remove(key.0, addresses.start);
        if let Answer::Named(named) = &mut answer {
            named.name = self.adopt(&named.name);
            named.system_name = self.adopt(&named.system_name);
        }
        let told = self.told(&answer);
        self.insert(key.0, addresses, answer);
        told
    }

    /// Takes an answer: the name of these addresses, or that there is none.
    pub(crate) fn put(&mut self, object: ObjectId, addresses: Range<u64>, name: Option<(&str, &str)>) -> Option<Named> {
        let named = name.map(|(name, system)| Named { name: self.text(name), system_name: self.text(system) });
        let answer = named.clone().map_or(Answer::Unnamed(self.window), Answer::Named);
        self.insert(object, addresses, answer);
        named
    }

    pub(crate) fn len(&self) -> usize {
        self.young.answers.saturating_add(self.old.answers)
    }

    #[expect(clippy::option_option, reason = "as for `get`")]
    fn told(&self, answer: &Answer) -> Option<Option<Named>> {
        match answer {
            Answer::Named(named) => Some(Some(named.clone())),
            Answer::Unnamed(window) => (self.window.saturating_sub(*window) < NEGATIVE_WINDOWS).then_some(None),
        }
    }

    fn insert(&mut self, object: ObjectId, addresses: Range<u64>, answer: Answer) {
        if self.young.answers >= self.half || self.text_bytes >= MAX_TEXT_BYTES {
            self.age();
        }
        self.young.insert(object, addresses, answer);
    }

    /// What is in the older half is forgotten.
    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.texts = FxHashSet::default();
        self.text_bytes = 0;
        self.begun = self.window;
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

    const OBJECT: ObjectId = ObjectId(1);

    fn key(n: u64) -> Key {
        (OBJECT, ElfAddress(n))
    }

    fn put(cache: &mut Cache, n: u64, name: Option<(&str, &str)>) -> Option<Named> {
        cache.put(OBJECT, n..n + 1, name)
    }

    fn name(cache: &mut Cache, n: u64) -> Option<String> {
        cache.get(key(n)).flatten().map(|named| named.name.to_string())
    }

    #[test]
    fn a_name_is_that_of_all_its_addresses() {
        let mut cache = Cache::new(10);
        cache.put(OBJECT, 10..20, Some(("f", "f")));
        cache.put(OBJECT, 30..40, Some(("g", "g")));
        for (address, want) in [(9, None), (10, Some("f")), (19, Some("f")), (20, None), (29, None), (35, Some("g"))] {
            assert_eq!(name(&mut cache, address).as_deref(), want, "{address}");
        }
        assert_eq!(cache.get((ObjectId(2), ElfAddress(15))), None);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_name_takes_the_place_of_what_was_said_of_its_addresses() {
        let mut cache = Cache::new(10);
        put(&mut cache, 15, None);
        put(&mut cache, 20, None);
        assert_eq!(cache.get(key(15)), Some(None));
        cache.put(OBJECT, 10..20, Some(("f", "f")));
        assert_eq!((name(&mut cache, 15).as_deref(), cache.get(key(20)), cache.len()), (Some("f"), Some(None), 2));
        cache.put(OBJECT, 10..20, Some(("g", "g")));
        assert_eq!((name(&mut cache, 15).as_deref(), cache.len()), (Some("g"), 2));
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut cache = Cache::new(10);
        for n in 0..100 {
            put(&mut cache, n, Some(("name", "system")));
            assert_eq!(name(&mut cache, 0).as_deref(), Some("name"));
            assert!(cache.len() <= 10);
        }
        assert_eq!(cache.get(key(1)), None);
    }

    #[test]
    fn what_is_not_used_goes_with_time() {
        let mut cache = Cache::new(1000);
        cache.put(OBJECT, 0..5, Some(("used", "used")));
        cache.put(OBJECT, 5..9, Some(("gone", "gone")));
        for _ in 0..2 * HALF_WINDOWS {
            cache.next_window();
            assert_eq!(name(&mut cache, 3).as_deref(), Some("used"));
        }
        assert_eq!((cache.get(key(5)), cache.len()), (None, 1));
    }

    #[test]
    fn long_names_are_bounded_by_their_bytes() {
        let mut cache = Cache::new(1 << 20);
        for n in 0..20_000 {
            let long = format!("{n:04096}");
            put(&mut cache, n, Some((&long, &long)));
            // What is used stays, and does not make the rest grow.
            assert!(cache.get(key(0)).flatten().is_some());
            assert!(cache.len() * 4096 <= 2 * MAX_TEXT_BYTES + 4 * 4096, "{}", cache.len());
        }
    }

    #[test]
    fn no_name_is_asked_for_again_later() {
        let mut cache = Cache::new(10);
        put(&mut cache, 1, None);
        assert_eq!(cache.get(key(1)), Some(None));
        for _ in 0..NEGATIVE_WINDOWS {
            cache.next_window();
        }
        assert_eq!(cache.get(key(1)), None);
    }

    #[test]
    fn equal_texts_are_one() {
        let mut cache = Cache::new(10);
        let (a, b) = (put(&mut cache, 1, Some(("f", "f"))).unwrap(), put(&mut cache, 2, Some(("f", "_Z1f"))).unwrap());
        assert!(Arc::ptr_eq(&a.name, &b.name) && Arc::ptr_eq(&a.name, &a.system_name));
    }
}
