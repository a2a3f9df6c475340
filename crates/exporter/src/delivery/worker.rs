//! The task that encodes and sends, and the state that it shares with those who push.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use profile::{Ledger, Profile};
use tokio::sync::Notify;

use super::machine::{Machine, Next, Settled};
use super::outcome::{Answer, Outcome};
use super::report::Report;
use super::settings::DeliverySettings;
use super::stats::DeliveryStatsHandle;
use super::transport::Transport;
use crate::otlp::{Encoded, Encoder, ResourceSettings};

/// What the task and those who push share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) wake: Notify,
    ledger: Arc<Ledger>,
    pub(crate) stats: DeliveryStatsHandle,
    started: Instant,
    endpoint: String,
}

struct State {
    machine: Machine,
    report: Report,
}

impl Shared {
    pub(crate) fn new(settings: DeliverySettings, ledger: Arc<Ledger>, endpoint: String) -> Self {
        let stats = DeliveryStatsHandle::default();
        stats.update(|s| s.queue_capacity_bytes = settings.queue_bytes as u64);
        Self {
            state: Mutex::new(State { machine: Machine::new(settings), report: Report::default() }),
            wake: Notify::new(),
            ledger,
            stats,
            started: Instant::now(),
            endpoint,
        }
    }

    fn now_mono_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the machine, books what settled, and publishes what waits.
    fn change(&self, change: impl FnOnce(&mut Machine, u64) -> Vec<Settled>) {
        let now_mono_ns = self.now_mono_ns();
        let mut state = self.lock();
        let settled = change(&mut state.machine, now_mono_ns);
        for s in settled {
            match s {
                Settled::Exported(samples) => self.ledger.exported(samples),
                Settled::Dropped(reason, samples) => {
                    self.ledger.dropped(reason, samples);
                    state.report.dropped(reason, samples, now_mono_ns);
                }
            }
        }
        let gauges = state.machine.gauges();
        self.stats.update(|s| {
            s.queue_bytes = gauges.bytes as u64;
            s.queue_samples = gauges.samples;
            s.queue_requests = gauges.requests as u64;
        });
    }

    pub(crate) fn push(&self, window: Arc<Profile>) {
        self.change(|machine, _| machine.push(window));
        self.wake.notify_one();
    }

    pub(crate) fn close(&self) {
        self.change(|machine, _| {
            machine.close();
            Vec::new()
        });
        self.wake.notify_one();
    }

    pub(crate) fn abandon(&self) {
        self.change(|machine, _| machine.abandon());
    }

    fn answered(&self, answer: &Answer, bytes: usize, again: bool, jitter: f64) {
        let now_mono_ns = self.now_mono_ns();
        let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let unix_ns = u64::try_from(unix_ns).unwrap_or(u64::MAX);
        self.stats.update(|s| {
            s.count(&answer.code);
            s.retries += u64::from(again);
            match &answer.outcome {
                Outcome::Accepted { .. } => {
                    s.bytes += bytes as u64;
                    s.consecutive_failures = 0;
                    s.last_success_unix_ns = unix_ns;
                }
                Outcome::Retry { message, .. } | Outcome::Refused { message } => {
                    s.consecutive_failures += 1;
                    s.last_error_unix_ns = unix_ns;
                    s.last_error.clone_from(message);
                }
            }
        });
        {
            let report = &mut self.lock().report;
            match &answer.outcome {
                Outcome::Accepted { message, .. } => report.accepted(&self.endpoint, message, now_mono_ns),
                Outcome::Retry { message, .. } => report.failed(&self.endpoint, message, now_mono_ns),
                Outcome::Refused { message } => report.refused(&self.endpoint, message, now_mono_ns),
            }
        }
        self.change(|machine, now_mono_ns| machine.answered(&answer.outcome, now_mono_ns, jitter));
    }
}

/// Encodes and sends until the machine is closed and empty.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut transport: Transport,
    resource: ResourceSettings,
    max_request_bytes: usize,
) {
    let mut encoder = Encoder::new(resource.clone());
    let random = RandomState::new();
    let mut attempts: u64 = 0;
    loop {
        let interval = shared.lock().machine.take_interval();
        if let Some(windows) = interval {
            let encoded = encode(&mut encoder, &resource, windows, max_request_bytes).await;
            shared.stats.update(|s| {
                s.unattributed += encoded.unattributed;
                s.left_out_attributes += encoded.left_out_attributes;
            });
            shared.change(|machine, now_mono_ns| machine.encoded(encoded, now_mono_ns));
            continue;
        }
        let (next, done) = {
            let now_mono_ns = shared.now_mono_ns();
            let machine = &mut shared.lock().machine;
            (machine.next(now_mono_ns), machine.is_done())
        };
        match next {
            Next::Send { bytes, again } => {
                let len = bytes.len();
                let answer = transport.send(bytes).await;
                attempts = attempts.wrapping_add(1);
                shared.answered(&answer, len, again, fraction(&random, attempts));
            }
            Next::WaitUntil(mono_ns) => {
                let wait = Duration::from_nanos(mono_ns.saturating_sub(shared.now_mono_ns()));
                // New windows may be encoded meanwhile, and closing ends the wait.
                let _ = tokio::time::timeout(wait, shared.wake.notified()).await;
            }
            Next::Idle if done => return,
            Next::Idle => shared.wake.notified().await,
        }
    }
}

/// Merges and encodes on a thread for such work.
async fn encode(
    encoder: &mut Encoder,
    resource: &ResourceSettings,
    windows: Vec<Arc<Profile>>,
    max_request_bytes: usize,
) -> Encoded {
    let mut own = std::mem::replace(encoder, Encoder::new(resource.clone()));
    let work = tokio::task::spawn_blocking(move || {
        let encoded = match windows.as_slice() {
            [one] => own.encode(one, max_request_bytes),
            many => own.encode(&profile::merge(many.iter().map(AsRef::as_ref)), max_request_bytes),
        };
        (own, encoded)
    });
    match work.await {
        Ok((own, encoded)) => {
            *encoder = own;
            encoded
        }
        Err(e) => {
            // Counted as refused: nobody can take what cannot be encoded.
            tracing::error!(error = %e, "an interval could not be encoded");
            Encoded::default()
        }
    }
}

/// A number from 0 up to, but not including, 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
fn fraction(random: &RandomState, n: u64) -> f64 {
    let mut hasher = random.build_hasher();
    hasher.write_u64(n);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}
