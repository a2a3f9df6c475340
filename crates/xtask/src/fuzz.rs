//! `cargo xtask fuzz`: each fuzz target for a while.
//!
//! It begins with the kept corpus (`fuzz/corpus`) and with what earlier runs on this machine found; what is new is written to
//! the latter only. An input that a target fails on ends the run, and stays in `fuzz/artifacts`.
//!
//! **Out**: how many inputs each target ran, an exit code. **Limits**: the time of each target, [`MEMORY_MIB`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::shell::{cargo, logged, output, repository, say, target, timed, which};
use crate::{packages, peers};

const TOOL: &str = "cargo-fuzz";
const TOOL_VERSION: &str = "0.13.2";
/// Memory of a target; an input that needs more is a failure.
const MEMORY_MIB: u32 = 2048;
/// An input that takes longer is a failure.
const INPUT_SECONDS: u32 = 20;
/// Beyond a target's own time: what building and starting may take is not counted, ending is.
const GRACE: Duration = Duration::from_secs(60);

/// What `cargo xtask fuzz` takes.
#[derive(Args, Debug)]
pub(crate) struct FuzzArgs {
    /// Only these targets.
    targets: Vec<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Install nothing: fail where a tool is missing.
    #[arg(long)]
    no_install: bool,
}

/// Runs the targets, one after the other.
///
/// # Errors
/// A tool is missing, a target cannot be built, or it failed on an input.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let logs = target().join("xtask-logs");
    let tool = tool(args.no_install, &logs)?;
    let known = targets()?;
    if let Some(wrong) = args.targets.iter().find(|wanted| !known.contains(wanted)) {
        bail!("{wrong} is no fuzz target; there are: {}", known.join(" "));
    }
    let wanted = if args.targets.is_empty() { known } else { args.targets.clone() };
    for name in &wanted {
        let log = logs.join(format!("fuzz-{name}.log"));
        let _ = fs::remove_file(&log);
        timed(&format!("build {name}"), || logged(cargo_fuzz(&tool, "build").arg(name), &log))?;
        let inputs = timed(&format!("fuzz {name}"), || fuzz(&tool, name, args.seconds, &log))?;
        say(&format!("     {name}: {inputs} inputs in {} s, none of them fatal", args.seconds));
    }
    Ok(())
}

/// The targets' names: one file each.
fn targets() -> Result<Vec<String>> {
    let folder = repository().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Runs one target; returns how many inputs it was given.
fn fuzz(tool: &Path, name: &str, seconds: u32, log: &Path) -> Result<u64> {
    let found = target().join("fuzz-corpus").join(name);
    fs::create_dir_all(&found)?;
    let mut run = Command::new("timeout");
    let limit = Duration::from_secs(seconds.into()) + GRACE;
    run.args(["--kill-after=5", &limit.as_secs().to_string()]).arg(tool);
    prepare(&mut run, "run");
    // The first folder is the one that is written to.
    run.arg(name).arg(&found).arg(repository().join("fuzz/corpus").join(name)).args([
        "--",
        &format!("-max_total_time={seconds}"),
        &format!("-timeout={INPUT_SECONDS}"),
        &format!("-rss_limit_mb={MEMORY_MIB}"),
        "-print_final_stats=1",
    ]);
    logged(&mut run, log)?;
    let text = fs::read(log)?;
    let inputs = executed(&String::from_utf8_lossy(&text)).context("the target did not say how many inputs it ran")?;
    if inputs == 0 { bail!("no input was run") } else { Ok(inputs) }
}

/// The number of inputs, from libFuzzer's closing lines.
fn executed(log: &str) -> Option<u64> {
    log.lines().rev().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?.trim().parse().ok()
}

fn cargo_fuzz(tool: &Path, verb: &str) -> Command {
    let mut command = Command::new(tool);
    prepare(&mut command, verb);
    command
}

/// The words and variables that each call has.
fn prepare(command: &mut Command, verb: &str) {
    command
        .args(["fuzz", verb, "--fuzz-dir"])
        .arg(repository().join("fuzz"))
        .arg("--target-dir")
        .arg(target().join("fuzz"))
        .current_dir(repository().join("fuzz"))
        // Sanitizers are options of unstable compilers; this has a stable one take them.
        .env("RUSTC_BOOTSTRAP", "1");
}

/// Where cargo-fuzz is: what is installed, if it is of the version that we know, else one of our own.
fn tool(no_install: bool, logs: &Path) -> Result<PathBuf> {
    let folder = peers::cache()?.join(format!("{TOOL}-{TOOL_VERSION}"));
    let own = folder.join("bin").join(TOOL);
    let fits = |path: &PathBuf| {
        let version = output(Command::new(path).arg("--version"));
        version.is_ok_and(|text| text.trim() == format!("{TOOL} {TOOL_VERSION}"))
    };
    if let Some(found) = [Some(own.clone()), which(TOOL)].into_iter().flatten().find(fits) {
        return Ok(found);
    }
    if no_install {
        bail!("{TOOL} {TOOL_VERSION} is missing");
    }
    packages::ensure(packages::FOR_TESTS, logs)?;
    say(&format!("building {TOOL} {TOOL_VERSION} (a minute)"));
    let mut install = cargo();
    install.args(["install", TOOL, "--locked", "--version", TOOL_VERSION, "--root"]).arg(&folder);
    logged(&mut install, &logs.join("cargo-fuzz.log"))?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_a_kept_corpus() {
        let names = targets().unwrap();
        assert!(names.len() >= 3);
        for name in names {
            let kept = fs::read_dir(repository().join("fuzz/corpus").join(&name)).unwrap().count();
            assert!(kept > 0, "{name}");
        }
    }

    #[test]
    fn the_number_of_inputs_is_read() {
        let log = "Done 12 runs in 1 second(s)\nstat::number_of_executed_units: 4711\nstat::peak_rss_mb: 9\n";
        assert_eq!(executed(log), Some(4711));
        assert_eq!(executed("stat::number_of_executed_units: many\n"), None);
        assert_eq!(executed(""), None);
    }
}
