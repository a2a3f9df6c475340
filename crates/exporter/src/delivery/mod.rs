//! Profiles to a collector: gathering, encoding, queue, retry, transport.
//!
//! ```text
//! push -> windows -> (whole interval) -> encoder -> requests -> gRPC or HTTP -> exported
//!                                                      ^  retry  |
//!                                                      +---------+
//! ```
//!
//! **In**: named base windows, already counted by [`Ledger::named`]. **Out**: export requests; the ledger's last door:
//! each sample is counted once as exported or as dropped. **Limits**: everything that waits counts against
//! [`DeliverySettings::queue_bytes`]; past it the oldest goes.

mod machine;
mod outcome;
mod report;
mod retry;
mod settings;
mod stats;
pub(crate) mod transport;
mod worker;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use profile::{Ledger, Profile};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use settings::{Compression, DeliverySettings, Endpoint, OtlpSettings, Protocol, RetrySettings};
pub use stats::{DeliveryStats, DeliveryStatsHandle, MAX_CODES};
pub use transport::without_credentials;

use crate::otlp::ResourceSettings;

/// What is wrong with the settings. An absent collector is not an error.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The endpoint is not a URL that can be used.
    #[error("endpoint {endpoint:?}: {why}")]
    Endpoint {
        /// What was configured, without credentials.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// A header cannot be sent. Its value is not shown.
    #[error("header {name:?}: {why}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate or key file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{what} {why}")]
    Tls {
        /// The file, or where else it comes from.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The settings contradict each other.
    #[error("{what}")]
    Settings {
        /// Which, and how.
        what: String,
    },
}

/// The primary sink where an endpoint is configured.
pub struct Delivery {
    shared: Arc<worker::Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Delivery {
    /// Starts delivery on `runtime`. Does not connect: an absent collector is a warning and a counter.
    ///
    /// # Errors
    /// Settings that can never work: a malformed endpoint or header, a file that cannot be read.
    pub fn start(
        otlp: OtlpSettings,
        resource: ResourceSettings,
        settings: DeliverySettings,
        ledger: Arc<Ledger>,
        runtime: &Handle,
    ) -> Result<Self, DeliveryError> {
        if settings.queue_bytes < settings.max_request_bytes {
            return Err(DeliveryError::Settings {
                what: format!(
                    "the queue ({} bytes) is smaller than a request may be ({} bytes)",
                    settings.queue_bytes, settings.max_request_bytes
                ),
            });
        }
        if otlp.timeout.is_zero() {
            return Err(DeliveryError::Settings { what: "the timeout is zero".into() });
        }
        let _entered = runtime.enter();
        let transport = transport::Transport::new(&otlp)?;
        let endpoint = without_credentials(otlp.endpoint.text());
        let shared = Arc::new(worker::Shared::new(settings, ledger, endpoint));
        let task = runtime.spawn(worker::run(Arc::clone(&shared), transport, resource, settings.max_request_bytes));
        Ok(Self { shared, task: Mutex::new(Some(task)) })
    }

    /// Takes a named base window. Never blocks. The caller has counted [`Ledger::named`] before.
    pub fn push(&self, profile: Arc<Profile>) {
        self.shared.push(profile);
    }

    /// Sends what is held, a partial interval too, for at most `deadline`; what is left then is dropped as
    /// [`profile::DropReason::Shutdown`], and so is everything pushed later.
    pub async fn flush(&self, deadline: Duration) {
        self.shared.close();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(deadline, &mut task).await.is_err()
        {
            task.abort();
        }
        self.shared.abandon();
    }

    /// The numbers now.
    #[must_use]
    pub fn stats(&self) -> DeliveryStats {
        self.shared.stats.get()
    }

    /// A handle that reads the numbers from any thread.
    #[must_use]
    pub fn stats_handle(&self) -> DeliveryStatsHandle {
        self.shared.stats.clone()
    }
}

impl Drop for Delivery {
    /// Without [`Delivery::flush`] before, what is held is dropped and counted.
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.shared.abandon();
    }
}
