//! One window's samples by the labels of the metric. A pure function, but for the keys that are drawn by lot.
//!
//! **In**: a profile. **Out**: [`Counted`]. **Limits**: as many rows as the profile has pairs of owner and function.
//!
//! A row's key is a hash of its label values as they will be told, so that what is told alike is counted together. The
//! hash has 128 bits and a secret, so that nobody finds two names of one key; and if: their samples count together.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, RandomState};

use profile::named::LocationKind;
use profile::{Owner, Profile};
use rustc_hash::FxHashMap;

use super::{AggregatedLabel as Label, MAX_VALUE_BYTES, OTHER, UNNAMED};
use crate::names::Names;

/// What tells rows apart: hashes of what the owner and what the function says.
pub(super) type Key = (u64, u64);

/// Label values, in the order of [`Label::ALL`]; those of labels that are not wanted are not there.
pub(super) type Values = Vec<(Label, String)>;

/// One function of one owner.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) key: Key,
    owner: u32,
    function: u32,
    /// Samples whose innermost function it is.
    pub(super) own: u64,
    /// Samples with it elsewhere in the stack.
    pub(super) below: u64,
}

/// One window.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) rows: Vec<Row>,
    owners: Distinct,
    functions: Distinct,
}

impl Counted {
    /// The label values of a row, without `self`.
    pub(super) fn values(&self, row: &Row) -> impl Iterator<Item = &(Label, String)> {
        self.owners.values(row.owner).iter().chain(self.functions.values(row.function))
    }
}

/// Label values, each set of them once.
#[derive(Debug, Default)]
struct Distinct {
    rows: Vec<(u64, Values)>,
    index: FxHashMap<u64, u32>,
}

impl Distinct {
    fn put(&mut self, hash: u64, values: impl FnOnce() -> Values) -> u32 {
        let next = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let at = *self.index.entry(hash).or_insert(next);
        if at == next {
            self.rows.push((hash, values()));
        }
        at
    }

    fn values(&self, at: u32) -> &[(Label, String)] {
        self.rows.get(at as usize).map_or(&[], |(_, values)| values)
    }

    fn hash(&self, at: u32) -> u64 {
        self.rows.get(at as usize).map_or(0, |(hash, _)| *hash)
    }
}

/// What a frame adds to a sample.
#[derive(Clone, Copy, Debug)]
struct Place {
    function: u32,
    /// A mark where the stack was cut: no function, but a sample that has nothing else is counted as it.
    cut: bool,
}

/// Counts windows by some labels.
#[derive(Debug)]
pub(super) struct Counter {
    labels: Vec<Label>,
    with_callers: bool,
    owner_keys: RandomState,
    function_keys: RandomState,
}

impl Counter {
    pub(super) fn new(labels: &[Label]) -> Self {
        let labels: Vec<Label> = Label::ALL.into_iter().filter(|l| labels.contains(l)).collect();
        let with_callers = labels.contains(&Label::SelfTime);
        Self { labels, with_callers, owner_keys: RandomState::new(), function_keys: RandomState::new() }
    }

    /// The labels, each once, in the order of [`Label::ALL`].
    pub(super) fn labels(&self) -> &[Label] {
        &self.labels
    }

    pub(super) fn count(&self, profile: &Profile) -> Counted {
        let mut out = Counted::default();
        let owners: Vec<u32> = profile.owners.iter().map(|owner| self.owner(owner, &mut out)).collect();
        let locations: Vec<Vec<Place>> =
            (0..profile.locations.len()).map(|at| self.location(profile, at, &mut out)).collect();
        let nobody = self.owner(&Owner::default(), &mut out);
        let nothing = self.function("", "", "", 0, &mut out);
        let mut sums: FxHashMap<(u32, u32), (u64, u64)> = FxHashMap::default();
        // The entry that met each function last: a recursion counts once.
        let mut met = vec![usize::MAX; out.functions.rows.len()];
        for (number, entry) in profile.entries.iter().enumerate() {
            let owner = owners.get(entry.owner as usize).copied().unwrap_or(nobody);
            let stack = profile.stacks.get(entry.stack as usize).map_or(&[][..], |stack| stack);
            let mut frames = stack.iter().filter_map(|&l| locations.get(l as usize)).flatten();
            let leaf = frames.next().map_or(nothing, |place| place.function);
            sums.entry((owner, leaf)).or_default().0 += entry.count;
            if !self.with_callers {
                continue;
            }
            if let Some(met) = met.get_mut(leaf as usize) {
                *met = number;
            }
            for place in frames.filter(|place| !place.cut) {
                let Some(met) = met.get_mut(place.function as usize).filter(|met| **met != number) else { continue };
                *met = number;
                sums.entry((owner, place.function)).or_default().1 += entry.count;
            }
        }
        out.rows = sums
            .into_iter()
            .map(|((owner, function), (own, below))| {
                let key = (out.owners.hash(owner), out.functions.hash(function));
                Row { key, owner, function, own, below }
            })
            .collect();
        out
    }

    fn owner(&self, owner: &Owner, out: &mut Counted) -> u32 {
        let names = Names::of(owner);
        let pid = if owner.process.tgid == 0 { String::new() } else { owner.process.tgid.to_string() };
        let value = |label| match label {
            Label::Pid => Some(Cow::Borrowed(pid.as_str())),
            Label::Namespace => Some(cut(names.namespace)),
            Label::Pod => Some(cut(names.pod)),
            Label::Container => Some(cut(names.container)),
            Label::Service => Some(cut(names.service)),
            Label::Bin | Label::Symbol | Label::File | Label::Line | Label::SelfTime => None,
        };
        put(&self.labels, &self.owner_keys, value, &mut out.owners)
    }

    /// The functions at a location, innermost first.
    fn location(&self, profile: &Profile, at: usize, out: &mut Counted) -> Vec<Place> {
        let Some(location) = profile.locations.get(at) else { return Vec::new() };
        let mapping = location.mapping.and_then(|m| profile.mappings.get(m as usize));
        // Code of no file says in its name what it is in: `[anon]+0x12`.
        let no_file = || profile.location_name(u32::try_from(at).unwrap_or(u32::MAX)).rsplit_once("+0x");
        let bin = match mapping {
            Some(mapping) => profile.text(mapping.path),
            None if location.named => "",
            None => no_file().map_or("", |(name, _)| name),
        };
        let is_cut = location.kind == LocationKind::Cut;
        let place = |line: &profile::named::Line| {
            let function = profile.functions.get(line.function as usize);
            // Such a name holds an address: every instruction would be a series.
            let symbol = match function {
                Some(f) if location.named || is_cut => profile.text(f.name),
                _ => UNNAMED,
            };
            let file = function.map_or("", |f| profile.text(f.file));
            Place { function: self.function(bin, symbol, file, line.line, out), cut: is_cut }
        };
        location.lines.iter().map(place).collect()
    }

    fn function(&self, bin: &str, symbol: &str, file: &str, line: u32, out: &mut Counted) -> u32 {
        let number = if line == 0 { String::new() } else { line.to_string() };
        // Nobody may be taken for the rest of all.
        let symbol = if symbol == OTHER { Cow::Borrowed("[(other)]") } else { cut(symbol) };
        let value = |label| match label {
            Label::Bin => Some(cut(bin)),
            Label::Symbol => Some(Cow::Borrowed(&*symbol)),
            Label::File => Some(cut(file)),
            Label::Line => Some(Cow::Borrowed(number.as_str())),
            Label::Pid | Label::SelfTime | Label::Namespace | Label::Pod | Label::Container | Label::Service => None,
        };
        put(&self.labels, &self.function_keys, value, &mut out.functions)
    }
}

fn put<'v>(
    labels: &[Label],
    keys: &RandomState,
    value: impl Fn(Label) -> Option<Cow<'v, str>>,
    rows: &mut Distinct,
) -> u32 {
    let mut hasher = keys.build_hasher();
    let values = || labels.iter().filter_map(|&label| Some((label, value(label)?)));
    values().for_each(|(_, value)| value.hash(&mut hasher));
    rows.put(std::hash::Hasher::finish(&hasher), || values().map(|(l, v)| (l, v.into_owned())).collect())
}

fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_VALUE_BYTES {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(MAX_VALUE_BYTES - '…'.len_utf8());
    Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default()))
}
