//! One attempt to send one request.
//!
//! **In**: an encoded request. **Out**: an [`Answer`]; never an error, never a panic, and always within the timeout.
//! **Limits**: an answer of more than [`MAX_RESPONSE_BYTES`] is not read.

mod grpc;
pub(crate) mod headers;
mod http;
pub(crate) mod tls;

use bytes::Bytes;

use super::DeliveryError;
use super::outcome::Answer;
use super::settings::{OtlpSettings, Protocol};

/// The largest answer that is read: far above any honest one, and small enough to be no danger to us.
pub(crate) const MAX_RESPONSE_BYTES: usize = 1 << 20;

const USER_AGENT: &str = concat!("profiler/", env!("CARGO_PKG_VERSION"));

/// The way to the collector.
pub(crate) enum Transport {
    Grpc(Box<grpc::Grpc>),
    Http(Box<http::Http>),
}

impl Transport {
    /// Checks the settings and reads the files that they name. Does not connect; must be called where a runtime is
    /// entered.
    pub(crate) fn new(settings: &OtlpSettings) -> Result<Self, DeliveryError> {
        Ok(match settings.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(grpc::Grpc::new(settings)?)),
            Protocol::HttpProtobuf => Self::Http(Box::new(http::Http::new(settings)?)),
        })
    }

    pub(crate) async fn send(&mut self, request: Bytes) -> Answer {
        match self {
            Self::Grpc(grpc) => grpc.send(request).await,
            Self::Http(http) => http.send(request).await,
        }
    }
}

/// An endpoint as log lines may show it: without user and password.
#[must_use]
pub fn without_credentials(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").map_or(("", endpoint), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit('@').next().unwrap_or_default();
    // A query may hold a key.
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (endpoint, want) in [
            ("http://localhost:4317", "http://localhost:4317"),
            ("https://user:secret@host:1/v1?key=secret", "https://host:1/v1"),
            ("user:secret@host:4317", "host:4317"),
            ("https://host/a@b", "https://host/a@b"),
        ] {
            assert_eq!(without_credentials(endpoint), want);
        }
    }
}
