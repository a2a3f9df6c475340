//! A real OpenTelemetry Collector: started on free ports, its files read back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::profiles::v1development::ProfilesData;
use prost::Message as _;

use crate::otlp::{self, Received};
use crate::paths;
use crate::process::{Running, Start, free_port, wait_for};

/// The bearer token that the secure receiver wants.
pub const TOKEN: &str = "a-token-of-the-tests";

/// Where a Collector listens; kept over restarts.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// gRPC, plain.
    pub grpc: u16,
    /// HTTP, plain.
    pub http: u16,
    /// gRPC over TLS with a token.
    pub tls_grpc: u16,
    /// HTTP over TLS with a token.
    pub tls_http: u16,
    health: u16,
}

/// A Collector's place: ports, certificates and files, whether it runs now or not.
pub struct Collector {
    folder: PathBuf,
    /// Its ports.
    pub ports: Ports,
    running: Option<Running>,
}

impl Collector {
    /// Prepares one in `folder` that does not run yet.
    ///
    /// # Errors
    /// When files or ports cannot be had.
    pub fn prepare(folder: &Path) -> Result<Self> {
        let folder = folder.join("collector");
        fs::create_dir_all(folder.join("out"))?;
        certificates(&folder)?;
        let ports = Ports {
            grpc: free_port()?,
            http: free_port()?,
            tls_grpc: free_port()?,
            tls_http: free_port()?,
            health: free_port()?,
        };
        Ok(Self { folder, ports, running: None })
    }

    /// Prepares and starts one.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut collector = Self::prepare(folder)?;
        collector.run()?;
        Ok(collector)
    }

    /// Starts it (again), on the same ports, with the same files.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn run(&mut self) -> Result<()> {
        let port = |p: u16| p.to_string();
        let mut running = Start::new("collector", paths::peer("otelcol-profiles")?, &self.folder)
            .args(["--config"])
            .args([paths::kit("collector/collector.yaml")])
            .args(["--feature-gates=service.profilesSupport"])
            .env("GRPC_PORT", port(self.ports.grpc))
            .env("HTTP_PORT", port(self.ports.http))
            .env("TLS_GRPC_PORT", port(self.ports.tls_grpc))
            .env("TLS_HTTP_PORT", port(self.ports.tls_http))
            .env("HEALTH_PORT", port(self.ports.health))
            .env("TOKEN", TOKEN)
            .env("CERTS", &self.folder)
            .env("OUT", self.folder.join("out"))
            .start()?;
        let health = format!("http://127.0.0.1:{}/", self.ports.health);
        let client = crate::http::client(Duration::from_secs(5))?;
        wait_for("the Collector", Duration::from_secs(30), || {
            running.still_runs()?;
            Ok(client.get(&health).send().is_ok_and(|r| r.status().is_success()).then_some(()))
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Stops it; what it got stays.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.stop(Duration::from_secs(15))?;
        }
        Ok(())
    }

    /// The CA that signed the secure receiver's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// What it wrote in its own log.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.as_ref().map(Running::errors).unwrap_or_default()
    }

    /// The messages that one receiver (`grpc`, `http` or `secure`) got so far, each as it was written: a 4-byte
    /// big-endian length, then the message. A last one that is not whole yet is left out.
    ///
    /// # Errors
    /// When a message does not parse.
    pub fn messages(&self, receiver: &str) -> Result<Vec<ProfilesData>> {
        let path = self.folder.join("out").join(format!("{receiver}.pb"));
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*head))?;
            let Some((message, after)) = tail.split_at_checked(length) else { break };
            messages.push(ProfilesData::decode(message)?);
            rest = after;
        }
        Ok(messages)
    }

    /// The profiles that one receiver got so far.
    ///
    /// # Errors
    /// When a message makes no sense.
    pub fn profiles(&self, receiver: &str) -> Result<Vec<Received>> {
        let mut all = Vec::new();
        for message in self.messages(receiver)? {
            all.extend(otlp::profiles(&message)?);
        }
        Ok(all)
    }

    /// The names of the metrics that it got so far.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn metric_names(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.folder.join("out/metrics.jsonl"))?;
        let mut names = Vec::new();
        for line in text.lines() {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let array = |v: &serde_json::Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
            for scope in array(&value, "resourceMetrics").iter().flat_map(|r| array(r, "scopeMetrics")) {
                names.extend(array(&scope, "metrics").iter().filter_map(|m| m["name"].as_str().map(str::to_owned)));
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// A CA of the test's own, and a server's certificate for 127.0.0.1 that it signed.
fn certificates(folder: &Path) -> Result<()> {
    let openssl = |words: &[&str]| {
        let done = Command::new("openssl").args(words).current_dir(folder).output()?;
        ensure!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    fs::write(folder.join("server.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=tests CA", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&[ca.as_slice(), &key].concat())?;
    let request = ["req", "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[request.as_slice(), &key].concat())?;
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "server.ext",
        "-out",
        "server.crt",
    ])
}
