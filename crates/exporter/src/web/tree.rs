//! Windows into the tree that the page draws, and the tables beside it. A pure function.
//!
//! **In**: named profiles of one period. **Out**: [`FlameTree`]: columns, ready for JSON. **Units**: samples.
//! **Limits**: [`TreeOptions::max_nodes`] nodes are told; what is smaller is summed up as one `(pruned)` child of its
//! parent, so that every node is the sum of its children and its own samples. While building, [`MAX_BUILT_NODES`].
//! Texts are cut at [`MAX_TEXT_BYTES`].

mod builder;
mod emit;

use profile::Profile;
use serde::Serialize;

use self::builder::Builder;
use super::filter::Filter;

/// Nodes that are built before pruning; what lies deeper counts as pruned.
pub(crate) const MAX_BUILT_NODES: usize = 400_000;

/// A longer text is cut.
pub(crate) const MAX_TEXT_BYTES: usize = 1024;

/// Processes told for the filter, the biggest first.
pub(crate) const MAX_PROCESSES: usize = 500;

/// Containers told for the filter, the biggest first.
pub(crate) const MAX_PLACES: usize = 500;

/// Rows of the table of functions: so many by own samples, and as many by all samples.
pub(crate) const MAX_TOP: usize = 400;

/// What stands between the root and the outermost frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// One node per program: processes of one name together.
    #[default]
    Program,
    /// One node per process.
    Process,
    /// One node per process, and below it one per thread (name, and id where known).
    Thread,
    /// One node per container, named with its pod and namespace, and below it one per program.
    Container,
    /// One node per pod, and below it one per container.
    Pod,
    /// One node per service, and below it one per program.
    Service,
    /// Nothing: all stacks merged.
    Merged,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct TreeOptions {
    pub(crate) grouping: Grouping,
    /// Whose stacks.
    pub(crate) filter: Filter,
    /// Nodes told at most, `(pruned)` ones not counted: there is at most one for each.
    pub(crate) max_nodes: usize,
    /// Nodes with a smaller share of the samples are pruned.
    pub(crate) min_share: f64,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self { grouping: Grouping::default(), filter: Filter::default(), max_nodes: 40_000, min_share: 1e-5 }
    }
}

/// What a node stands for; a number in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    Root = 0,
    Process = 1,
    Thread = 2,
    User = 3,
    /// User code without a function's name.
    Unnamed = 4,
    Kernel = 5,
    /// The stack was cut here.
    Cut = 6,
    Pruned = 7,
    Container = 8,
    Pod = 9,
    Service = 10,
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// The tree in preorder, biggest child first, as columns; node 0 is the root. Texts are indices into `strings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Nodes {
    /// The parent's row; the root's is itself.
    pub(crate) parent: Vec<u32>,
    pub(crate) name: Vec<u32>,
    /// The file; 0 (the empty text) where there is none.
    pub(crate) binary: Vec<u32>,
    pub(crate) kind: Vec<Kind>,
    /// Samples that end here.
    #[serde(rename = "self")]
    pub(crate) own: Vec<u64>,
    /// Samples that pass through here: own, and all children's.
    pub(crate) total: Vec<u64>,
}

/// The functions with most samples, as columns; exact, whatever was pruned from the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Top {
    pub(crate) name: Vec<u32>,
    pub(crate) binary: Vec<u32>,
    pub(crate) kind: Vec<Kind>,
    /// Samples whose innermost frame is this function.
    #[serde(rename = "self")]
    pub(crate) own: Vec<u64>,
    /// Samples with this function anywhere in the stack, each once.
    pub(crate) total: Vec<u64>,
}

/// The processes of the range, whatever the filter, as columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Processes {
    pub(crate) tgid: Vec<u32>,
    pub(crate) name: Vec<u32>,
    pub(crate) samples: Vec<u64>,
}

/// Where the samples of the range ran and for which service, whatever the filter, as columns; 0 where there is none.
/// What runs in no container and has no service is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Places {
    pub(crate) namespace: Vec<u32>,
    pub(crate) pod: Vec<u32>,
    pub(crate) container: Vec<u32>,
    pub(crate) service: Vec<u32>,
    pub(crate) samples: Vec<u64>,
}

/// What the page draws.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct FlameTree {
    /// Samples in the tree: the root's total.
    pub(crate) samples: u64,
    /// Samples of the range, whatever the filter.
    pub(crate) range_samples: u64,
    /// Nodes that were summed up as `(pruned)`.
    pub(crate) pruned_nodes: u64,
    /// Functions that the table leaves out.
    pub(crate) left_out_functions: u64,
    pub(crate) strings: Vec<String>,
    pub(crate) nodes: Nodes,
    pub(crate) top: Top,
    pub(crate) processes: Processes,
    pub(crate) places: Places,
}

/// Builds the tree of all profiles together.
pub(crate) fn build<'a>(profiles: impl IntoIterator<Item = &'a Profile>, options: TreeOptions) -> FlameTree {
    let mut builder = Builder::new(options);
    for profile in profiles {
        builder.add(profile);
    }
    emit::emit(&builder)
}

#[cfg(test)]
mod tests;
