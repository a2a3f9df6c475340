//! A profile's tables while they grow: every row once.
//!
//! **In**: rows. **Out**: their indices, and at the end a [`Profile`]. **Limits**: the window's; an index is 32 bits,
//! which no window fills.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use profile::named::{Entry, Function, Line, Location, LocationKind, Mapping};
use profile::{Owner, Profile, Span};
use rustc_hash::FxHashMap;

/// A table whose rows are unique.
struct Unique<T> {
    rows: Vec<T>,
    index: FxHashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Unique<T> {
    fn new() -> Self {
        Self { rows: Vec::new(), index: FxHashMap::default() }
    }

    fn put<Q: ?Sized + Eq + Hash>(&mut self, row: &Q, own: impl FnOnce() -> T) -> u32
    where
        T: Borrow<Q>,
    {
        if let Some(&i) = self.index.get(row) {
            return i;
        }
        let row = own();
        let i = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.rows.push(row.clone());
        self.index.insert(row, i);
        i
    }
}

/// The tables of one profile.
pub(crate) struct Tables {
    strings: Unique<Arc<str>>,
    mappings: Unique<Mapping>,
    functions: Unique<Function>,
    locations: Unique<Location>,
    stacks: Unique<Box<[u32]>>,
    pub(crate) owners: Vec<Arc<Owner>>,
    pub(crate) owner_mappings: Vec<Option<u32>>,
    entries: Vec<Entry>,
    pairs: FxHashMap<(u32, u32), usize>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        let mut tables = Self {
            strings: Unique::new(),
            mappings: Unique::new(),
            functions: Unique::new(),
            locations: Unique::new(),
            stacks: Unique::new(),
            owners: Vec::new(),
            owner_mappings: Vec::new(),
            entries: Vec::new(),
            pairs: FxHashMap::default(),
        };
        tables.text("");
        tables
    }

    pub(crate) fn text(&mut self, text: &str) -> u32 {
        self.strings.put(text, || Arc::from(text))
    }

    /// The same, without another copy.
    fn shared(&mut self, text: &Arc<str>) -> u32 {
        self.strings.put(&**text, || Arc::clone(text))
    }

    pub(crate) fn mapping(&mut self, mapping: &Mapping) -> u32 {
        self.mappings.put(mapping, || mapping.clone())
    }

    pub(crate) fn function(&mut self, name: &Arc<str>, system_name: &Arc<str>) -> u32 {
        let function = Function { name: self.shared(name), system_name: self.shared(system_name), file: 0 };
        self.functions.put(&function, || function)
    }

    pub(crate) fn location(
        &mut self,
        mapping: Option<u32>,
        address: u64,
        function: u32,
        (kind, named): (LocationKind, bool),
    ) -> u32 {
        let location =
            Location { mapping, address, lines: std::iter::once(Line { function, line: 0 }).collect(), kind, named };
        self.locations.put(&location, || location.clone())
    }

    pub(crate) fn stack(&mut self, locations: &[u32]) -> u32 {
        self.stacks.put(locations, || locations.into())
    }

    /// Adds samples; to the entry of the same owner and stack, if there is one.
    pub(crate) fn entry(&mut self, owner: u32, stack: u32, count: u64, times_unix_ns: &[u64]) {
        if count == 0 {
            return;
        }
        let complete = times_unix_ns.len() as u64 == count;
        let times_unix_ns = if complete { times_unix_ns } else { &[] };
        let next = self.entries.len();
        let slot = *self.pairs.entry((owner, stack)).or_insert(next);
        match self.entries.get_mut(slot) {
            Some(known) => {
                known.count = known.count.saturating_add(count);
                if complete && !known.times_unix_ns.is_empty() {
                    known.times_unix_ns.extend_from_slice(times_unix_ns);
                } else {
                    known.times_unix_ns.clear();
                }
            }
            None => self.entries.push(Entry { owner, stack, count, times_unix_ns: times_unix_ns.to_vec() }),
        }
    }

    /// The profile, in no more memory than it needs: it may be kept for the page.
    pub(crate) fn into_profile(self, span: Span, period_ns: u64) -> Profile {
        Profile {
            span,
            period_ns,
            strings: fitting(self.strings.rows),
            mappings: fitting(self.mappings.rows),
            functions: fitting(self.functions.rows),
            locations: fitting(self.locations.rows),
            stacks: fitting(self.stacks.rows),
            owners: self.owners,
            owner_mappings: self.owner_mappings,
            entries: fitting(self.entries),
        }
    }
}

/// Rows without room for more.
fn fitting<T>(mut rows: Vec<T>) -> Vec<T> {
    rows.shrink_to_fit();
    rows
}
