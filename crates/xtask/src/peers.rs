//! The real programs that tests talk to: an OpenTelemetry Collector, Grafana Pyroscope, pprof, promtool.
//!
//! Each is built once, in a pinned version, from the Go module proxy (promtool: from Debian's package), into
//! `${XDG_CACHE_HOME:-~/.cache}/profiler-peers/NAME-VERSION`, and found there from then on. What is there is whole: a
//! peer is made in a folder of its own and put in place by rename. Two runs at once wait for each other.
//!
//! **In**: the kits in `tests/peers`. **Out**: [`Peers`]. **Limits**: logs are kept under `logs` beside the peers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::packages;
use crate::shell::{logged, repository, timed, which};

/// The Collector and its builder. Newer ones lack a module.
const COLLECTOR: &str = "0.162.0";
/// Pyroscope (AGPL: a test component, never linked or shipped).
const PYROSCOPE: &str = "1.21.0";
/// pprof has no releases: a commit's pseudo-version, and the date that names the folder.
const PPROF: (&str, &str) = ("v0.0.0-20260906184651-6331bc6350fe", "20260906");

/// Where peers are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(base.join("profiler-peers"))
}

/// A peer.
pub(crate) struct Peer {
    /// Its folder's name, with its version.
    pub(crate) name: String,
    /// The programs that must be in the folder.
    pub(crate) programs: &'static [&'static str],
    /// Makes it in an empty folder (the first), telling a log (the second).
    pub(crate) make: fn(&Path, &Path) -> Result<()>,
}

fn all() -> Vec<Peer> {
    vec![
        Peer { name: format!("pprof-{}", PPROF.1), programs: &["pprof"], make: pprof },
        Peer { name: "promtool-debian".to_owned(), programs: &["promtool"], make: promtool },
        Peer { name: format!("otelcol-profiles-{COLLECTOR}"), programs: &["otelcol-profiles"], make: collector },
        Peer { name: format!("pyroscope-{PYROSCOPE}"), programs: &["pyroscope", "profilecli"], make: pyroscope },
    ]
}

/// Builds what is missing; returns the programs by the environment variable that tells tests of them.
///
/// # Errors
/// When Go is not there, or a peer cannot be built: names the log.
pub(crate) fn ensure() -> Result<Vec<(String, PathBuf)>> {
    let programs = ensure_these(&all())?;
    Ok(programs.into_iter().map(|(program, path)| (variable(program), path)).collect())
}

/// Builds what is missing of a list of peers; returns their programs.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_these(peers: &[Peer]) -> Result<Vec<(&'static str, PathBuf)>> {
    let cache = cache()?;
    let logs = cache.join("logs");
    fs::create_dir_all(&logs)?;
    let lock = File::create(cache.join(".lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).context("the peers' lock")?;
    let mut found = Vec::new();
    for peer in peers {
        let home = cache.join(&peer.name);
        if !peer.programs.iter().all(|p| home.join(p).is_file()) {
            timed(&format!("peer {}", peer.name), || make(peer, &cache, &home, &logs))?;
        }
        for &program in peer.programs {
            found.push((program, home.join(program)));
        }
    }
    Ok(found)
}

/// The programs that are there, nothing built.
///
/// # Errors
/// When the cache's place is not known.
pub(crate) fn present() -> Result<Vec<(String, PathBuf)>> {
    let cache = cache()?;
    let programs = all().into_iter().flat_map(|peer| {
        let home = cache.join(&peer.name);
        peer.programs.iter().map(move |p| (variable(p), home.join(p))).collect::<Vec<_>>()
    });
    Ok(programs.filter(|(_, path)| path.is_file()).collect())
}

/// The environment variable that tells tests where a peer's program is.
fn variable(program: &str) -> String {
    format!("PEER_{}", program.replace('-', "_").to_uppercase())
}

fn make(peer: &Peer, cache: &Path, home: &Path, logs: &Path) -> Result<()> {
    let build = tempfile::Builder::new().prefix(&format!(".{}-", peer.name)).tempdir_in(cache)?;
    let log = logs.join(format!("{}.log", peer.name));
    let _ = fs::remove_file(&log);
    let out = build.path().join("out");
    fs::create_dir(&out)?;
    (peer.make)(&out, &log)?;
    for program in peer.programs {
        if !out.join(program).is_file() {
            bail!("{program} was not built; see {}", log.display());
        }
    }
    // An older, incomplete one may stand in the way.
    let _ = fs::remove_dir_all(home);
    fs::rename(&out, home)?;
    Ok(())
}

/// `go` with the settings that all peers share.
///
/// # Errors
/// When Go is not there.
pub(crate) fn go(folder: &Path) -> Result<Command> {
    let go = which("go").context("Go 1.26 or newer must be on PATH: the Collector and Pyroscope are built with it")?;
    let mut command = Command::new(go);
    command.current_dir(folder).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod -buildvcs=false").env("GOWORK", "off");
    Ok(command)
}

fn pprof(out: &Path, log: &Path) -> Result<()> {
    let package = format!("github.com/google/pprof@{}", PPROF.0);
    logged(go(out)?.arg("install").arg(package).env("GOBIN", out), log)
}

fn promtool(out: &Path, log: &Path) -> Result<()> {
    let unpacked = out.with_file_name("package");
    fs::create_dir(&unpacked)?;
    packages::unpack("prometheus", &unpacked, log.parent().unwrap_or(out))?;
    fs::copy(unpacked.join("usr/bin/promtool"), out.join("promtool"))?;
    Ok(())
}

fn collector(out: &Path, log: &Path) -> Result<()> {
    let work = out.with_file_name("work");
    fs::create_dir(&work)?;
    let builder = format!("go.opentelemetry.io/collector/cmd/builder@v{COLLECTOR}");
    logged(go(&work)?.arg("install").arg(builder).env("GOBIN", &work), log)?;
    fs::copy(repository().join("tests/peers/collector/builder.yaml"), work.join("builder.yaml"))?;
    let mut generate = Command::new(work.join("builder"));
    generate.current_dir(&work).args(["--config", "builder.yaml", "--skip-compilation"]);
    // Its own `go mod tidy` fails on modules that only tests of modules need; the source that it writes before is whole,
    // and the build below says so.
    let _ = logged(&mut generate, log);
    let source = work.join("otelcol-src");
    let mut build = go(&source)?;
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(out.join("otelcol-profiles")).arg(".");
    logged(&mut build, log)
}

fn pyroscope(out: &Path, log: &Path) -> Result<()> {
    let work = out.with_file_name("work");
    fs::create_dir(&work)?;
    for file in ["go.mod", "go.sum"] {
        fs::copy(repository().join("tests/peers/pyroscope").join(file), work.join(file))?;
    }
    let module = "github.com/grafana/pyroscope";
    logged(go(&work)?.args(["mod", "download"]).arg(format!("{module}@v{PYROSCOPE}")), log)?;
    let mut build = go(&work)?;
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(out);
    build.args([format!("{module}/cmd/pyroscope"), format!("{module}/cmd/profilecli")]);
    logged(&mut build, log)
}
