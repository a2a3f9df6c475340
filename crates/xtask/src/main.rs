//! The one door for people and CI: `cargo xtask build-bpf`, `kernels`, `peers`, `test`, `bench`, `soak`, `fuzz`.

mod bench;
mod build_bpf;
mod cluster;
mod deploy;
mod fuzz;
mod image;
mod kernels;
mod packages;
mod peers;
mod shell;
mod soak;
mod test;
mod workloads;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests and measures the profiler.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the eBPF object that the sampler embeds, or compare it with the committed one.
    BuildBpf(build_bpf::BuildBpfArgs),
    /// Load and run the eBPF object in virtual machines of several kernels.
    Kernels(kernels::KernelsArgs),
    /// Build the programs that end-to-end tests talk to, into the user's cache.
    Peers,
    /// Install what tests need, check the code, run all tests.
    Test(test::TestArgs),
    /// Measure.
    Bench(bench::BenchArgs),
    /// Let it run for a while, and look that all stays true.
    Soak(soak::SoakArgs),
    /// Give hostile files and stacks to what reads them.
    Fuzz(fuzz::FuzzArgs),
    /// A real Kubernetes of one node on this machine, for tests.
    Cluster(cluster::ClusterArgs),
    /// Check manifests, rules, dashboard and Dockerfile with the programs that will read them.
    Deploy(deploy::DeployArgs),
    /// Build the image of the Dockerfile, for tests.
    Image(image::ImageArgs),
    /// Build the programs that end-to-end tests profile.
    Workloads,
}

fn main() -> ExitCode {
    let done: Result<()> = match Cli::parse().task {
        Task::BuildBpf(args) => build_bpf::run(&args),
        Task::Kernels(args) => kernels::run(&args),
        Task::Peers => all_peers(),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Cluster(args) => cluster::run(&args),
        Task::Deploy(args) => deploy::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Workloads => workloads::build(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::complain(&error);
            if error.is::<build_bpf::OtherToolchain>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

fn all_peers() -> Result<()> {
    packages::ensure(packages::FOR_TESTS, &shell::target().join("xtask-logs"))?;
    for (_, program) in peers::ensure()? {
        shell::say(&program.display().to_string());
    }
    for program in deploy::programs()? {
        shell::say(&program.display().to_string());
    }
    Ok(())
}
