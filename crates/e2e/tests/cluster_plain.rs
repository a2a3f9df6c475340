//! Containers that no Kubernetes knows: podman's, and containerd's by itself, named by an agent on the host.
#![cfg(feature = "cluster")]

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::agent::Setup;
use e2e::cluster::{self, plain};
use e2e::figure;
use e2e::process::wait_for;
use e2e::stacks::Row;

#[test]
fn containers_of_podman_and_of_plain_containerd_are_named() -> Result<()> {
    cluster::with("cluster-plain", |cluster, folder| {
        let podman = plain::podman(folder, "lonely", "localhost/first:tests", &["600"])?;
        let containerd = plain::containerd(cluster, "by-hand", "localhost/named:tests", &["n-by-hand", "600"])?;
        // containerd's own files are in the node's namespace of mounts.
        let agent = Setup::new("agent", folder)?.env("PROFILER_HOST_ROOT", cluster.root()?).start()?;
        let told = [("lonely", "burn_of_first", podman.id.as_str()), ("by-hand", "burn", &containerd.id)];
        let label = |row: &Row, key: &str| row.labels.get(key).cloned().unwrap_or_default();
        let stacks = wait_for("samples with names", Duration::from_secs(60), || {
            let stacks = agent.pprof(10)?;
            let named = |name: &str| stacks.rows.iter().any(|r| label(r, "container") == name);
            if told.iter().all(|t| named(t.0)) { Ok(Some(stacks)) } else { anyhow::bail!("{}", stacks.heaviest(6)) }
        })?;
        for (container, function, id) in told {
            let own = stacks.only(|r| label(r, "container") == container);
            figure(format!("{container}: {} samples", own.total()));
            ensure!(own.with(function) > 0, "{container}: {}", stacks.heaviest(8));
            for row in &own.rows {
                // Of what is at /NAMESPACE/NAME only containerd knows that it is a container: no label of its path says so.
                ensure!(["", id].contains(&label(row, "container_id").as_str()), "{container}: {row:?}");
                ensure!(label(row, "pod").is_empty() && label(row, "namespace").is_empty(), "{container}: {row:?}");
            }
        }
        let (first, second) =
            (stacks.only(|r| r.process == "app"), stacks.only(|r| r.comm.as_deref() == Some("n-by-hand")));
        for (of, name) in [(first, "lonely"), (second, "by-hand")] {
            let strange = of.rows.iter().find(|r| label(r, "container") != name);
            ensure!(strange.is_none() && of.total() > 0, "of another container: {strange:?}");
        }
        agent.stop()?.success()?;
        Ok(())
    })
}
