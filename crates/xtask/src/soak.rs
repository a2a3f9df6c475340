//! `cargo xtask soak`: the agent for a while beside something that is hard on it, and what must stay true meanwhile.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::shell::target;
use crate::{bench, packages, peers};

/// What `cargo xtask soak` takes.
#[derive(Args, Debug)]
pub(crate) struct SoakArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// This workspace is built again and again while the agent runs: at every scrape the ledger must hold, memory must be flat after the
    /// warm-up, and no process may be published to the kernel that is dead.
    Farm(FarmArgs),
}

#[derive(Args, Debug)]
struct FarmArgs {
    /// How long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=24 * 60))]
    minutes: u32,
    /// Samples per second and CPU.
    #[arg(long, default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=1000))]
    frequency: u32,
}

/// Runs a soak.
///
/// # Errors
/// When something is missing, or something did not stay true.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    let What::Farm(farm) = &args.what;
    packages::ensure(packages::FOR_BENCH, &target().join("xtask-logs"))?;
    peers::ensure()?;
    bench::built(&["--release", "--package", "profiler"])?;
    bench::measured("soak", &[farm.minutes.to_string(), farm.frequency.to_string()])
}
