//! What tests of delivery share: profiles, a ledger, servers that misbehave on command.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

pub mod fixture;
pub mod grpc;
pub mod http;
pub mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use exporter::delivery::{Delivery, DeliverySettings, Endpoint, OtlpSettings, Protocol, RetrySettings};
use exporter::otlp::ResourceSettings;
use profile::{DropReason, Ledger, Profile, Stage};
use tokio::runtime::Handle;

/// Delivery with a ledger, as the agent has them.
pub struct Sender {
    pub delivery: Delivery,
    pub ledger: Arc<Ledger>,
}

pub fn settings(endpoint: String, protocol: Protocol) -> OtlpSettings {
    OtlpSettings { timeout: Duration::from_secs(5), ..OtlpSettings::new(Endpoint::Base(endpoint), protocol) }
}

/// Every window is sent at once, and failures are tried again soon.
pub fn eager() -> DeliverySettings {
    DeliverySettings {
        interval: Duration::from_secs(5),
        retry: RetrySettings {
            initial: Duration::from_millis(20),
            max: Duration::from_millis(100),
            ..RetrySettings::default()
        },
        ..DeliverySettings::default()
    }
}

impl Sender {
    pub fn new(otlp: OtlpSettings) -> Self {
        Self::with(otlp, eager())
    }

    pub fn with(otlp: OtlpSettings, settings: DeliverySettings) -> Self {
        let ledger = Arc::new(Ledger::default());
        let resource = ResourceSettings { host_name: "test".into(), ..ResourceSettings::default() };
        let delivery = Delivery::start(otlp, resource, settings, Arc::clone(&ledger), &Handle::current()).unwrap();
        Self { delivery, ledger }
    }

    pub fn push(&self, profile: Profile) {
        let samples = profile.samples();
        self.ledger.read(samples);
        self.ledger.windowed(samples);
        self.ledger.closed(samples);
        self.ledger.named(samples);
        self.delivery.push(Arc::new(profile));
    }

    pub fn exported(&self) -> u64 {
        self.ledger.snapshot(Default::default).exported
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.ledger.snapshot(Default::default).dropped(reason)
    }

    pub fn held(&self) -> i64 {
        self.ledger.snapshot(Default::default).held(Stage::Queue)
    }

    pub fn count(&self, code: &str) -> u64 {
        self.delivery.stats().requests.get(code).copied().unwrap_or_default()
    }

    /// Waits until nothing is held.
    pub async fn settled(&self) {
        self.until(|s| s.held() == 0).await;
    }

    pub async fn until(&self, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "still waiting: {:?}", self.delivery.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
