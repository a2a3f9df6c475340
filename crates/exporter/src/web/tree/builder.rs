//! Stacks into a tree in memory, before anything is left out.

use std::borrow::Cow;
use std::sync::Arc;

use profile::named::LocationKind;
use profile::{Owner, Profile};
use rustc_hash::FxHashMap;

use super::{Grouping, Kind, MAX_BUILT_NODES, TreeOptions};
use crate::names::Names;

/// What makes two frames the same box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    pub(super) name: u32,
    pub(super) binary: u32,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) frame: u32,
    pub(super) own: u64,
    pub(super) total: u64,
    /// Samples that lie deeper, but were not built.
    pub(super) unbuilt: u64,
}

/// A function's samples.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) own: u64,
    pub(super) total: u64,
    /// The entry that counted into `total` last: a recursion counts once.
    pub(super) entry: u64,
}

pub(super) struct Builder {
    pub(super) options: TreeOptions,
    pub(super) texts: Texts,
    pub(super) frames: Vec<Frame>,
    pub(super) frame_index: FxHashMap<Frame, u32>,
    pub(super) nodes: Vec<Node>,
    pub(super) children: FxHashMap<(u32, u32), u32>,
    pub(super) sums: Vec<Sum>,
    pub(super) entries: u64,
    pub(super) range_samples: u64,
    pub(super) processes: FxHashMap<(u32, u32), u64>,
    /// By namespace, pod, container and service.
    pub(super) places: FxHashMap<[u32; 4], u64>,
    /// The path of the entry at hand, outermost first; kept to spare allocations.
    pub(super) path: Vec<u32>,
}

impl Builder {
    pub(super) fn new(options: TreeOptions) -> Self {
        let mut builder = Self {
            options,
            texts: Texts::default(),
            frames: Vec::new(),
            frame_index: FxHashMap::default(),
            nodes: Vec::new(),
            children: FxHashMap::default(),
            sums: Vec::new(),
            entries: 0,
            range_samples: 0,
            processes: FxHashMap::default(),
            places: FxHashMap::default(),
            path: Vec::new(),
        };
        let name = builder.texts.put("all");
        let frame = builder.frame(Frame { name, binary: 0, kind: Kind::Root });
        builder.nodes.push(Node { parent: 0, frame, own: 0, total: 0, unbuilt: 0 });
        builder
    }

    fn frame(&mut self, frame: Frame) -> u32 {
        let next = row(self.frames.len());
        let id = *self.frame_index.entry(frame).or_insert(next);
        if id == next {
            self.frames.push(frame);
            self.sums.push(Sum::default());
        }
        id
    }

    pub(super) fn add(&mut self, profile: &Profile) {
        let locations: Vec<Vec<u32>> = (0..profile.locations.len()).map(|i| self.location(profile, i)).collect();
        let owners: Vec<Told> = profile.owners.iter().map(|o| self.owner(o)).collect();
        for entry in &profile.entries {
            let Some(owner) = owners.get(entry.owner as usize) else { continue };
            let Some(stack) = profile.stacks.get(entry.stack as usize) else { continue };
            self.range_samples += entry.count;
            *self.processes.entry(owner.process).or_default() += entry.count;
            if let Some(place) = owner.place {
                *self.places.entry(place).or_default() += entry.count;
            }
            let Some(groups) = &owner.groups else { continue };
            let mut path = std::mem::take(&mut self.path);
            path.clear();
            path.extend_from_slice(groups);
            let frames = stack.iter().rev().filter_map(|&l| locations.get(l as usize));
            path.extend(frames.flatten());
            self.count(&path, groups.len(), entry.count);
            self.path = path;
        }
    }

    /// Counts one entry: `path` is outermost first and starts with `groups` nodes that are no functions.
    fn count(&mut self, path: &[u32], groups: usize, count: u64) {
        self.entries += 1;
        let mut at = 0_u32;
        let mut built = true;
        self.node(at, |n| n.total += count);
        for &frame in path {
            let next = row(self.nodes.len());
            at = match self.children.get(&(at, frame)) {
                Some(&known) => known,
                None if self.nodes.len() < MAX_BUILT_NODES => {
                    self.children.insert((at, frame), next);
                    self.nodes.push(Node { parent: at, frame, own: 0, total: 0, unbuilt: 0 });
                    next
                }
                None => {
                    built = false;
                    break;
                }
            };
            self.node(at, |n| n.total += count);
        }
        self.node(at, |n| if built { n.own += count } else { n.unbuilt += count });
        let functions = path.get(groups..).unwrap_or_default();
        for &frame in functions {
            let entry = self.entries;
            if let Some(sum) = self.sums.get_mut(frame as usize).filter(|sum| sum.entry != entry) {
                sum.total += count;
                sum.entry = entry;
            }
        }
        if let Some(sum) = functions.last().and_then(|&f| self.sums.get_mut(f as usize)) {
            sum.own += count;
        }
    }

    fn node(&mut self, at: u32, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(at as usize) {
            change(node);
        }
    }

    /// The frames of a location, outermost first.
    fn location(&mut self, profile: &Profile, index: usize) -> Vec<u32> {
        let Some(location) = profile.locations.get(index) else { return Vec::new() };
        let kind = match (location.kind, location.named) {
            (LocationKind::Kernel, _) => Kind::Kernel,
            (LocationKind::Cut, _) => Kind::Cut,
            (LocationKind::Native, true) => Kind::User,
            (LocationKind::Native, false) => Kind::Unnamed,
        };
        let path = location.mapping.and_then(|m| profile.mappings.get(m as usize)).map_or("", |m| profile.text(m.path));
        let binary = self.texts.put(path);
        let lines = location.lines.iter().rev();
        lines
            .map(|line| {
                let function = profile.functions.get(line.function as usize);
                let name = self.texts.put(function.map_or("", |f| profile.text(f.name)));
                self.frame(Frame { name, binary, kind })
            })
            .collect()
    }

    fn owner(&mut self, owner: &Owner) -> Told {
        let names = Names::of(owner);
        let tgid = owner.process.tgid;
        let process = (tgid, self.texts.put(&owner.process_name));
        let place = [names.namespace, names.pod, names.container, names.service];
        let place = place.iter().any(|name| !name.is_empty()).then(|| place.map(|name| self.texts.put(name)));
        if !self.options.filter.takes(owner) {
            return Told { process, place, groups: None };
        }
        let groups = self
            .groups_of(owner, &names)
            .into_iter()
            .map(|(kind, text, binary)| {
                let (name, binary) = (self.texts.put(&text), self.texts.put(binary));
                self.frame(Frame { name, binary, kind })
            })
            .collect();
        Told { process, place, groups: Some(groups) }
    }

    /// Kind, name and file of the nodes between the root and an owner's outermost frames.
    fn groups_of<'o>(&self, owner: &'o Owner, names: &Names<'o>) -> Vec<(Kind, Cow<'o, str>, &'o str)> {
        let path = &*owner.executable_path;
        let instance = || Cow::Owned(format!("{} [{}]", owner.process_name, owner.process.tgid));
        let thread = || match owner.tid {
            Some(tid) => Cow::Owned(format!("{} [{tid}]", owner.comm)),
            None => Cow::Borrowed(&*owner.comm),
        };
        // A program is its name: its instances may run from different paths.
        let program = (Kind::Process, Cow::Borrowed(&*owner.process_name), "");
        match self.options.grouping {
            Grouping::Merged => vec![],
            Grouping::Program => vec![program],
            Grouping::Process => vec![(Kind::Process, instance(), path)],
            Grouping::Thread => vec![(Kind::Process, instance(), path), (Kind::Thread, thread(), path)],
            Grouping::Container => {
                let name = joined([names.namespace, names.pod, names.container], "(no container)");
                vec![(Kind::Container, name, ""), program]
            }
            Grouping::Pod if names.pod.is_empty() => vec![(Kind::Pod, Cow::Borrowed("(no pod)"), ""), program],
            Grouping::Pod => {
                let pod = joined([names.namespace, names.pod], "");
                vec![(Kind::Pod, pod, ""), (Kind::Container, joined([names.container], "(no container)"), "")]
            }
            Grouping::Service => vec![(Kind::Service, joined([names.service], "(no service)"), ""), program],
        }
    }
}

/// What is told of an owner.
struct Told {
    /// Its id and name.
    process: (u32, u32),
    /// Namespace, pod, container, service, where there are any.
    place: Option<[u32; 4]>,
    /// The nodes between the root and its outermost frames; none: the filter does not take it.
    groups: Option<Vec<u32>>,
}

/// Names with slashes between them, or what stands for none.
fn joined<'n, const N: usize>(names: [&'n str; N], none: &'n str) -> Cow<'n, str> {
    let mut known = names.into_iter().filter(|name| !name.is_empty());
    match (known.next(), known.next()) {
        (None, _) => Cow::Borrowed(none),
        (Some(one), None) => Cow::Borrowed(one),
        (Some(first), Some(second)) => {
            Cow::Owned(known.fold(format!("{first}/{second}"), |all, name| format!("{all}/{name}")))
        }
    }
}

/// Texts, each once; row 0 is empty.
#[derive(Debug)]
pub(super) struct Texts {
    rows: Vec<Arc<str>>,
    index: FxHashMap<Arc<str>, u32>,
}

impl Default for Texts {
    fn default() -> Self {
        let empty: Arc<str> = Arc::from("");
        Self { rows: vec![Arc::clone(&empty)], index: FxHashMap::from_iter([(empty, 0)]) }
    }
}

impl Texts {
    fn put(&mut self, text: &str) -> u32 {
        if let Some(&known) = self.index.get(text) {
            return known;
        }
        let id = row(self.rows.len());
        let text: Arc<str> = Arc::from(text);
        self.rows.push(Arc::clone(&text));
        self.index.insert(text, id);
        id
    }

    pub(super) fn get(&self, row: u32) -> &str {
        self.rows.get(row as usize).map_or("", |text| text)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

/// A row's number; tables here stay far below 2^32 rows.
pub(super) fn row(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
