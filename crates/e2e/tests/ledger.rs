//! Every sample is accounted for: at every scrape, through a Collector's absence, and at the end.
#![cfg(feature = "live")]

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{RATE, Setup};
use e2e::collector::Collector;
use e2e::process::{Running, Start, wait_for};
use e2e::{figure, paths};

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Both CPUs busy, and processes that come and go.
fn load(folder: &std::path::Path) -> Result<Vec<Running>> {
    let mut all = Vec::new();
    for i in 0..cpus() {
        let truth = folder.join(format!("load{i}.truth")).display().to_string();
        all.push(
            Start::new(&format!("load{i}"), paths::workload("split")?, folder).args([&truth, "50", "300"]).start()?,
        );
    }
    let burn = paths::workload("burn50")?;
    let storm = format!("while :; do {} 20; done", burn.display());
    all.push(Start::new("storm", "/bin/sh", folder).args(["-c", &storm]).start()?);
    Ok(all)
}

#[test]
fn both_lines_hold_at_a_hundred_scrapes_and_after_the_end() -> Result<()> {
    let folder = paths::scratch("ledger")?;
    let mut collector = Collector::start(&folder)?;
    let load = load(&folder)?;
    let agent = Setup::new("agent", &folder)?;
    let agent = agent.otlp("grpc", &format!("http://127.0.0.1:{}", collector.ports.grpc)).start()?;
    let first_before = Instant::now();
    let first = agent.scrape()?.ledger()?;
    let first_after = Instant::now();
    let mut most_held = 0.0_f64;
    for i in 0..100 {
        match i {
            25 => collector.stop()?,
            60 => collector.run()?,
            _ => sleep(Duration::from_millis(500)),
        }
        let before = Instant::now();
        let scrape = agent.scrape()?;
        let after = Instant::now();
        let ledger = scrape.ledger()?;
        ledger.check().with_context(|| format!("scrape {i}"))?;
        // As many ticks as the time between the two scrapes brings, two a CPU more or less.
        let shortest = (before - first_after).as_secs_f64() * f64::from(RATE) * cpus() as f64;
        let longest = (after - first_before).as_secs_f64() * f64::from(RATE) * cpus() as f64;
        let slack = (longest - shortest) / 2.0 + 2.0 * cpus() as f64;
        ledger.check_time(&first, f64::midpoint(shortest, longest), slack).with_context(|| format!("scrape {i}"))?;
        most_held = most_held.max(ledger.held);
        if i == 99 {
            figure(format!("{ledger:?}"));
            figure(format!("missed {:.3} %, most held {most_held}", 100.0 * ledger.missed_share(&first)));
            ensure!(ledger.missed_share(&first) < 0.01, "missed {:.2} %", 100.0 * ledger.missed_share(&first));
            ensure!(ledger.exported > 0.0 && ledger.taken > 5000.0, "{ledger:?}");
            ensure!(ledger.dropped == 0.0, "a short absence of the Collector costs samples: {ledger:?}");
        }
    }
    drop(load);
    let end = agent.stop()?.success()?;
    let last = last_ledger(&end.log)?;
    figure(format!("final line: {last:?}"));
    let term = |name: &str| last.get(name).copied().with_context(|| format!("the final line has no {name}: {last:?}"));
    let held = last.get("held").copied().unwrap_or(0.0);
    ensure!(term("taken")? == term("exported")? + held + term("dropped")?, "the final line: {last:?}");
    ensure!(held == 0.0, "held after the end: {last:?}");
    let exported = term("exported")?;
    // What it has accepted it writes to its file a moment later.
    wait_for("all that was exported", Duration::from_secs(30), || {
        let received: u64 = collector.profiles("grpc")?.iter().map(|p| p.stacks.total()).sum();
        ensure!((received as f64 - exported).abs() < 0.5, "exported {exported}, received {received}");
        figure(format!("the Collector got {received} samples"));
        Ok(Some(()))
    })?;
    Ok(())
}

/// A CPU that is taken away while a test runs; dropped, it is there again.
struct Absent(&'static str);

impl Absent {
    fn take(file: &'static str) -> Result<Self> {
        std::fs::write(file, "0").with_context(|| format!("{file}: this kernel lets no CPU go"))?;
        Ok(Self(file))
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0, "1");
    }
}

#[test]
fn cpus_that_come_and_go_are_followed() -> Result<()> {
    let folder = paths::scratch("hotplug")?;
    ensure!(cpus() > 1, "one CPU alone cannot be taken away");
    let load = load(&folder)?;
    // `-pid=0` is every process, as in the tutorial.
    let agent = Setup::new("agent", &folder)?.args(["-pid=0"]).start()?;
    let attached = || Ok::<f64, anyhow::Error>(agent.scrape()?.with("profiler_cpus", "state", "attached"));
    let all = attached()?;
    let absent = Absent::take("/sys/devices/system/cpu/cpu1/online")?;
    wait_for("the CPU to be let go", Duration::from_secs(3), || Ok((attached()? == all - 1.0).then_some(())))?;
    sleep(Duration::from_secs(2));
    let ledger = agent.scrape()?.ledger()?;
    ledger.check()?;
    drop(absent);
    wait_for("the CPU to be attached", Duration::from_secs(3), || Ok((attached()? == all).then_some(())))?;
    let (before, at) = (agent.scrape()?.ledger()?, Instant::now());
    sleep(Duration::from_secs(5));
    let after = agent.scrape()?.ledger()?;
    after.check()?;
    let rate = (after.taken - before.taken) / at.elapsed().as_secs_f64();
    figure(format!("{all} CPUs, one taken away and given back: {rate:.0} samples a second after, {after:?}"));
    ensure!(rate > 0.9 * f64::from(RATE) * all, "{rate} samples a second on {all} busy CPUs");
    drop(load);
    agent.stop()?.success()?;
    Ok(())
}

/// The numbers of the last line of the log that tells the ledger.
fn last_ledger(log: &str) -> Result<BTreeMap<String, f64>> {
    let line =
        log.lines().rev().find(|l| l.contains("exported") && l.contains("taken")).context("no final ledger line")?;
    let value: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let fields = value.get("fields").unwrap_or(&value).as_object().context("fields")?;
    Ok(fields.iter().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect())
}
