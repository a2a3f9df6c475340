//! The node's own view of the machine: namespaces of mounts and of the network, so that nothing of the machine's changes.
//!
//! A holder process keeps both; every process of the node enters them. Folders that Kubernetes and containerd have built
//! in (`/var/lib/kubelet`, `/run/containerd`, ...) are bound to folders of the node there, and its network is one pair of
//! interfaces away. What cannot be had in a namespace (a few settings of the kernel, cgroups, the folders that are mount
//! points) is written down and put back by [`Space::close`].

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::processes::{Process, Processes, waited};
use super::{HOST_IP, NODE_IP, PLAIN, POD_NET, SERVICE_NET};
use crate::shell::output;

/// The interface on the machine's side; the other side is the node's `eth0`.
const HOST_LINK: &str = "profnode0";
/// Folders that programs have built in, and the node's folders in their place.
const BOUND: [(&str, &str); 5] = [
    ("/var/lib/kubelet", "kubelet"),
    ("/var/lib/cni", "cni"),
    ("/var/log/pods", "pods"),
    ("/var/log/containers", "containers"),
    ("/run/containerd", "containerd-run"),
];
/// Settings that a kubelet changes and that belong to the whole machine.
const SETTINGS: [&str; 4] = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];
/// Settings of the node's own network.
const NETWORK_SETTINGS: [&str; 2] = ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"];
/// The cgroups of pods, and of the containers in containerd's own namespace for tests.
const PODS: &str = "kubepods";
/// The name of the process that keeps the namespaces.
const HOLDER: &str = "holder";

/// The namespaces of a node in `folder`.
#[derive(Clone, Debug)]
pub(super) struct Space {
    folder: PathBuf,
    holder: i32,
}

impl Space {
    /// Makes the namespaces, and what must be in them.
    ///
    /// # Errors
    /// When one of the machine's tools fails.
    pub(super) fn open(folder: &Path, processes: &Processes) -> Result<Self> {
        let mut made = String::new();
        for (point, own) in BOUND {
            fs::create_dir_all(folder.join(own))?;
            // Only what was not there is taken away again.
            let missing = Path::new(point).ancestors().take_while(|p| !p.exists());
            missing.for_each(|p| made.push_str(&format!("{}\n", p.display())));
            fs::create_dir_all(point)?;
        }
        fs::write(folder.join("made"), made)?;
        let before = SETTINGS.map(|s| format!("{s} {}", fs::read_to_string(setting(s)).unwrap_or_default().trim()));
        fs::write(folder.join("settings"), before.join("\n"))?;

        let ours = fs::read_link("/proc/self/ns/net")?;
        let mut hold = Command::new("unshare");
        hold.args(["--net", "--mount", "--propagation", "private", "sleep", "infinity"]);
        let holder = processes.start(HOLDER, &mut hold)?.pid;
        let entered = || {
            let there = |kind: &str| fs::read_link(format!("/proc/{holder}/ns/{kind}")).ok();
            let program = fs::read_to_string(format!("/proc/{holder}/comm")).unwrap_or_default();
            there("net").is_some_and(|n| n != ours) && program.trim() == "sleep"
        };
        if !waited(Duration::from_secs(10), entered) {
            bail!("namespaces cannot be made: {}", processes.log(HOLDER).display());
        }
        let space = Self { folder: folder.to_owned(), holder };
        space.mounts()?;
        space.network()?;
        Ok(space)
    }

    /// Those of a node that runs.
    pub(super) fn of(folder: &Path, processes: &Processes) -> Option<Self> {
        let holder = processes.all().into_iter().find(|p| p.name == HOLDER)?;
        Some(Self { folder: folder.to_owned(), holder: holder.pid })
    }

    /// The pid of the process that keeps them.
    pub(super) fn holder(&self) -> i32 {
        self.holder
    }

    /// A program inside. `nsenter` becomes the program: its pid is the child's.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder)).args(["--mount", "--net", "--"]).arg(program);
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let [program, rest @ ..] = words else { return Ok(()) };
        output(self.command(program).args(rest)).map(drop)
    }

    fn mounts(&self) -> Result<()> {
        // The kubelet hands mounts on to containers.
        self.run(&["mount", "--make-rshared", "/"])?;
        for (point, own) in BOUND {
            let own = self.folder.join(own);
            self.run(&["mount", "--bind", &own.to_string_lossy(), point])?;
        }
        Ok(())
    }

    fn network(&self) -> Result<()> {
        let ip = |words: &[&str]| output(Command::new("ip").args(words)).map(drop);
        let holder = self.holder.to_string();
        ip(&["link", "add", HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", &holder])?;
        ip(&["addr", "add", &format!("{HOST_IP}/30"), "dev", HOST_LINK])?;
        ip(&["link", "set", HOST_LINK, "up"])?;
        self.run(&["ip", "link", "set", "lo", "up"])?;
        self.run(&["ip", "addr", "add", &format!("{NODE_IP}/30"), "dev", "eth0"])?;
        self.run(&["ip", "link", "set", "eth0", "up"])?;
        self.run(&["ip", "route", "add", "default", "via", HOST_IP])?;
        // Pods and Services are asked from here as from another machine of the cluster's network.
        for net in [POD_NET, SERVICE_NET] {
            ip(&["route", "add", net, "via", NODE_IP, "dev", HOST_LINK])?;
        }
        for name in NETWORK_SETTINGS {
            let path = setting(name);
            if path.exists() {
                self.run(&["sh", "-c", &format!("echo 1 > {}", path.display())])?;
            }
        }
        Ok(())
    }

    /// Takes the namespaces away, with all that still runs in them.
    ///
    /// # Errors
    /// When a process stays.
    pub(super) fn close(self, processes: &Processes) -> Result<()> {
        let mounts = fs::read_link(format!("/proc/{}/ns/mnt", self.holder));
        let network = fs::read_link(format!("/proc/{}/ns/net", self.holder));
        let inside = |process: &Process| {
            let same = |kind: &str, ours: &std::io::Result<PathBuf>| {
                let theirs = fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).ok();
                ours.as_ref().is_ok_and(|ours| theirs.is_some_and(|t| t == *ours))
            };
            process.pid != self.holder && (same("mnt", &mounts) || same("net", &network))
        };
        everything()?.iter().filter(|p| inside(p)).for_each(Process::stop);
        processes.stop(HOLDER);
        let left: Vec<_> = everything()?.into_iter().filter(inside).map(|p| format!("{} {}", p.pid, p.name)).collect();
        if !left.is_empty() {
            bail!("processes of the node remain: {}", left.join(", "));
        }
        Ok(())
    }
}

/// Puts back what is not in a namespace.
///
/// # Errors
/// When a setting or a folder cannot be had back.
pub(super) fn restore(folder: &Path) -> Result<()> {
    for line in fs::read_to_string(folder.join("settings")).unwrap_or_default().lines() {
        if let Some((name, value)) = line.split_once(' ') {
            fs::write(setting(name), value).with_context(|| name.to_owned())?;
        }
    }
    // The last process took the pair of interfaces with it; without one it goes by name.
    let gone = || !Path::new("/sys/class/net").join(HOST_LINK).exists();
    if !waited(Duration::from_secs(5), gone) {
        output(Command::new("ip").args(["link", "del", HOST_LINK]))?;
    }
    let root = Path::new("/sys/fs/cgroup");
    // Of version 1, each controller has a hierarchy of its own.
    let hierarchies = fs::read_dir(root)?.filter_map(|e| Some(e.ok()?.path()));
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        for name in [PODS, PLAIN] {
            empty(&hierarchy.join(name))?;
        }
    }
    for path in fs::read_to_string(folder.join("made")).unwrap_or_default().lines() {
        let _ = fs::remove_dir(path);
    }
    let _ = fs::remove_file(folder.join("made"));
    let _ = fs::remove_file(folder.join("settings"));
    Ok(())
}

/// Removes a tree of cgroups, innermost first.
fn empty(cgroup: &Path) -> Result<()> {
    if !cgroup.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)? {
        let path = entry?.path();
        if path.is_dir() {
            empty(&path)?;
        }
    }
    if !waited(Duration::from_secs(5), || fs::remove_dir(cgroup).is_ok() || !cgroup.exists()) {
        bail!("{} cannot be removed: {}", cgroup.display(), fs::read_to_string(cgroup.join("cgroup.procs"))?);
    }
    Ok(())
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Every process of the machine.
fn everything() -> Result<Vec<Process>> {
    let pids = fs::read_dir("/proc")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let named = |pid: i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Process::of(name.trim(), pid)
    };
    Ok(pids.filter_map(named).collect())
}
