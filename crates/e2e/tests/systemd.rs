//! A host without containers: what systemd runs is named by its units. Where the host itself was not started by systemd, a manager is
//! started as the first process of namespaces of its own, at the root of the host's cgroups.
#![cfg(feature = "live")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::agent::Setup;
use e2e::collector::Collector;
use e2e::process::{Running, Start, wait_for};
use e2e::stacks::Row;
use e2e::{figure, paths};

/// Two services that run the same program: only the unit tells them apart.
const UNITS: [&str; 2] = ["profiler-tests-hot", "profiler-tests-other"];
const PROGRAM: [&str; 3] = ["/bin/sh", "-c", "while :; do :; done"];
/// Where the host's own manager, if it has one, says so.
const BOOTED: &str = "/run/systemd/system";
/// What a manager makes below the root of cgroups.
const MADE: [&str; 2] = ["init.scope", "system.slice"];
/// What becomes the manager: with nothing of the host's in its hands but the cgroups of version 2.
const BECOME_MANAGER: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo 0 > /sys/fs/cgroup/cgroup.procs
exec env -i "PATH=$PATH" container=tests SYSTEMD_LOG_TARGET=console "SYSTEMD_UNIT_PATH=$1" "SYSTEMD_GENERATOR_PATH=$1/none" \
    /lib/systemd/systemd --system --unit=both.target"#;

/// Whoever runs the services; they are gone when this is.
enum Manager {
    /// The host's own.
    Host { cgroups: PathBuf },
    /// One of ours, and what it made below the root.
    Own { process: Option<Running>, cgroups: PathBuf, made: Vec<PathBuf> },
}

impl Manager {
    fn start(folder: &Path) -> Result<Self> {
        let cgroups = unified()?;
        if !Path::new(BOOTED).exists() {
            return Self::start_own(folder, cgroups);
        }
        let host = Self::Host { cgroups };
        for unit in UNITS {
            let run = Command::new("systemd-run").args(["--collect", "--unit", unit]).args(PROGRAM).status()?;
            ensure!(run.success(), "systemd-run: {run}");
        }
        Ok(host)
    }

    fn start_own(folder: &Path, cgroups: PathBuf) -> Result<Self> {
        let units = folder.join("units");
        fs::create_dir_all(&units)?;
        let [program, option, text] = PROGRAM;
        let service = format!("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart={program} {option} '{text}'\n");
        for unit in UNITS {
            fs::write(units.join(format!("{unit}.service")), &service)?;
        }
        let wants = UNITS.map(|unit| format!("{unit}.service")).join(" ");
        fs::write(units.join("both.target"), format!("[Unit]\nDefaultDependencies=no\nWants={wants}\n"))?;
        let made = MADE.map(|name| cgroups.join(name)).into_iter().filter(|path| !path.exists()).collect();
        let namespaces = ["--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"];
        let process = Start::new("systemd", "unshare", folder)
            .args(namespaces)
            .args(["sh", "-c", BECOME_MANAGER, "manager"])
            .args([units])
            .group()
            .start()?;
        Ok(Self::Own { process: Some(process), cgroups, made })
    }

    /// The processes of a unit, by the ids that they have here.
    fn processes(&self, unit: &str) -> Result<Vec<u32>> {
        let (Self::Host { cgroups } | Self::Own { cgroups, .. }) = self;
        let list = cgroups.join(format!("system.slice/{unit}.service/cgroup.procs"));
        let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?)
    }

    fn still_runs(&mut self) -> Result<()> {
        match self {
            Self::Own { process: Some(process), .. } => process.still_runs(),
            _ => Ok(()),
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        match self {
            Self::Host { .. } => {
                let _ = Command::new("systemctl").arg("stop").args(UNITS).status();
            }
            Self::Own { process, made, .. } => {
                *process = None;
                // The kernel needs a moment to let go of the last process.
                let _ = wait_for("the end of the cgroups", Duration::from_secs(30), || {
                    made.iter().for_each(|cgroup| remove(cgroup));
                    Ok(made.iter().all(|cgroup| !cgroup.exists()).then_some(()))
                });
            }
        }
    }
}

/// Removes a cgroup and those below it, as far as they are empty.
fn remove(cgroup: &Path) {
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).for_each(|entry| remove(&entry.path()));
    let _ = fs::remove_dir(cgroup);
}

/// Where this host has its cgroups of version 2.
fn unified() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2")).context("no cgroups of version 2 here")?;
    Ok(found.get(1).context("a mount has a place")?.into())
}

#[test]
fn services_of_systemd_are_named_by_their_units() -> Result<()> {
    let folder = paths::scratch("systemd")?;
    let collector = Collector::start(&folder)?;
    let mut manager = Manager::start(&folder)?;
    let processes = wait_for("the services", Duration::from_secs(30), || {
        manager.still_runs()?;
        let processes = UNITS.map(|unit| manager.processes(unit));
        let [first, second] = processes;
        Ok(match (first?.as_slice(), second?.as_slice()) {
            (&[first], &[second]) => Some([first, second]),
            _ => None,
        })
    })?;
    let agent =
        Setup::new("agent", &folder)?.otlp("grpc", &format!("http://127.0.0.1:{}", collector.ports.grpc)).start()?;
    let service = |row: &Row| row.labels.get("service_name").cloned().unwrap_or_default();
    let stacks = wait_for("samples of both", Duration::from_secs(60), || {
        let stacks = agent.pprof(5)?;
        let known =
            processes.iter().zip(UNITS).all(|(&pid, unit)| stacks.of_pid(pid).rows.iter().any(|r| service(r) == unit));
        if known { Ok(Some(stacks)) } else { bail!("{}", stacks.heaviest(6)) }
    })?;
    for (&pid, unit) in processes.iter().zip(UNITS) {
        let own = stacks.of_pid(pid);
        figure(format!("{unit}.service, process {pid}: {} samples", own.total()));
        let strange = own.rows.iter().find(|row| service(row) != unit);
        ensure!(strange.is_none() && own.total() > 0, "{unit}: {strange:?}");
    }
    let strange = stacks
        .rows
        .iter()
        .find(|r| UNITS.contains(&service(r).as_str()) && !processes.iter().any(|&pid| r.pid == Some(pid.into())));
    ensure!(strange.is_none(), "not of that unit: {strange:?}");
    agent.stop()?.success()?;
    wait_for("resources of both", Duration::from_secs(30), || {
        let profiles = collector.profiles("grpc")?;
        let named =
            |unit: &str| profiles.iter().any(|p| p.resource.get("service.name").is_some_and(|name| name == unit));
        Ok(UNITS.iter().all(|unit| named(unit)).then_some(()))
    })
}
