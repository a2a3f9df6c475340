//! Debian packages that tests need, installed only where they are missing.
//!
//! **Out**: programs on `PATH`. **Limits**: one `apt-get update` at most per run; package locks are waited for.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell::{logged, say, which};

/// A program, and the package that brings it.
pub(crate) struct Need {
    /// The program, as it stands on `PATH`, or the absolute path of a file.
    pub(crate) program: &'static str,
    /// The package.
    pub(crate) package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// What the end-to-end tests run: compilers for workloads, stock binaries that are profiled, readers of our output.
pub(crate) const FOR_TESTS: &[Need] = &[
    need("gcc", "gcc"),
    need("g++", "g++"),
    need("/usr/include/stdio.h", "libc6-dev"),
    need("git", "git"),
    need("perl", "perl"),
    need("/usr/bin/python3", "python3"),
    need("xz", "xz-utils"),
    need("musl-gcc", "musl-tools"),
    need("node", "nodejs"),
    // The server and its load; as `redis-server`, the package would start one for the whole machine.
    need("redis-benchmark", "redis-tools"),
    need("openssl", "openssl"),
    need("setpriv", "util-linux"),
    need("ip", "iproute2"),
    need("/lib/systemd/systemd", "systemd"),
    need("curl", "curl"),
    need("dot", "graphviz"),
    need("chromium", "chromium"),
];

/// What the benchmark compares with.
pub(crate) const FOR_BENCH: &[Need] = &[
    need("gcc", "gcc"),
    need("/usr/bin/python3", "python3"),
    need("perf", "linux-perf"),
    need("unshare", "util-linux"),
];

/// A program that the benchmark measures where it can be had.
pub(crate) const NODE: &[Need] = &[need("node", "nodejs")];

fn there(program: &str) -> bool {
    if program.starts_with('/') { Path::new(program).exists() } else { which(program).is_some() }
}

fn apt(log: &Path, words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]).args(words);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    logged(&mut command, log)
}

/// Installs the packages of programs that are not there.
///
/// # Errors
/// When a package cannot be installed: names the log.
pub(crate) fn ensure(needs: &[Need], logs: &Path) -> Result<()> {
    let missing: Vec<&str> = needs.iter().filter(|n| !there(n.program)).map(|n| n.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    let log = logs.join("apt.log");
    let mut words = vec!["install", "--no-install-recommends"];
    words.extend(&missing);
    // Package lists may be absent or stale: only then are they fetched.
    if apt(&log, &words).is_err() {
        apt(&log, &["update"]).context("the package lists cannot be fetched")?;
        apt(&log, &words).with_context(|| format!("cannot install {}", missing.join(" ")))?;
    }
    Ok(())
}

/// Unpacks a package into `folder` without installing it: no service starts, nothing of the system changes.
///
/// # Errors
/// When it cannot be fetched or unpacked.
pub(crate) fn unpack(package: &str, folder: &Path, logs: &Path) -> Result<()> {
    let log = logs.join("apt.log");
    let fetch = |log: &Path| {
        let mut command = Command::new("apt-get");
        // Where root fetches, the unprivileged fetcher cannot write into our folder.
        command.args(["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download", package]);
        logged(command.current_dir(folder), log)
    };
    if fetch(&log).is_err() {
        apt(&log, &["update"]).context("the package lists cannot be fetched")?;
        fetch(&log)?;
    }
    let archive: PathBuf = std::fs::read_dir(folder)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt-get download {package} left no file"))?;
    logged(Command::new("dpkg").arg("-x").arg(&archive).arg(folder), &log)?;
    std::fs::remove_file(archive)?;
    Ok(())
}
