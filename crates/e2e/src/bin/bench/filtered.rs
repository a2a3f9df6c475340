//! What leaving a cgroup out saves: one that saturates the machine, taken, excluded, and with no profiler at all.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{RATE, Setup};
use e2e::cost::cpu_seconds;

use crate::ours::{self, Ours};
use crate::plan::Plan;
use crate::{cpus, spin::Spinning};

/// Of the ticks that the excluded cgroup had, so many of a hundred may not be counted as filtered. (Some: the
/// kernel does not deliver every tick.)
pub(crate) const MOST_UNFILTERED_PERCENT: f64 = 10.0;

/// A cgroup of the same name in each hierarchy that tells containers apart. It goes with the load in it.
struct Cgroup {
    name: String,
    folders: Vec<PathBuf>,
}

impl Cgroup {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let name = format!("profiler-bench-{}", std::process::id());
        let mut cgroup = Self { name, folders: Vec::new() };
        for root in mounts.lines().filter_map(hierarchy) {
            let folder = Path::new(root).join(&cgroup.name);
            fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
            cgroup.folders.push(folder);
        }
        ensure!(!cgroup.folders.is_empty(), "no hierarchy of cgroups is mounted");
        Ok(cgroup)
    }

    fn take_in(&self, pid: u32) -> Result<()> {
        for folder in &self.folders {
            fs::write(folder.join("cgroup.procs"), pid.to_string()).with_context(|| folder.display().to_string())?;
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    /// To be called when nothing is in it any more; the kernel may take a moment to see that.
    fn drop(&mut self) {
        for folder in &self.folders {
            let mut tries = 0..100;
            while fs::remove_dir(folder).is_err() && tries.next().is_some() {
                sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The place where a hierarchy's root is mounted: of version 2, or of a controller of version 1 that runtimes always use.
fn hierarchy(line: &str) -> Option<&str> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let of_containers = || options.split(',').any(|option| option == "memory" || option == "pids");
    (root == "/" && (name == "cgroup2" || name == "cgroup" && of_containers())).then_some(point)
}

/// One row of the table.
struct Row {
    name: &'static str,
    /// None without a profiler.
    ours: Option<Ours>,
    /// What the load did in the time measured.
    done: Done,
}

/// What the load has done so far.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    rounds: f64,
    cpu: f64,
}

impl Done {
    fn by(load: &[Spinning]) -> Result<Self> {
        let mut done = Self::default();
        for one in load {
            done.rounds += one.rounds() as f64;
            done.cpu += cpu_seconds(one.running.pid())?;
        }
        Ok(done)
    }

    fn since(&self, before: &Self) -> Self {
        Self { rounds: self.rounds - before.rounds, cpu: self.cpu - before.cpu }
    }
}

/// The three, measured.
pub(crate) struct Report {
    /// The table and what belongs to it.
    pub(crate) text: String,
    /// Of the excluded cgroup's ticks, the percentage that was filtered.
    pub(crate) filtered: f64,
}

/// Measures the three and writes the table.
///
/// # Errors
/// When something cannot be started or read.
pub(crate) fn report(plan: &Plan, folder: &Path) -> Result<Report> {
    let cgroup = Cgroup::new()?;
    let load: Vec<Spinning> =
        (0..cpus()).map(|i| Spinning::start(&format!("spin{i}"), folder)).collect::<Result<_>>()?;
    for one in &load {
        cgroup.take_in(one.running.pid())?;
    }
    let with_agent = |name: &'static str, setup: Setup| {
        let mut marks = Vec::new();
        let ours = Ours::measure(setup, plan, || {
            marks.push(Done::by(&load)?);
            Ok(())
        })?;
        let done = marks.last().zip(marks.first()).map_or_else(Done::default, |(last, first)| last.since(first));
        Ok::<Row, anyhow::Error>(Row { name, ours: Some(ours), done })
    };
    let taken = with_agent("taken", ours::plain("agent-taken", folder)?)?;
    let rule = format!("cgroup=/{}", cgroup.name);
    let excluded = with_agent("excluded", ours::plain("agent-excluded", folder)?.args(["--exclude", &rule]))?;
    sleep(plan.warm_up);
    let before = Done::by(&load)?;
    sleep(plan.measured);
    let absent = Row { name: "no profiler", ours: None, done: Done::by(&load)?.since(&before) };
    drop(load);
    drop(cgroup);
    let ticks = (excluded.done.cpu * f64::from(RATE)).max(1.0);
    let filtered = 100.0 * excluded.ours.as_ref().map_or(0.0, |ours| ours.filtered) / ticks;
    let mut text = table(plan, &[taken, excluded, absent])?;
    writeln!(text, "Of the excluded cgroup's ticks, {filtered:.0} % were filtered.")?;
    Ok(Report { text, filtered })
}

fn table(plan: &Plan, rows: &[Row]) -> Result<String> {
    let undisturbed = rows.iter().find(|row| row.ours.is_none()).map_or(1.0, |row| row.done.rounds.max(1.0));
    let mut text = String::new();
    writeln!(text, "\n### A saturating cgroup\n")?;
    writeln!(
        text,
        "One cgroup keeps all CPUs busy; it is taken, excluded (`--exclude cgroup=...`), and left alone.\n"
    )?;
    writeln!(
        text,
        "| cgroup | CPU s | % of one CPU | RSS MB | samples | filtered | eBPF ns a tick | eBPF s | work done |"
    )?;
    writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for row in rows {
        let work = 100.0 * row.done.rounds / undisturbed;
        match &row.ours {
            None => writeln!(text, "| {} | 0 | 0 | 0 | 0 | 0 | 0 | 0 | {work:.2} % |", row.name)?,
            Some(ours) => {
                let all = ours.all();
                let share = 100.0 * all.cpu / plan.measured.as_secs_f64();
                writeln!(
                    text,
                    "| {} | {:.2} | {share:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.4} | {work:.2} % |",
                    row.name,
                    all.cpu,
                    all.rss_mb,
                    ours.samples,
                    ours.filtered,
                    ours.bpf_ns(),
                    ours.bpf_seconds,
                )?;
            }
        }
    }
    writeln!(text, "\nWork done: rounds of the load's loop against those without a profiler.")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies() {
        let check = |line: &str, found: Option<&str>| assert_eq!(hierarchy(line), found, "{line}");
        check("25 20 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate", Some("/sys/fs/cgroup"));
        check("28 25 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory", Some("/sys/fs/cgroup/memory"));
        check("28 25 0:25 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset", None);
        check("30 25 0:22 /pod /sys/fs/cgroup ro - cgroup2 cgroup rw", None);
        check("", None);
    }
}
