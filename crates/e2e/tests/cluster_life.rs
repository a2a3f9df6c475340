//! An agent's end and what disturbs it: nothing is lost uncounted, nothing stays behind, nothing is guessed.
#![cfg(feature = "cluster")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::overlay::{AGENT, NAMESPACE, Overlay};
use e2e::cluster::remains::Remains;
use e2e::process::{Start, wait_for};
use e2e::{cluster, figure, paths};
use serde_json::Value;

#[test]
fn a_deleted_agent_accounts_for_everything_and_leaves_nothing() -> Result<()> {
    cluster::with("cluster-deleted", |cluster, folder| {
        let shop = cluster.apply("shop.yaml")?;
        let overlay = Overlay::apply(cluster, "collector")?;
        let agent = overlay.agent()?;
        wait_for("samples at the Collector", Duration::from_secs(60), || {
            Ok((agent.scrape()?.ledger()?.exported > 0.0).then_some(()))
        })?;
        cluster.kubectl(&["scale", "--namespace", NAMESPACE, "deployment/collector", "--replicas=0"])?;
        cluster.gone(NAMESPACE, "app=collector")?;
        // What is held now has nowhere to go.
        let before = agent.scrape()?.ledger()?;
        wait_for("samples that wait", Duration::from_secs(60), || {
            let now = agent.scrape()?.ledger()?;
            Ok((now.taken - before.taken > 300.0 && now.held > 0.0).then_some(()))
        })?;
        let pod = agent.pod.clone();
        let id = &pod.container("profiler")?.id;
        let pid = *cluster.tasks("k8s.io")?.get(id).context("the agent's process")?;
        let held = Remains::of(u32::try_from(pid)?)?;
        drop(agent);
        let kubectl = cluster.kubectl_command()?;
        let kubeconfig = kubectl.get_envs().find(|(k, _)| *k == "KUBECONFIG").and_then(|(_, v)| v);
        let mut log = Start::new("agent", kubectl.get_program(), folder)
            .env("KUBECONFIG", kubeconfig.context("a kubeconfig")?)
            .args(["logs", "--follow", "--namespace", NAMESPACE, &pod.name])
            .start()?;
        let asked = std::time::Instant::now();
        cluster.kubectl(&["delete", "pod", "--namespace", NAMESPACE, "--wait", "--timeout=60s", &pod.name])?;
        let took = asked.elapsed();
        log.wait(Duration::from_secs(20))?;
        let text = log.output();
        let line = text.lines().rev().find(|l| l.contains("final ledger")).context("no final ledger in the log")?;
        let end: Value = serde_json::from_str(line)?;
        let number = |key: &str| end[key].as_u64().with_context(|| format!("{key}: {line}"));
        let (taken, exported, held_end, dropped) =
            (number("taken")?, number("exported")?, number("held")?, number("dropped")?);
        figure(format!(
            "deleted in {:.1} s: {taken} taken = {exported} exported + {held_end} held + {dropped} dropped; {} objects of eBPF",
            took.as_secs_f64(),
            held.count()
        ));
        ensure!(taken == exported + held_end + dropped && end["balanced"] == true, "{line}");
        ensure!(held_end == 0 && dropped > 0, "what could not be pushed is dropped by name: {line}");
        ensure!(number("dropped_shutdown")? > 0, "{line}");
        held.gone()?;

        cluster.kubectl(&["scale", "--namespace", NAMESPACE, "deployment/collector", "--replicas=1"])?;
        let again = overlay.agent()?;
        ensure!(again.pod.uid != pod.uid && again.pod.container("profiler")?.restarts == 0, "{:?}", again.pod);
        wait_for("samples of the new agent at the new Collector", Duration::from_secs(90), || {
            let ledger = again.scrape()?.ledger()?;
            ledger.check()?;
            Ok((ledger.exported > 0.0).then_some(()))
        })?;
        drop(again);
        overlay.delete()?;
        shop.delete()
    })
}

#[test]
fn without_the_right_to_ask_nothing_is_guessed_and_sampling_goes_on() -> Result<()> {
    cluster::with("cluster-forbidden", |cluster, _| {
        let overlay = Overlay::apply(cluster, "base")?;
        let rights = paths::deploy("kubernetes/base/rbac.yaml");
        cluster.kubectl(&["delete", "clusterrolebinding", "profiler"])?;
        let who = format!("--as=system:serviceaccount:{NAMESPACE}:profiler");
        wait_for("the end of the right", Duration::from_secs(30), || {
            let may = cluster.kubectl(&["auth", "can-i", "get", "nodes", "--subresource=pods", &who]);
            Ok(may.is_err().then_some(()))
        })?;
        // The kubelet remembers for two seconds whom it let in, and an answer that was on its way is read.
        std::thread::sleep(Duration::from_secs(6));
        let agent = overlay.agent()?;
        let before = agent.scrape()?;
        let shop = cluster.apply("shop.yaml")?;
        let pod = cluster.ready_pod("shop", "app=checkout")?;
        let id = pod.container("prices")?.id.clone();
        let of_container =
            |stacks: &e2e::stacks::Stacks| stacks.only(|r| r.labels.get("container_id").is_some_and(|c| *c == id));
        let blind = wait_for("samples of a container that nobody names", Duration::from_secs(60), || {
            let own = of_container(&agent.pprof(10)?);
            Ok((own.with("price_cart") > 0).then_some(own))
        })?;
        // containerd may be asked instead: what it tells is right, or it is not told.
        for row in &blind.rows {
            let label = |key: &str| row.labels.get(key).map(String::as_str);
            ensure!(label("pod").is_none_or(|p| p == pod.name), "guessed: {row:?}");
            ensure!(label("namespace").is_none_or(|n| n == "shop"), "guessed: {row:?}");
            ensure!(label("container").is_none_or(|c| c == "prices" || id.starts_with(c)), "guessed: {row:?}");
            ensure!(label("service_name") != Some("profiler"), "guessed: {row:?}");
        }
        let after = agent.scrape()?;
        let failed = |s: &e2e::scrape::Scrape| s.with("profiler_identity_requests_total", "result", "failed");
        figure(format!(
            "{} samples of a container that the kubelet does not tell; {} requests refused; {} samples taken meanwhile",
            blind.total(),
            failed(&after) - failed(&before),
            after.ledger()?.taken - before.ledger()?.taken
        ));
        ensure!(failed(&after) > failed(&before), "no request was refused");
        after.ledger()?.check()?;

        cluster.kubectl(&["apply", "--namespace", NAMESPACE, "-f", &rights.to_string_lossy()])?;
        let named = wait_for("names, once the kubelet answers again", Duration::from_secs(120), || {
            let own = of_container(&agent.pprof(10)?);
            let whole = |r: &e2e::stacks::Row| {
                let label = |key: &str| r.labels.get(key).map(String::as_str).unwrap_or_default();
                label("pod") == pod.name && label("service_name") == "checkout"
            };
            Ok(own.rows.iter().any(whole).then_some(own))
        })?;
        figure(format!("{} samples with the right back", named.total()));
        ensure!(cluster.pods(NAMESPACE, AGENT)?.iter().all(|p| p.uid == agent.pod.uid), "the agent was replaced");
        drop(agent);
        shop.delete()?;
        overlay.delete()
    })
}
