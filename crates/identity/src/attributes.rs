//! What is known of owners, said in the words of OpenTelemetry's semantic conventions.
//!
//! **In**: profiles; what the sources know. **Out**: the same profiles with `Owner.identity`. Equal identities are one `Arc`.
//! No I/O. **Limits**: [`MAX_REMEMBERED`] owners and identities are remembered between profiles; past that they are made anew.

mod build;
mod image;
mod service;
pub(crate) mod text;

use std::sync::Arc;

pub use build::service_name;
use profile::{Declared, Identity, Owner, Place, Profile};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::settings::IdentitySettings;
use crate::workload::Workload;

/// The most owners whose identity is remembered, and the most identities that are shared.
const MAX_REMEMBERED: usize = 16_384;

/// All that an identity depends on, beside what the sources know.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Facts {
    place: Option<Arc<Place>>,
    declared: Option<Arc<Declared>>,
    executable: Box<str>,
}

/// Makes identities and remembers them.
#[derive(Default)]
pub(crate) struct Namer {
    remembered: FxHashMap<Facts, Arc<Identity>>,
    shared: FxHashSet<Arc<Identity>>,
    /// The generation of what `remembered` was made of.
    generation: u64,
    refused: u64,
}

impl Namer {
    /// Fills in the identity of every owner. `look_up` says what is known of a place (with a process there), as of
    /// `generation`.
    pub(crate) fn attribute(
        &mut self,
        mut profile: Profile,
        settings: &IdentitySettings,
        generation: u64,
        look_up: impl Fn(&Place, u32) -> Option<Arc<Workload>>,
    ) -> Profile {
        if generation != self.generation || self.remembered.len() > MAX_REMEMBERED {
            self.remembered.clear();
            self.generation = generation;
        }
        if self.shared.len() > MAX_REMEMBERED {
            self.shared.retain(|identity| Arc::strong_count(identity) > 1);
        }
        for owner in &mut profile.owners {
            let identity = self.identity(owner, settings, &look_up);
            Arc::make_mut(owner).identity = Some(identity);
        }
        profile
    }

    /// Attributes that found no room, since the start. An identity that is made anew counts again.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn identity(
        &mut self,
        owner: &Owner,
        settings: &IdentitySettings,
        look_up: impl Fn(&Place, u32) -> Option<Arc<Workload>>,
    ) -> Arc<Identity> {
        let executable = service::executable(owner).into();
        let facts = if owner.kernel_thread {
            Facts { place: None, declared: None, executable }
        } else {
            Facts { place: owner.place.clone(), declared: owner.declared.clone(), executable }
        };
        if let Some(identity) = self.remembered.get(&facts) {
            return Arc::clone(identity);
        }
        let workload = facts.place.as_deref().and_then(|place| look_up(place, owner.process.tgid));
        let (identity, refused) = build::identity(owner, workload.as_deref(), settings);
        self.refused = self.refused.saturating_add(refused);
        let identity = match self.shared.get(&identity) {
            Some(shared) => Arc::clone(shared),
            None => {
                let identity = Arc::new(identity);
                if self.shared.len() < 2 * MAX_REMEMBERED {
                    self.shared.insert(Arc::clone(&identity));
                }
                identity
            }
        };
        self.remembered.insert(facts, Arc::clone(&identity));
        identity
    }
}

#[cfg(test)]
mod tests;
