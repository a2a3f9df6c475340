//! What waits for the collector, and what becomes of it: plain code, time and answers handed in.
//!
//! Windows gather to an interval, an interval becomes requests, requests are sent one at a time, in order. A request
//! that fails for now goes back to the front.
//!
//! **In**: windows, encoded intervals, outcomes. **Out**: [`Settled`] samples; each sample that came in goes out
//! exactly once. **Units**: `_mono_ns` of one clock. **Limits**: all that waits, what is being encoded or sent
//! included, stays within `queue_bytes`: past it the oldest that is not out goes, counted as `queue_full`.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use profile::{DropReason, Profile};

use super::outcome::Outcome;
use super::retry;
use super::settings::DeliverySettings;
use crate::otlp::Encoded;

/// Samples that have reached their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The collector has them.
    Exported(u64),
    /// They are gone.
    Dropped(DropReason, u64),
}

/// Windows that are one interval.
#[derive(Debug, Default)]
struct Gathered {
    windows: Vec<Arc<Profile>>,
    bytes: usize,
    samples: u64,
}

impl Gathered {
    fn duration_ns(&self) -> u64 {
        self.windows.iter().map(|w| w.span.duration_ns()).sum()
    }

    fn push(&mut self, window: Arc<Profile>) {
        self.bytes += window.weight();
        self.samples += window.samples();
        self.windows.push(window);
    }

    /// Takes the oldest window out: its bytes and its samples.
    fn pop_oldest(&mut self) -> Option<(usize, u64)> {
        if self.windows.is_empty() {
            return None;
        }
        let window = self.windows.remove(0);
        let (bytes, samples) = (window.weight(), window.samples());
        self.bytes -= bytes;
        self.samples -= samples;
        Some((bytes, samples))
    }
}

/// An encoded request that waits.
#[derive(Debug)]
struct Waiting {
    bytes: Bytes,
    profiles: Vec<u64>,
    since_mono_ns: u64,
    attempts: u32,
}

impl Waiting {
    fn samples(&self) -> u64 {
        self.profiles.iter().sum()
    }
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send these bytes, then call [`Machine::answered`].
    Send {
        /// The request.
        bytes: Bytes,
        /// It was sent before.
        again: bool,
    },
    /// Nothing before this time.
    WaitUntil(u64),
    /// Nothing.
    Idle,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) bytes: usize,
    pub(crate) samples: u64,
    pub(crate) requests: usize,
}

/// The state of delivery.
#[derive(Debug)]
pub(crate) struct Machine {
    settings: DeliverySettings,
    open: Gathered,
    ready: VecDeque<Gathered>,
    /// Out for encoding: bytes and samples.
    encoding: Option<(usize, u64)>,
    queue: VecDeque<Waiting>,
    sending: Option<Waiting>,
    failures: u32,
    not_before_mono_ns: u64,
    closed: bool,
}

impl Machine {
    pub(crate) fn new(settings: DeliverySettings) -> Self {
        Self {
            settings,
            open: Gathered::default(),
            ready: VecDeque::new(),
            encoding: None,
            queue: VecDeque::new(),
            sending: None,
            failures: 0,
            not_before_mono_ns: 0,
            closed: false,
        }
    }

    /// A base window.
    pub(crate) fn push(&mut self, window: Arc<Profile>) -> Vec<Settled> {
        if self.closed {
            return settled(DropReason::Shutdown, window.samples());
        }
        let interval_ns = nanos(self.settings.interval);
        if let Some(last) = self.open.windows.last() {
            let gap_ns = window.span.from_mono_ns.saturating_sub(last.span.to_mono_ns);
            // A profile has one period, and does not claim a time in which nobody looked.
            if last.period_ns != window.period_ns || gap_ns > interval_ns {
                self.close_interval();
            }
        }
        let half_ns = window.span.duration_ns() / 2;
        self.open.push(window);
        // Timers are never exact: what is closer than half a window is the interval.
        if self.open.duration_ns().saturating_add(half_ns) >= interval_ns {
            self.close_interval();
        }
        self.shrink()
    }

    /// Ends the open interval, however short.
    fn close_interval(&mut self) {
        let gathered = mem::take(&mut self.open);
        if gathered.samples > 0 {
            self.ready.push_back(gathered);
        }
    }

    /// Windows to merge and encode; [`Machine::encoded`] must follow.
    pub(crate) fn take_interval(&mut self) -> Option<Vec<Arc<Profile>>> {
        if self.encoding.is_some() {
            return None;
        }
        let gathered = self.ready.pop_front()?;
        self.encoding = Some((gathered.bytes, gathered.samples));
        Some(gathered.windows)
    }

    /// What became of the interval that was taken.
    pub(crate) fn encoded(&mut self, encoded: Encoded, now_mono_ns: u64) -> Vec<Settled> {
        let Some((_, taken)) = self.encoding.take() else { return Vec::new() };
        let mut out = Vec::new();
        let mut made = encoded.too_large;
        out.extend(settled(DropReason::TooLarge, encoded.too_large));
        for request in encoded.requests {
            made += request.samples();
            self.queue.push_back(Waiting {
                bytes: request.bytes.into(),
                profiles: request.profiles,
                since_mono_ns: now_mono_ns,
                attempts: 0,
            });
        }
        debug_assert!(made <= taken, "more samples came out of the encoder than went in");
        // A profile that breaks its own rules, or an encoder that failed: nobody will ever take it.
        out.extend(settled(DropReason::Refused, taken.saturating_sub(made)));
        out.extend(self.shrink());
        out
    }

    /// What to do now.
    pub(crate) fn next(&mut self, now_mono_ns: u64) -> Next {
        if self.sending.is_some() || self.queue.is_empty() {
            return Next::Idle;
        }
        if now_mono_ns < self.not_before_mono_ns {
            return Next::WaitUntil(self.not_before_mono_ns);
        }
        let Some(request) = self.queue.pop_front() else { return Next::Idle };
        let (bytes, again) = (request.bytes.clone(), request.attempts > 0);
        self.sending = Some(request);
        Next::Send { bytes, again }
    }

    /// How the request that was sent came out. `jitter` is a number from 0 up to, but not including, 1.
    pub(crate) fn answered(&mut self, outcome: &Outcome, now_mono_ns: u64, jitter: f64) -> Vec<Settled> {
        let Some(mut request) = self.sending.take() else { return Vec::new() };
        let samples = request.samples();
        match outcome {
            Outcome::Accepted { rejected_profiles, .. } => {
                self.failures = 0;
                self.not_before_mono_ns = 0;
                let rejected = most_rejected(&mut request.profiles, *rejected_profiles);
                let mut out = settled(DropReason::Rejected, rejected);
                out.push(Settled::Exported(samples - rejected));
                out
            }
            Outcome::Refused { .. } => {
                // The server is there and answers: what comes next may please it.
                self.failures = 0;
                self.not_before_mono_ns = 0;
                settled(DropReason::Refused, samples)
            }
            Outcome::Retry { after, .. } => {
                self.failures = self.failures.saturating_add(1);
                let wait = retry::wait(&self.settings.retry, self.failures, *after, jitter);
                self.not_before_mono_ns = now_mono_ns.saturating_add(nanos(wait));
                let age_ns = now_mono_ns.saturating_sub(request.since_mono_ns);
                if age_ns >= nanos(self.settings.retry.max_elapsed) {
                    return settled(DropReason::Expired, samples);
                }
                request.attempts = request.attempts.saturating_add(1);
                self.queue.push_front(request);
                Vec::new()
            }
        }
    }

    /// From now on nothing comes in, a partial interval counts as one, and the next attempt is at once.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.not_before_mono_ns = 0;
        self.close_interval();
    }

    /// Gives up all that waits or is out.
    pub(crate) fn abandon(&mut self) -> Vec<Settled> {
        self.closed = true;
        let samples = self.gauges().samples;
        self.open = Gathered::default();
        self.ready.clear();
        self.encoding = None;
        self.queue.clear();
        self.sending = None;
        settled(DropReason::Shutdown, samples)
    }

    /// Whether the machine was closed and everything has left.
    pub(crate) fn is_done(&self) -> bool {
        self.closed && self.gauges() == Gauges::default()
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let mut g = Gauges::default();
        for gathered in self.ready.iter().chain([&self.open]) {
            g.bytes += gathered.bytes;
            g.samples += gathered.samples;
        }
        if let Some((bytes, samples)) = self.encoding {
            g.bytes += bytes;
            g.samples += samples;
        }
        for request in self.queue.iter().chain(&self.sending) {
            g.bytes += request.bytes.len();
            g.samples += request.samples();
            g.requests += 1;
        }
        g
    }

    /// Drops the oldest until all fits: requests first, then windows. What is out stays.
    fn shrink(&mut self) -> Vec<Settled> {
        let mut bytes = self.gauges().bytes;
        let mut dropped = 0;
        while bytes > self.settings.queue_bytes {
            let gone = if let Some(request) = self.queue.pop_front() {
                (request.bytes.len(), request.samples())
            } else if let Some(oldest) = self.ready.front_mut() {
                let Some(gone) = oldest.pop_oldest() else {
                    self.ready.pop_front();
                    continue;
                };
                gone
            } else if let Some(gone) = self.open.pop_oldest() {
                gone
            } else {
                break;
            };
            bytes -= gone.0;
            dropped += gone.1;
        }
        settled(DropReason::QueueFull, dropped)
    }
}

fn settled(reason: DropReason, samples: u64) -> Vec<Settled> {
    if samples == 0 { Vec::new() } else { vec![Settled::Dropped(reason, samples)] }
}

/// The samples that a server may have thrown away: it says how many profiles, not which, so those with the most
/// samples are taken. What counts as exported is then never too much.
fn most_rejected(profiles: &mut [u64], rejected: u64) -> u64 {
    profiles.sort_unstable_by_key(|&samples| std::cmp::Reverse(samples));
    profiles.iter().take(usize::try_from(rejected).unwrap_or(usize::MAX)).sum()
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
