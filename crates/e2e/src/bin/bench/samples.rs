//! Point 1: what one sample costs inside the kernel, by the kernel's own statistics of eBPF programs.
//!
//! Cold: 99 Hz, so that each sample finds the caches full of what the load had been doing for 10 ms. Hot: 4,999 Hz. That is beyond
//! what our agent takes as a setting: the rate of its timers is raised from outside, while it runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::agent::{Agent, RATE};
use e2e::bpf::{self, Whose};
use e2e::collector::Collector;
use e2e::scrape::Scrape;

use crate::line::{Figure, Goal, Line, percent};
use crate::load::{Kind, Load};
use crate::page::Part;
use crate::plan::Plan;
use crate::theirs::Theirs;
use crate::{Bench, ours};

/// What makes samples hot.
const HOT_HZ: u32 = 4999;
/// Microseconds of a hot sample of 50 frames.
const HOT_GOAL_US: f64 = 5.0;
/// Of what theirs takes cold, ours shall take so much.
const COLD_GOAL: f64 = 0.25;
/// Fewer are no measurement.
const LEAST_SAMPLES: f64 = 100.0;

/// What was measured of one load at one rate.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// Microseconds of a sample.
    us: f64,
    samples: f64,
    /// Of ours: the part that the kernel walked by tables; none where the agent does not say.
    walked: Option<f64>,
    /// Of ours: user frames of a walked sample.
    frames: Option<f64>,
    /// Of ours: bytes through the ring for a sample.
    bytes: f64,
}

/// Cells by the load's name and by being cold.
type Cells = BTreeMap<(String, bool), Cell>;

/// Measures.
pub(crate) fn section(bench: &Bench) -> Result<Part> {
    let _measured = bpf::measure_runs()?;
    let folder = bench.folder("samples")?;
    let kinds = || Kind::ALL.into_iter().filter(|kind| kind.there());
    let (mut ours, mut failed) = (Cells::new(), Failed::default());
    for cold in [true, false] {
        let name = if cold { "agent-cold" } else { "agent-hot" };
        let agent = ours::plain(name, &folder)?.start()?;
        if !cold {
            bpf::hasten(agent.running.pid(), HOT_HZ)?;
        }
        // The tables of what runs anyway are made first.
        sleep(bench.plan.start_up);
        let loaded = Whose::Process(agent.running.pid());
        for kind in kinds() {
            let cell = of_ours(kind, cold, &bench.plan, &folder, &agent, &loaded);
            failed.keep(&mut ours, kind, cold, cell);
        }
        agent.stop()?.success()?;
    }
    let mut theirs = Cells::new();
    if let Some(program) = &bench.otel_profiler {
        let collector = Collector::start(&folder)?;
        for cold in [true, false] {
            let hz = if cold { RATE } else { HOT_HZ };
            let them = Theirs::start(program, hz, collector.ports.grpc, &folder)?;
            sleep(bench.plan.start_up);
            for kind in kinds() {
                let cell = of_theirs(kind, cold, &bench.plan, &folder, &them);
                failed.keep(&mut theirs, kind, cold, cell);
            }
            them.stop()?;
        }
    }
    let mut lines = lines(&ours, &theirs);
    lines.extend(failed.0);
    Ok(Part { lines, details: details(bench, &ours, &theirs)? })
}

/// What could not be measured: it says so in the table, and fails the run at its end, without the rest of it.
#[derive(Default)]
struct Failed(Vec<Line>);

impl Failed {
    fn keep(&mut self, cells: &mut Cells, kind: Kind, cold: bool, cell: Result<Cell>) {
        let key = (kind.name(), cold);
        match cell {
            Ok(cell) => {
                cells.insert(key, cell);
            }
            Err(error) => {
                let what = format!("eBPF us a sample, {}, {}", if cold { "cold" } else { "hot" }, key.0);
                self.0.push(Line::failed("1", what, &error));
            }
        }
    }
}

fn lasting(plan: &Plan, cold: bool) -> Duration {
    if cold { plan.cold } else { plan.hot }
}

fn of_ours(kind: Kind, cold: bool, plan: &Plan, folder: &Path, agent: &Agent, loaded: &Whose) -> Result<Cell> {
    let mut load = Load::start(kind, cold, folder)?;
    sleep(plan.settle);
    // The two are read one after the other, in the same order each time: what passes between them cancels out.
    let (early, at) = (agent.scrape()?, loaded.runs()?);
    sleep(lasting(plan, cold));
    let (late, end) = (agent.scrape()?, loaded.runs()?);
    load.check()?;
    let grown = |name: &str| Ok::<f64, anyhow::Error>(late.sum(name)? - early.sum(name)?);
    let some = |name: &str| Some(grow(&early, &late, name)?).filter(|grown| *grown > 0.0);
    let samples = grown("profiler_samples_taken_total")?;
    ensure!(samples >= LEAST_SAMPLES, "only {samples} samples");
    let runs = end.since(&at);
    let walked = some(ours::WALKED);
    Ok(Cell {
        // Filtered ticks (the agent's own) are in the time and not in the number: they make a sample look dearer, not cheaper.
        us: (runs.ns + runs.other_ns) / samples / 1e3,
        samples,
        walked: grow(&early, &late, ours::WALKED).map(|walked| walked / samples),
        frames: some(ours::WALKED_FRAMES).zip(walked).map(|(frames, walked)| frames / walked),
        bytes: grown("profiler_ring_written_bytes_total")? / samples,
    })
}

fn grow(early: &Scrape, late: &Scrape, name: &str) -> Option<f64> {
    Some(late.sum(name).ok()? - early.sum(name).ok()?)
}

fn of_theirs(kind: Kind, cold: bool, plan: &Plan, folder: &Path, them: &Theirs) -> Result<Cell> {
    let mut load = Load::start(kind, cold, folder)?;
    sleep(plan.settle);
    let at = them.loaded.runs()?;
    sleep(lasting(plan, cold));
    let runs = them.loaded.runs()?.since(&at);
    load.check()?;
    ensure!(runs.count >= LEAST_SAMPLES, "only {} runs", runs.count);
    Ok(Cell { us: (runs.ns + runs.other_ns) / runs.count / 1e3, samples: runs.count, ..Cell::default() })
}

fn lines(ours: &Cells, theirs: &Cells) -> Vec<Line> {
    let mut lines = Vec::new();
    for cold in [true, false] {
        for kind in Kind::ALL {
            let key = (kind.name(), cold);
            let Some(cell) = ours.get(&key) else { continue };
            let goal = match (cold, kind) {
                (true, _) => Some(Goal::Part(COLD_GOAL)),
                (false, Kind::Frames(50)) => Some(Goal::Most(HOT_GOAL_US)),
                (false, _) => None,
            };
            let what = format!("eBPF us a sample, {}, {}", if cold { "cold" } else { "hot" }, kind.name());
            let figure = Figure { ours: cell.us, theirs: theirs.get(&key).map(|theirs| theirs.us), decimals: 2 };
            lines.push(Line::judged("1", what, figure, goal, None));
        }
    }
    lines
}

fn details(bench: &Bench, ours: &Cells, theirs: &Cells) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "Time in all eBPF programs of a profiler, by the kernel's statistics, for each sample. Cold: {RATE} Hz, {} s; hot: {HOT_HZ} Hz, \
         {} s (ours is set to that from outside, its settings end at 1000 Hz). One load at a time, on every CPU; in the loads \
         with a number of frames (C without frame pointers) the leaf walks through 64 MiB where it is cold, and stays in registers where \
         it is hot. Ours divides by the samples taken, so that the agent's own ticks are paid for by samples; theirs by runs.\n",
        bench.plan.cold.as_secs(),
        bench.plan.hot.as_secs(),
    )?;
    writeln!(
        text,
        "| load | | us | samples | by tables | user frames | ring bytes | theirs, us | runs | ours against theirs |"
    )?;
    writeln!(text, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let keys = Kind::ALL.into_iter().flat_map(|kind| [(kind.name(), true), (kind.name(), false)]);
    for (key, cell) in keys.filter_map(|key| Some((key.clone(), ours.get(&key)?))) {
        let them = theirs.get(&key);
        let (name, cold) = key;
        let some = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
        writeln!(
            text,
            "| {name} | {} | {:.2} | {:.0} | {} | {} | {:.0} | {} | {} | {} |",
            if cold { "cold" } else { "hot" },
            cell.us,
            cell.samples,
            some(cell.walked.map(percent)),
            some(cell.frames.map(|frames| format!("{frames:.1}"))),
            cell.bytes,
            them.map(|them| format!("{:.2}", them.us)).unwrap_or_default(),
            them.map(|them| format!("{:.0}", them.samples)).unwrap_or_default(),
            them.map(|them| percent(cell.us / them.us)).unwrap_or_default(),
        )?;
    }
    Ok(text)
}
