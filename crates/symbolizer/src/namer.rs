//! From a window of stacks without names to a profile.

use std::sync::Arc;

use profile::stats::NamingStats;
use profile::{ElfAddress, ObjectId, Profile, SymbolName, Window};

use crate::KernelSymbols;

/// Where the names of addresses in files come from.
pub trait NameSource {
    /// One answer per address, in their order; `None` where no name is known.
    fn names(&self, object: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>>;
}

/// Bounds of a [`Namer`].
#[derive(Clone, Copy, Debug)]
pub struct NamerLimits {
    /// Addresses in the cache of names.
    pub cached_addresses: usize,
}

impl Default for NamerLimits {
    fn default() -> Self {
        Self { cached_addresses: 1 << 18 }
    }
}

/// A namer's counters, readable from any thread.
#[derive(Debug, Default)]
pub struct NamerCounters {}

impl NamerCounters {
    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> NamingStats {
        NamingStats::default()
    }
}

/// Names windows, one after the other.
pub struct Namer {
    counters: Arc<NamerCounters>,
}

impl Namer {
    /// Has an empty cache.
    #[must_use]
    pub fn new(kernel: KernelSymbols, limits: NamerLimits) -> Self {
        let _ = (kernel, limits);
        Self { counters: Arc::default() }
    }

    /// Names a window. The profile passes [`Profile::check`].
    pub fn name(&mut self, window: &Window, source: &dyn NameSource) -> Profile {
        let _ = (window, source);
        Profile { strings: vec![Arc::from("")], ..Profile::default() }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Arc<NamerCounters> {
        Arc::clone(&self.counters)
    }
}
