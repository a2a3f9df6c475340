//! The entries of a profile by resource.
//!
//! **In**: a profile. **Out**: groups, the one with the most samples first. **Limits**: executables are named by whoever
//! runs them, so their number is bounded: of one container (or identity) the [`MAX_EXECUTABLES`] hottest have resources
//! of their own, and the others share one without an executable; of [`MAX_RESOURCES`] in all, what comes after is put
//! into one resource that says nothing of its processes, and is counted ([`Groups::unattributed`]).

use std::cmp::Reverse;

use profile::Profile;
use profile::named::Entry;
use rustc_hash::{FxHashMap, FxHashSet};

use super::ResourceSettings;
use super::resource::ResourceKey;

/// Executables of one container or identity that have a resource each.
pub(crate) const MAX_EXECUTABLES: usize = 64;

/// Resources of one profile.
pub(crate) const MAX_RESOURCES: usize = 4096;

/// The entries of one resource.
#[derive(Clone, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) key: ResourceKey<'a>,
    pub(crate) entries: Vec<&'a Entry>,
}

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Groups<'a> {
    pub(crate) groups: Vec<Group<'a>>,
    /// Samples whose resource found no room.
    pub(crate) unattributed: u64,
}

/// The entries by resource, the resource with the most samples first.
pub(crate) fn groups<'a>(profile: &'a Profile, settings: &ResourceSettings) -> Groups<'a> {
    let mut of_owner = vec![0_u64; profile.owners.len()];
    for e in &profile.entries {
        if let Some(samples) = of_owner.get_mut(e.owner as usize) {
            *samples += e.count;
        }
    }
    let owners: Vec<Option<ResourceKey<'a>>> = profile
        .owners
        .iter()
        .zip(&of_owner)
        .map(|(owner, &samples)| (samples > 0).then(|| ResourceKey::of(owner, settings)))
        .collect();
    let mut totals: FxHashMap<&ResourceKey<'a>, u64> = FxHashMap::default();
    for (key, samples) in owners.iter().zip(&of_owner) {
        if let Some(key) = key {
            *totals.entry(key).or_default() += samples;
        }
    }
    let (places, mut out) = places(totals);
    for e in profile.entries.iter().filter(|e| e.count > 0) {
        let key = owners.get(e.owner as usize).and_then(Option::as_ref);
        if let Some(group) = key.and_then(|key| places.get(key)).and_then(|&at| out.groups.get_mut(at)) {
            group.entries.push(e);
        }
    }
    out.groups.sort_by_cached_key(|g| Reverse(g.entries.iter().map(|e| e.count).sum::<u64>()));
    out
}

/// Which group each resource goes to; the groups are still empty.
fn places<'a, 'k>(totals: FxHashMap<&'k ResourceKey<'a>, u64>) -> (FxHashMap<&'k ResourceKey<'a>, usize>, Groups<'a>) {
    let mut hottest: Vec<_> = totals.into_iter().collect();
    // Among equals the lowest key: the result must not depend on a hash map's order.
    hottest.sort_unstable_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
    let mut executables: FxHashMap<ResourceKey<'a>, FxHashSet<(&str, &str)>> = FxHashMap::default();
    let mut index: FxHashMap<ResourceKey<'a>, usize> = FxHashMap::default();
    let mut places = FxHashMap::default();
    let mut out = Groups::default();
    for (key, samples) in hottest {
        let known = executables.entry(key.family()).or_default();
        let own = key.family() == ResourceKey::default() || {
            let room = known.len() < MAX_EXECUTABLES;
            known.contains(&key.executable()) || (room && known.insert(key.executable()))
        };
        let mut kept = if own { key.clone() } else { key.family() };
        if out.groups.len() >= MAX_RESOURCES && !index.contains_key(&kept) {
            kept = ResourceKey::default();
            out.unattributed += samples;
        }
        let next = out.groups.len();
        let at = *index.entry(kept.clone()).or_insert(next);
        if at == next {
            out.groups.push(Group { key: kept, entries: Vec::new() });
        }
        places.insert(key, at);
    }
    (places, out)
}

/// The samples of some groups.
pub(crate) fn count(groups: &[Group<'_>]) -> u64 {
    groups.iter().flat_map(|g| &g.entries).map(|e| e.count).sum()
}

/// Two halves by number of entries; none where there is but one.
pub(crate) fn halve<'a>(groups: &[Group<'a>]) -> Option<(Vec<Group<'a>>, Vec<Group<'a>>)> {
    if let [only] = groups {
        let middle = only.entries.len() / 2;
        let (first, second) = only.entries.split_at_checked(middle).filter(|(first, _)| !first.is_empty())?;
        let part = |entries: &[&'a Entry]| vec![Group { key: only.key.clone(), entries: entries.to_vec() }];
        return Some((part(first), part(second)));
    }
    let half = groups.iter().map(|g| g.entries.len()).sum::<usize>() / 2;
    let mut before = 0;
    let fits = |g: &Group<'_>| {
        before += g.entries.len();
        before <= half
    };
    let at = groups.iter().map(fits).take_while(|&f| f).count().clamp(1, groups.len().checked_sub(1)?);
    let (first, second) = groups.split_at_checked(at)?;
    Some((first.to_vec(), second.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Builder;

    /// Entries of each group, by the name of its executable.
    fn sizes(groups: &Groups<'_>) -> Vec<(String, usize)> {
        groups.groups.iter().map(|g| (g.key.executable().0.to_owned(), g.entries.len())).collect()
    }

    #[test]
    fn a_container_that_runs_ever_new_programs_is_few_resources() {
        let mut builder = Builder::window(0);
        for i in 0..200_u32 {
            let mut owner = Builder::owner(i, &format!("/tmp/{i}"), "x");
            owner.place = Builder::place("c0ffee");
            owner.identity = Builder::identity("shop", &[("container.id", "c0ffee")]);
            builder = builder.owned(owner, &["f"], u64::from(i) + 1);
        }
        let profile = builder.row(1000, "/usr/bin/host", &["f"], 1).build();
        let found = groups(&profile, &ResourceSettings::default());
        assert_eq!((found.groups.len(), found.unattributed), (MAX_EXECUTABLES + 2, 0));
        let sizes = sizes(&found);
        assert_eq!(sizes[0], (String::new(), 200 - MAX_EXECUTABLES));
        assert_eq!(sizes[1].0, "199", "the hottest keeps its name");
        assert_eq!(sizes.last().unwrap().0, "host");
        let (shared, _) = found.groups[0].key.resource(&ResourceSettings::default());
        let keys: Vec<&str> = shared.attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(keys, ["service.name", "container.id"]);
    }

    #[test]
    fn more_resources_than_allowed_are_counted() {
        let mut builder = Builder::window(0).row(0, "/bin/hot", &["f"], 9);
        let more = u32::try_from(MAX_RESOURCES).unwrap() + 9;
        // Owners of the fixture are searched one by one: make the profile by hand.
        let mut profile = {
            builder = builder.row(1, "/bin/0", &["f"], 1);
            builder.build()
        };
        for i in 1..more {
            let owner = Builder::owner(1 + i, &format!("/bin/{i}"), "x");
            profile.owners.push(owner.into());
            profile.owner_mappings.push(None);
            profile.entries.push(Entry { owner: 1 + i, stack: 0, count: 1, times_unix_ns: Vec::new() });
        }
        profile.check().unwrap();
        let found = groups(&profile, &ResourceSettings::default());
        assert_eq!(found.groups.len(), MAX_RESOURCES + 1);
        assert_eq!(found.unattributed, u64::from(more + 1) - MAX_RESOURCES as u64);
        assert_eq!(count(&found.groups), profile.samples());
    }
}
