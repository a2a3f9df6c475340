//! A namespace that is left out costs the agent nothing more than a look-up: none of its ticks crosses the ring.
#![cfg(feature = "cluster")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::cluster::overlay::Overlay;
use e2e::process::wait_for;
use e2e::{cluster, figure};

/// How long is measured.
const SPAN: Duration = Duration::from_secs(20);
/// The DaemonSet's rate.
const RATE: f64 = 19.0;

#[test]
fn an_excluded_namespace_does_not_cross_the_ring() -> Result<()> {
    cluster::with("cluster-excluded", |cluster, _| {
        let greedy = cluster.apply("greedy.yaml")?;
        let shop = cluster.apply("shop.yaml")?;
        let overlay = Overlay::apply(cluster, "excluding")?;
        let agent = overlay.agent()?;
        wait_for("verdicts in the kernel", Duration::from_secs(60), || {
            Ok((agent.scrape()?.ledger()?.filtered > 100.0).then_some(()))
        })?;
        // Two windows later what was taken before the verdict is through.
        sleep(Duration::from_secs(10));
        let (before, start) = (agent.scrape()?, Instant::now());
        sleep(SPAN);
        let (after, seconds) = (agent.scrape()?, start.elapsed().as_secs_f64());
        let delta = |name: &str| Ok::<f64, anyhow::Error>(after.sum(name)? - before.sum(name)?);
        let of_reason = |s: &e2e::scrape::Scrape| s.with("profiler_samples_dropped_total", "reason", "filtered");
        let (filtered, late) =
            (after.ledger()?.filtered - before.ledger()?.filtered, of_reason(&after) - of_reason(&before));
        let taken = delta("profiler_samples_taken_total")?;
        let ring = delta("profiler_ring_written_bytes_total")?;
        figure(format!(
            "{seconds:.1} s: {filtered} ticks filtered in the kernel ({:.2} CPUs), {late} after the ring; {taken} taken, {ring} bytes",
            filtered / RATE / seconds
        ));
        ensure!(filtered > 0.2 * RATE * seconds, "only {filtered} ticks were filtered");
        ensure!(late == 0.0, "{late} samples of the namespace crossed the ring");
        let kept = agent.kept(20)?;
        let of = |namespace: &str| kept.count(|r| r.labels.get("namespace").is_some_and(|n| n == namespace));
        figure(format!("on the page: {} samples of greedy, {} of shop", of("greedy"), of("shop")));
        ensure!(of("greedy") == 0 && kept.with("burn_of_first") == 0, "greedy is on the page: {}", kept.heaviest(8));
        ensure!(of("shop") > 50, "shop is not on the page: {}", kept.heaviest(8));
        after.ledger()?.check()?;
        drop(agent);
        overlay.delete()?;
        shop.delete()?;
        greedy.delete()
    })
}
