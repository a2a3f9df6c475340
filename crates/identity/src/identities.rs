//! The door of this room.

use std::fmt;
use std::sync::{Arc, Mutex};

use profile::stats::IdentityStats;
use profile::{Place, Profile};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::attributes::Namer;
use crate::settings::{IdentityError, IdentitySettings, OPTIONAL_ATTRIBUTES, Source};
use crate::shared::{Shared, lock};
use crate::source::cri::Cri;
use crate::source::kubelet::Kubelet;
use crate::source::{Health, api};
use crate::tasks::{self, Listers};
use crate::workload::Workload;

/// All that is known of containers, and who asks for it. Sources are asked until it is dropped.
pub struct Identities {
    shared: Arc<Shared>,
    namer: Mutex<Namer>,
    tasks: Vec<AbortHandle>,
}

impl Identities {
    /// Starts to ask, on `runtime`. A source that is not there is no error.
    ///
    /// # Errors
    /// Settings that cannot be used: see [`IdentityError`].
    pub fn start(settings: IdentitySettings, runtime: &Handle) -> Result<Arc<Self>, IdentityError> {
        if let Some(name) = settings.optional_attributes.iter().find(|n| !OPTIONAL_ATTRIBUTES.contains(&n.as_str())) {
            return Err(IdentityError::OptionalAttribute { name: name.clone() });
        }
        let source = settings.kubernetes;
        let kubelet = match source {
            Source::Auto | Source::Kubelet => Some((Kubelet::new(&settings)?, Health::new("kubelet"))),
            Source::Api | Source::Cri | Source::Off => None,
        };
        let cri = match source {
            Source::Auto | Source::Cri => Some((Cri::new(&settings), Health::new("runtime's CRI socket"))),
            Source::Kubelet | Source::Api | Source::Off => None,
        };
        let node = settings.node_name.clone().filter(|node| !node.trim().is_empty());
        if source == Source::Api && node.is_none() {
            return Err(IdentityError::NodeName);
        }
        let shared = Arc::new(Shared::new(settings));
        let mut tasks = Vec::new();
        if let Some(node) = node.filter(|_| source == Source::Api) {
            tasks.push(runtime.spawn(api::run(Arc::clone(&shared), node)).abort_handle());
        }
        if kubelet.is_some() || cri.is_some() {
            let listers = Listers { kubelet, cri, at_once: source != Source::Auto };
            tasks.push(runtime.spawn(tasks::pods(Arc::clone(&shared), listers)).abort_handle());
        }
        if shared.settings.runtimes {
            tasks.push(runtime.spawn(tasks::state(Arc::clone(&shared))).abort_handle());
        }
        Ok(Arc::new(Self { shared, namer: Mutex::default(), tasks }))
    }

    /// A container (or a cgroup that may be one) was seen, in a process. Unknown ones are asked for soon. Does not wait.
    pub fn seen(&self, place: &Place, tgid: u32) {
        self.shared.want(place, tgid);
    }

    /// Fills in the identity of every owner. No I/O; unknown stays unknown.
    #[must_use]
    pub fn attribute(&self, profile: Profile) -> Profile {
        let generation = self.generation();
        let look_up = |place: &Place, tgid| self.shared.look_up(place, tgid);
        lock(&self.namer).attribute(profile, &self.shared.settings, generation, look_up)
    }

    /// What is known of a place's container; what is not is asked for. [`Workload::complete`] says whether more may come.
    #[must_use]
    pub fn workload(&self, place: &Place) -> Option<Arc<Workload>> {
        self.shared.look_up(place, 0)
    }

    /// Changes whenever [`Self::workload`] may answer differently for a container that was asked about before.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.store().generation()
    }

    /// The numbers of this room.
    #[must_use]
    pub fn stats(&self) -> IdentityStats {
        let stats = self.shared.stats();
        IdentityStats { refused: stats.refused.saturating_add(lock(&self.namer).refused()), ..stats }
    }
}

impl Drop for Identities {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}
