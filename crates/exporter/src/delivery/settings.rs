//! Where requests go, how, and how long they may wait.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1.
    HttpProtobuf,
}

/// What is done to a request's bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    #[default]
    None,
    /// gzip.
    Gzip,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: for all signals; over HTTP, the path of profiles is appended.
    Base(String),
    /// `OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT`: used as given.
    Exact(String),
}

impl Endpoint {
    /// The text that was configured.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Base(text) | Self::Exact(text) => text,
        }
    }
}

/// The connection to a collector.
#[derive(Clone)]
pub struct OtlpSettings {
    /// Where to: a URL with `http` or `https`; for gRPC also `host:port`, see [`OtlpSettings::insecure`].
    pub endpoint: Endpoint,
    /// How.
    pub protocol: Protocol,
    /// Headers or gRPC metadata of every request. Values are secrets: they are never shown.
    pub headers: Vec<(String, String)>,
    /// Longest time for one attempt.
    pub timeout: Duration,
    /// Compression of requests.
    pub compression: Compression,
    /// A PEM file with the only authorities to trust; none: those of the system.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's certificate chain, for mutual TLS; needs [`OtlpSettings::client_key`].
    pub client_certificate: Option<PathBuf>,
    /// A PEM file with the client certificate's private key.
    pub client_key: Option<PathBuf>,
    /// Whether a gRPC endpoint without a scheme is spoken to without TLS.
    pub insecure: bool,
}

impl OtlpSettings {
    /// A connection with the specification's defaults: no headers, 10 s, no compression, the system's authorities.
    #[must_use]
    pub fn new(endpoint: Endpoint, protocol: Protocol) -> Self {
        Self {
            endpoint,
            protocol,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            compression: Compression::None,
            ca: None,
            client_certificate: None,
            client_key: None,
            insecure: false,
        }
    }
}

impl fmt::Debug for OtlpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("OtlpSettings")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("compression", &self.compression)
            .field("ca", &self.ca)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .field("insecure", &self.insecure)
            .finish()
    }
}

/// When a failed request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// The wait after the first failure, before jitter.
    pub initial: Duration,
    /// The longest wait of our own; what a server asks for may be longer.
    pub max: Duration,
    /// The age at which a request that fails once more is given up.
    pub max_elapsed: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        // Pyroscope refuses what is older than an hour; half of that leaves the server time of its own.
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(30),
            max_elapsed: Duration::from_secs(30 * 60),
        }
    }
}

/// How much is gathered and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// What one export covers: whole base windows, as many as come closest from above.
    pub interval: Duration,
    /// Bytes that may wait: windows not yet encoded and requests, the one being sent included.
    pub queue_bytes: usize,
    /// The largest request, uncompressed; gRPC receivers refuse above 4 MiB by default.
    pub max_request_bytes: usize,
    /// When to try again.
    pub retry: RetrySettings,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            queue_bytes: 32 << 20,
            max_request_bytes: 7 << 19,
            retry: RetrySettings::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut s = OtlpSettings::new(Endpoint::Base("http://x:1".into()), Protocol::Grpc);
        s.headers.push(("authorization".into(), "Bearer hunter2".into()));
        let shown = format!("{s:?}");
        assert!(shown.contains("authorization") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn the_default_request_stays_below_four_mebibytes() {
        assert_eq!(DeliverySettings::default().max_request_bytes, 3_670_016);
    }
}
