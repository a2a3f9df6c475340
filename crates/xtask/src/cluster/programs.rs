//! The programs of the node, and the servers that run on it: each built or unpacked once, into the peers' cache.
//!
//! **In**: the modules in `tests/kubernetes`, Debian's packages. **Out**: [`Programs`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::deploy;
use crate::packages::{self, Need};
use crate::peers::{self, Peer, go};
use crate::shell::{logged, repository};

/// Kubernetes, and the store and the name service that go with it.
const KUBERNETES: &str = "1.34.4";
const ETCD: &str = "3.6.16";
const COREDNS: &str = "1.13.1";

const KUBERNETES_PROGRAMS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
/// Packages whose installation would start services: they are unpacked instead.
const PACKAGES: &[&str] = &["containerd", "runc", "containernetworking-plugins"];

/// What must be installed on the machine.
pub(super) const NEEDS: &[Need] = &[
    Need { program: "gcc", package: "gcc" },
    Need { program: "g++", package: "g++" },
    Need { program: "unshare", package: "util-linux" },
    Need { program: "nsenter", package: "util-linux" },
    Need { program: "mount", package: "mount" },
    Need { program: "ip", package: "iproute2" },
    // The kube-proxy writes its rules with it.
    Need { program: "/usr/sbin/iptables", package: "iptables" },
    // Containers without Kubernetes.
    Need { program: "podman", package: "podman" },
];

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    cache: PathBuf,
    found: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// Builds and unpacks what is missing.
    ///
    /// # Errors
    /// When something cannot be had: names the log.
    pub(super) fn ensure() -> Result<Self> {
        let found = peers::ensure_these(&all())?;
        Ok(Self { cache: peers::cache()?, found })
    }

    /// Those that are there, and nothing built; none where one is missing.
    pub(super) fn present() -> Result<Option<Self>> {
        let cache = peers::cache()?;
        let programs = all().into_iter().flat_map(|p| {
            let home = cache.join(&p.name);
            p.programs.iter().map(move |&program| (program, home.join(program))).collect::<Vec<_>>()
        });
        let found: Vec<_> = programs.collect();
        let whole = found.iter().all(|(_, path)| path.is_file());
        Ok(whole.then_some(Self { cache, found }))
    }

    /// A program by its file name.
    pub(super) fn path(&self, name: &str) -> Result<&Path> {
        let found = self.found.iter().find(|(_, path)| path.file_name().is_some_and(|n| n == name));
        found.map(|(_, path)| path.as_path()).with_context(|| format!("no {name} among the cluster's programs"))
    }

    /// Debian's packages, unpacked.
    pub(super) fn packages(&self) -> PathBuf {
        self.cache.join(containerd_peer().name)
    }
}

fn all() -> Vec<Peer> {
    vec![
        Peer { name: format!("kubernetes-{KUBERNETES}"), programs: KUBERNETES_PROGRAMS, make: kubernetes },
        Peer { name: format!("etcd-{ETCD}"), programs: &["etcd"], make: etcd },
        Peer { name: format!("coredns-{COREDNS}"), programs: &["coredns"], make: coredns },
        containerd_peer(),
        // Not Debian's, which cannot find targets in Kubernetes.
        deploy::prometheus_peer(),
    ]
}

fn containerd_peer() -> Peer {
    let programs = &["usr/bin/containerd", "usr/bin/ctr", "usr/sbin/runc", "usr/lib/cni/bridge"];
    Peer { name: "containerd-debian".to_owned(), programs, make: containerd }
}

/// A module of `tests/kubernetes`, copied to where it may be built.
fn module(name: &str, out: &Path) -> Result<PathBuf> {
    let work = out.with_file_name(name);
    fs::create_dir(&work)?;
    let kit = repository().join("tests/kubernetes").join(name);
    for entry in fs::read_dir(&kit).with_context(|| kit.display().to_string())? {
        let path = entry?.path();
        if let Some(file) = path.file_name() {
            fs::copy(&path, work.join(file))?;
        }
    }
    Ok(work)
}

fn kubernetes(out: &Path, log: &Path) -> Result<()> {
    let work = module("kubernetes", out)?;
    // A program that does not know its version refuses others.
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [
            ("gitVersion", format!("v{KUBERNETES}").as_str()),
            ("gitMajor", "1"),
            ("gitMinor", "34"),
            ("gitTreeState", "clean"),
            ("gitCommit", "unknown"),
            ("buildDate", "1970-01-01T00:00:00Z"),
        ] {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    let mut build = go(&work)?;
    build.args(["build", "-trimpath", "-ldflags", &flags, "-o"]).arg(out);
    build.args(KUBERNETES_PROGRAMS.iter().map(|p| format!("k8s.io/kubernetes/cmd/{p}")));
    logged(&mut build, log)
}

fn etcd(out: &Path, log: &Path) -> Result<()> {
    let mut build = go(&module("etcd", out)?)?;
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(out.join("etcd"));
    logged(build.arg("go.etcd.io/etcd/server/v3"), log)
}

fn coredns(out: &Path, log: &Path) -> Result<()> {
    let mut build = go(&module("dns", out)?)?;
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(out.join("coredns"));
    logged(build.arg("."), log)
}

fn containerd(out: &Path, log: &Path) -> Result<()> {
    let logs = log.parent().unwrap_or(out);
    PACKAGES.iter().try_for_each(|package| packages::unpack(package, out, logs))
}
