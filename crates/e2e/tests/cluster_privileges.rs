//! Which capability is for what, found by taking each one away: the table in `docs/privileges.md` is this test's.
//!
//! With `E2E_WRITE=1` the table is written; otherwise it must be what the test finds.
#![cfg(feature = "cluster")]

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::forward::Forward;
use e2e::cluster::overlay::{NAMESPACE, Overlay};
use e2e::cluster::{self, Cluster, Pod};
use e2e::process::{Running, Start, wait_for};
use e2e::{figure, http, paths, pprof};
use serde_json::{Value, json};

const BEGIN: &str = "<!-- capabilities: begin -->";
const END: &str = "<!-- capabilities: end -->";
/// The user that owns nothing.
const NOBODY: u32 = 65534;
/// Hides kernel addresses from who has no CAP_SYSLOG when it is 1.
const KPTR_RESTRICT: &str = "/proc/sys/kernel/kptr_restrict";

/// What an agent can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    starts: bool,
    containers: bool,
    deleted: bool,
    private: bool,
    kernel: bool,
    worker_user: bool,
    worker_groups: bool,
}

const ALL: Found = Found {
    starts: true,
    containers: true,
    deleted: true,
    private: true,
    kernel: true,
    worker_user: true,
    worker_groups: true,
};
const NONE: Found = Found {
    starts: false,
    containers: false,
    deleted: false,
    private: false,
    kernel: false,
    worker_user: false,
    worker_groups: false,
};

/// A row of the table: the capability, what it is for, what is without it in words, and what the test finds then.
const ROWS: [(&str, &str, &str, Found); 8] = [
    ("BPF", "loading the eBPF program", "it does not start", NONE),
    (
        "PERFMON",
        "a timer on every CPU for all processes; records of process life; reading stacks in the program",
        "it does not start",
        NONE,
    ),
    (
        "SYS_PTRACE",
        "`/proc/PID/maps` and `/proc/PID/root` of other processes",
        "processes of other users and containers have no function names",
        Found { containers: false, deleted: false, private: false, ..ALL },
    ),
    (
        "CHECKPOINT_RESTORE",
        "`/proc/PID/map_files`: libraries that were replaced or deleted while a process uses them",
        "those files have no function names",
        Found { deleted: false, ..ALL },
    ),
    (
        "DAC_READ_SEARCH",
        "program files that only their owner may read",
        "those files have no function names",
        Found { private: false, ..ALL },
    ),
    (
        "SYSLOG",
        "kernel addresses in `/proc/kallsyms`, where `kernel.kptr_restrict` is 1",
        "kernel functions have no names",
        Found { kernel: false, ..ALL },
    ),
    (
        "SETUID",
        "running the worker process as nobody",
        "the worker keeps its user, and is confined by the other walls",
        Found { worker_user: false, ..ALL },
    ),
    (
        "SETGID",
        "the same, of its groups",
        "the worker keeps its groups, and is confined by the other walls",
        Found { worker_groups: false, ..ALL },
    ),
];

/// A setting of the kernel that is put back.
struct Setting {
    before: String,
}

impl Setting {
    fn hide_addresses() -> Result<Self> {
        let before = std::fs::read_to_string(KPTR_RESTRICT)?;
        std::fs::write(KPTR_RESTRICT, "1")?;
        Ok(Self { before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = std::fs::write(KPTR_RESTRICT, self.before.trim());
    }
}

/// A program whose library is deleted while it runs. (Of the program itself `/proc/PID/exe` still leads to the file.)
fn deleted_library(folder: &Path) -> Result<Running> {
    for name in ["shared_one", "libprofiled.so"] {
        std::fs::copy(paths::workload(name)?, folder.join(name))?;
    }
    let running = Start::new("shared_one", folder.join("shared_one"), folder).args(["900"]).start()?;
    wait_for("the library in use", Duration::from_secs(30), || {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", running.pid()))?;
        Ok(maps.contains("libprofiled.so").then_some(()))
    })?;
    std::fs::remove_file(folder.join("libprofiled.so"))?;
    Ok(running)
}

/// A program that only its owner, who is nobody, may read.
fn private_program(folder: &Path) -> Result<Running> {
    let file = folder.join("private");
    let source = paths::source("cluster/same.c");
    let made = Command::new("cc").args(["-O2", "-DNAME=burn_of_private", "-o"]).arg(&file).arg(source).status()?;
    ensure!(made.success(), "cc: {made}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700))?;
    chown(&file, Some(NOBODY), Some(NOBODY))?;
    let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    let words = [user.as_str(), &group, "--clear-groups", &file.to_string_lossy(), "900"].map(str::to_owned);
    Start::new("private", "setpriv", folder).args(words).start()
}

/// The DaemonSet's pod without one of its capabilities, as a pod of its own. It looks at the test's processes only, so that
/// eight of them at once cost little.
fn variant(set: &Value, capability: &str) -> Result<Value> {
    let template = &set["spec"]["template"]["spec"];
    let mut spec = template.clone();
    let container = &mut spec["containers"][0];
    let added = container["securityContext"]["capabilities"]["add"].as_array_mut().context("capabilities")?;
    let before = added.len();
    added.retain(|c| c.as_str() != Some(capability));
    ensure!(
        added.len() + usize::from(!capability.is_empty()) == before,
        "the DaemonSet has no {capability}: {added:?}"
    );
    let include = ["app", "shared_one", "private", "syscalls"].map(|name| format!("comm={name}")).join(",");
    let variables = container["env"].as_array_mut().context("variables")?;
    variables.push(json!({ "name": "PROFILER_INCLUDE", "value": include }));
    variables.push(json!({ "name": "PROFILER_FREQUENCY", "value": "49" }));
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": pod_name(capability), "namespace": NAMESPACE, "labels": { "probe": "capabilities" } },
        "spec": spec,
    }))
}

fn pod_name(capability: &str) -> String {
    let name = if capability.is_empty() { "all".to_owned() } else { capability.to_lowercase().replace('_', "-") };
    format!("without-{name}").replace("without-all", "with-all")
}

/// What an agent turns out to be able to do.
fn probe(cluster: &Cluster, capability: &str) -> Result<Found> {
    let name = pod_name(capability);
    let pod = wait_for(&format!("{name} to start or to fail"), Duration::from_secs(90), || {
        let pods = cluster.pods(NAMESPACE, "probe=capabilities")?;
        let pod = pods.into_iter().find(|p| p.name == name).context("not there")?;
        let failed = pod.state.contains("\"exitCode\":") || pod.containers[0].restarts > 0;
        if pod.ready || failed { Ok(Some(pod)) } else { anyhow::bail!("{}", pod.state) }
    })?;
    if !pod.ready {
        return Ok(NONE);
    }
    let forward = Forward::start(cluster, &pod, 2112)?;
    let client = http::client(Duration::from_secs(60))?;
    let mut found = Found { starts: true, ..NONE };
    // The first windows may come before the worker has read all files.
    for _ in 0..3 {
        let bytes = wait_for(&format!("a profile of {name}"), Duration::from_secs(60), || {
            let answer = client.get(forward.url("/debug/pprof/profile?seconds=10")).send()?;
            ensure!(answer.status().is_success(), "{}: {}", answer.status(), answer.text()?);
            Ok(Some(answer.bytes()?))
        })?;
        let stacks = pprof::stacks(&pprof::read(&bytes)?)?;
        let (user, groups) = worker(cluster, &pod)?;
        found = Found {
            starts: true,
            containers: stacks.with("burn_of_first") > 0,
            deleted: stacks.with("shared_work") > 0,
            private: stacks.with("burn_of_private") > 0,
            kernel: stacks.with("vfs_read") > 0,
            worker_user: user == NOBODY,
            worker_groups: groups == NOBODY,
        };
        if found == ALL {
            break;
        }
    }
    Ok(found)
}

/// User and group of an agent's worker.
fn worker(cluster: &Cluster, pod: &Pod) -> Result<(u32, u32)> {
    let agent = *cluster.tasks("k8s.io")?.get(&pod.containers[0].id).context("the agent's process")?;
    let tasks = std::fs::read_dir(format!("/proc/{agent}/task"))?.filter_map(Result::ok);
    let children = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    let worker = children.flat_map(|c| c.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).next();
    let worker = worker.with_context(|| format!("{} has no worker", pod.name))?;
    let status = std::fs::read_to_string(format!("/proc/{worker}/status"))?;
    let id = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).context("a status")?;
        Ok::<u32, anyhow::Error>(line.split_whitespace().next().context("an id")?.parse()?)
    };
    Ok((id("Uid:")?, id("Gid:")?))
}

fn table() -> String {
    let mut text = String::from("| capability | what for | without it |\n| --- | --- | --- |\n");
    for (capability, purpose, without, _) in ROWS {
        let _ = writeln!(text, "| `CAP_{capability}` | {purpose} | {without} |");
    }
    text
}

#[test]
fn each_capability_is_needed_for_what_the_table_says() -> Result<()> {
    cluster::with("cluster-capabilities", |cluster, folder| {
        let _setting = Setting::hide_addresses()?;
        // Everybody may walk to the files: it is one of the files that is closed.
        let open = tempfile::tempdir()?;
        std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o755))?;
        let _deleted = deleted_library(open.path())?;
        let _private = private_program(open.path())?;
        let _kernel = Start::new("syscalls", paths::workload("syscalls")?, folder).args(["900"]).start()?;
        let twins = cluster.apply("same.yaml")?;
        let overlay = Overlay::apply(cluster, "base")?;
        let set = cluster.get(&["daemonset", "profiler", "--namespace", NAMESPACE])?;
        let security = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        ensure!(security["privileged"] != true, "the DaemonSet is privileged");
        let added = security["capabilities"]["add"].as_array().context("capabilities")?;
        ensure!(added.len() == ROWS.len(), "the DaemonSet has {added:?}, the table {} rows", ROWS.len());

        let capabilities: Vec<&str> = std::iter::once("").chain(ROWS.iter().map(|r| r.0)).collect();
        let pods = capabilities.iter().map(|c| variant(&set, c)).collect::<Result<Vec<_>>>()?;
        let file = folder.join("pods.json");
        std::fs::write(&file, json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string())?;
        let applied = cluster.apply_file(&file)?;
        let found: Vec<Result<Found>> = std::thread::scope(|scope| {
            let threads: Vec<_> = capabilities.iter().map(|c| scope.spawn(move || probe(cluster, c))).collect();
            let joined = threads.into_iter().map(|t| t.join());
            joined.map(|r| r.unwrap_or_else(|_| Err(anyhow::anyhow!("a probe panicked")))).collect()
        });
        let mut wrong = Vec::new();
        for (capability, found) in capabilities.iter().zip(found) {
            let found = found.with_context(|| pod_name(capability))?;
            let expected = ROWS.iter().find(|r| r.0 == *capability).map_or(ALL, |r| r.3);
            figure(format!("{}: {found:?}", pod_name(capability)));
            if found != expected {
                wrong.push(format!("{}: {found:?} instead of {expected:?}", pod_name(capability)));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        applied.delete()?;
        overlay.delete()?;
        twins.delete()?;
        the_document()
    })
}

/// The table in the documentation is the one that was just found.
fn the_document() -> Result<()> {
    let path = paths::docs("privileges.md");
    let text = std::fs::read_to_string(&path)?;
    let (head, rest) = text.split_once(BEGIN).context("no begin of the table")?;
    let (told, tail) = rest.split_once(END).context("no end of the table")?;
    if std::env::var_os("E2E_WRITE").is_some() {
        return Ok(std::fs::write(&path, format!("{head}{BEGIN}\n{}{END}{tail}", table()))?);
    }
    ensure!(told.trim() == table().trim(), "{} has another table; found was:\n{}", path.display(), table());
    Ok(())
}
