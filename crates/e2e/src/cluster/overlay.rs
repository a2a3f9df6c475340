//! What `deploy/` brings, applied as it is: the overlays of `tests/kubernetes/overlays` change names of images only.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::forward::Forward;
use super::{Applied, Cluster, LONGEST, Pod};
use crate::http;
use crate::process::wait_for;
use crate::scrape::Scrape;
use crate::{paths, pprof};

/// The namespace of all that `deploy/` brings.
pub const NAMESPACE: &str = "profiler";
/// The label of the agents.
pub const AGENT: &str = "app=profiler";

/// An overlay that is applied; deleted when it goes out of scope.
#[derive(Debug)]
pub struct Overlay {
    cluster: Cluster,
    applied: Applied,
}

impl Overlay {
    /// `kubectl apply -k`; waits until the agent is ready.
    ///
    /// # Errors
    /// When it is refused, or the agent does not become ready.
    pub fn apply(cluster: &Cluster, name: &str) -> Result<Self> {
        let applied = cluster.apply_path("-k", &paths::kubernetes(&format!("overlays/{name}")))?;
        let overlay = Self { cluster: cluster.clone(), applied };
        wait_for("the DaemonSet", LONGEST, || {
            let set = cluster.get(&["daemonset", "profiler", "--namespace", NAMESPACE])?;
            let status = &set["status"];
            ensure!(status["desiredNumberScheduled"] == 1 && status["numberReady"] == 1, "{status}");
            Ok(Some(()))
        })?;
        Ok(overlay)
    }

    /// The agent's pod.
    ///
    /// # Errors
    /// When it is not ready.
    pub fn agent(&self) -> Result<Agent> {
        let pod = self.cluster.ready_pod(NAMESPACE, AGENT)?;
        let forward = Forward::start(&self.cluster, &pod, 2112)?;
        Ok(Agent { pod, forward, client: http::client(Duration::from_secs(120))? })
    }

    /// Another pod of the overlay, by its label `app`.
    ///
    /// # Errors
    /// When it is not ready.
    pub fn pod(&self, app: &str) -> Result<Pod> {
        self.cluster.ready_pod(NAMESPACE, &format!("app={app}"))
    }

    /// Deletes all of it.
    ///
    /// # Errors
    /// When something stays.
    pub fn delete(self) -> Result<()> {
        self.applied.delete()
    }
}

/// The agent in its pod, reached by `kubectl port-forward`, as a person does.
#[derive(Debug)]
pub struct Agent {
    /// Its pod.
    pub pod: Pod,
    forward: Forward,
    client: reqwest::blocking::Client,
}

impl Agent {
    /// An address of it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        self.forward.url(path)
    }

    /// The body of an address.
    ///
    /// # Errors
    /// When the answer is no success.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.client.get(self.url(path)).send().with_context(|| path.to_owned())?;
        let status = answer.status();
        let body = answer.bytes()?.to_vec();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Its metrics, now.
    ///
    /// # Errors
    /// When they do not parse.
    pub fn scrape(&self) -> Result<Scrape> {
        Scrape::parse(&String::from_utf8(self.get("/metrics")?)?)
    }

    /// The pprof endpoint's answer for the next seconds.
    ///
    /// # Errors
    /// When it is no good profile.
    pub fn pprof(&self, seconds: u64) -> Result<crate::stacks::Stacks> {
        pprof::stacks(&pprof::read(&self.get(&format!("/debug/pprof/profile?seconds={seconds}"))?)?)
    }

    /// What the page has kept of the last seconds, as a pprof file.
    ///
    /// # Errors
    /// When it is no good profile.
    pub fn kept(&self, seconds: u64) -> Result<crate::stacks::Stacks> {
        pprof::stacks(&pprof::read(&self.get(&format!("/api/profile.pb.gz?seconds={seconds}"))?)?)
    }
}
