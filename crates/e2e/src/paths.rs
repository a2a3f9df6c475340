//! Where things are. `cargo xtask test` says so by environment variables; a run by hand finds the usual places.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

fn place(variable: &str, usual: impl FnOnce() -> PathBuf) -> PathBuf {
    std::env::var_os(variable).map_or_else(usual, PathBuf::from)
}

fn there(path: PathBuf, how: &str) -> Result<PathBuf> {
    ensure!(path.exists(), "{} is not there: {how}", path.display());
    Ok(path)
}

/// The binary under test.
///
/// # Errors
/// When it was not built.
pub fn profiler() -> Result<PathBuf> {
    there(place("E2E_PROFILER", || target().join("release/profiler")), "cargo build --release -p profiler")
}

/// A program from `tests/workloads`.
///
/// # Errors
/// When it was not built.
pub fn workload(name: &str) -> Result<PathBuf> {
    there(place("E2E_WORKLOADS", || target().join("workloads")).join(name), "cargo xtask workloads")
}

/// A peer's program, by its file name.
///
/// # Errors
/// When it was not built.
pub fn peer(program: &str) -> Result<PathBuf> {
    let variable = format!("PEER_{}", program.replace('-', "_").to_uppercase());
    if let Some(path) = std::env::var_os(variable) {
        return there(path.into(), "cargo xtask peers");
    }
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = base.context("HOME is not set")?.join("profiler-peers");
    let homes = std::fs::read_dir(&cache).with_context(|| format!("{}: cargo xtask peers", cache.display()))?;
    let mut found: Vec<PathBuf> = homes.filter_map(|e| Some(e.ok()?.path().join(program))).collect();
    found.retain(|p| p.is_file());
    found.sort();
    found.pop().with_context(|| format!("no {program} in {}: cargo xtask peers", cache.display()))
}

/// A file of the peers' kits, under `tests/peers`.
#[must_use]
pub fn kit(name: &str) -> PathBuf {
    repository().join("tests/peers").join(name)
}

/// A file or folder under `tests/kubernetes`.
#[must_use]
pub fn kubernetes(name: &str) -> PathBuf {
    repository().join("tests/kubernetes").join(name)
}

/// A file under `deploy`.
#[must_use]
pub fn deploy(name: &str) -> PathBuf {
    repository().join("deploy").join(name)
}

/// A page of the documentation.
#[must_use]
pub fn docs(name: &str) -> PathBuf {
    repository().join("docs").join(name)
}

/// A source of the workloads, under `tests/workloads`.
#[must_use]
pub fn source(name: &str) -> PathBuf {
    repository().join("tests/workloads").join(name)
}

/// The folder of the cluster that runs.
///
/// # Errors
/// When there is none.
pub fn cluster() -> Result<PathBuf> {
    there(place("E2E_CLUSTER", || target().join("cluster")), "cargo xtask cluster up")
}

/// An empty folder for one test's files; it stays for whoever looks into a failure.
///
/// # Errors
/// When it cannot be made.
pub fn scratch(test: &str) -> Result<PathBuf> {
    let folder = place("E2E_SCRATCH", || target().join("e2e")).join(test);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}
