//! What delivery says about itself.
//!
//! **In**: outcomes of attempts. **Out**: [`DeliveryStats`], read as a whole by one scrape. **Limits**:
//! [`MAX_CODES`] distinct codes; further ones are counted as `other`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Distinct result codes that are told apart.
pub const MAX_CODES: usize = 48;

/// The numbers of delivery. Counters only grow while the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryStats {
    /// Attempts by how they ended: gRPC's names (`OK`, `UNAVAILABLE`), HTTP's numbers (`200`, `503`), or `connect`,
    /// `timeout`, `transport`, `response` where no answer came or none that could be read.
    pub requests: BTreeMap<Arc<str>, u64>,
    /// Attempts after the first of a request.
    pub retries: u64,
    /// Bytes of accepted requests, before compression.
    pub bytes: u64,
    /// Samples that wait, the request being sent included.
    pub queue_samples: u64,
    /// Bytes that wait, the request being sent included.
    pub queue_bytes: u64,
    /// The bound on [`DeliveryStats::queue_bytes`].
    pub queue_capacity_bytes: u64,
    /// Requests that wait, the one being sent included; windows not yet encoded are not counted.
    pub queue_requests: u64,
    /// Samples encoded into a resource that says nothing of their process, for want of room.
    pub unattributed: u64,
    /// Attributes of resources that were left out of requests.
    pub left_out_attributes: u64,
    /// Failed attempts since the last success.
    pub consecutive_failures: u64,
    /// The last failure, nanoseconds since the Unix epoch; 0 where there was none.
    pub last_error_unix_ns: u64,
    /// What the last failure said, cut and without control characters; empty where there was none.
    pub last_error: String,
    /// The last success, nanoseconds since the Unix epoch; 0 where there was none.
    pub last_success_unix_ns: u64,
}

/// Reads [`DeliveryStats`] from any thread, for as long as anyone holds it.
#[derive(Clone, Debug, Default)]
pub struct DeliveryStatsHandle(Arc<Mutex<DeliveryStats>>);

impl DeliveryStatsHandle {
    /// All numbers at one moment.
    #[must_use]
    pub fn get(&self) -> DeliveryStats {
        self.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut DeliveryStats)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, DeliveryStats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliveryStats {
    pub(crate) fn count(&mut self, code: &str) {
        let code = if self.requests.contains_key(code) || self.requests.len() < MAX_CODES { code } else { "other" };
        match self.requests.get_mut(code) {
            Some(n) => *n += 1,
            None => {
                self.requests.insert(code.into(), 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_invents_codes_does_not_grow_the_table() {
        let mut s = DeliveryStats::default();
        for code in 0..1000 {
            s.count(&code.to_string());
        }
        assert_eq!(s.requests.len(), MAX_CODES + 1);
        assert_eq!(s.requests.values().sum::<u64>(), 1000);
        assert_eq!(s.requests["other"], 1000 - MAX_CODES as u64);
    }
}
