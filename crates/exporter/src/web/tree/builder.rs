//! Stacks into a tree in memory, before anything is left out.

use std::sync::Arc;

use profile::named::LocationKind;
use profile::{Owner, Profile};
use rustc_hash::FxHashMap;

use super::{Grouping, Kind, MAX_BUILT_NODES, TreeOptions};

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
        let owners: Vec<(u32, Vec<u32>)> = profile.owners.iter().map(|o| self.owner(o)).collect();
        for entry in &profile.entries {
            let (Some(owner), Some((process_name, groups))) =
                (profile.owners.get(entry.owner as usize), owners.get(entry.owner as usize))
            else {
                continue;
            };
            let Some(stack) = profile.stacks.get(entry.stack as usize) else { continue };
            let tgid = owner.process.tgid;
            self.range_samples += entry.count;
            *self.processes.entry((tgid, *process_name)).or_default() += entry.count;
            if self.options.tgid.is_some_and(|wanted| wanted != tgid) {
                continue;
            }
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

    /// The process's name, and the nodes between the root and the owner's outermost frames.
    fn owner(&mut self, owner: &Owner) -> (u32, Vec<u32>) {
        let process_name = self.texts.put(&owner.process_name);
        let binary = self.texts.put(&owner.executable_path);
        let tgid = owner.process.tgid;
        let instance = format!("{} [{tgid}]", owner.process_name);
        let thread = match owner.tid {
            Some(tid) => format!("{} [{tid}]", owner.comm),
            None => owner.comm.to_string(),
        };
        let groups: &[(Kind, &str)] = match self.options.grouping {
            Grouping::Merged => &[],
            Grouping::Program => &[(Kind::Process, &owner.process_name)],
            Grouping::Process => &[(Kind::Process, &instance)],
            Grouping::Thread => &[(Kind::Process, &instance), (Kind::Thread, &thread)],
        };
        let groups = groups
            .iter()
            .map(|&(kind, text)| {
                let name = self.texts.put(text);
                // A program is its name: its instances may run from different paths.
                let binary = if self.options.grouping == Grouping::Program { 0 } else { binary };
                self.frame(Frame { name, binary, kind })
            })
            .collect();
        (process_name, groups)
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
