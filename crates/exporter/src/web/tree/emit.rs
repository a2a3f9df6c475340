//! The built tree into columns: the small is summed up, the big comes first.

use std::cmp::Reverse;

use super::builder::{Builder, Frame, Node, Texts, row};
use super::{FlameTree, Kind, MAX_PLACES, MAX_PROCESSES, MAX_TEXT_BYTES, MAX_TOP, Nodes, Places, Processes, Top};

/// Tells what was built.
pub(super) fn emit(built: &Builder) -> FlameTree {
    let mut strings = Strings::new(&built.texts);
    let (nodes, pruned_nodes) = tree(built, &mut strings);
    let (top, left_out_functions) = top(built, &mut strings);
    let processes = processes(built, &mut strings);
    let places = places(built, &mut strings);
    FlameTree {
        samples: built.nodes.first().map_or(0, |root| root.total),
        range_samples: built.range_samples,
        pruned_nodes,
        left_out_functions,
        nodes,
        top,
        processes,
        places,
        strings: strings.told,
    }
}

/// The texts that are told, renumbered in the order of their first use; 0 stays the empty one.
struct Strings<'b> {
    all: &'b Texts,
    /// Where each text of `all` is told; `u32::MAX` where it is not yet.
    place: Vec<u32>,
    told: Vec<String>,
}

impl<'b> Strings<'b> {
    fn new(all: &'b Texts) -> Self {
        let mut place = vec![u32::MAX; all.len()];
        if let Some(empty) = place.first_mut() {
            *empty = 0;
        }
        Self { all, place, told: vec![String::new()] }
    }

    fn tell(&mut self, text: u32) -> u32 {
        let Some(place) = self.place.get_mut(text as usize) else { return 0 };
        if *place == u32::MAX {
            *place = row(self.told.len());
            self.told.push(cut(self.all.get(text)));
        }
        *place
    }

    fn add(&mut self, text: &str) -> u32 {
        self.told.push(text.to_owned());
        row(self.told.len() - 1)
    }
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_TEXT_BYTES);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// The smallest total that is still told: `min_share`, and as much more as `max_nodes` takes.
///
/// A child is never bigger than its parent, so whatever is told hangs together.
fn threshold(built: &Builder) -> u64 {
    let samples = built.nodes.first().map_or(0, |root| root.total);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count, rounded; negative and huge shares saturate"
    )]
    let by_share = (samples as f64 * built.options.min_share).ceil() as u64;
    let max_nodes = built.options.max_nodes.max(1);
    if built.nodes.len() <= max_nodes {
        return by_share;
    }
    let mut totals: Vec<u64> = built.nodes.iter().map(|n| n.total).collect();
    let (_, &mut first_left_out, _) = totals.select_nth_unstable_by_key(max_nodes, |&total| Reverse(total));
    by_share.max(first_left_out.saturating_add(1))
}

/// What is told next.
enum Step {
    Node(u32),
    /// The samples of all small children together.
    Pruned(u64),
}

fn tree(built: &Builder, strings: &mut Strings<'_>) -> (Nodes, u64) {
    let threshold = threshold(built);
    let told = |node: &Node| node.total >= threshold;
    // Per parent: what is told, and the sum of what is not.
    let mut children: Vec<Vec<u32>> = vec![Vec::new(); built.nodes.len()];
    let mut pruned: Vec<u64> = built.nodes.iter().map(|n| n.unbuilt).collect();
    let mut pruned_nodes = 0;
    for (i, node) in built.nodes.iter().enumerate().skip(1) {
        let parent = node.parent as usize;
        if told(node) {
            if let Some(of_parent) = children.get_mut(parent) {
                of_parent.push(row(i));
            }
        } else {
            pruned_nodes += 1;
            // A pruned node's own children are in its total already.
            if let (Some(sum), true) =
                (pruned.get_mut(parent), built.nodes.get(parent).is_some_and(told) || parent == 0)
            {
                *sum += node.total;
            }
        }
    }
    let pruned_name = strings.add("(pruned)");
    let mut out = Nodes::default();
    let mut todo = vec![(Step::Node(0), 0_u32)];
    while let Some((step, parent)) = todo.pop() {
        let at = match step {
            Step::Node(at) => at,
            Step::Pruned(samples) => {
                let frame = Frame { name: pruned_name, binary: 0, kind: Kind::Pruned };
                out.push(parent, &frame, samples, samples);
                continue;
            }
        };
        let Some(node) = built.nodes.get(at as usize) else { continue };
        let place = out.push(parent, &told_frame(built, strings, node.frame), node.own, node.total);
        let below = pruned.get(at as usize).copied().unwrap_or(0);
        if below > 0 {
            todo.push((Step::Pruned(below), place));
        }
        if let Some(of_node) = children.get_mut(at as usize) {
            // The last pushed is told first: biggest first, and among equals the one that was seen first.
            of_node.sort_by_key(|&child| (built.nodes.get(child as usize).map_or(0, |n| n.total), Reverse(child)));
            todo.extend(of_node.iter().map(|&child| (Step::Node(child), place)));
        }
    }
    (out, pruned_nodes)
}

fn told_frame(built: &Builder, strings: &mut Strings<'_>, frame: u32) -> Frame {
    let frame = built.frames.get(frame as usize).copied().unwrap_or(Frame { name: 0, binary: 0, kind: Kind::Unnamed });
    Frame { name: strings.tell(frame.name), binary: strings.tell(frame.binary), kind: frame.kind }
}

impl Nodes {
    fn push(&mut self, parent: u32, frame: &Frame, own: u64, total: u64) -> u32 {
        self.parent.push(parent);
        self.name.push(frame.name);
        self.binary.push(frame.binary);
        self.kind.push(frame.kind);
        self.own.push(own);
        self.total.push(total);
        row(self.parent.len() - 1)
    }
}

/// The biggest functions, and how many are left out.
fn top(built: &Builder, strings: &mut Strings<'_>) -> (Top, u64) {
    let mut rows: Vec<u32> = (0..row(built.sums.len())).collect();
    let sum = |i: u32| built.sums.get(i as usize).copied().unwrap_or_default();
    rows.retain(|&i| sum(i).total > 0);
    let functions = rows.len();
    if rows.len() > 2 * MAX_TOP {
        rows.sort_by_key(|&i| Reverse(sum(i).own));
        let mut rest = rows.split_off(MAX_TOP);
        rest.sort_by_key(|&i| Reverse(sum(i).total));
        rows.extend(rest.into_iter().take(MAX_TOP));
    }
    rows.sort_by_key(|&i| (Reverse(sum(i).own), Reverse(sum(i).total), i));
    let mut out = Top::default();
    for &i in &rows {
        let frame = told_frame(built, strings, i);
        out.name.push(frame.name);
        out.binary.push(frame.binary);
        out.kind.push(frame.kind);
        out.own.push(sum(i).own);
        out.total.push(sum(i).total);
    }
    (out, (functions - rows.len()) as u64)
}

fn processes(built: &Builder, strings: &mut Strings<'_>) -> Processes {
    let mut rows: Vec<((u32, u32), u64)> = built.processes.iter().map(|(&key, &samples)| (key, samples)).collect();
    rows.sort_unstable_by_key(|&((tgid, name), samples)| (Reverse(samples), tgid, name));
    rows.truncate(MAX_PROCESSES);
    Processes {
        tgid: rows.iter().map(|&((tgid, _), _)| tgid).collect(),
        name: rows.iter().map(|&((_, name), _)| strings.tell(name)).collect(),
        samples: rows.iter().map(|&(_, samples)| samples).collect(),
    }
}

fn places(built: &Builder, strings: &mut Strings<'_>) -> Places {
    let mut rows: Vec<([u32; 4], u64)> = built.places.iter().map(|(&key, &samples)| (key, samples)).collect();
    rows.sort_unstable_by_key(|&(key, samples)| (Reverse(samples), key));
    rows.truncate(MAX_PLACES);
    let mut out = Places::default();
    for ([namespace, pod, container, service], samples) in rows {
        out.namespace.push(strings.tell(namespace));
        out.pod.push(strings.tell(pod));
        out.container.push(strings.tell(container));
        out.service.push(strings.tell(service));
        out.samples.push(samples);
    }
    out
}
