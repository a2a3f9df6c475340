//! `cargo xtask build-bpf`: builds the eBPF objects that the crate `sampler` embeds, one for each machine.
//!
//! **In**: `crates/sampler-bpf`, `crates/sampler-abi`, Debian's compiler that comes with a core library for eBPF.
//! **Out**: the objects in `crates/sampler-bpf`, and beside them `sampler.bpf.toolchain`, which names what built them. With
//! `--check`, nothing in the checkout changes: the objects are built from a copy of the sources in another folder and compared.
//! **Limits**: the same compiler and linker give the same bytes, wherever the checkout lies; others give others.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    packages::{self, Need},
    peers,
    shell::{cargo, logged, output, repository, say, target, which},
};

/// Machines whose registers the program reads, and their objects.
const OBJECTS: [(&str, &str); 2] =
    [("x86_64", "crates/sampler-bpf/sampler.bpf.o"), ("aarch64", "crates/sampler-bpf/sampler.aarch64.bpf.o")];
const TOOLCHAIN: &str = "crates/sampler-bpf/sampler.bpf.toolchain";
const RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";
const LLVM: &str = "/usr/lib/llvm-22";
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";

/// What is copied to build elsewhere: the program, and the types that it shares. The copy has no workspace around it.
const SOURCES: [&str; 3] = ["crates/sampler-bpf", "crates/sampler-abi", "crates/unwind-table"];

const NEEDS: &[Need] = &[
    Need { program: "/usr/lib/rustlib/bpfel-unknown-none/lib", package: "libstd-rust-web-dev-bpf" },
    Need { program: RUSTC, package: "rustc-web" },
    Need { program: "/usr/lib/llvm-22/bin/llvm-strip", package: "llvm-22" },
];
/// Only for building the linker.
const NEEDS_OF_LINKER: &[Need] = &[
    Need { program: "/usr/lib/llvm-22/bin/llvm-config", package: "llvm-22-dev" },
    Need { program: "/usr/lib/llvm-22/lib/libPolly.a", package: "libpolly-22-dev" },
    Need { program: "clang-22", package: "clang-22" },
];

/// What `cargo xtask build-bpf` takes.
#[derive(Args, Debug, Default)]
pub(crate) struct BuildBpfArgs {
    /// Build from a copy elsewhere and compare with the committed objects, instead of replacing them. Exit code 3: the committed
    /// objects come from other tools than those here, so their bytes say nothing
    #[arg(long)]
    check: bool,
    /// Install nothing: fail where a tool is missing
    #[arg(long)]
    no_install: bool,
}

/// The committed object was built by other tools than those here.
#[derive(Debug)]
pub(crate) struct OtherToolchain {
    committed: String,
    here: String,
}

impl std::fmt::Display for OtherToolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the committed eBPF object cannot be compared, it was built by other tools:\n{}those here:\n{}\
             Build it anew (cargo xtask build-bpf) and run the tests with it.",
            indented(&self.committed),
            indented(&self.here)
        )
    }
}

impl std::error::Error for OtherToolchain {}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "    {line}");
        all
    })
}

/// Builds the object, or compares it.
///
/// # Errors
/// A missing tool, a failing build, other bytes, or [`OtherToolchain`].
pub(crate) fn run(args: &BuildBpfArgs) -> Result<()> {
    let logs = target().join("xtask-logs");
    let linker = tools(args.no_install, &logs)?;
    let here = toolchain(&linker)?;
    if !args.check {
        for (machine, path) in OBJECTS {
            let object = build(machine, &repository(), &target().join("bpf"), &linker, &logs)?;
            fs::write(repository().join(path), &object)?;
            say(&format!("{path}: {} bytes", object.len()));
        }
        fs::write(repository().join(TOOLCHAIN), &here)?;
        return Ok(());
    }
    let committed_by = fs::read_to_string(repository().join(TOOLCHAIN)).context(TOOLCHAIN)?;
    let elsewhere = tempfile::tempdir()?;
    for source in SOURCES {
        copy(&repository().join(source), &elsewhere.path().join(source))?;
    }
    // What the crates inherit from the workspace.
    let manifest = fs::read_to_string(repository().join("Cargo.toml"))?;
    fs::write(
        elsewhere.path().join("Cargo.toml"),
        with_members(&manifest, "members = [\"crates/sampler-abi\", \"crates/unwind-table\"]")?,
    )?;
    for (machine, path) in OBJECTS {
        let committed = fs::read(repository().join(path)).context(path)?;
        let object = build(machine, elsewhere.path(), &elsewhere.path().join("target"), &linker, &logs)?;
        if object == committed {
            say(&format!("{path}: rebuilt elsewhere, the same {} bytes", object.len()));
            continue;
        }
        if here != committed_by {
            return Err(OtherToolchain { committed: committed_by, here }.into());
        }
        let at = object.iter().zip(&committed).take_while(|(new, old)| new == old).count();
        bail!(
            "{path} is not what its sources give ({} bytes against {}, different from byte {at} on): run cargo xtask build-bpf",
            object.len(),
            committed.len()
        );
    }
    Ok(())
}

/// Finds or installs the tools; returns the linker.
fn tools(no_install: bool, logs: &Path) -> Result<PathBuf> {
    let ensure = |needs: &[Need]| -> Result<()> {
        if !no_install {
            return packages::ensure(needs, logs);
        }
        match needs.iter().find(|need| !Path::new(need.program).exists() && which(need.program).is_none()) {
            Some(need) => bail!("{} is missing (Debian package {})", need.program, need.package),
            None => Ok(()),
        }
    };
    ensure(NEEDS)?;
    let folder = peers::cache()?.join(format!("{LINKER}-{LINKER_VERSION}"));
    let own = folder.join("bin").join(LINKER);
    let candidates = [Some(own.clone()), which(LINKER), cargo_home().map(|home| home.join("bin").join(LINKER))];
    let found = candidates
        .into_iter()
        .flatten()
        .find(|path| version(path).is_ok_and(|version| version == format!("{LINKER} {LINKER_VERSION}")));
    if let Some(found) = found {
        return Ok(found);
    }
    if no_install {
        bail!("{LINKER} {LINKER_VERSION} is missing");
    }
    ensure(NEEDS_OF_LINKER)?;
    say(&format!("building {LINKER} {LINKER_VERSION} (a few minutes)"));
    let mut install = cargo();
    install
        .args([
            "install",
            LINKER,
            "--locked",
            "--version",
            LINKER_VERSION,
            "--no-default-features",
            "--features",
            "llvm-22",
        ])
        .arg("--root")
        .arg(&folder)
        .env("LLVM_PREFIX", LLVM)
        .env("LLVM_SYS_221_PREFIX", LLVM);
    logged(&mut install, &logs.join("bpf-linker.log"))?;
    Ok(own)
}

fn version(program: &Path) -> Result<String> {
    Ok(output(Command::new(program).arg("--version"))?.lines().next().unwrap_or_default().trim().to_owned())
}

/// What would build here, one tool a line.
fn toolchain(linker: &Path) -> Result<String> {
    let strip = output(Command::new(format!("{LLVM}/bin/llvm-strip")).arg("--version"))?;
    let llvm = strip.lines().map(str::trim).find(|line| line.contains("LLVM version")).unwrap_or_default();
    Ok(format!("{}\n{}\n{llvm}\n", version(Path::new(RUSTC))?, version(linker)?))
}

/// Builds the object for a machine from the sources below `root`; returns its bytes.
fn build(machine: &str, root: &Path, out: &Path, linker: &Path, logs: &Path) -> Result<Vec<u8>> {
    let (root, out) = (root.canonicalize()?, out.join(machine));
    let mut flags = vec![
        format!("-Clinker={}", linker.display()),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        format!("--cfg=bpf_target_arch=\"{machine}\""),
        format!("--remap-path-prefix={}=/profiler", root.display()),
    ];
    // The folder's name below `src` tells where the crates came from, which differs between machines.
    let registries = cargo_home().map(|home| home.join("registry/src")).filter(|src| src.is_dir());
    if let Some(registries) = registries {
        for registry in fs::read_dir(registries)? {
            flags.push(format!("--remap-path-prefix={}=/registry", registry?.path().display()));
        }
    }
    let mut cargo = cargo();
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET])
        .current_dir(root.join("crates/sampler-bpf"))
        .env("RUSTC", RUSTC)
        // Debian's compiler is a release; the program needs features that are not.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &out)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags.join(" "))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    logged(&mut cargo, &logs.join("build-bpf.log"))?;
    let built = out.join(TARGET).join("release/sampler");
    let stripped = out.join("sampler.bpf.o");
    // DWARF goes, BTF stays.
    let mut strip = Command::new(format!("{LLVM}/bin/llvm-strip"));
    strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(&built);
    logged(&mut strip, &logs.join("build-bpf.log"))?;
    fs::read(&stripped).with_context(|| stripped.display().to_string())
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

/// Copies a folder, without what builds leave in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (source, copied) = (entry.path(), to.join(entry.file_name()));
        if !entry.file_type()?.is_dir() {
            fs::copy(&source, &copied)?;
        } else if entry.file_name() != "target" {
            copy(&source, &copied)?;
        }
    }
    Ok(())
}

/// The workspace's manifest with other members.
fn with_members(manifest: &str, members: &str) -> Result<String> {
    let start = manifest.find("members = [").context("Cargo.toml: no members")?;
    let end = manifest[start..].find(']').context("Cargo.toml: members do not end")? + start + 1;
    Ok(format!("{}{members}{}", &manifest[..start], &manifest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_members() {
        let manifest = "[workspace]\nmembers = [\n  \"a\",\n]\nexclude = [\"b\"]\n";
        assert_eq!(with_members(manifest, "members = []").unwrap(), "[workspace]\nmembers = []\nexclude = [\"b\"]\n");
        assert!(with_members("[workspace]", "").is_err());
    }

    #[test]
    fn copies_without_build_output() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("src")).unwrap();
        fs::create_dir_all(from.join("target")).unwrap();
        fs::write(from.join("src/a"), "a").unwrap();
        fs::write(from.join("target/b"), "b").unwrap();
        let to = folder.path().join("to");
        copy(&from, &to).unwrap();
        assert!(to.join("src/a").exists());
        assert!(!to.join("target").exists());
    }
}
