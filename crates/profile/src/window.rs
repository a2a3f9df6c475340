//! Five seconds of stacks without names: what the sampler hands to naming.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Frame, ObjectId, ObjectInfo, Owner, Span};

/// One closed base window. Immutable once built.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The time it covers. Every sample's time lies in it.
    pub span: Span,
    /// Nanoseconds between two ticks of one CPU.
    pub period_ns: u64,
    /// The owners that entries point to.
    pub owners: Vec<Arc<Owner>>,
    /// The files that frames point to.
    pub objects: BTreeMap<ObjectId, Arc<ObjectInfo>>,
    /// Equal stacks of equal owners are one entry.
    pub entries: Vec<WindowEntry>,
    /// The sum of the entries' counts.
    pub samples: u64,
}

/// One stack of one owner.
#[derive(Clone, Debug)]
pub struct WindowEntry {
    /// Index into [`Window::owners`].
    pub owner: u32,
    /// Leaf first: kernel frames, then user frames, then at most one [`Frame::Cut`].
    pub stack: Arc<[Frame]>,
    /// How many samples.
    pub count: u64,
    /// Their times (nanoseconds since the Unix epoch) where asked for, else empty.
    pub times_unix_ns: Vec<u64>,
}
