//! `cargo xtask kernels`: the embedded eBPF object on kernels other than this machine's, in virtual machines.
//!
//! **In**: kernels of Debian's suites, fetched by apt into the user's cache without touching this machine's packages; the crate
//! `vm-init`, built statically. **Out**: what each machine said; with `--write`, `docs/kernels.md`; an error where one did not end with `RESULT ok`.
//! **Limits**: each machine has [`BOOT_LIMIT`] (emulated: no virtualisation by hardware is needed) and no network and no disk.

mod table;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    packages::{self, Need},
    peers,
    shell::{cargo, logged, output, repository, say, target},
};

/// Debian's suites, and which kernel they have.
const SUITES: [(&str, &str); 4] = [("bullseye", "5.10"), ("bookworm", "6.1"), ("trixie", "6.12"), ("sid", "newest")];
/// Debian's name of the architecture that the program is built for.
const ARCHITECTURE: &str = "amd64";
const RUST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// An emulated machine on a busy host sometimes dies before its first process runs, which says nothing of us: so often it is tried.
const BOOTS: u32 = 3;
const TABLE: &str = "docs/kernels.md";
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const NEEDS: &[Need] = &[
    Need { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Need { program: "/usr/lib/x86_64-linux-gnu/libc.a", package: "libc6-dev" },
    Need { program: "apt-get", package: "apt" },
    Need { program: "dpkg-deb", package: "dpkg" },
];

/// What `cargo xtask kernels` takes.
#[derive(Args, Debug, Default)]
pub(crate) struct KernelsArgs {
    /// Only kernels of these Debian suites
    suites: Vec<String>,
    /// Write docs/kernels.md, if all kernels are tried and none fails
    #[arg(long, conflicts_with = "suites")]
    write: bool,
    /// Fetch the kernels anew, as the suites have them now
    #[arg(long)]
    refresh: bool,
}

/// Tries all kernels.
///
/// # Errors
/// Where a kernel cannot be had, a machine does not end, or something failed in one.
pub(crate) fn run(args: &KernelsArgs) -> Result<()> {
    if let Some(unknown) = args.suites.iter().find(|suite| SUITES.iter().all(|(known, _)| known != suite)) {
        bail!("unknown suite {unknown}; known are {}", SUITES.map(|(suite, _)| suite).join(", "));
    }
    let logs = target().join("xtask-logs");
    packages::ensure(NEEDS, &logs)?;
    let initrd = initrd(&logs)?;
    let folder = peers::cache()?.join("kernels-debian");
    let (mut failed, mut all) = (Vec::new(), Vec::new());
    for (suite, kernel) in SUITES {
        if !args.suites.is_empty() && args.suites.iter().all(|wanted| wanted != suite) {
            continue;
        }
        say(&format!("== {suite} ({kernel})"));
        let tried = kernel_of(suite, &folder, args.refresh, &logs)
            .and_then(|image| booted(&image, &initrd, &logs.join(format!("kernel-{suite}.log"))));
        match tried {
            Ok(said) => all.push((suite, said)),
            Err(error) => {
                say(&format!("FAILED {suite}: {error:#}"));
                failed.push(suite);
            }
        }
    }
    if !failed.is_empty() {
        bail!("kernels of {} failed", failed.join(", "));
    }
    if args.write {
        fs::write(repository().join(TABLE), table::table(&all)?)?;
    }
    Ok(())
}

/// A file system in memory whose only program is `vm-init`.
fn initrd(logs: &Path) -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "--release", "--package", "vm-init", "--target", RUST_TARGET])
        // There is no C library in the machine.
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    logged(&mut cargo, &logs.join("vm-init.log"))?;
    let init = fs::read(target().join(RUST_TARGET).join("release/vm-init"))?;
    let mut archive = Vec::new();
    for folder in ["dev", "proc", "sys", "tmp"] {
        entry(&mut archive, folder, 0o040_755, &[])?;
    }
    entry(&mut archive, "init", 0o100_755, &init)?;
    entry(&mut archive, "TRAILER!!!", 0, &[])?;
    let path = target().join("vm-init.cpio");
    fs::write(&path, archive)?;
    Ok(path)
}

/// One file or folder of a cpio archive in the kernel's format (`newc`).
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let (links, device, owner, time, check) = (1, 0, 0, 0, 0);
    let number = archive.len();
    write!(archive, "070701")?;
    let size = u32::try_from(content.len())?;
    let name_size = u32::try_from(name.len() + 1)?;
    let fields = [
        u32::try_from(number)?,
        mode,
        owner,
        owner,
        links,
        time,
        size,
        device,
        device,
        device,
        device,
        name_size,
        check,
    ];
    for field in fields {
        write!(archive, "{field:08x}")?;
    }
    archive.extend(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend(content);
    pad(archive);
    Ok(())
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The image of a suite's kernel, from the cache or from the mirror.
fn kernel_of(suite: &str, folder: &Path, refresh: bool, logs: &Path) -> Result<PathBuf> {
    let image = folder.join(format!("vmlinuz-{suite}-{ARCHITECTURE}"));
    if image.is_file() && !refresh {
        return Ok(image);
    }
    let log = logs.join(format!("kernel-{suite}-fetch.log"));
    let scratch = tempfile::tempdir()?;
    let apt = Apt::new(suite, scratch.path())?;
    logged(&mut apt.command("apt-get", &["-qq", "update"]), &log)?;
    let depends = output(&mut apt.command("apt-cache", &["depends", &format!("linux-image-cloud-{ARCHITECTURE}")]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .with_context(|| format!("{suite} has no linux-image-cloud-{ARCHITECTURE}"))?;
    // Newer suites keep the image itself in another package.
    let binary = package.replacen("linux-image-", "linux-binary-", 1);
    logged(&mut apt.command("apt-get", &["-qq", "download", &binary]), &log)
        .or_else(|_| logged(&mut apt.command("apt-get", &["-qq", "download", package]), &log))?;
    let unpacked = scratch.path().join("unpacked");
    let archive = fs::read_dir(scratch.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no file"))?;
    logged(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked), &log)?;
    let found = find(&unpacked, "vmlinuz")?.with_context(|| format!("no kernel in {}", archive.display()))?;
    fs::create_dir_all(folder)?;
    // Whole or not at all, whoever else fetches at the same time.
    let mut whole = tempfile::NamedTempFile::new_in(folder)?;
    std::io::copy(&mut File::open(found)?, &mut whole)?;
    whole.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    whole.persist(&image)?;
    say(&format!("fetched {package}"));
    Ok(image)
}

fn find(folder: &Path, begins: &str) -> Result<Option<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with(begins) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// apt with lists, state and cache of its own: another suite than this machine's, and nothing of this machine changes.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(suite: &str, folder: &Path) -> Result<Self> {
        for part in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/sources.list.d",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/lib/dpkg",
        ] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("var/lib/dpkg/status"), "")?;
        // Not verified: this machine may lack the suite's keys, and the kernel only ever runs in an emulated machine without
        // network and disk.
        let source = format!("deb [trusted=yes] {} {suite} main\n", mirror()?);
        fs::write(folder.join("etc/apt/sources.list"), source)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (option, path) in [
            ("Dir", ""),
            ("Dir::State", "var/lib/apt"),
            ("Dir::State::status", "var/lib/dpkg/status"),
            ("Dir::Cache", "var/cache/apt"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(path).display()));
        }
        for option in [
            &format!("APT::Architecture={ARCHITECTURE}"),
            "Acquire::Check-Valid-Until=false",
            "Acquire::Retries=3",
            "APT::Sandbox::User=root",
        ] {
            command.arg("-o").arg(option);
        }
        command.args(words).current_dir(&self.folder);
        command
    }
}

/// The mirror that this machine's apt is set up with.
pub(crate) fn mirror() -> Result<String> {
    let lists =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    std::iter::once(PathBuf::from("/etc/apt/sources.list"))
        .chain(lists)
        .filter_map(|list| fs::read_to_string(list).ok())
        .find_map(|text| mirror_in(&text))
        .context("apt's lists of sources name no mirror of Debian")
}

fn mirror_in(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
        .map(str::to_owned)
}

/// Boots a kernel until its first process says something.
fn booted(image: &Path, initrd: &Path, log: &Path) -> Result<Vec<String>> {
    for _ in 1..BOOTS {
        match boot(image, initrd, log) {
            Err(error) if error.is::<Silent>() => say(&format!("{error}; once more")),
            outcome => return outcome,
        }
    }
    boot(image, initrd, log)
}

/// The machine ended before its first process said anything.
#[derive(Debug)]
struct Silent(PathBuf);

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the machine said nothing; its console is in {}", self.0.display())
    }
}

impl std::error::Error for Silent {}

/// Boots a kernel, shows what its first process says, and waits for the machine to switch itself off. Returns what was said.
fn boot(image: &Path, initrd: &Path, log: &Path) -> Result<Vec<String>> {
    let mut machine = Command::new("qemu-system-x86_64");
    machine
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio"])
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(File::create(log)?)
        .stderr(Stdio::inherit());
    let mut machine = machine.spawn().context("qemu-system-x86_64 cannot be started")?;
    let end = Instant::now() + BOOT_LIMIT;
    let ended = loop {
        if machine.try_wait()?.is_some() {
            break true;
        }
        if Instant::now() >= end {
            machine.kill()?;
            machine.wait()?;
            break false;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let console = fs::read(log)?;
    let said = said(&String::from_utf8_lossy(&console));
    for line in &said {
        say(line);
    }
    if !ended {
        bail!("the machine did not end within {} s; its console is in {}", BOOT_LIMIT.as_secs(), log.display());
    }
    match said.last().map(String::as_str) {
        Some("RESULT ok") => Ok(said),
        Some(last) => bail!("{last}; its console is in {}", log.display()),
        None => Err(Silent(log.to_owned()).into()),
    }
}

/// The lines of `vm-init` among all that is on a console.
fn said(console: &str) -> Vec<String> {
    let ours = |line: &str| {
        // The first line stands behind what the firmware's clearing of the screen left.
        let start = line.rfind("\x1b[2J").map_or(0, |at| at + 4);
        let line = line.get(start..).unwrap_or(line).trim_end();
        ["ok ", "limited ", "FAILS ", "FAILED ", "RESULT ", " "]
            .iter()
            .any(|begin| line.starts_with(begin))
            .then(|| line.to_owned())
    };
    console.lines().filter_map(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror() {
        let deb822 =
            "Types: deb\n# http://snapshot.example/debian/1\nURIs: http://deb.example/debian/\nSuites: bookworm\n";
        assert_eq!(mirror_in(deb822).as_deref(), Some("http://deb.example/debian"));
        assert_eq!(mirror_in("deb https://m.example/debian sid main").as_deref(), Some("https://m.example/debian"));
        assert_eq!(mirror_in("deb https://m.example/debian-security sid main"), None);
    }

    #[test]
    fn an_archive_that_the_kernel_reads() {
        let mut archive = Vec::new();
        entry(&mut archive, "init", 0o100_755, b"hello").unwrap();
        assert_eq!(archive.len(), 110 + 6 + 8);
        assert!(archive.starts_with(b"070701"));
        assert_eq!(&archive[54..62], b"00000005");
        assert_eq!(&archive[94..102], b"00000005");
        assert_eq!(&archive[110..116], b"init\0\0");
    }

    #[test]
    fn lines_of_the_console() {
        let console = "SeaBIOS\r\n\x1b[c\x1b[2Jok       kernel 5.10\r\n[ 1.0] noise\r\nok user mode: 1\r\nRESULT ok\r\n[ 2] down\r\n";
        assert_eq!(said(console), ["ok       kernel 5.10", "ok user mode: 1", "RESULT ok"]);
    }
}
