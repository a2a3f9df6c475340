//! The tasks that ask: one for pods, one for what the runtimes keep. None of them ever waits for the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pods::Listing;
use crate::record::Rank;
use crate::shared::Shared;
use crate::source::cri::Cri;
use crate::source::kubelet::Kubelet;
use crate::source::state::look;
use crate::source::{Failure, Health};
use crate::store::Known;

/// The shortest time between two questions for pods.
const PAUSE: Duration = Duration::from_secs(1);
/// How often pods are listed though nothing is asked for: labels change, pods go.
const REFRESH: Duration = Duration::from_secs(60);
/// How old a container that no list names must be before it is taken for a sandbox.
const SANDBOX_AGE: Duration = Duration::from_secs(2);

/// Those who list pods, in the order in which they are asked: the next only while those before it do not answer.
pub(crate) struct Listers {
    pub(crate) kubelet: Option<(Kubelet, Health)>,
    pub(crate) cri: Option<(Cri, Health)>,
    /// Asked from the start, or only once a container of a pod was seen.
    pub(crate) at_once: bool,
}

/// Lists pods when containers of pods are asked for, and every now and then.
pub(crate) async fn pods(shared: Arc<Shared>, mut listers: Listers) {
    let mut refresh = listers.at_once.then(Instant::now);
    let mut asked_last: Option<Instant> = None;
    loop {
        let due = shared.pods.asking().next_due();
        let due = [due, refresh].into_iter().flatten().min();
        let not_before = asked_last.map(|at| at + PAUSE).max(listers.not_before());
        let next = due.map(|due| not_before.map_or(due, |at| due.max(at)));
        // Nothing to ask for: still something may have to be forgotten.
        let wake = next.unwrap_or_else(|| Instant::now() + REFRESH);
        tokio::select! {
            () = shared.pods.rung() => continue,
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        if next.is_none() {
            shared.store().expire(Instant::now());
            continue;
        }
        let asked = Instant::now();
        asked_last = Some(asked);
        refresh = Some(asked + REFRESH);
        let answer = listers.ask(&shared).await;
        let now = Instant::now();
        match answer {
            Some((rank, listing)) => {
                shared.store().listing(rank, listing.pods, now);
                settle(&shared, asked, now, SANDBOX_AGE);
            }
            None => {
                let until = listers.not_before().unwrap_or(now + PAUSE);
                let mut asking = shared.pods.asking();
                for wanted in asking.due(now) {
                    asking.postponed(&wanted.place, until);
                }
                refresh = Some(until);
            }
        }
    }
}

/// What is known by now of those that were asked for, as of `asked`. `age`: how old a sandbox must be.
pub(crate) fn settle(shared: &Shared, asked: Instant, now: Instant, age: Duration) {
    let all = shared.pods.asking().all();
    for wanted in all {
        let place = &wanted.place;
        let known = shared.is_known(place) || (wanted.since + age <= asked && shared.store().sandbox(place, now));
        if known {
            shared.pods.asking().found(place);
        } else if wanted.is_due(now) {
            shared.pods.asking().missed(place, now);
        }
    }
}

impl Listers {
    /// When any of them may be asked again; none: at once.
    fn not_before(&self) -> Option<Instant> {
        let kubelet = self.kubelet.as_ref().map(|(_, health)| health.not_before());
        let cri = self.cri.as_ref().filter(|(cri, _)| self.only_cri() || cri.socket().is_some());
        let cri = cri.map(|(_, health)| health.not_before());
        // Whoever may be asked at once comes first.
        [kubelet, cri].into_iter().flatten().min().flatten()
    }

    fn only_cri(&self) -> bool {
        self.kubelet.is_none()
    }

    async fn ask(&mut self, shared: &Shared) -> Option<(Rank, Listing)> {
        let only_cri = self.only_cri();
        if let Some((kubelet, health)) = &mut self.kubelet
            && health.may_ask(Instant::now())
        {
            let answer = kubelet.list().await;
            if let Some(listing) = noted(shared, health, answer) {
                return Some((Rank::Kubernetes, listing));
            }
        }
        let (cri, health) = self.cri.as_mut()?;
        if !health.may_ask(Instant::now()) || !(only_cri || cri.socket().is_some()) {
            return None;
        }
        let answer = cri.list().await;
        noted(shared, health, answer).map(|listing| (Rank::Cri, listing))
    }
}

/// Counts an answer, or that there was none.
fn noted(shared: &Shared, health: &mut Health, answer: Result<Listing, Failure>) -> Option<Listing> {
    match answer {
        Ok(listing) => {
            health.answered();
            shared.answered(listing.refused);
            Some(listing)
        }
        Err(failure) => {
            health.failed(&failure, Instant::now());
            shared.failed();
            None
        }
    }
}

/// Asks the runtimes' own state when containers are asked for.
pub(crate) async fn state(shared: Arc<Shared>) {
    let mut health = Health::new("container runtimes");
    loop {
        let due = shared.state.asking().next_due();
        let next = due.map(|due| health.not_before().map_or(due, |at| due.max(at)));
        let wake = next.unwrap_or_else(|| Instant::now() + REFRESH);
        tokio::select! {
            () = shared.state.rung() => continue,
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        let wanted = shared.state.asking().due(Instant::now());
        if wanted.is_empty() {
            shared.store().expire(Instant::now());
            continue;
        }
        let root = shared.settings.host_root.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let found =
                look(&root, &wanted).map_err(|e| Failure::new("host's files", format!("{}: {e}", root.display())));
            (found, wanted)
        });
        let Ok((found, wanted)) = looked.await else { return };
        let now = Instant::now();
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                health.failed(&failure, now);
                shared.failed();
                let until = health.not_before().unwrap_or(now + PAUSE);
                let mut asking = shared.state.asking();
                for wanted in &wanted {
                    asking.postponed(&wanted.place, until);
                }
                continue;
            }
        };
        health.answered();
        if !found.is_empty() {
            shared.answered(0);
        }
        for (record, pod) in found {
            shared.store().container(Rank::State, record, pod, now);
        }
        for wanted in wanted {
            let known = shared.store().known(&wanted.place) > Known::No;
            // Of a pod's container others will tell; what a runtime keeps is there before its first process is.
            let in_pod = wanted.place.container.as_ref().is_some_and(|c| c.pod.is_some());
            if known || in_pod {
                shared.state.asking().found(&wanted.place);
            } else {
                shared.state.asking().missed(&wanted.place, now);
            }
        }
    }
}
