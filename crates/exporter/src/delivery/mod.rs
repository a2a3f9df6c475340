//! Profiles to a collector: gathering, encoding, queue, retry, transport.
//!
//! **In**: named base windows. **Out**: export requests; the ledger's last door. **Limits**: everything that waits
//! counts against [`DeliverySettings::queue_bytes`]; past it the oldest goes.

mod settings;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use profile::{Ledger, Profile};

pub use settings::{Compression, DeliverySettings, Endpoint, OtlpSettings, Protocol, RetrySettings};
pub use stats::{DeliveryStats, DeliveryStatsHandle, MAX_CODES};

use crate::otlp::ResourceSettings;

/// What is wrong with the settings. An absent collector is not an error.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The endpoint is not a URL that can be used.
    #[error("endpoint {endpoint:?}: {why}")]
    Endpoint {
        /// What was configured.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The primary sink where an endpoint is configured.
#[derive(Debug)]
pub struct Delivery {
    stats: DeliveryStatsHandle,
}

impl Delivery {
    /// Starts delivery on `runtime`. Does not connect: an absent collector is a warning and a counter.
    ///
    /// # Errors
    /// Settings that can never work: a malformed endpoint or header, a file that cannot be read.
    pub fn start(
        _otlp: OtlpSettings,
        _resource: ResourceSettings,
        _settings: DeliverySettings,
        _ledger: Arc<Ledger>,
        _runtime: &tokio::runtime::Handle,
    ) -> Result<Self, DeliveryError> {
        Ok(Self { stats: DeliveryStatsHandle::default() })
    }

    /// Takes a named base window. Never blocks. The caller has counted [`Ledger::named`] before.
    pub fn push(&self, _profile: Arc<Profile>) {}

    /// Sends what is held, a partial interval too, for at most `deadline`; what is left then is dropped as
    /// [`profile::DropReason::Shutdown`], and so is everything pushed later.
    pub async fn flush(&self, _deadline: Duration) {}

    /// The numbers now.
    #[must_use]
    pub fn stats(&self) -> DeliveryStats {
        self.stats.get()
    }

    /// A handle that reads the numbers from any thread.
    #[must_use]
    pub fn stats_handle(&self) -> DeliveryStatsHandle {
        self.stats.clone()
    }
}
