//! `cargo xtask image`: the image that the Dockerfile describes, built by buildah without a registry.
//!
//! The Dockerfile is taken as it is. The image that it begins with is made here, under the same name: Debian with a C
//! compiler; Rust and the sources of crates come from this machine and are mounted while it builds, so that the build asks
//! no network. What is built is kept, and built anew only when something of it has changed.
//!
//! **In**: the Dockerfile and the sources, as `.dockerignore` lets them in. **Out**: an archive in the format of
//! `docker save`, with the name [`NAME`]. **Units**: bytes. **Limits**: the archive is at most [`LARGEST`]; images and
//! compiled crates lie in a folder of their own in the peers' cache, beside those of podman's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use crate::packages::{self, Need};
use crate::shell::{cargo, logged, output, repository, say, target, timed};
use crate::{kernels, peers};

/// What tests call the image.
const NAME: &str = "localhost/profiler:tests";
const LARGEST: u64 = 30 * 1024 * 1024;
/// Of the machine, in the container that builds.
const TOOLCHAIN: &str = "/machine/rust";
const CARGO_HOME: &str = "/machine/cargo";
/// Changes with the way the image to begin with is made, so that an older one is not taken.
const RECIPE: &str = "1";
const SUITE: &str = "bookworm";
/// Parts of the workspace that no byte of the image comes from.
const TOOLS: [&str; 3] = ["crates/xtask/src", "crates/e2e", "crates/vm-init/src"];

const NEEDS: &[Need] = &[
    Need { program: "buildah", package: "buildah" },
    Need { program: "podman", package: "podman" },
    Need { program: "runc", package: "runc" },
    Need { program: "debootstrap", package: "debootstrap" },
    Need { program: "git", package: "git" },
];

/// What `cargo xtask image` takes.
#[derive(Args, Debug, Default)]
pub(crate) struct ImageArgs {
    /// Build a second time from nothing, and compare: the same sources give the same bytes
    #[arg(long)]
    twice: bool,
}

/// Builds the image, tries it, and says where it is.
///
/// # Errors
/// When it cannot be built, does not run, is too large, or is not the same when built twice.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let archive = ensure()?;
    let store = Store::open()?;
    store.try_out(&archive)?;
    if args.twice {
        let first = store.layers(&archive)?;
        let scratch = tempfile::Builder::new().prefix("twice-").tempdir_in(&store.folder)?;
        let again = scratch.path().join("again.tar");
        timed("image from nothing", || store.build(&again, scratch.path()))?;
        let second = store.layers(&again)?;
        ensure!(first == second, "built twice, the layers differ: {first:?}, {second:?}");
        say(&format!("built twice, the same: {}", first.join(" ")));
    }
    say(&archive.display().to_string());
    Ok(())
}

/// The archive of the image as the sources are now; built where it is not there.
///
/// # Errors
/// When it cannot be built: names the log.
pub(crate) fn ensure() -> Result<PathBuf> {
    packages::ensure(NEEDS, &target().join("xtask-logs"))?;
    let folder = target().join("image");
    fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("profiler-{}.tar", state()?));
    if archive.is_file() {
        return Ok(archive);
    }
    let store = Store::open()?;
    let _lock = store.lock()?;
    timed("image", || {
        store.begin()?;
        store.build(&archive, &store.folder.join("tmp"))
    })?;
    // Only the newest is of use.
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path != archive && path.extension().is_some_and(|e| e == "tar") {
            fs::remove_file(path)?;
        }
    }
    Ok(archive)
}

/// Images, containers and caches of buildah, apart from the machine's own.
struct Store {
    folder: PathBuf,
    log: PathBuf,
}

impl Store {
    fn open() -> Result<Self> {
        let folder = peers::cache()?.join("images");
        fs::create_dir_all(folder.join("tmp"))?;
        Ok(Self { folder, log: target().join("xtask-logs/image.log") })
    }

    fn lock(&self) -> Result<Flock<File>> {
        let file = File::create(self.folder.join(".lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).context("the images' lock")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--root").arg(self.folder.join("storage")).arg("--runroot").arg(self.folder.join("run"));
        command
    }

    fn buildah(&self, words: &[&str]) -> Command {
        let mut command = self.command("buildah");
        command.args(words);
        command
    }

    /// Makes the image that the Dockerfile begins with, where it is not there.
    fn begin(&self) -> Result<()> {
        let name = format!("localhost/{}", begins_with(&fs::read_to_string(repository().join("Dockerfile"))?)?);
        let recipe = "{{index .OCIv1.Config.Labels \"recipe\"}}";
        let kept = output(&mut self.buildah(&["inspect", "--type", "image", "--format", recipe, &name]));
        if kept.is_ok_and(|kept| kept.trim() == RECIPE) {
            return Ok(());
        }
        let scratch = tempfile::tempdir_in(&self.folder)?;
        let root = scratch.path().join("root");
        let mut bootstrap = Command::new("debootstrap");
        bootstrap.args(["--variant=minbase", "--include=gcc,libc6-dev,ca-certificates", SUITE]);
        timed(&format!("{name} by debootstrap"), || {
            logged(bootstrap.arg(&root).arg(kernels::mirror()?), &self.log)?;
            for heavy in ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"] {
                fs::remove_dir_all(root.join(heavy))?;
            }
            let container = output(&mut self.buildah(&["from", "scratch"]))?.trim().to_owned();
            let path = format!("PATH={TOOLCHAIN}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            let home = format!("CARGO_HOME={CARGO_HOME}");
            let label = format!("recipe={RECIPE}");
            let root = root.to_string_lossy().into_owned();
            for words in [
                &["add", "--quiet", &container, &root, "/"][..],
                &["config", "--env", &path, "--env", &home, "--env", "CARGO_NET_OFFLINE=true", &container],
                &["config", "--label", &label, &container],
                &["commit", "--quiet", &container, &name],
                &["rm", &container],
            ] {
                logged(&mut self.buildah(words), &self.log)?;
            }
            Ok(())
        })
    }

    /// Builds the image into an archive. What is compiled on the way is kept below `scratch`.
    fn build(&self, archive: &Path, scratch: &Path) -> Result<()> {
        logged(cargo().args(["fetch", "--locked"]), &self.log)?;
        let toolchain = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(repository()))?;
        let mut build = self.buildah(&["build-using-dockerfile", "--isolation", "chroot", "--pull-never"]);
        // More than the usual limit of open files is refused on some machines.
        build.args(["--ulimit", "nofile=20000:20000", "--timestamp", "0", "--tag", NAME]);
        build.arg("--volume").arg(format!("{}:{TOOLCHAIN}:ro", toolchain.trim()));
        build.arg("--volume").arg(format!("{}:{CARGO_HOME}/registry", cargo_home()?.join("registry").display()));
        build.arg("--build-arg").arg(format!("REVISION={}", revision()?));
        build.arg("--file").arg(repository().join("Dockerfile")).arg(repository());
        logged(build.env("TMPDIR", scratch), &self.log)?;
        let whole = archive.with_extension("part");
        let _ = fs::remove_file(&whole);
        let to = format!("docker-archive:{}:{NAME}", whole.display());
        logged(&mut self.buildah(&["push", "--quiet", NAME, &to]), &self.log)?;
        let size = fs::metadata(&whole)?.len();
        ensure!(size <= LARGEST, "the image has {size} bytes, {LARGEST} are the most");
        fs::rename(whole, archive)?;
        // The container that built, and layers without a name.
        logged(&mut self.buildah(&["rmi", "--prune", "--force"]), &self.log)
    }

    /// The digests of an archive's layers.
    fn layers(&self, archive: &Path) -> Result<Vec<String>> {
        let listing = output(Command::new("tar").arg("-tf").arg(archive))?;
        let layers: Vec<&str> =
            listing.lines().filter(|l| Path::new(l).extension().is_some_and(|e| e == "tar")).collect();
        ensure!(!layers.is_empty(), "{} has no layers: {listing}", archive.display());
        let digest = |layer: &&str| {
            let done = Command::new("tar").arg("-xOf").arg(archive).arg(layer).output()?;
            ensure!(done.status.success(), "tar cannot read {layer}");
            Ok(hex(&done.stdout))
        };
        layers.iter().map(digest).collect()
    }

    /// Runs the image: it has nothing but what was put in, and that is enough.
    fn try_out(&self, archive: &Path) -> Result<()> {
        logged(self.command("podman").args(["load", "--quiet", "--input"]).arg(archive), &self.log)?;
        for words in [&["--version"][..], &["config", "--config", "/etc/profiler/otel.yaml"]] {
            let mut run = self.command("podman");
            // What works with any arrangement of cgroups, and without systemd.
            run.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "none"]);
            run.args(["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=32768:32768", "--read-only", NAME]);
            let said = output(run.args(words))?;
            ensure!(!said.trim().is_empty(), "{words:?} in the image says nothing");
            say(&format!("profiler {}: {} lines", words.join(" "), said.lines().count()));
        }
        Ok(())
    }
}

/// What the image is made of, as a short number: another one where anything of it changed.
fn state() -> Result<String> {
    let root = repository();
    let mut digest = Sha256::new();
    digest.update(output(Command::new("rustc").arg("-vV"))?);
    digest.update(revision()?);
    digest.update(RECIPE);
    let mut open: Vec<PathBuf> = parts()?.iter().map(|part| root.join(part)).collect();
    while let Some(path) = open.pop() {
        let name = path.strip_prefix(&root).unwrap_or(&path);
        if left_out(name) {
            continue;
        }
        digest.update(name.to_string_lossy().as_bytes());
        if path.is_dir() {
            let mut inside: Vec<PathBuf> = fs::read_dir(&path)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
            inside.sort();
            open.extend(inside);
        } else {
            digest.update(fs::read(&path)?);
        }
    }
    Ok(digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}

/// The Dockerfile, and what `.dockerignore` lets in.
fn parts() -> Result<Vec<String>> {
    let ignored = fs::read_to_string(repository().join(".dockerignore"))?;
    let let_in = ignored.lines().filter_map(|line| line.strip_prefix('!').map(str::to_owned));
    let parts = ["Dockerfile", ".dockerignore"].map(str::to_owned).into_iter().chain(let_in);
    Ok(parts.filter(|part| repository().join(part).exists()).collect())
}

/// Tests, tools and what was built: none of it is in the image.
fn left_out(name: &Path) -> bool {
    TOOLS.iter().any(|tool| name.starts_with(tool))
        || name.components().any(|part| ["target", "tests"].iter().any(|not| part.as_os_str() == *not))
}

/// The last commit that changed anything of the image, and whether there is more in the tree than it has.
fn revision() -> Result<String> {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(words).arg("--").args(parts()?).arg(":!crates/*/tests").current_dir(repository());
        output(command.args(TOOLS.map(|tool| format!(":!{tool}"))))
    };
    // A tree without history is built as well.
    let Ok(commit) = git(&["log", "-1", "--format=%H"]) else { return Ok(String::new()) };
    let more = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Ok(format!("{}{}", commit.trim(), if more.trim().is_empty() { "" } else { "-dirty" }))
}

/// The default of `BUILD_IMAGE`.
fn begins_with(dockerfile: &str) -> Result<&str> {
    let name = dockerfile.lines().find_map(|line| line.strip_prefix("ARG BUILD_IMAGE="));
    let name = name.context("the Dockerfile has no ARG BUILD_IMAGE")?.trim();
    if name.is_empty() || name.contains(['$', '"']) {
        bail!("ARG BUILD_IMAGE is no plain name: {name}");
    }
    Ok(name)
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        return Ok(PathBuf::from(home));
    }
    Ok(PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_to_begin_with() {
        assert_eq!(begins_with("# x\nARG BUILD_IMAGE=rust:1-slim\nFROM ${BUILD_IMAGE}\n").unwrap(), "rust:1-slim");
        assert!(begins_with("FROM rust:1\n").is_err());
        assert!(begins_with("ARG BUILD_IMAGE=${OTHER}\n").is_err());
    }

    #[test]
    fn what_the_image_is_made_of() {
        let parts = parts().unwrap();
        assert!(["Dockerfile", "Cargo.lock", "crates"].iter().all(|p| parts.iter().any(|q| p == q)), "{parts:?}");
        let kept = |name: &str| !left_out(Path::new(name));
        assert!(kept("crates/xtask/Cargo.toml") && kept("crates/sampler/src/lib.rs") && kept("config/otel.yaml"));
        assert!(!kept("crates/xtask/src/main.rs") && !kept("crates/sampler/tests/a.rs") && !kept("crates/x/target/a"));
        assert!(!kept("crates/e2e/src/lib.rs") && kept("crates/profiler/src/contests.rs"));
    }

    #[test]
    fn the_dockerfile_begins_with_a_plain_name() {
        begins_with(&fs::read_to_string(repository().join("Dockerfile")).unwrap()).unwrap();
    }
}
