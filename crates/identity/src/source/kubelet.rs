//! The kubelet: all pods of this node, in one answer.
//!
//! **In**: the answer to `GET /pods`, read as it comes. **Out**: [`Listing`]. **Limits**: [`MAX_BYTES`], [`TIMEOUT`]. The
//! token is read again for every request, since it is replaced about every hour; it is sent over TLS only, and never to a
//! proxy or to where an answer redirects.

mod body;
mod tls;

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, Url};

use super::{Failure, chain};
use crate::pods::{Listing, read_list};
use crate::settings::{IdentityError, IdentitySettings};

/// The kubelet's port.
const PORT: u16 = 10250;
/// The longest answer that is read, in bytes. That of a node with 250 pods has some 3 MiB.
const MAX_BYTES: u64 = 32 << 20;
/// How long an answer may take, to its last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest token, in bytes.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// The kubelet of this node.
#[derive(Debug)]
pub(crate) struct Kubelet {
    url: Url,
    token_file: PathBuf,
    trust: tls::Trust,
    max_pods: usize,
    /// Made anew after every failure: the certificates to trust may be others by then.
    client: Option<Client>,
    limits: Limits,
}

/// What one answer may cost.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes: u64,
    time: Duration,
}

impl Kubelet {
    pub(crate) fn new(settings: &IdentitySettings) -> Result<Self, IdentityError> {
        let url = url(settings)?;
        Ok(Self {
            trust: tls::Trust::new(settings, url.host_str().unwrap_or_default()),
            url,
            token_file: settings.token_file.clone(),
            max_pods: settings.max_containers,
            client: None,
            limits: Limits { bytes: MAX_BYTES, time: TIMEOUT },
        })
    }

    /// All pods.
    pub(crate) async fn list(&mut self) -> Result<Listing, Failure> {
        let time = self.limits.time;
        let answer = match tokio::time::timeout(time, self.ask()).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new("timeout", format!("no answer of {} within {time:?}", self.url))),
        };
        if answer.is_err() {
            self.client = None;
        }
        answer
    }

    async fn ask(&mut self) -> Result<Listing, Failure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(self.connector()?).clone(),
        };
        let token = self.token();
        let mut response = self.send(&client, token.as_deref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // It may have been replaced between our reading it and the kubelet's judging it.
            let now = self.token();
            if now != token {
                response = self.send(&client, now.as_deref()).await?;
            }
        }
        let status = response.status();
        if status != StatusCode::OK {
            let condition = match status {
                StatusCode::UNAUTHORIZED => "not authenticated",
                StatusCode::FORBIDDEN => "not authorized",
                _ => "refused",
            };
            return Err(Failure::new(condition, format!("{} answers {status}{}", self.url, words(response).await)));
        }
        let max_pods = self.max_pods;
        body::parse(response, self.limits.bytes, move |reader| read_list(reader, max_pods)).await
    }

    async fn send(&self, client: &Client, token: Option<&str>) -> Result<Response, Failure> {
        let mut request = client.get(self.url.clone());
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.map_err(|e| {
            let why = chain(&e.without_url());
            let condition = if why.contains("certificate") { "certificate" } else { "connection" };
            Failure::new(condition, format!("{}: {why}", self.url))
        })
    }

    /// The token; none where it may not be sent or is not there.
    fn token(&self) -> Option<String> {
        if self.url.scheme() != "https" {
            return None;
        }
        let token = read(&self.token_file, MAX_TOKEN_BYTES).ok()?;
        let token = String::from_utf8(token).ok()?;
        Some(token.trim().to_owned()).filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()))
    }

    fn connector(&self) -> Result<Client, Failure> {
        let client = Client::builder()
            .tls_backend_preconfigured(self.trust.client_config(self.url.scheme() == "https")?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(self.limits.time)
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(1)
            .user_agent(concat!("profiler/", env!("CARGO_PKG_VERSION")))
            .build();
        client.map_err(|e| Failure::new("client", chain(&e)))
    }
}

/// The beginning of an answer's body, as far as it is there at once: it often says what is missing.
async fn words(mut response: Response) -> String {
    let chunk = response.chunk().await.ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(chunk.get(..chunk.len().min(300)).unwrap_or_default()).into_owned();
    let text = text.trim().replace(char::is_control, " ");
    if text.is_empty() { text } else { format!(": {text}") }
}

fn url(settings: &IdentitySettings) -> Result<Url, IdentityError> {
    let ip = settings.node_ip.as_deref().map(str::trim).filter(|ip| !ip.is_empty()).unwrap_or("127.0.0.1");
    let text = match settings.kubelet_url.as_deref().map(str::trim).filter(|url| !url.is_empty()) {
        Some(url) => url.to_owned(),
        None if ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => format!("https://[{ip}]:{PORT}"),
        None => format!("https://{ip}:{PORT}"),
    };
    let bad = |why: &str| IdentityError::KubeletUrl { url: text.clone(), why: why.to_owned() };
    let mut url = Url::parse(&text).map_err(|e| bad(&format!("{e}; it should look like https://10.0.0.5:10250")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("its scheme is neither http nor https"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("should have nothing but scheme, host and port"));
    }
    let path = format!("{}/pods", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// At most `max` bytes of a file.
fn read(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
