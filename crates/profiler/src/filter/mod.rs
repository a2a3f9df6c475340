//! Whose samples are wanted: the rules of the configuration, and who decides by them.
//!
//! **In**: [`Rule`]s; what `identity` knows of containers. **Out**: verdicts for the sampler, which tells them to the
//! kernel side. **Limits**: [`MAX_RULES`] rules a list, [`MAX_PATTERN_BYTES`] a pattern.

mod decide;
mod glob;
mod rule;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

pub(crate) use glob::MAX_PATTERN_BYTES;
use identity::{Identities, Workload};
use profile::Place;
pub(crate) use rule::{MAX_RULES, Rule};
use sampler::judge::{Judge, Subject, Verdict};

use crate::config::settings;

/// What the filters need to know of containers.
pub(crate) trait Names: Send + Sync + Debug {
    /// The names of a place's container and pod, where they are known.
    fn workload(&self, place: &Place) -> Option<Arc<Workload>>;
    /// Changes when names have changed.
    fn generation(&self) -> u64;
    /// A container was seen for the first time.
    fn seen(&self, place: &Place, tgid: u32);
}

impl Names for Identities {
    fn workload(&self, place: &Place) -> Option<Arc<Workload>> {
        Self::workload(self, place)
    }

    fn generation(&self) -> u64 {
        Self::generation(self)
    }

    fn seen(&self, place: &Place, tgid: u32) {
        Self::seen(self, place, tgid);
    }
}

/// Decides by rules.
#[derive(Debug)]
pub(crate) struct Filter<N> {
    rules: settings::Filter,
    needs_names: bool,
    /// What processes declare of themselves is read at all.
    environments: bool,
    names: Arc<N>,
}

impl<N: Names> Filter<N> {
    /// A judge for these rules. `environments`: what processes declare of themselves is read.
    pub(crate) fn new(rules: settings::Filter, environments: bool, names: Arc<N>) -> Self {
        let needs_names = rules.include.iter().chain(&rules.exclude).any(Rule::needs_names);
        Self { rules, needs_names, environments, names }
    }
}

impl<N: Names> Judge for Filter<N> {
    fn filters(&self) -> bool {
        !self.rules.include.is_empty() || !self.rules.exclude.is_empty()
    }

    fn judge(&self, subject: &Subject<'_>) -> Verdict {
        let workload = subject.place.filter(|_| self.needs_names).and_then(|place| self.names.workload(place));
        let declared_known = subject.declared_known || !self.environments;
        let subject = Subject { declared_known, ..*subject };
        decide::decide(&self.rules.include, &self.rules.exclude, &subject, workload.as_deref())
    }

    fn generation(&self) -> u64 {
        // Where no name matters, no new name changes anything.
        if self.needs_names { self.names.generation() } else { 0 }
    }

    fn seen(&self, place: &Place, tgid: u32) {
        self.names.seen(place, tgid);
    }
}
