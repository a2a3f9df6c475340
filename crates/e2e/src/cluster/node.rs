//! What containerd itself says of containers: its events, from the moment that they are listened to.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Cluster;
use crate::process::{Running, Start, wait_for};

/// One container that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub container: String,
    /// The pid of its first process, on the machine.
    pub pid: u64,
}

/// A listener to the events of one of containerd's namespaces.
pub struct Events {
    running: Running,
    _folder: tempfile::TempDir,
}

impl Events {
    /// Listens from now on.
    ///
    /// # Errors
    /// When `ctr` cannot be started.
    pub fn listen(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = cluster.inside(cluster.fact("CTR")?)?;
        command.args(["--address", "/run/containerd/containerd.sock", "--namespace", namespace, "events"]);
        let mut running =
            Start::new("events", command.get_program(), folder.path()).args(command.get_args()).start()?;
        // It says nothing when it is ready; a connection takes it less than this.
        std::thread::sleep(Duration::from_secs(1));
        running.still_runs()?;
        Ok(Self { running, _folder: folder })
    }

    /// The containers that were started so far.
    ///
    /// # Errors
    /// When an event is not as events are.
    pub fn started(&self) -> Result<Vec<Started>> {
        let output = self.running.output();
        // A last line may not be whole yet.
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        let lines = whole.lines().filter(|l| l.contains(" /tasks/start "));
        lines.map(|line| started(line).with_context(|| format!("an event: {line}"))).collect()
    }

    /// Waits until so many were started.
    ///
    /// # Errors
    /// When they are not.
    pub fn wait_for(&self, count: usize) -> Result<Vec<Started>> {
        wait_for(&format!("{count} started containers"), super::LONGEST, || {
            let started = self.started()?;
            Ok((started.len() >= count).then_some(started))
        })
    }
}

/// `2026-01-01 00:00:00 +0000 UTC k8s.io /tasks/start {"container_id":"...","pid":1}`.
fn started(line: &str) -> Option<Started> {
    let value: Value = serde_json::from_str(line.get(line.find('{')?..)?).ok()?;
    Some(Started { container: value["container_id"].as_str()?.to_owned(), pid: value["pid"].as_u64()? })
}

impl Cluster {
    /// The containers that run in a namespace of containerd, with the pids of their first processes.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn tasks(&self, namespace: &str) -> Result<BTreeMap<String, u64>> {
        let list = self.ctr(namespace, &["tasks", "list"])?;
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        Ok(list.lines().skip(1).filter_map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_event() {
        let line = "2026-11-22 18:00:00.5 +0000 UTC k8s.io /tasks/start {\"container_id\":\"ab12\",\"pid\":77}";
        assert_eq!(started(line), Some(Started { container: "ab12".to_owned(), pid: 77 }));
    }
}
