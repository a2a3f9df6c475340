//! `cargo xtask bench overhead`: installs and builds what the measurement needs, then runs it with nothing else going on.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::shell::{repository, target};
use crate::{packages, workloads};

/// What `cargo xtask bench` takes.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// CPU time and memory of the agent at 99 Hz with all CPUs saturated, beside perf; then with one saturating cgroup taken, excluded, and
    /// without a profiler.
    Overhead(OverheadArgs),
}

#[derive(Args, Debug)]
struct OverheadArgs {
    /// 15 s after 5 s of warm-up instead of 60 s after 30 s.
    #[arg(long)]
    quick: bool,
    /// Write docs/benchmarks.md.
    #[arg(long)]
    write: bool,
}

/// Runs a benchmark.
///
/// # Errors
/// When something is missing, or a floor is broken.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let What::Overhead(overhead) = &args.what;
    packages::ensure(packages::FOR_BENCH, &target().join("xtask-logs"))?;
    workloads::build()?;
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(repository());
        command
    };
    let build = cargo().args(["build", "--release", "--package", "profiler"]).status()?;
    if !build.success() {
        bail!("the release build failed");
    }
    let mut words = vec!["run", "--quiet", "--package", "e2e", "--bin", "overhead", "--"];
    words.extend(overhead.quick.then_some("--quick"));
    words.extend(overhead.write.then_some("--write"));
    let mut run = cargo();
    run.args(words).env("E2E_PROFILER", target().join("release/profiler")).env("E2E_WORKLOADS", workloads::folder());
    if !run.env("E2E_SCRATCH", target().join("e2e")).status()?.success() {
        bail!("the benchmark failed, or a floor is broken");
    }
    Ok(())
}
