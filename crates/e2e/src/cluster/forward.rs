//! `kubectl port-forward`: the way to a pod's port that arrives there from loopback.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Cluster, Pod};
use crate::process::{Running, Start, wait_for};

/// A port of this machine that leads to a pod's.
pub struct Forward {
    port: u16,
    _running: Running,
    _folder: tempfile::TempDir,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Forward({})", self.port)
    }
}

impl Forward {
    /// Starts it, on a port that is free.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(cluster: &Cluster, pod: &Pod, port: u16) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubectl = cluster.kubectl_command()?;
        let mut running = Start::new("forward", kubectl.get_program(), folder.path())
            .env("KUBECONFIG", cluster.fact("KUBECONFIG")?)
            .args(["port-forward", "--address", "127.0.0.1", "--namespace", &pod.namespace])
            .args([format!("pod/{}", pod.name), format!(":{port}")])
            .start()?;
        let port = wait_for("the port-forward", Duration::from_secs(30), || {
            running.still_runs()?;
            let output = running.output();
            let Some(rest) = output.split("127.0.0.1:").nth(1) else { return Ok(None) };
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            Ok(Some(number.parse::<u16>().context("a port")?))
        })?;
        Ok(Self { port, _running: running, _folder: folder })
    }

    /// An address of the pod's server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}
