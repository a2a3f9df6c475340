//! One OTLP receiver from the pieces that variables or a file give, by the rules of the OpenTelemetry specification.
//!
//! **In**: texts with their origins. **Out**: [`Otlp`], or none where no endpoint is given.

use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use super::headers;
use super::settings::{Headers, Otlp, Protocol};
use super::value::{between, boolean};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest timeout; also what 0, "no limit", means.
const MAX_TIMEOUT_MS: u32 = 300_000;
/// The port that everybody uses for gRPC.
const GRPC_PORT: u16 = 4317;

/// A text and where it came from: a variable, or a place in a file.
#[derive(Clone, Debug)]
pub(crate) struct Sourced {
    /// The text.
    pub(crate) value: String,
    /// The origin.
    pub(crate) origin: String,
}

impl Sourced {
    fn bad(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::Value { origin: self.origin.clone(), value: self.value.clone(), problem: problem.into() }
    }
}

/// What is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Profiles.
    Profiles,
    /// The profiler's own metrics.
    Metrics,
}

impl Signal {
    fn path(self) -> &'static str {
        match self {
            Self::Profiles => "v1development/profiles",
            Self::Metrics => "v1/metrics",
        }
    }
}

/// The pieces, unchecked.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawOtlp {
    /// A base: over HTTP the signal's path is appended.
    pub(crate) base: Option<Sourced>,
    /// The signal's own endpoint: taken as it is. Wins over `base`.
    pub(crate) own: Option<Sourced>,
    /// `grpc` or `http/protobuf`.
    pub(crate) protocol: Option<Sourced>,
    /// `name=value,...`
    pub(crate) header_list: Option<Sourced>,
    /// Single headers; they win over the list.
    pub(crate) headers: Vec<(String, Sourced)>,
    /// Milliseconds.
    pub(crate) timeout: Option<Sourced>,
    /// `gzip` or `none`.
    pub(crate) compression: Option<Sourced>,
    /// A file of trusted certificates.
    pub(crate) ca: Option<Sourced>,
    /// The client's certificate file.
    pub(crate) client_certificate: Option<Sourced>,
    /// The client's key file.
    pub(crate) client_key: Option<Sourced>,
    /// gRPC endpoints without a scheme are plain text.
    pub(crate) insecure: Option<Sourced>,
}

/// Checks the pieces and puts them together.
///
/// # Errors
/// The first piece that is wrong, with its origin.
pub(crate) fn resolve(raw: &RawOtlp, signal: Signal) -> Result<Option<Otlp>, ConfigError> {
    // Everything is checked, whether or not an endpoint is given: a mistake shows before it matters.
    let asked = raw.protocol.as_ref().map(protocol).transpose()?;
    let insecure = raw.insecure.as_ref().map(|s| boolean(&s.value).map_err(|p| s.bad(p))).transpose()?.unwrap_or(false);
    let headers = all_headers(raw)?;
    let timeout = raw.timeout.as_ref().map(timeout).transpose()?.unwrap_or(DEFAULT_TIMEOUT);
    let gzip = raw.compression.as_ref().map(compression).transpose()?.unwrap_or(true);
    let ca = raw.ca.as_ref().map(file).transpose()?;
    let client = match (&raw.client_certificate, &raw.client_key) {
        (Some(certificate), Some(key)) => Some((file(certificate)?, file(key)?)),
        (None, None) => None,
        (Some(only), None) => return Err(only.bad("is a client certificate without a client key: set both or neither")),
        (None, Some(only)) => return Err(only.bad("is a client key without a client certificate: set both or neither")),
    };
    let Some(endpoint) = raw.own.as_ref().or(raw.base.as_ref()) else { return Ok(None) };
    let protocol = asked.unwrap_or_else(|| usual_protocol(&endpoint.value));
    let url = match protocol {
        Protocol::Grpc => grpc_endpoint(endpoint, insecure)?,
        Protocol::HttpProtobuf => http_endpoint(endpoint, raw.own.is_some(), signal)?,
    };
    Ok(Some(Otlp { endpoint: url, protocol, headers, timeout, gzip, ca, client }))
}

fn protocol(s: &Sourced) -> Result<Protocol, ConfigError> {
    match s.value.trim() {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        "http/json" => Err(s.bad("is not supported: use grpc or http/protobuf")),
        _ => Err(s.bad("is neither grpc nor http/protobuf")),
    }
}

/// Where no protocol is asked for: http/protobuf, except on the port that only gRPC uses.
fn usual_protocol(endpoint: &str) -> Protocol {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port == Some(GRPC_PORT) { Protocol::Grpc } else { Protocol::HttpProtobuf }
}

fn timeout(s: &Sourced) -> Result<Duration, ConfigError> {
    let ms = between(&s.value, "a timeout in milliseconds", 0, MAX_TIMEOUT_MS).map_err(|p| s.bad(p))?;
    Ok(Duration::from_millis(u64::from(if ms == 0 { MAX_TIMEOUT_MS } else { ms })))
}

fn compression(s: &Sourced) -> Result<bool, ConfigError> {
    match s.value.trim() {
        "gzip" => Ok(true),
        "none" => Ok(false),
        _ => Err(s.bad("is neither gzip nor none")),
    }
}

fn file(s: &Sourced) -> Result<PathBuf, ConfigError> {
    match std::fs::File::open(&s.value) {
        Ok(_) => Ok(PathBuf::from(&s.value)),
        Err(e) => Err(s.bad(format!("is a file that cannot be read: {e}"))),
    }
}

fn all_headers(raw: &RawOtlp) -> Result<Headers, ConfigError> {
    let mut out = match &raw.header_list {
        Some(s) => {
            headers::parse(&s.value).map_err(|problem| ConfigError::Secret { origin: s.origin.clone(), problem })?
        }
        None => Vec::new(),
    };
    for (name, s) in &raw.headers {
        let (name, value) = headers::check(name, &s.value)
            .map_err(|problem| ConfigError::Secret { origin: s.origin.clone(), problem })?;
        out.retain(|(n, _)| *n != name);
        out.push((name, value));
    }
    Ok(Headers(out))
}

fn uri(s: &Sourced, text: &str) -> Result<http::Uri, ConfigError> {
    let uri: http::Uri = text.trim().parse().map_err(|e| s.bad(format!("is not a URL: {e}")))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(s.bad("names no host: write for example http://localhost:4318"));
    }
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(s.bad("does not begin with http:// or https://")),
    }
}

fn http_endpoint(s: &Sourced, own: bool, signal: Signal) -> Result<String, ConfigError> {
    let uri = uri(s, &s.value)?;
    let scheme = uri.scheme_str().unwrap_or("http");
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let path =
        if own { uri.path().to_owned() } else { format!("{}/{}", uri.path().trim_end_matches('/'), signal.path()) };
    Ok(format!("{scheme}://{authority}{path}{query}"))
}

fn grpc_endpoint(s: &Sourced, insecure: bool) -> Result<String, ConfigError> {
    let text = s.value.trim();
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("{}://{text}", if insecure { "http" } else { "https" })
    };
    let uri = uri(s, &full)?;
    Ok(format!(
        "{}://{}",
        uri.scheme_str().unwrap_or("http"),
        uri.authority().map(ToString::to_string).unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(value: &str) -> Option<Sourced> {
        Some(Sourced { value: value.to_owned(), origin: "VARIABLE".to_owned() })
    }

    fn endpoint(base: Option<&str>, own: Option<&str>, protocol: Option<&str>, insecure: bool) -> String {
        let raw = RawOtlp {
            base: base.and_then(s),
            own: own.and_then(s),
            protocol: protocol.and_then(s),
            insecure: s(if insecure { "true" } else { "false" }),
            ..RawOtlp::default()
        };
        match resolve(&raw, Signal::Profiles) {
            Ok(Some(otlp)) => format!("{:?} {}", otlp.protocol, otlp.endpoint),
            Ok(None) => "none".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn endpoints() {
        let http = "HttpProtobuf http://h:4318/v1development/profiles";
        assert_eq!(endpoint(None, None, None, false), "none");
        assert_eq!(endpoint(Some("http://h:4318"), None, None, false), http);
        assert_eq!(endpoint(Some("http://h:4318/"), None, None, false), http);
        assert_eq!(
            endpoint(Some("https://h/otlp/"), None, None, false),
            "HttpProtobuf https://h/otlp/v1development/profiles"
        );
        assert_eq!(endpoint(Some("http://x:1"), Some("http://h:9/p"), None, false), "HttpProtobuf http://h:9/p");
        assert_eq!(endpoint(None, Some("http://h:9"), None, false), "HttpProtobuf http://h:9/");
        assert_eq!(endpoint(Some("http://h:4317"), None, None, false), "Grpc http://h:4317");
        assert_eq!(endpoint(Some("http://h:4040"), None, Some("grpc"), false), "Grpc http://h:4040");
        assert_eq!(endpoint(Some("https://h:4317/x"), None, Some("grpc"), false), "Grpc https://h:4317");
        assert_eq!(endpoint(Some("h:4317"), None, None, false), "Grpc https://h:4317");
        assert_eq!(endpoint(Some("h:4317"), None, None, true), "Grpc http://h:4317");
        assert_eq!(
            endpoint(Some("http://h:4317"), None, Some("http/protobuf"), true),
            "HttpProtobuf http://h:4317/v1development/profiles"
        );
    }

    #[test]
    fn bad_endpoints_name_their_origin() {
        for (base, protocol) in [
            ("h:4318", None),
            ("ftp://h", None),
            ("http://", None),
            ("http://h", Some("udp")),
            ("http://h", Some("http/json")),
        ] {
            let error = endpoint(Some(base), None, protocol, false);
            assert!(error.starts_with("VARIABLE: `"), "{error}");
        }
    }

    #[test]
    fn the_rest_is_checked_too() {
        let check = |raw: RawOtlp| resolve(&raw, Signal::Metrics).map(|_| ()).map_err(|e| e.to_string());
        assert!(check(RawOtlp { timeout: s("soon"), ..RawOtlp::default() }).is_err());
        assert!(check(RawOtlp { compression: s("zstd"), ..RawOtlp::default() }).is_err());
        assert!(check(RawOtlp { ca: s("/does/not/exist"), ..RawOtlp::default() }).is_err());
        assert!(check(RawOtlp { client_key: s("/dev/null"), ..RawOtlp::default() }).is_err());
        let error = check(RawOtlp { header_list: s("token"), ..RawOtlp::default() }).unwrap_err();
        assert!(!error.contains("token") && error.contains("VARIABLE"), "a header's text stays secret: {error}");
        let raw = RawOtlp { base: s("http://h"), timeout: s("0"), ..RawOtlp::default() };
        assert_eq!(resolve(&raw, Signal::Metrics).unwrap().unwrap().timeout, Duration::from_secs(300));
    }
}
