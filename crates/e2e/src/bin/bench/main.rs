//! What profiling costs: `cargo xtask bench` builds what this needs and starts it.
//!
//! **In**: names of sections (all, where none is named), `--quick`, `--write`, `--otel-profiler PATH`. **Out**: one table on standard
//! output and the sections' details after it; with `--write`, `docs/benchmarks.md` and `docs/scaling.md`; an exit code that is not 0
//! where a section failed or a floor is broken. **Units**: as each line says. **Limits**: needs root, and a machine that does nothing
//! else.

mod costs;
mod crowd;
mod filtered;
mod large;
mod line;
mod load;
mod ours;
mod overhead;
mod page;
mod plan;
mod processes;
mod ring;
mod samples;
mod scaling;
mod spin;
mod tables;
mod theirs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{figure, paths};
use page::{Page, Part};
use plan::Plan;

/// The sections, in the order of the page.
const SECTIONS: [&str; 5] = ["samples", "overhead", "processes", "tables", "scaling"];

/// What was asked for.
pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) write: bool,
    /// The other profiler's program.
    pub(crate) otel_profiler: Option<PathBuf>,
    sections: Vec<&'static str>,
}

impl Bench {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut quick, mut write, mut otel_profiler, mut sections) = (false, false, None, Vec::new());
        let mut words = words;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => quick = true,
                "--write" => write = true,
                "--otel-profiler" => {
                    let path = words.next().context("--otel-profiler wants a path")?;
                    otel_profiler = Some(fs::canonicalize(&path).with_context(|| path.clone())?);
                }
                name => match SECTIONS.iter().find(|section| **section == name) {
                    Some(section) => sections.push(*section),
                    None => bail!("unknown section {name}; known are {}", SECTIONS.join(", ")),
                },
            }
        }
        if sections.is_empty() {
            sections = SECTIONS.to_vec();
        }
        Ok(Self { plan: Plan::new(quick), write, otel_profiler, sections })
    }

    /// An empty folder for a section's files.
    pub(crate) fn folder(&self, section: &str) -> Result<PathBuf> {
        paths::scratch(&format!("bench-{section}"))
    }

    /// When and where this is measured.
    pub(crate) fn stamp(&self) -> String {
        let quick = if self.plan.quick { ", quick: the figures show that it works, and no more" } else { "" };
        format!("Measured {}, {}{quick}.", date(), machine())
    }

    fn section(&self, name: &str) -> Result<Part> {
        match name {
            "samples" => samples::section(self),
            "overhead" => overhead::section(self),
            "processes" => processes::section(self),
            "tables" => tables::section(),
            _ => scaling::section(self),
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, file] = words.as_slice()
        && word == spin::WORD
    {
        return match spin::run(Path::new(file)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    match Bench::parse(words.into_iter()).and_then(|bench| run(&bench)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            figure(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &Bench) -> Result<()> {
    let path = repository().join("docs/benchmarks.md");
    let mut kept = Page::read(&fs::read_to_string(&path).unwrap_or_default());
    let mut now = Page::default();
    let mut failed = Vec::new();
    for name in &bench.sections {
        figure(format!("measuring: {name}"));
        match bench.section(name) {
            Ok(part) => {
                let broken = part.lines.iter().filter(|line| line.broken);
                failed.extend(
                    broken.map(|line| format!("{name}: {}: the floor is broken, or it was not measured", line.what)),
                );
                for page in [&mut kept, &mut now] {
                    page.put(name, &bench.stamp(), &part);
                }
                // What comes later may fail: nothing measured is lost.
                if bench.write {
                    fs::write(&path, kept.text(&SECTIONS)).with_context(|| path.display().to_string())?;
                }
            }
            Err(error) => {
                figure(format!("{name} failed: {error:#}"));
                failed.push(format!("{name}: {error:#}"));
            }
        }
    }
    for line in now.text(&SECTIONS).lines().skip_while(|line| !line.starts_with('|')) {
        figure(line.split(" <!--").next().unwrap_or_default());
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The machine, its kernel, and the revision that is measured.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("CPU", |l| l.trim_start_matches([' ', '\t', ':']));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let revision = Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(repository()).output();
    let revision =
        revision.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    format!("{} x {model}, Linux {}, revision {revision}", cpus(), kernel.trim())
}

/// Today, in UTC.
fn date() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (year, month, day) = civil(days);
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of a day since the epoch: years begin in March, so that leap days come last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Bench> {
        Bench::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_was_asked_for() {
        let all = words("--quick").unwrap();
        assert!(all.plan.quick && !all.write && all.sections == SECTIONS);
        let one = words("tables --write --otel-profiler /bin/sh").unwrap();
        assert!(one.write && one.sections == ["tables"] && one.otel_profiler.is_some());
        assert!(words("nothing").is_err() && words("--otel-profiler").is_err());
    }

    #[test]
    fn days() {
        for (days, date) in
            [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (11_017, (2000, 3, 1)), (20_453, (2025, 12, 31))]
        {
            assert_eq!(civil(days), date);
        }
    }
}
