//! OTLP over HTTP: protobuf in the body of a POST.

use std::io::Write;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceResponse;
use prost::Message;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};

use super::super::DeliveryError;
use super::super::outcome::{Answer, chain, of_http};
use super::super::settings::{Compression, Endpoint, OtlpSettings};
use super::{MAX_RESPONSE_BYTES, USER_AGENT, headers, tls, without_credentials};

const PATH: &str = "v1development/profiles";
const PROTOBUF: &str = "application/x-protobuf";

pub(crate) struct Http {
    client: Client,
    url: Url,
    headers: HeaderMap,
    compression: Compression,
    timeout: Duration,
}

impl Http {
    pub(crate) fn new(settings: &OtlpSettings) -> Result<Self, DeliveryError> {
        let url = url(&settings.endpoint)?;
        let config = if url.scheme() == "https" { tls::for_http(settings)? } else { tls::for_plain_http()? };
        let mut headers = headers::parse(&settings.headers)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        if settings.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let client = Client::builder()
            .tls_backend_preconfigured(config)
            .user_agent(USER_AGENT)
            // A redirected POST would become a GET: better a clear refusal.
            .redirect(Policy::none())
            .build()
            .map_err(|e| DeliveryError::Tls { what: "the HTTP client".into(), why: chain(&e) })?;
        Ok(Self { client, url, headers, compression: settings.compression, timeout: settings.timeout })
    }

    pub(crate) async fn send(&mut self, bytes: Bytes) -> Answer {
        let body = match self.compression {
            Compression::None => bytes,
            Compression::Gzip => gzip(&bytes),
        };
        match tokio::time::timeout(self.timeout, self.exchange(body)).await {
            Ok(answer) => answer,
            Err(_) => Answer::retry("timeout", &format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn exchange(&self, body: Bytes) -> Answer {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) => {
                let code = if e.is_connect() { "connect" } else { "transport" };
                return Answer::retry(code, &chain(&e.without_url()));
            }
        };
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let protobuf =
            response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(PROTOBUF.as_bytes()));
        let body = match read(response).await {
            Ok(body) => body,
            Err(Unreadable::TooLarge) => {
                return Answer::refused(
                    "response",
                    &format!("HTTP {status} with more than {MAX_RESPONSE_BYTES} bytes"),
                );
            }
            Err(Unreadable::Broken(why)) => return Answer::retry("transport", &why),
        };
        if status.is_success() {
            // An answer that cannot be read says nothing against its status.
            let partial = if protobuf { ExportProfilesServiceResponse::decode(body.as_slice()).ok() } else { None };
            let partial = partial.and_then(|r| r.partial_success).unwrap_or_default();
            return Answer::accepted(status.as_str(), partial.rejected_profiles, &partial.error_message);
        }
        let words = if protobuf {
            tonic_types::Status::decode(body.as_slice()).map(|s| s.message).unwrap_or_default()
        } else {
            String::from_utf8_lossy(&body).into_owned()
        };
        of_http(status.as_u16(), retry_after.as_deref(), &words, SystemTime::now())
    }
}

enum Unreadable {
    TooLarge,
    Broken(String),
}

async fn read(mut response: Response) -> Result<Vec<u8>, Unreadable> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Unreadable::Broken(chain(&e.without_url())))? {
        if body.len().saturating_add(chunk.len()) > MAX_RESPONSE_BYTES {
            return Err(Unreadable::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn url(endpoint: &Endpoint) -> Result<Url, DeliveryError> {
    let text = endpoint.text().trim();
    let err = |why: &str| DeliveryError::Endpoint { endpoint: without_credentials(text), why: why.to_owned() };
    let mut url = Url::parse(text).map_err(|e| err(&format!("{e}; it should look like http://localhost:4318")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(err("its scheme is neither http nor https"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(err("names no host"));
    }
    if matches!(endpoint, Endpoint::Base(_)) {
        let path = format!("{}/{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

fn gzip(bytes: &Bytes) -> Bytes {
    let mut packed = GzEncoder::new(Vec::with_capacity(bytes.len() / 3), flate2::Compression::fast());
    match packed.write_all(bytes).and_then(|()| packed.finish()) {
        Ok(packed) => packed.into(),
        // Writing to memory cannot fail.
        Err(_) => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_follows_the_base_and_only_the_base() {
        for (base, want) in [
            ("http://localhost:4318", "http://localhost:4318/v1development/profiles"),
            ("https://host/otlp/", "https://host/otlp/v1development/profiles"),
        ] {
            assert_eq!(url(&Endpoint::Base(base.into())).unwrap().as_str(), want);
        }
        assert_eq!(url(&Endpoint::Exact("http://host:1/x".into())).unwrap().as_str(), "http://host:1/x");
        assert_eq!(url(&Endpoint::Exact("http://host:1".into())).unwrap().as_str(), "http://host:1/");
        for bad in ["localhost:4318", "ftp://x", "http://", "", "nonsense"] {
            assert!(url(&Endpoint::Base(bad.into())).is_err(), "{bad}");
        }
    }
}
