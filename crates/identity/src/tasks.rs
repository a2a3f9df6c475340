//! The tasks that ask: one for pods, one for what the runtimes keep. None of them ever waits for the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pods::Listing;
use crate::record::Rank;
use crate::shared::Shared;
use crate::source::kubelet::Kubelet;
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
                settle(&shared, asked, now);
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

/// What a list of pods says of those that were asked for.
fn settle(shared: &Shared, asked: Instant, now: Instant) {
    let all = shared.pods.asking().all();
    for wanted in all {
        let place = &wanted.place;
        let known = {
            let mut store = shared.store();
            store.known(place) >= Known::By(Rank::Cri)
                || (wanted.since + SANDBOX_AGE <= asked && store.sandbox(place, now))
        };
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
        self.kubelet.as_ref().and_then(|(_, health)| health.not_before())
    }

    async fn ask(&mut self, shared: &Shared) -> Option<(Rank, Listing)> {
        let (kubelet, health) = self.kubelet.as_mut()?;
        if !health.may_ask(Instant::now()) {
            return None;
        }
        let answer = kubelet.list().await;
        noted(shared, health, answer).map(|listing| (Rank::Kubernetes, listing))
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
