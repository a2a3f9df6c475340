//! A host without containers: what systemd runs is named by its units. The manager is a real one, the first process of namespaces
//! of its own, below a cgroup of its own.
#![cfg(feature = "live")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::agent::Setup;
use e2e::collector::Collector;
use e2e::process::{Running, Start, wait_for};
use e2e::stacks::Row;
use e2e::{figure, paths};

/// Two services that run the same program: only the unit tells them apart.
const UNITS: [&str; 2] = ["hot-path", "other-path"];
const SERVICE: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh -c 'while :; do :; done'\n";
/// The cgroup below which the manager makes its own.
const CGROUP: &str = "profiler-tests-systemd";
/// What becomes the manager: with nothing of the host's in its hands but the cgroups of version 2.
const BECOME_MANAGER: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$1"
echo 0 > "/sys/fs/cgroup/$1/cgroup.procs"
exec env -i "PATH=$PATH" container=tests SYSTEMD_LOG_TARGET=console "SYSTEMD_UNIT_PATH=$2" "SYSTEMD_GENERATOR_PATH=$2/none" \
    /lib/systemd/systemd --system --unit=both.target"#;

/// The manager and its cgroup, which is gone when it is.
struct Manager {
    process: Option<Running>,
    cgroup: PathBuf,
}

impl Manager {
    fn start(folder: &Path) -> Result<Self> {
        let units = folder.join("units");
        fs::create_dir_all(&units)?;
        for unit in UNITS {
            fs::write(units.join(format!("{unit}.service")), SERVICE)?;
        }
        let wants = UNITS.map(|unit| format!("{unit}.service")).join(" ");
        fs::write(units.join("both.target"), format!("[Unit]\nDefaultDependencies=no\nWants={wants}\n"))?;
        let cgroup = unified()?.join(CGROUP);
        let namespaces = ["--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"];
        let process = Start::new("systemd", "unshare", folder)
            .args(namespaces)
            .args(["sh", "-c", BECOME_MANAGER, "manager", CGROUP])
            .args([units])
            .group()
            .start()?;
        Ok(Self { process: Some(process), cgroup })
    }

    /// The processes of a unit, by the ids that they have here.
    fn processes(&self, unit: &str) -> Result<Vec<u32>> {
        let list = self.cgroup.join("system.slice").join(format!("{unit}.service/cgroup.procs"));
        let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.process = None;
        // The kernel needs a moment to let go of the last process.
        let _ = wait_for("the cgroup's end", Duration::from_secs(5), || {
            remove(&self.cgroup);
            Ok((!self.cgroup.exists()).then_some(()))
        });
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
        if let Some(process) = &mut manager.process {
            process.still_runs()?;
        }
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
    wait_for("resources of both", Duration::from_secs(10), || {
        let profiles = collector.profiles("grpc")?;
        let named =
            |unit: &str| profiles.iter().any(|p| p.resource.get("service.name").is_some_and(|name| name == unit));
        Ok(UNITS.iter().all(|unit| named(unit)).then_some(()))
    })
}
