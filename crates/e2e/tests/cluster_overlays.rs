//! What `deploy/` promises, on a real node: `kubectl apply -k`, and some minutes later functions by service, namespace, pod
//! and container, in Pyroscope, in Prometheus, in the Collector's file, on the page.
#![cfg(feature = "cluster")]

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::overlay::{Agent, Overlay};
use e2e::cluster::prometheus::Prometheus;
use e2e::cluster::{self, Cluster, Pod, received};
use e2e::process::wait_for;
use e2e::pyroscope::Pyroscope;
use e2e::stacks::Stacks;
use e2e::truth::Truth;
use e2e::{browser, figure};

/// Exports of a container that are compared with its own record, and one before. At 19 samples a second of three quarters of a CPU a share
/// has a standard deviation of one percentage point then.
const EXPORTS: usize = 13;
/// How far a share may be off, in percentage points.
const TOLERANCE: f64 = 3.0;
/// The containers of the workload, their two functions, and the part of the first one as the workload was told.
const CONTAINERS: [(&str, &str, &str); 2] =
    [("prices", "shop::price_cart", "shop::rank_offers"), ("stock", "main.workAlpha", "main.workBeta")];
/// The agent pushes so much at once.
const EXPORT: Duration = Duration::from_secs(15);

/// What a container wrote of itself.
fn truth(cluster: &Cluster, pod: &Pod, container: &str, folder: &Path) -> Result<Truth> {
    let file = folder.join(format!("{container}.truth"));
    std::fs::write(&file, cluster.log(pod, container)?)?;
    Truth::read(&file)
}

/// The shares of a container's two functions are those of its own record.
fn same_share(stacks: &Stacks, truth: &Truth, span: (u64, u64), functions: (&str, &str), who: &str) -> Result<()> {
    let (alpha, beta) = functions;
    let told = stacks.percent(alpha, beta);
    let true_share = truth.percent(span.0, span.1)?;
    figure(format!("{who}: {alpha} has {told:.2} %, by the workload's own record {true_share:.2} %"));
    ensure!(stacks.with(alpha) > 0 && stacks.with(beta) > 0, "{who}: {}", stacks.heaviest(8));
    ensure!((told - true_share).abs() <= TOLERANCE, "{who}: {told:.2} % instead of {true_share:.2} %");
    let strange = stacks.count(|r| r.frames_of(alpha) + r.frames_of(beta) == 0 && !r.kernel);
    ensure!(strange * 10 < stacks.total(), "{who}: {strange} of {} elsewhere: {}", stacks.total(), stacks.heaviest(8));
    Ok(())
}

#[test]
fn pyroscope_has_functions_by_service_namespace_pod_and_container() -> Result<()> {
    cluster::with("cluster-pyroscope", |cluster, folder| {
        let shop = cluster.apply("shop.yaml")?;
        let overlay = Overlay::apply(cluster, "pyroscope")?;
        let pod = cluster.ready_pod("shop", "app=checkout")?;
        let pyroscope = Pyroscope::at(&format!("{}:4040", overlay.pod("pyroscope")?.ip))?;
        let selector = |container: &str| {
            format!(
                "{{service_name=\"checkout\",k8s_namespace_name=\"shop\",k8s_pod_name=\"{}\",\
                 k8s_container_name=\"{container}\"}}",
                pod.name
            )
        };
        let begins = wait_for("exports in Pyroscope", Duration::from_secs(360), || {
            let begins = pyroscope.begins(&selector("prices"))?;
            if begins.len() >= EXPORTS { Ok(Some(begins)) } else { anyhow::bail!("{} are there", begins.len()) }
        })?;
        // The first one may have begun before the workload did.
        let (first, last) = (begins[1], begins[begins.len() - 1]);
        let export = u64::try_from(EXPORT.as_nanos())?;
        let span = (first * 1_000_000, last * 1_000_000 + export);
        figure(format!("{} exports, {} s", begins.len() - 1, (span.1 - span.0) / 1_000_000_000));
        for (container, alpha, beta) in CONTAINERS {
            let stacks = pyroscope.nanoseconds(
                container,
                &selector(container),
                Some((span.0, last * 1_000_000 + export / 2)),
            )?;
            let truth = wait_for("the workload's record", Duration::from_secs(60), || {
                let truth = truth(cluster, &pod, container, folder)?;
                Ok(truth.percent(span.0, span.1).is_ok().then_some(truth))
            })?;
            same_share(&stacks, &truth, span, (alpha, beta), &format!("Pyroscope, {container}"))?;
        }
        let of_other = pyroscope.nanoseconds("x", "{k8s_container_name=\"stock\"}", None)?;
        ensure!(of_other.with("price_cart") == 0, "a function of the other container: {}", of_other.heaviest(8));

        let agent = overlay.agent()?;
        agent.scrape()?.ledger()?.check()?;
        the_page(&agent, &pod, folder)?;
        drop(agent);
        overlay.delete()?;
        shop.delete()
    })
}

/// The page tells containers by name, in a real browser.
fn the_page(agent: &Agent, pod: &Pod, folder: &Path) -> Result<()> {
    let kept = agent.kept(30)?.only(|r| r.labels.get("pod").is_some_and(|p| *p == pod.name));
    for (container, alpha, _) in CONTAINERS {
        let own = kept.only(|r| r.labels.get("container").is_some_and(|c| c == container));
        ensure!(own.with(alpha) > 0, "pprof has no {alpha} in {container}: {}", kept.heaviest(8));
        let id = &pod.container(container)?.id;
        let ids = own.only(|r| r.labels.get("container_id").is_some_and(|c| c == id));
        ensure!(ids.total() == own.total(), "{container}: samples of another container than {id}");
    }
    let dom = browser::elements(folder, "page", &agent.url("/"), Duration::from_secs(10))?;
    browser::picture(folder, "page", &agent.url("/"), Duration::from_secs(10))?;
    for name in ["prices", "stock", "shop::price_cart"] {
        ensure!(dom.contains(name), "the page does not show {name}: {}", folder.join("page.html").display());
    }
    Ok(())
}

#[test]
fn prometheus_answers_the_tutorial() -> Result<()> {
    cluster::with("cluster-tutorial", |cluster, folder| {
        let shop = cluster.apply("shop.yaml")?;
        let overlay = Overlay::apply(cluster, "tutorial")?;
        let pod = cluster.ready_pod("shop", "app=checkout")?;
        let server = overlay.pod("prometheus")?;
        let prometheus = Prometheus::at(&format!("{}:9090", server.ip))?;
        let hottest = "sort_desc(sum by(bin,pid,symbol,file,line)(profiler_aggregated_total{self=\"true\"}))";
        wait_for("samples of the workload in Prometheus", Duration::from_secs(150), || {
            let found =
                prometheus.query("profiler_aggregated_total{symbol=~\".*price_cart.*\",self=\"true\"} > 300")?;
            Ok((!found.is_empty()).then_some(()))
        })?;
        let answer = prometheus.query(hottest)?;
        // What has no series of its own is no function, however much it is together.
        let top = answer.iter().find(|s| s.labels["symbol"] != "(other)").context("an answer")?;
        figure(format!("the tutorial's query: {:?} with {} samples", top.labels, top.value));
        ensure!(top.labels["symbol"].contains("price_cart") && top.labels["bin"].contains("shop"), "on top: {top:?}");
        let pid: u64 = top.labels["pid"].parse()?;
        ensure!(cluster.tasks("k8s.io")?.get(&pod.container("prices")?.id) == Some(&pid), "whose pid is {pid}?");
        // With callers: below main, which has all of the process, but above the other function.
        let all = prometheus.query("sort_desc(sum by(bin,pid,symbol,file,line)(profiler_aggregated_total))")?;
        let place = |name: &str| all.iter().position(|s| s.labels["symbol"].contains(name));
        let (first, second) = (place("price_cart"), place("rank_offers"));
        ensure!(first.is_some() && second.is_none_or(|s| first < Some(s)), "{:?}", all.get(..20).unwrap_or(&all));
        let rates =
            prometheus.query("topk(3, rate(profiler_aggregated_total{self=\"true\",symbol!=\"(other)\"}[1m]))")?;
        ensure!(rates.len() == 3 && rates.iter().any(|s| s.labels["symbol"].contains("price_cart")), "{rates:?}");

        let alpha = prometheus.query("sum(profiler_aggregated_total{self=\"true\",symbol=~\".*price_cart.*\"})")?;
        let beta = prometheus.query("sum(profiler_aggregated_total{self=\"true\",symbol=~\".*rank_offers.*\"})")?;
        figure(format!("{} and {} samples", alpha[0].value, beta[0].value));
        the_dashboard(cluster, &prometheus, folder)?;
        let rules = prometheus.rules()?;
        ensure!(rules.len() > 8, "{} rules", rules.len());
        drop(overlay.agent()?);
        overlay.delete()?;
        shop.delete()
    })
}

/// Every query of the dashboard has an answer; those that a healthy agent has something to say to are not empty.
fn the_dashboard(cluster: &Cluster, prometheus: &Prometheus, folder: &Path) -> Result<()> {
    let maps = cluster.get(&["configmaps", "--namespace", "profiler", "--selector", "grafana_dashboard"])?;
    let data = maps["items"][0]["data"].as_object().context("a ConfigMap with the dashboard")?;
    let mut empty = Vec::new();
    let mut asked = 0;
    for text in data.values() {
        let dashboard: serde_json::Value = serde_json::from_str(text.as_str().unwrap_or_default())?;
        for panel in dashboard["panels"].as_array().into_iter().flatten() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().context("a query")?;
                let query = expression
                    .replace("$node", ".*")
                    .replace("$limit", "10")
                    .replace("$__rate_interval", "1m")
                    .replace("$__range", "10m");
                let answer = prometheus.query(&query).with_context(|| format!("{}: {query}", panel["title"]))?;
                asked += 1;
                if answer.is_empty() {
                    empty.push(format!("{}: {expression}", panel["title"]));
                }
            }
        }
    }
    std::fs::write(folder.join("empty-queries.txt"), empty.join("\n"))?;
    figure(format!("{asked} queries of the dashboard, {} without an answer: {}", empty.len(), empty.join("; ")));
    // Nothing is dropped, cut or pushed here: those may be empty.
    ensure!(asked > 15 && empty.len() <= 6, "{asked} queries, empty: {empty:?}");
    Ok(())
}

#[test]
fn the_collector_gets_resources_with_every_attribute() -> Result<()> {
    cluster::with("cluster-collector", |cluster, _| {
        let shop = cluster.apply("shop.yaml")?;
        let overlay = Overlay::apply(cluster, "collector")?;
        let pod = cluster.ready_pod("shop", "app=checkout")?;
        let collector = overlay.pod("collector")?;
        let file = cluster.volume(&collector.uid, "data")?.join("profiles.jsonl");
        let mut told = BTreeMap::new();
        for (container, ..) in CONTAINERS {
            told.insert(
                container,
                wait_for(&format!("{container} in {}", file.display()), Duration::from_secs(90), || {
                    let all = received::resources(&file)?;
                    let own =
                        |r: &&BTreeMap<String, String>| r.get("k8s.container.name").is_some_and(|c| c == container);
                    Ok(all.iter().rfind(own).cloned())
                })?,
            );
        }
        for (container, attributes) in &told {
            figure(format!("{container}: {attributes:?}"));
            let id = pod.container(container)?.id.clone();
            for (key, value) in [
                ("service.name", "checkout"),
                ("k8s.namespace.name", "shop"),
                ("k8s.pod.name", &pod.name),
                ("k8s.pod.uid", &pod.uid),
                ("k8s.container.name", container),
                ("k8s.deployment.name", "checkout"),
                ("k8s.node.name", cluster.node()?),
                ("container.id", &id),
            ] {
                ensure!(
                    attributes.get(key).is_some_and(|v| v == value),
                    "{container}: {key} is not {value}: {attributes:?}"
                );
            }
            for key in ["container.image.name", "host.name", "os.type", "process.executable.name"] {
                ensure!(attributes.get(key).is_some_and(|v| !v.is_empty()), "{container}: no {key}: {attributes:?}");
            }
        }
        sleep(Duration::from_secs(1));
        overlay.delete()?;
        shop.delete()
    })
}
