//! Several profiles into one, by content.
//!
//! **In**: profiles that pass [`Profile::check`], all of one period. **Out**: one profile that covers the union of
//! their spans, with equal (owner, stack) pairs added up. An index out of range is left out, never a panic.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Owner;
use crate::named::{Entry, Function, Line, Location, Mapping, Profile};

/// Merges profiles; the order of first appearance decides the order of every table.
#[must_use]
pub fn merge<'a>(profiles: impl IntoIterator<Item = &'a Profile>) -> Profile {
    let mut out = Merger::default();
    for profile in profiles {
        out.add(profile);
    }
    out.into_profile()
}

/// A table whose rows are unique, and where each row is.
struct Interner<T> {
    rows: Vec<T>,
    index: FxHashMap<T, u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), index: FxHashMap::default() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn put(&mut self, row: T) -> u32 {
        if let Some(&i) = self.index.get(&row) {
            return i;
        }
        let i = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.rows.push(row.clone());
        self.index.insert(row, i);
        i
    }
}

#[derive(Default)]
struct Merger {
    head: Option<Profile>,
    strings: Interner<Arc<str>>,
    mappings: Interner<Mapping>,
    functions: Interner<Function>,
    locations: Interner<Location>,
    stacks: Interner<Box<[u32]>>,
    owners: Interner<Arc<Owner>>,
    owner_mappings: Vec<Option<u32>>,
    entries: Vec<Entry>,
    pairs: FxHashMap<(u32, u32), usize>,
}

impl Merger {
    fn add(&mut self, p: &Profile) {
        let head =
            self.head.get_or_insert_with(|| Profile { span: p.span, period_ns: p.period_ns, ..Profile::default() });
        head.span = head.span.union(&p.span);
        self.strings.put(Arc::from(""));
        let strings: Vec<u32> = p.strings.iter().map(|s| self.strings.put(Arc::clone(s))).collect();
        let at = |table: &[u32], i: u32| table.get(i as usize).copied();
        let text = |i: u32| at(&strings, i).unwrap_or(0);
        let mappings: Vec<u32> =
            p.mappings.iter().map(|m| self.mappings.put(Mapping { path: text(m.path), ..m.clone() })).collect();
        let functions: Vec<u32> = p
            .functions
            .iter()
            .map(|f| {
                self.functions.put(Function {
                    name: text(f.name),
                    system_name: text(f.system_name),
                    file: text(f.file),
                })
            })
            .collect();
        let locations: Vec<u32> = p
            .locations
            .iter()
            .map(|l| {
                let lines = l
                    .lines
                    .iter()
                    .filter_map(|x| Some(Line { function: at(&functions, x.function)?, line: x.line }))
                    .collect();
                let mapping = l.mapping.and_then(|m| at(&mappings, m));
                self.locations.put(Location { mapping, lines, ..l.clone() })
            })
            .collect();
        let stacks: Vec<u32> =
            p.stacks.iter().map(|s| self.stacks.put(s.iter().filter_map(|&l| at(&locations, l)).collect())).collect();
        let owners: Vec<u32> = p
            .owners
            .iter()
            .enumerate()
            .map(|(i, o)| {
                let owner = self.owners.put(Arc::clone(o));
                let mapping = p.owner_mappings.get(i).copied().flatten().and_then(|m| at(&mappings, m));
                let slot = owner as usize;
                if slot == self.owner_mappings.len() {
                    self.owner_mappings.push(mapping);
                } else if let Some(known) = self.owner_mappings.get_mut(slot) {
                    *known = known.or(mapping);
                }
                owner
            })
            .collect();
        for e in &p.entries {
            let (Some(owner), Some(stack)) = (at(&owners, e.owner), at(&stacks, e.stack)) else { continue };
            let next = self.entries.len();
            let slot = *self.pairs.entry((owner, stack)).or_insert(next);
            match self.entries.get_mut(slot) {
                Some(known) => {
                    known.count += e.count;
                    known.times_unix_ns.extend_from_slice(&e.times_unix_ns);
                }
                None => self.entries.push(Entry { owner, stack, ..e.clone() }),
            }
        }
    }

    fn into_profile(self) -> Profile {
        let head = self.head.unwrap_or_default();
        let mut strings = self.strings.rows;
        if strings.is_empty() {
            strings.push(Arc::from(""));
        }
        Profile {
            span: head.span,
            period_ns: head.period_ns,
            strings,
            mappings: self.mappings.rows,
            functions: self.functions.rows,
            locations: self.locations.rows,
            stacks: self.stacks.rows,
            owners: self.owners.rows,
            owner_mappings: self.owner_mappings,
            entries: self.entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::named::LocationKind;
    use crate::{BuildId, ProcessKey, Span};

    /// A profile from (process, stack of function numbers, count), with tables in an order of its own.
    fn profile(rows: &[(u32, Vec<u8>, u64)], reverse: bool) -> Profile {
        let mut names: Vec<u8> = rows.iter().flat_map(|r| r.1.clone()).collect();
        names.sort_unstable();
        names.dedup();
        if reverse {
            names.reverse();
        }
        let mut p = Profile {
            span: Span { from_mono_ns: 5, to_mono_ns: 10, from_unix_ns: 5, to_unix_ns: 10 },
            period_ns: 1,
            strings: vec!["".into(), "bin".into()],
            mappings: vec![Mapping {
                path: 1,
                build_id: BuildId::default(),
                memory_start: 0,
                memory_limit: 0,
                file_offset: 0,
                kernel: false,
            }],
            ..Profile::default()
        };
        for n in &names {
            let name = u32::try_from(p.strings.len()).unwrap();
            p.strings.push(format!("f{n}").into());
            let function = u32::try_from(p.functions.len()).unwrap();
            p.functions.push(Function { name, system_name: name, file: 0 });
            p.locations.push(Location {
                mapping: Some(0),
                address: u64::from(*n),
                lines: std::iter::once(Line { function, line: 0 }).collect(),
                kind: LocationKind::Native,
                named: true,
            });
        }
        for (tgid, stack, count) in rows {
            let stack: Box<[u32]> =
                stack.iter().map(|n| u32::try_from(names.iter().position(|x| x == n).unwrap()).unwrap()).collect();
            let owner =
                Arc::new(Owner { process: ProcessKey { tgid: *tgid, leader_start_mono_ns: 1 }, ..Owner::default() });
            let o = p.owners.iter().position(|x| *x == owner).unwrap_or_else(|| {
                p.owners.push(owner);
                p.owner_mappings.push(Some(0));
                p.owners.len() - 1
            });
            let s = p.stacks.iter().position(|x| *x == stack).unwrap_or_else(|| {
                p.stacks.push(stack);
                p.stacks.len() - 1
            });
            let (owner, stack) = (u32::try_from(o).unwrap(), u32::try_from(s).unwrap());
            match p.entries.iter_mut().find(|e| e.owner == owner && e.stack == stack) {
                Some(e) => e.count += count,
                None => p.entries.push(Entry { owner, stack, count: *count, times_unix_ns: vec![] }),
            }
        }
        p
    }

    /// What a profile says, without its indices.
    fn content(p: &Profile) -> BTreeMap<(u32, Vec<String>), u64> {
        let mut out = BTreeMap::new();
        for e in &p.entries {
            let names = p.stacks[e.stack as usize].iter().map(|&l| p.location_name(l).to_owned()).collect();
            *out.entry((p.owners[e.owner as usize].process.tgid, names)).or_insert(0) += e.count;
        }
        out
    }

    fn rows() -> impl Strategy<Value = Vec<(u32, Vec<u8>, u64)>> {
        proptest::collection::vec((1u32..4, proptest::collection::vec(0u8..6, 1..5), 1u64..9), 0..20)
    }

    proptest! {
        #[test]
        fn merging_adds_up(a in rows(), b in rows(), c in rows()) {
            let parts = [profile(&a, false), profile(&b, true), profile(&c, false)];
            let merged = merge(&parts);
            merged.check().unwrap();
            let mut want = BTreeMap::new();
            for part in &parts {
                part.check().unwrap();
                for (k, v) in content(part) {
                    *want.entry(k).or_insert(0) += v;
                }
            }
            prop_assert_eq!(content(&merged), want);
            // Merging in steps is merging at once.
            let steps = merge([&merge(&parts[..2]), &parts[2]]);
            prop_assert_eq!(content(&steps), content(&merged));
        }
    }

    #[test]
    fn nothing_merges_to_a_valid_profile() {
        merge([]).check().unwrap();
    }
}
