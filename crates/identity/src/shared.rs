//! What the door and the tasks behind it share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use profile::Place;
use profile::stats::IdentityStats;
use tokio::sync::Notify;

use crate::asking::Asking;
use crate::record::Rank;
use crate::settings::{IdentitySettings, Source};
use crate::store::{Known, Limits, Store};
use crate::workload::Workload;

/// What is known, and what is asked for.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: IdentitySettings,
    store: Mutex<Store>,
    /// Containers of pods, for those who know pods.
    pub(crate) pods: Desk,
    /// Containers that a runtime on this node may know.
    pub(crate) state: Desk,
    answers: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
}

/// Where containers are asked for.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    asking: Mutex<Asking>,
    bell: Notify,
}

impl Desk {
    pub(crate) fn asking(&self) -> MutexGuard<'_, Asking> {
        lock(&self.asking)
    }

    /// Waits until something new is asked for.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    fn want(&self, place: &Place, tgid: u32, now: Instant) {
        if self.asking().want(place, tgid, now) {
            self.bell.notify_one();
        }
    }
}

impl Shared {
    pub(crate) fn new(settings: IdentitySettings) -> Self {
        let limits = Limits { max: settings.max_containers.max(1), keep: settings.keep };
        Self {
            settings,
            store: Mutex::new(Store::new(limits)),
            pods: Desk::default(),
            state: Desk::default(),
            answers: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// What is known of a place; what is not is asked for.
    pub(crate) fn look_up(&self, place: &Place, tgid: u32) -> Option<Arc<Workload>> {
        if !may_be_known(place) {
            return None;
        }
        let found = self.store().look_up(place);
        if !found.as_ref().is_some_and(|w| w.complete()) {
            self.want(place, tgid);
        }
        found
    }

    /// Asks for a place, unless all is known of it.
    pub(crate) fn want(&self, place: &Place, tgid: u32) {
        if !may_be_known(place) {
            return;
        }
        let known = self.store().known(place);
        let now = Instant::now();
        let in_pod = place.container.as_ref().is_some_and(|c| c.pod.is_some());
        if in_pod && self.settings.kubernetes != Source::Off && known < Known::By(Rank::Cri) {
            self.pods.want(place, tgid, now);
        }
        let from_state = self.settings.runtimes && (!in_pod || self.settings.kubernetes == Source::Auto);
        if from_state && known == Known::No {
            self.state.want(place, tgid, now);
        }
    }

    /// Whether those who list pods know a place.
    pub(crate) fn is_known(&self, place: &Place) -> bool {
        self.store().known(place) >= Known::By(Rank::Cri)
    }

    /// Something found no room.
    pub(crate) fn refused(&self, count: u64) {
        self.refused.fetch_add(count, Ordering::Relaxed);
    }

    /// A source answered.
    pub(crate) fn answered(&self, refused: u64) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.refused(refused);
    }

    /// A source did not.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> IdentityStats {
        let (containers, pods, refused) = {
            let store = self.store();
            (store.containers(), store.pods(), store.refused())
        };
        let of = |desk: &Desk| {
            let asking = desk.asking();
            (asking.unknown(), asking.refused())
        };
        let (unknown_pods, refused_pods) = of(&self.pods);
        let (unknown_state, refused_state) = of(&self.state);
        IdentityStats {
            containers,
            pods,
            answers: self.answers.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            unknown_containers: unknown_pods.saturating_add(unknown_state),
            refused: [self.refused.load(Ordering::Relaxed), refused, refused_pods, refused_state]
                .iter()
                .fold(0, |sum: u64, n| sum.saturating_add(*n)),
        }
    }
}

/// Whether anybody can know a place: a container's, or a cgroup that is no systemd unit's and not the root. Of units only those
/// that a user's podman names are containers.
fn may_be_known(place: &Place) -> bool {
    if place.container.is_some() {
        return true;
    }
    match &place.unit {
        Some(unit) => unit.starts_with("libpod-") && unit.ends_with(".scope") && !unit.starts_with("libpod-conmon-"),
        None => place.cgroup.len() > 1,
    }
}

/// A panic elsewhere leaves plain data behind, never half of a change that matters.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
