//! `cargo xtask test`: everything that says whether the project works, in one command.
//!
//! Order: what tests need is installed and built first, then the code is checked, then unit and integration tests run,
//! then the end-to-end tests, one at a time, with nothing else going on: they measure. A stage that fails does not keep
//! later ones from running, unless they need what it makes.
//!
//! **Out**: the stages with their times, the closing lines of `cargo test`, an exit code.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::deploy::{self, DeployArgs};
use crate::shell::{cargo, logged, say, shown, target};
use crate::{cluster, packages, peers, workloads};

/// What `cargo xtask test` takes.
#[derive(Args, Debug, Default)]
pub(crate) struct TestArgs {
    /// Run only tests whose name contains this; formatting and lints are then left out.
    filter: Option<String>,
    /// Leave out the end-to-end tests (they need root and a Linux with BPF).
    #[arg(long)]
    no_e2e: bool,
    /// Take peers and packages as they are: install and build none.
    #[arg(long)]
    no_peers: bool,
    /// Load and run the eBPF object in virtual machines of several kernels, too.
    #[arg(long)]
    kernels: bool,
    /// Only the tests on a cluster: start a node, apply what is in deploy/, look at all of it.
    #[arg(long, conflicts_with_all = ["kernels", "no_e2e"])]
    cluster: bool,
    /// With --cluster: leave the node running, and on it what a failed test had there (`cargo xtask cluster down` ends it).
    #[arg(long, requires = "cluster")]
    keep: bool,
}

/// One stage's end.
struct Done {
    name: &'static str,
    took: Duration,
    error: Option<String>,
}

/// The stages so far, and the closing lines of the tests that ran.
#[derive(Default)]
struct Report {
    done: Vec<Done>,
    closing: Vec<String>,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Report {
    fn stage(&mut self, name: &'static str, step: impl FnOnce(&mut Self) -> Result<()>) -> bool {
        say(&format!("== {name}"));
        let start = Instant::now();
        let error = step(self).err().map(|e| format!("{e:#}"));
        if let Some(error) = &error {
            say(&format!("{name}: {error}"));
        }
        let fine = error.is_none();
        self.done.push(Done { name, took: start.elapsed(), error });
        fine
    }

    /// Runs `cargo test` with further words; keeps its closing lines.
    fn cargo_test(&mut self, log: &str, command: &mut Command) -> Result<()> {
        let mut ran = 0;
        let status = shown(command, &logs().join(log), |line| {
            if let Some(counts) = closing_line(line) {
                self.passed += counts.passed;
                self.failed += counts.failed;
                self.ignored += counts.ignored;
                ran += counts.passed + counts.failed;
                if counts.passed + counts.failed + counts.ignored > 0 {
                    self.closing.push(line.to_owned());
                }
            }
        })?;
        if !status.success() {
            bail!("tests failed ({status})");
        }
        if ran == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

/// The counts of a line `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

fn closing_line(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut counts = Counts::default();
    for part in rest.split("; ") {
        let (number, what) = part.split_once(' ')?;
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.ignored = number,
            _ => {}
        }
    }
    Some(counts)
}

fn logs() -> PathBuf {
    target().join("xtask-logs")
}

/// Runs a cargo command whose output nobody reads unless it fails: shown on standard error as it comes.
fn checked(words: &[&str]) -> Result<()> {
    let status = cargo().args(words).status()?;
    if !status.success() {
        bail!("cargo {}: {status}", words.join(" "));
    }
    Ok(())
}

/// Runs the whole.
///
/// # Errors
/// When any stage failed; all of them are in the summary that was printed by then.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    if args.cluster {
        return on_cluster(args);
    }
    let mut report = Report::default();
    let mut peers_found = Vec::new();
    let e2e = !args.no_e2e;
    let mut ready = true;
    if e2e && !args.no_peers {
        ready &= report.stage("packages", |_| packages::ensure(packages::FOR_TESTS, &logs()));
        ready &= report.stage("peers", |_| {
            peers_found = peers::ensure()?;
            Ok(())
        });
    }
    if args.filter.is_none() {
        report.stage("format", |_| checked(&["fmt", "--all", "--check"]));
        let lint = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            "e2e/live,e2e/cluster",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ];
        report.stage("lint", |_| checked(&lint));
        if e2e && !args.no_peers {
            report.stage("deploy", |_| deploy::run(&DeployArgs::default()));
        }
    }
    report.stage("unit and integration tests", |report| {
        let mut command = cargo();
        command.args(["test", "--workspace", "--quiet", "--no-fail-fast"]);
        command.args(&args.filter);
        report.cargo_test("unit.log", &mut command).or_else(|e| {
            // A filter that only names end-to-end tests leaves nothing here.
            if args.filter.is_some() && e.to_string() == "no test ran" { Ok(()) } else { Err(e) }
        })
    });
    if args.kernels {
        report.stage("kernels", |_| {
            let mut command = Command::new(std::env::current_exe()?);
            logged(command.arg("kernels"), &logs().join("kernels.log"))
        });
    }
    if e2e {
        ready &= report.stage("release build", |_| checked(&["build", "--release", "--package", "profiler"]));
        ready &= report.stage("workloads", |_| workloads::build());
        if ready {
            report.stage("end-to-end tests", |report| {
                if args.no_peers {
                    peers_found = peers::present()?;
                }
                let mut command = end_to_end("live", args, &peers_found);
                report
                    .cargo_test("e2e.log", &mut command)
                    .or_else(|e| if args.filter.is_some() && e.to_string() == "no test ran" { Ok(()) } else { Err(e) })
            });
        } else {
            say("end-to-end tests: left out, since what they need is not there");
        }
    }
    summary(&report)
}

/// The tests of a feature of `e2e`, with what tells them where everything is.
fn end_to_end(feature: &str, args: &TestArgs, peers: &[(String, PathBuf)]) -> Command {
    let mut command = cargo();
    command.args(["test", "--package", "e2e", "--features", feature, "--no-fail-fast"]);
    command.arg("--test").arg("*").args(&args.filter).args(["--", "--test-threads=1", "--nocapture"]);
    command.env("E2E_PROFILER", target().join("release/profiler"));
    command.env("E2E_WORKLOADS", workloads::folder()).env("E2E_SCRATCH", target().join("e2e"));
    // Errors say what was expected; a backtrace of a test says no more.
    command.env("RUST_LIB_BACKTRACE", "0").envs(peers.iter().cloned());
    command
}

/// The tests on a cluster. The node is started from nothing, and taken away again.
fn on_cluster(args: &TestArgs) -> Result<()> {
    let mut report = Report::default();
    let mut peers_found = Vec::new();
    let mut ready = true;
    if args.no_peers {
        peers_found = peers::present()?;
    } else {
        ready &= report.stage("packages", |_| packages::ensure(packages::FOR_TESTS, &logs()));
        ready &= report.stage("peers", |_| {
            peers_found = peers::ensure()?;
            cluster::prepare()
        });
    }
    ready &= report.stage("release build", |_| checked(&["build", "--release", "--package", "profiler"]));
    ready &= report.stage("workloads", |_| workloads::build());
    if ready && report.stage("node", |_| cluster::up()) {
        report.stage("tests on the cluster", |report| {
            let mut command = end_to_end("cluster", args, &peers_found);
            if args.keep {
                command.env("E2E_KEEP", "1");
            }
            report.cargo_test("cluster.log", command.env("E2E_CLUSTER", cluster::folder()))
        });
    }
    if args.keep {
        say(&format!("the node stays: export KUBECONFIG={}", cluster::kubeconfig().display()));
    } else {
        report.stage("node away", |_| cluster::down());
    }
    summary(&report)
}

fn summary(report: &Report) -> Result<()> {
    say("\n== summary");
    for stage in &report.done {
        let verdict = if stage.error.is_none() { "ok  " } else { "FAIL" };
        say(&format!("{verdict} {:<28}{:>8.1} s", stage.name, stage.took.as_secs_f64()));
    }
    for line in &report.closing {
        say(line);
    }
    let failures: Vec<&str> = report.done.iter().filter(|d| d.error.is_some()).map(|d| d.name).collect();
    say(&format!("{} passed, {} failed, {} skipped", report.passed, report.failed, report.ignored));
    if !failures.is_empty() {
        bail!("failed: {}", failures.join(", "));
    }
    if report.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_closing_lines() {
        let line = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; finished in 0.02s";
        assert_eq!(closing_line(line), Some(Counts { passed: 12, failed: 0, ignored: 3 }));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(closing_line(line), Some(Counts { passed: 1, failed: 2, ignored: 0 }));
        assert_eq!(closing_line("test tests::reads ... ok"), None);
    }
}
