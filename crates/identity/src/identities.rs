//! The door of this room.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use profile::stats::IdentityStats;
use profile::{Place, Profile};

use crate::attributes::Namer;
use crate::settings::{IdentityError, IdentitySettings, OPTIONAL_ATTRIBUTES};
use crate::workload::Workload;

/// All that is known of containers, and who asks for it. Sources are asked until it is dropped.
pub struct Identities {
    settings: IdentitySettings,
    namer: Mutex<Namer>,
}

impl Identities {
    /// Starts to ask, on `runtime`. A source that is not there is no error.
    ///
    /// # Errors
    /// Settings that cannot be used: see [`IdentityError`].
    pub fn start(settings: IdentitySettings, _runtime: &tokio::runtime::Handle) -> Result<Arc<Self>, IdentityError> {
        if let Some(name) = settings.optional_attributes.iter().find(|n| !OPTIONAL_ATTRIBUTES.contains(&n.as_str())) {
            return Err(IdentityError::OptionalAttribute { name: name.clone() });
        }
        Ok(Arc::new(Self { settings, namer: Mutex::default() }))
    }

    /// A container (or a cgroup that may be one) was seen, in a process. Unknown ones are asked for soon. Does not wait.
    pub fn seen(&self, _place: &Place, _tgid: u32) {}

    /// Fills in the identity of every owner. No I/O; unknown stays unknown.
    #[must_use]
    pub fn attribute(&self, profile: Profile) -> Profile {
        let generation = self.generation();
        lock(&self.namer).attribute(profile, &self.settings, generation, |place| self.workload(place))
    }

    /// What is known of a place's container. [`Workload::complete`] says whether more may come.
    #[must_use]
    pub fn workload(&self, _place: &Place) -> Option<Arc<Workload>> {
        None
    }

    /// Changes whenever [`Self::workload`] may answer differently for a container that was asked about before.
    #[must_use]
    pub fn generation(&self) -> u64 {
        0
    }

    /// The numbers of this room.
    #[must_use]
    pub fn stats(&self) -> IdentityStats {
        IdentityStats { refused: lock(&self.namer).refused(), ..IdentityStats::default() }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A panic elsewhere leaves plain data behind, never half of a change that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
