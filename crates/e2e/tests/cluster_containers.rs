//! Nobody is taken for another: equal paths with different files, and containers that come and go.
#![cfg(feature = "cluster")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::node::Events;
use e2e::cluster::overlay::Overlay;
use e2e::cluster::{self, Cluster};
use e2e::figure;
use e2e::process::{Start, wait_for};

/// Where all three files are, each as its own processes see it.
const PATH: &str = "/opt/same/app";

/// A file of this machine that goes away again, with the folder that was made for it.
struct HostFile;

impl HostFile {
    fn make() -> Result<Self> {
        let folder = Path::new(PATH).parent().context("a folder")?;
        std::fs::create_dir_all(folder)?;
        let source = e2e::paths::source("cluster/same.c");
        let made = Command::new("cc").args(["-O2", "-DNAME=burn_of_host", "-o", PATH]).arg(source).status()?;
        ensure!(made.success(), "the host's file: {made}");
        Ok(Self)
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(PATH);
        let _ = Path::new(PATH).parent().map(std::fs::remove_dir);
    }
}

#[test]
fn names_come_from_the_right_file_where_three_have_one_path() -> Result<()> {
    cluster::with("cluster-same-path", |cluster, folder| {
        let file = HostFile::make()?;
        let host = Start::new("host", PATH, folder).args(["600"]).start()?;
        let twins = cluster.apply("same.yaml")?;
        let overlay = Overlay::apply(cluster, "base")?;
        let pod = cluster.ready_pod("same", "app=twins")?;
        let agent = overlay.agent()?;
        let named = wait_for("names of all three files", Duration::from_secs(60), || {
            let stacks = agent.pprof(15)?;
            let seen = ["burn_of_host", "burn_of_first", "burn_of_second"].iter().all(|name| stacks.with(name) > 0);
            if seen { Ok(Some(stacks)) } else { anyhow::bail!("{}", stacks.heaviest(12)) }
        })?;
        let label = |row: &e2e::stacks::Row, key: &str| row.labels.get(key).cloned().unwrap_or_default();
        for row in named.rows.iter().filter(|r| r.process == "app") {
            let container = label(row, "container");
            let expected = match (row.pid, container.as_str()) {
                (Some(pid), "") if pid == u64::from(host.pid()) => "host",
                (_, "first") => "first",
                (_, "second") => "second",
                (pid, other) => anyhow::bail!("whose is process {pid:?} in container {other:?}? {row:?}"),
            };
            if expected != "host" {
                ensure!(label(row, "container_id") == pod.container(expected)?.id, "{expected}: {row:?}");
            }
            for other in ["host", "first", "second"].into_iter().filter(|o| *o != expected) {
                ensure!(row.frames_of(&format!("burn_of_{other}")) == 0, "{expected} has {other}'s name: {row:?}");
            }
        }
        let counts = ["host", "first", "second"].map(|who| named.with(&format!("burn_of_{who}")));
        figure(format!("{PATH} of host, first, second: {counts:?} samples, each with its own name"));
        drop((host, file, agent));
        overlay.delete()?;
        twins.delete()
    })
}

/// How long containers are killed: `E2E_RESTLESS_SECONDS`, else a minute.
fn restless() -> Duration {
    let told = std::env::var("E2E_RESTLESS_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(told.unwrap_or(60))
}

/// What is known of containers from those who run them: their pods by id, as the API server lists them.
fn pods_of_containers(cluster: &Cluster, known: &mut BTreeMap<String, String>) -> Result<()> {
    for pod in cluster.pods("restless", "app=restless")? {
        for container in pod.containers.iter().filter(|c| !c.id.is_empty()) {
            known.insert(container.id.clone(), pod.name.clone());
        }
    }
    Ok(())
}

#[test]
fn containers_that_are_killed_at_random_keep_their_samples() -> Result<()> {
    cluster::with("cluster-restless", |cluster, folder| {
        let events = Events::listen(cluster, "k8s.io")?;
        let overlay = Overlay::apply(cluster, "base")?;
        let pods = cluster.apply("restless.yaml")?;
        let agent = overlay.agent()?;
        let mut pod_of = BTreeMap::new();
        let (mut killed, mut deleted, mut state) = (0_u32, 0_u32, 88_172_645_463_325_252_u64);
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % u64::try_from(below.max(1)).unwrap_or(1)).unwrap_or(0)
        };
        let begun = Instant::now();
        while begun.elapsed() < restless() {
            pods_of_containers(cluster, &mut pod_of)?;
            let running = cluster.pods("restless", "app=restless")?;
            let Some(victim) = running.get(random(running.len())).filter(|p| p.ready) else {
                sleep(Duration::from_millis(300));
                continue;
            };
            // A killed container is started again in its pod, later and later; a deleted pod is replaced at once.
            if random(3) == 0 {
                let id = &victim.containers[0].id;
                killed += u32::from(cluster.ctr("k8s.io", &["tasks", "kill", "--signal", "SIGKILL", id]).is_ok());
            } else {
                let words = ["delete", "pod", "--namespace", "restless", "--wait=false", "--grace-period=0", "--force"];
                deleted += u32::from(cluster.kubectl(&[&words[..], &[victim.name.as_str()]].concat()).is_ok());
            }
            sleep(Duration::from_millis(700 + u64::try_from(random(1500))?));
        }
        pods_of_containers(cluster, &mut pod_of)?;
        // The last windows are published by then.
        sleep(Duration::from_secs(12));
        agent.scrape()?.ledger()?.check()?;
        let kept = agent.kept(begun.elapsed().as_secs() + 20)?;
        let started = events.started()?;
        let first_pids: BTreeMap<u64, &str> = started.iter().map(|s| (s.pid, s.container.as_str())).collect();

        let mut containers_of_name: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut truth_of_name: BTreeMap<String, &str> = BTreeMap::new();
        let (mut total, mut without_container, mut without_pod, mut wrong) = (0, 0, 0, Vec::new());
        for row in &kept.rows {
            let Some(name) = row.comm.as_deref().filter(|c| c.starts_with("n-")) else { continue };
            let label = |key: &str| row.labels.get(key).map(String::as_str).unwrap_or_default();
            let (id, pod) = (label("container_id"), label("pod"));
            total += row.count;
            if id.is_empty() {
                without_container += row.count;
            } else {
                containers_of_name.entry(name.to_owned()).or_default().insert(id.to_owned());
            }
            if let Some(container) = row.pid.and_then(|p| first_pids.get(&p)) {
                truth_of_name.insert(name.to_owned(), container);
            }
            match pod_of.get(id) {
                _ if pod.is_empty() => without_pod += row.count,
                Some(right) if right != pod => wrong.push(format!("{id} is of {right}, not of {pod}")),
                _ => {}
            }
        }
        for (name, containers) in &containers_of_name {
            let truth = truth_of_name.get(name).copied();
            if containers.len() != 1 || truth.is_some_and(|t| !containers.contains(t)) {
                wrong.push(format!("{name} ran in {truth:?} and is told of {containers:?}"));
            }
        }
        figure(format!(
            "{killed} containers killed, {deleted} pods deleted, {} started: {total} samples of {} named processes \
             ({} checked by their first pid), without container {without_container}, without pod {without_pod}",
            started.len(),
            containers_of_name.len(),
            truth_of_name.len()
        ));
        std::fs::write(folder.join("wrong.txt"), wrong.join("\n"))?;
        ensure!(wrong.is_empty(), "{} samples of the wrong container: {}", wrong.len(), wrong[0]);
        ensure!(total > 100 && containers_of_name.len() > 5, "{total} samples of {}", containers_of_name.len());
        ensure!(without_container == 0, "{without_container} of {total} samples have no container");
        ensure!(without_pod * 20 <= total, "{without_pod} of {total} samples have no pod");
        drop(agent);
        pods.delete()?;
        overlay.delete()
    })
}
