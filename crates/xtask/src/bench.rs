//! `cargo xtask bench`: installs and builds what the measurements need, then runs them with nothing else going on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::shell::{cargo, repository, say, target};
use crate::{packages, peers, workloads};

/// What `cargo xtask bench` takes.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Only these sections; all, where none is named.
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// Seconds instead of minutes: shows that all of it works.
    #[arg(long)]
    quick: bool,
    /// Write docs/benchmarks.md and docs/scaling.md; sections that are not measured stay there as they were.
    #[arg(long)]
    write: bool,
    /// A program of the OpenTelemetry eBPF profiler, to be measured under the same load.
    #[arg(long, value_name = "PATH")]
    otel_profiler: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Time of the eBPF program for a sample: stacks of several depths, interpreters, compilers; cold and hot.
    Samples,
    /// CPU time in user space with all CPUs saturated, beside perf; and with one saturating cgroup taken, excluded, and without a profiler.
    Overhead,
    /// Start-up and memory with 200 processes on the machine.
    Processes,
    /// Unwind tables of large files: bytes a row, time, memory.
    Tables,
    /// What it would cost on a large machine, by arithmetic and simulation.
    Scaling,
}

impl Section {
    /// As on the command line.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Runs the benchmark.
///
/// # Errors
/// When something is missing, or a floor is broken.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let logs = target().join("xtask-logs");
    packages::ensure(packages::FOR_BENCH, &logs)?;
    if let Err(error) = packages::ensure(packages::NODE, &logs) {
        say(&format!("without node: {error:#}"));
    }
    if args.sections.iter().any(|section| *section != Section::Tables) || args.sections.is_empty() {
        workloads::build()?;
        peers::ensure()?;
        built(&["--release", "--package", "profiler"])?;
    }
    // A program of its own, with what the release build of the worker is made of.
    built(&["--release", "--package", "unwind", "--example", "table_cost"])?;
    let mut words: Vec<String> = args.sections.iter().map(|section| section.name()).collect();
    words.extend(args.quick.then(|| "--quick".to_owned()));
    words.extend(args.write.then(|| "--write".to_owned()));
    if let Some(path) = &args.otel_profiler {
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        words.extend(["--otel-profiler".to_owned(), path.display().to_string()]);
    }
    measured("bench", &words)
}

/// Builds a part of the workspace.
///
/// # Errors
/// When it does not build.
pub(crate) fn built(words: &[&str]) -> Result<()> {
    if !cargo().arg("build").args(words).status()?.success() {
        bail!("cargo build {} failed", words.join(" "));
    }
    Ok(())
}

/// Builds a program of crate `e2e`, then runs it: without cargo beside it.
///
/// # Errors
/// When it does not build, or fails.
pub(crate) fn measured(program: &str, words: &[String]) -> Result<()> {
    built(&["--quiet", "--package", "e2e", "--bin", program])?;
    let mut run = Command::new(target().join("debug").join(program));
    run.args(words).current_dir(repository());
    run.env("E2E_PROFILER", target().join("release/profiler")).env("E2E_WORKLOADS", workloads::folder());
    run.env("E2E_SCRATCH", target().join("e2e")).env("E2E_TABLE_COST", table_cost(&target()));
    if !run.status().with_context(|| program.to_owned())?.success() {
        bail!("{program} failed, or a floor is broken");
    }
    Ok(())
}

fn table_cost(target: &Path) -> PathBuf {
    target.join("release/examples/table_cost")
}
