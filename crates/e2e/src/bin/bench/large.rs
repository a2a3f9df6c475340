//! A machine that is not here: what it would cost, by arithmetic, and docs/scaling.md.
//!
//! **In**: [`Costs`] of one sample, one process, one birth. **Out**: [`Large`], the page. **Units**: as each field says.

use std::fmt::Write as _;

use anyhow::Result;

use crate::Bench;
use crate::costs::{Costs, HIGH_HZ, LOW_HZ};
use crate::line::percent;
use crate::ring::{self, Reader, Writers};

/// The machine that is not here.
pub(crate) const CPUS: f64 = 128.0;
pub(crate) const PROCESSES: f64 = 5000.0;
/// Rates that it is computed for; the last is the one that counts.
pub(crate) const RATES: [f64; 4] = [19.0, 99.0, 499.0, 1000.0];
/// A busy machine lets the reader of the ring wait for so long.
const DELAY_MS: u64 = 50;
/// Births in a second: a node that builds software.
const BIRTHS: f64 = 100.0;
/// Not one thread but several, which share the work.
const POOL: &str = "web";
/// Records of a thousand that carry a snapshot: checks and processes whose tables are not there yet.
const SNAPSHOTS_PERMILLE: u64 = 10;

/// The machine that is not here, at one rate.
pub(crate) struct Large {
    pub(crate) hz: f64,
    /// Of each CPU, in the eBPF program.
    pub(crate) kernel: f64,
    /// CPUs in user space.
    pub(crate) user: f64,
    /// The thread that does most, and what it needs of one CPU.
    pub(crate) busiest: (String, f64),
    pub(crate) rss_mb: f64,
    pub(crate) maps_mb: f64,
    pub(crate) ring_bytes: Option<u64>,
    /// In words: its size, how full it gets, how often its reader is woken.
    pub(crate) ring: String,
    /// The ring where every sample carries a snapshot.
    pub(crate) bridge: String,
}

impl Large {
    pub(crate) fn at(costs: &Costs, hz: f64) -> Self {
        let samples = CPUS * hz;
        let threads = costs.sample.iter().map(|(name, ns)| (name.clone(), ns * samples / 1e9));
        let alone = threads.clone().filter(|(name, _)| name != POOL);
        let busiest = alone.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        let user = costs.fixed
            + threads.map(|(_, cpus)| cpus).sum::<f64>()
            + PROCESSES * costs.process_rate
            + BIRTHS * costs.birth;
        // The thread that reads the ring: its cost of a sample is that of a record.
        let record_ns = costs.sample.get("drain").copied().unwrap_or(busiest.1 * 1e9 / samples);
        let reader = Reader { record_ns: whole(record_ns.max(1.0)), delay_ms: DELAY_MS };
        let writers = |permille| Writers {
            cpus: whole(CPUS),
            hz: whole(hz),
            walked_bytes: whole(costs.walked_bytes),
            snapshot_bytes: whole(costs.snapshot_bytes),
            snapshots_permille: permille,
        };
        let found = ring::smallest(&writers(SNAPSHOTS_PERMILLE), &reader);
        let words = |found: Option<(u64, ring::Run)>| match found {
            Some((ring, run)) => {
                format!(
                    "{} KiB (at most {} KiB of it full, woken {} times a second)",
                    ring >> 10,
                    run.most_bytes >> 10,
                    run.wakes_a_second
                )
            }
            None => "none is large enough: the reader does not keep up".to_owned(),
        };
        let ring_bytes = found.map(|(ring, _)| ring);
        Self {
            hz,
            // At a low rate samples find the caches cold; at a high one they may as well, on a machine that does more than one thing.
            kernel: hz * costs.cold_ns / 1e9,
            user,
            busiest,
            rss_mb: costs.rss_mb + PROCESSES * costs.process_mb,
            maps_mb: costs.maps_mb + PROCESSES * costs.process_maps_mb,
            ring_bytes,
            ring: words(found),
            bridge: words(ring::smallest(&writers(1000), &reader)),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers, rounded")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

pub(crate) fn page(bench: &Bench, costs: &Costs) -> Result<String> {
    let mut text = String::from("# Scaling\n\n");
    writeln!(
        text,
        "What the agent would cost on {CPUS} CPUs with {PROCESSES} processes: by arithmetic and simulation from what was measured on \
         a small machine. Made by `cargo xtask bench scaling --write`. {}\n",
        bench.stamp()
    )?;
    writeln!(text, "## What one more costs\n\n| cost | |\n| --- | ---: |")?;
    let mut row = |what: &str, value: String| writeln!(text, "| {what} | {value} |");
    row(&format!("eBPF program, a sample at {LOW_HZ} Hz (cold)"), format!("{:.0} ns", costs.cold_ns))?;
    row(&format!("eBPF program, a sample at {HIGH_HZ} Hz"), format!("{:.0} ns", costs.warm_ns))?;
    for (thread, ns) in costs.sample.iter().filter(|(_, ns)| **ns >= 1.0) {
        row(&format!("user space, a sample: `{thread}`"), format!("{ns:.0} ns"))?;
    }
    row("user space, a sample, all threads and the worker", format!("{:.0} ns", costs.sample.values().sum::<f64>()))?;
    row("user space, whatever is sampled", format!("{:.2} % of one CPU", 100.0 * costs.fixed))?;
    row("ring buffer, a sample as it comes", format!("{:.0} bytes", costs.walked_bytes))?;
    row("ring buffer, a sample without tables", format!("{:.0} bytes", costs.snapshot_bytes))?;
    row("RSS, agent and worker, without processes", format!("{:.1} MB", costs.rss_mb))?;
    row("RSS, for each process", format!("{:.2} KB", 1e3 * costs.process_mb))?;
    row("kernel memory of maps, without processes", format!("{:.1} MB", costs.maps_mb))?;
    row("kernel memory of maps, for each process", format!("{:.2} KB", 1e3 * costs.process_maps_mb))?;
    row("start-up, for each process that is there", format!("{:.1} us", 1e6 * costs.process_start))?;
    row("a second of a process that is there and sleeps", format!("{:.2} us", 1e6 * costs.process_rate))?;
    row("a process that is born, executes a known file and ends", format!("{:.0} us", 1e6 * costs.birth))?;
    writeln!(
        text,
        "\nThe cost of a sample in user space is the slope between {LOW_HZ} and {HIGH_HZ} Hz under the load of the benchmark \
         (two kinds of programs, a few hundred distinct stacks in a window), all exports on; that of a process the slope between \
         few and many sleeping processes of one file. Threads that end are in neither. What names and \
         encodes (`naming`, `web`) works for each distinct stack, not for each sample: for these it is an upper bound.\n"
    )?;
    writeln!(
        text,
        "## {CPUS} CPUs, {PROCESSES} processes, {BIRTHS} births a second, all CPUs busy\n\n| Hz | samples a second | eBPF, of each CPU | user space: CPUs | of the machine | busiest thread, of one CPU | RSS MB | maps MB |"
    )?;
    writeln!(text, "| ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |")?;
    let all: Vec<Large> = RATES.iter().map(|hz| Large::at(costs, *hz)).collect();
    for large in &all {
        writeln!(
            text,
            "| {} | {:.0} | {} | {:.3} | {} | {}: {} | {:.0} | {:.0} |",
            large.hz,
            CPUS * large.hz,
            percent(large.kernel),
            large.user,
            percent(large.user / CPUS),
            large.busiest.0,
            percent(large.busiest.1),
            large.rss_mb,
            large.maps_mb,
        )?;
    }
    let slowest = costs.sample.iter().filter(|(name, _)| *name != POOL).max_by(|a, b| a.1.total_cmp(b.1));
    if let Some((thread, ns)) = slowest.filter(|(_, ns)| **ns > 0.0) {
        writeln!(
            text,
            "\nThe thread that does most for a sample, `{thread}`, is at its end at {:.0} samples a second; past that, samples are dropped \
             and counted by reason. Tables of files come on top of the maps, by the benchmark's section `tables`, up to \
             `--unwind-memory`.",
            1e9 / ns
        )?;
    }
    writeln!(
        text,
        "\n## The ring buffer\n\nSimulated for 30 s in steps of a millisecond: each CPU writes a record for each tick, {} of a hundred with a \
         snapshot (checks, processes that are new); the reader is woken when an eighth is full or after 200 ms, comes {DELAY_MS} ms late \
         each time, since all CPUs are busy, and takes its measured time for each record. The smallest power of two that loses nothing:\n\n\
         | Hz | ring | where every sample carries a snapshot: the first moments, or no tables |\n| ---: | --- | --- |",
        SNAPSHOTS_PERMILLE as f64 / 10.0
    )?;
    for large in &all {
        writeln!(text, "| {} | {} | {} |", large.hz, large.ring, large.bridge)?;
    }
    let usual = 8u64 << 20;
    let enough = all.iter().filter(|large| large.ring_bytes.is_some_and(|ring| ring <= usual)).map(|large| large.hz);
    let enough = enough.fold(0.0, f64::max);
    writeln!(
        text,
        "\nWhat such a machine has by default, 8 MiB, is enough up to {enough} Hz; above that: `--ring-bytes`."
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::Threads;

    #[test]
    fn a_large_machine_by_arithmetic() {
        let sample = Threads::from([("drain".to_owned(), 500.0), ("unwind".to_owned(), 2000.0)]);
        let costs = Costs {
            sample,
            fixed: 0.01,
            cold_ns: 5000.0,
            walked_bytes: 600.0,
            snapshot_bytes: 8000.0,
            rss_mb: 30.0,
            process_mb: 0.002,
            maps_mb: 20.0,
            process_maps_mb: 0.0,
            process_rate: 1e-6,
            birth: 1e-4,
            ..Costs::default()
        };
        let large = Large::at(&costs, 1000.0);
        assert!((large.kernel - 0.005).abs() < 1e-9);
        assert!((large.user - (0.01 + 0.064 + 0.256 + 0.005 + 0.01)).abs() < 1e-9, "{}", large.user);
        assert_eq!((large.busiest.0.as_str(), large.rss_mb, large.maps_mb), ("unwind", 40.0, 20.0));
        assert!(large.ring_bytes.is_some_and(|ring| ring >= 1 << 20), "{}", large.ring);
        assert!(large.bridge.contains("KiB"), "{}", large.bridge);
    }
}
