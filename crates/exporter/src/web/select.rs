//! Whole windows into one profile, of all processes or of some.

use std::borrow::Cow;
use std::sync::Arc;

use profile::named::{Entry, Function, Line, Location, Mapping};
use profile::{Profile, merge};

use super::filter::Filter;

const UNUSED: u32 = u32::MAX;

/// Merges whole windows; with a filter, only what belongs to what it takes, in tables without rows that nothing uses.
pub(super) fn select<'a>(profiles: impl IntoIterator<Item = &'a Profile>, filter: &Filter) -> Profile {
    let all = filter.is_all();
    let parts: Vec<Cow<'a, Profile>> = profiles
        .into_iter()
        .map(|profile| if all { Cow::Borrowed(profile) } else { Cow::Owned(only(profile, filter)) })
        .collect();
    merge(parts.iter().map(AsRef::as_ref))
}

/// What a filter takes. A row whose index is out of range is left out.
fn only(from: &Profile, filter: &Filter) -> Profile {
    let taken = filter.owners(from);
    let mut picker = Picker::new(from);
    for entry in &from.entries {
        if taken.get(entry.owner as usize) != Some(&true) {
            continue;
        }
        let Some(owner) = from.owners.get(entry.owner as usize) else { continue };
        let Some(stack) = from.stacks.get(entry.stack as usize) else { continue };
        let owner_row = picker.owner(entry.owner, owner);
        let stack_row = picker.stack(entry.stack, stack);
        picker.out.entries.push(Entry { owner: owner_row, stack: stack_row, ..entry.clone() });
    }
    picker.out
}

/// Copies rows of one profile to another on first use, with all that they refer to.
struct Picker<'p> {
    from: &'p Profile,
    out: Profile,
    /// For each table, the new place of each old row.
    strings: Vec<u32>,
    mappings: Vec<u32>,
    functions: Vec<u32>,
    locations: Vec<u32>,
    stacks: Vec<u32>,
    owners: Vec<u32>,
}

impl<'p> Picker<'p> {
    fn new(from: &'p Profile) -> Self {
        let out =
            Profile { span: from.span, period_ns: from.period_ns, strings: vec![Arc::from("")], ..Profile::default() };
        let mut strings = vec![UNUSED; from.strings.len()];
        if let Some(empty) = strings.first_mut() {
            *empty = 0;
        }
        Self {
            from,
            out,
            strings,
            mappings: vec![UNUSED; from.mappings.len()],
            functions: vec![UNUSED; from.functions.len()],
            locations: vec![UNUSED; from.locations.len()],
            stacks: vec![UNUSED; from.stacks.len()],
            owners: vec![UNUSED; from.owners.len()],
        }
    }

    fn owner(&mut self, old: u32, owner: &Arc<profile::Owner>) -> u32 {
        if let Some(known) = known(&self.owners, old) {
            return known;
        }
        let mapping = self.from.owner_mappings.get(old as usize).copied().flatten();
        let mapping = mapping.and_then(|m| self.mapping(m));
        self.out.owner_mappings.push(mapping);
        put(&mut self.owners, old, &mut self.out.owners, Arc::clone(owner))
    }

    fn stack(&mut self, old: u32, stack: &[u32]) -> u32 {
        if let Some(known) = known(&self.stacks, old) {
            return known;
        }
        let stack = stack.iter().filter_map(|&l| self.location(l)).collect();
        put(&mut self.stacks, old, &mut self.out.stacks, stack)
    }

    fn location(&mut self, old: u32) -> Option<u32> {
        if let Some(known) = known(&self.locations, old) {
            return Some(known);
        }
        let location = self.from.locations.get(old as usize)?;
        let lines = location
            .lines
            .iter()
            .filter_map(|line| Some(Line { function: self.function(line.function)?, line: line.line }))
            .collect();
        let mapping = location.mapping.and_then(|m| self.mapping(m));
        let location = Location { mapping, lines, ..location.clone() };
        Some(put(&mut self.locations, old, &mut self.out.locations, location))
    }

    fn function(&mut self, old: u32) -> Option<u32> {
        if let Some(known) = known(&self.functions, old) {
            return Some(known);
        }
        let function = self.from.functions.get(old as usize)?;
        let function = Function {
            name: self.string(function.name),
            system_name: self.string(function.system_name),
            file: self.string(function.file),
        };
        Some(put(&mut self.functions, old, &mut self.out.functions, function))
    }

    fn mapping(&mut self, old: u32) -> Option<u32> {
        if let Some(known) = known(&self.mappings, old) {
            return Some(known);
        }
        let mapping = self.from.mappings.get(old as usize)?;
        let mapping = Mapping { path: self.string(mapping.path), ..mapping.clone() };
        Some(put(&mut self.mappings, old, &mut self.out.mappings, mapping))
    }

    fn string(&mut self, old: u32) -> u32 {
        if let Some(known) = known(&self.strings, old) {
            return known;
        }
        let Some(text) = self.from.strings.get(old as usize) else { return 0 };
        put(&mut self.strings, old, &mut self.out.strings, Arc::clone(text))
    }
}

fn known(places: &[u32], old: u32) -> Option<u32> {
    places.get(old as usize).copied().filter(|&place| place != UNUSED)
}

fn put<T>(places: &mut [u32], old: u32, rows: &mut Vec<T>, row: T) -> u32 {
    let new = u32::try_from(rows.len()).unwrap_or(UNUSED);
    rows.push(row);
    if let Some(place) = places.get_mut(old as usize) {
        *place = new;
    }
    new
}

#[cfg(test)]
mod tests {
    use profile::named::LocationKind::{Kernel, Native};

    use super::*;
    use crate::synthetic::Maker;

    #[test]
    fn one_process_takes_only_its_own_rows_along() {
        let window = |from| {
            Maker::new(1000, from, 5)
                .add(("app", 10), "app", &[("main", "/usr/bin/app", Native), ("work", "/usr/bin/app", Native)], 60)
                .add(("db", 20), "db", &[("main", "/usr/bin/db", Native), ("read", "[kernel]", Kernel)], 5)
                .add(("db", 20), "io", &[("main", "/usr/bin/db", Native)], 2)
                .build()
        };
        let (a, b) = (window(0), window(5));
        let process = |tgid| Filter { tgid: Some(tgid), ..Filter::default() };
        let all = select([&*a, &*b], &Filter::default());
        assert_eq!(all.samples(), 134);
        let db = select([&*a, &*b], &process(20));
        assert_eq!(db.check(), Ok(()));
        assert_eq!((db.samples(), db.span, db.period_ns), (14, a.span.union(&b.span), a.period_ns));
        assert_eq!((db.owners.len(), db.functions.len(), db.mappings.len(), db.stacks.len()), (2, 2, 2, 2));
        assert!(!db.strings.iter().any(|s| &**s == "work"));
        let none = select([&*a, &*b], &process(7));
        assert_eq!((none.check(), none.samples()), (Ok(()), 0));
        assert_eq!(none.span, all.span);
    }
}
