//! The overlays and components of `deploy/` that differ from the others in one thing: that they come up, and that it is so.
#![cfg(feature = "cluster")]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::cluster;
use e2e::cluster::overlay::{NAMESPACE, Overlay};
use e2e::figure;
use e2e::process::wait_for;
use e2e::pyroscope::Pyroscope;
use serde_json::Value;

/// The workload's hot function, and its container.
const HOT: (&str, &str) = ("shop::price_cart", "prices");

/// With this overlay the agent names the workload's samples by pod, container and service. `check` looks at its container.
fn names(test: &str, overlay: &str, check: fn(&Value) -> bool) -> Result<()> {
    cluster::with(test, |cluster, _| {
        let shop = cluster.apply("shop.yaml")?;
        let pod = cluster.ready_pod("shop", "app=checkout")?;
        let overlay = Overlay::apply(cluster, overlay)?;
        let set = cluster.get(&["daemonset", "profiler", "--namespace", NAMESPACE])?;
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        ensure!(check(container), "{container}");
        let agent = overlay.agent()?;
        let wanted =
            [("pod", pod.name.as_str()), ("namespace", "shop"), ("container", HOT.1), ("service_name", "checkout")];
        let stacks = wait_for("samples with names", Duration::from_secs(60), || {
            let stacks = agent.pprof(5)?;
            let named =
                stacks.only(|r| wanted.iter().all(|(key, value)| r.labels.get(*key).is_some_and(|v| v == value)));
            if named.with(HOT.0) > 0 { Ok(Some(named)) } else { bail!("{}", stacks.heaviest(6)) }
        })?;
        figure(format!("{} of {} samples in {}", stacks.with(HOT.0), stacks.total(), HOT.0));
        agent.scrape()?.ledger()?.check()?;
        drop(agent);
        overlay.delete()?;
        shop.delete()
    })
}

#[test]
fn privileged_it_names_the_same() -> Result<()> {
    names("cluster-privileged", "privileged", |container| container["securityContext"]["privileged"] == true)
}

/// Its role lets it ask the API server for pods, and the kubelet for nothing.
#[test]
fn pods_from_the_api_server_are_named_the_same() -> Result<()> {
    names("cluster-api-watch", "api-watch", |container| {
        container["env"].as_array().is_some_and(|env| env.iter().any(|v| v["name"] == "PROFILER_KUBERNETES"))
    })
}

#[test]
fn pyroscope_has_functions_without_a_collector() -> Result<()> {
    cluster::with("cluster-pyroscope-direct", |cluster, _| {
        let shop = cluster.apply("shop.yaml")?;
        let overlay = Overlay::apply(cluster, "pyroscope-direct")?;
        let pod = cluster.ready_pod("shop", "app=checkout")?;
        let pyroscope = Pyroscope::at(&format!("{}:4040", overlay.pod("pyroscope")?.ip))?;
        let selector = format!(
            "{{service_name=\"checkout\",k8s_namespace_name=\"shop\",k8s_pod_name=\"{}\",k8s_container_name=\"{}\"}}",
            pod.name, HOT.1
        );
        let stacks = wait_for("samples in Pyroscope", Duration::from_secs(120), || {
            let stacks = pyroscope.nanoseconds(HOT.1, &selector, None)?;
            Ok((stacks.with(HOT.0) > 0).then_some(stacks))
        })?;
        let strange = stacks.count(|r| r.frames_of("main.workAlpha") > 0);
        ensure!(strange == 0, "{strange} of the other container: {}", stacks.heaviest(8));
        overlay.delete()?;
        shop.delete()
    })
}
