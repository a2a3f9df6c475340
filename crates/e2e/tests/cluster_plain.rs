//! Containers that no Kubernetes knows: podman's, and containerd's by itself, named by an agent on the host.
#![cfg(feature = "cluster")]

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::agent::Setup;
use e2e::cluster::{self, plain};
use e2e::figure;
use e2e::process::wait_for;

#[test]
fn containers_of_podman_and_of_plain_containerd_are_named() -> Result<()> {
    cluster::with("cluster-plain", |cluster, folder| {
        let podman = plain::podman(folder, "lonely", "localhost/first:tests", &["600"])?;
        let containerd = plain::containerd(cluster, "by-hand", "localhost/named:tests", &["n-by-hand", "600"])?;
        let agent = Setup::new("agent", folder)?.start()?;
        let stacks = wait_for("samples with names", Duration::from_secs(60), || {
            let stacks = agent.pprof(10)?;
            let named = |id: &str| {
                let own = stacks.only(|r| r.labels.get("container_id").is_some_and(|c| c == id));
                own.rows.iter().any(|r| r.labels.contains_key("container"))
            };
            if named(&podman.id) && named(&containerd.id) {
                Ok(Some(stacks))
            } else {
                anyhow::bail!("{}", stacks.heaviest(6))
            }
        })?;
        for (id, container, function, process) in
            [(&podman.id, "lonely", "burn_of_first", "app"), (&containerd.id, "by-hand", "burn", "named")]
        {
            let own = stacks.only(|r| r.process == process);
            ensure!(own.with(function) > 0, "{container}: {}", stacks.heaviest(8));
            for row in &own.rows {
                let label = |key: &str| row.labels.get(key).map(String::as_str).unwrap_or_default();
                ensure!(label("container_id") == id, "{container}: of container {id}: {row:?}");
                ensure!(label("container") == container || label("container").is_empty(), "{container}: {row:?}");
                ensure!(label("pod").is_empty() && label("namespace").is_empty(), "{container}: {row:?}");
            }
            figure(format!("{container}: {} samples of {id}", own.total()));
        }
        agent.stop()?.success()?;
        Ok(())
    })
}
