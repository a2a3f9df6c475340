//! The node itself: what is started, in which order, with which words; and how it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::images::Images;
use super::processes::{Process, Processes, waited};
use super::programs::Programs;
use super::space::Space;
use super::{NODE, NODE_IP, PLAIN, POD_NET, SERVICE_NET, api_server, certificates};
use crate::shell::{logged, output, repository};

/// How long one part may take to come up. On two busy CPUs a node takes half a minute.
const LONGEST: Duration = Duration::from_secs(180);
/// What must run while the node runs, in the order of its end.
const PARTS: [&str; 8] =
    ["kubelet", "kube-proxy", "scheduler", "controller-manager", "coredns", "containerd", "api-server", "etcd"];
/// Folders and files of a node that go with it; logs, and the images that were made, stay.
const STATE: [&str; 13] = [
    "kubelet",
    "cni",
    "cni.d",
    "pods",
    "containers",
    "containerd",
    "containerd-run",
    "etcd",
    "certificates",
    "configuration",
    "volume-plugins",
    "kubelet-pki",
    "cluster.env",
];
const STORE: &str = "http://127.0.0.1:2379";
const STORE_PEER: &str = "http://127.0.0.1:2380";

/// A node in its folder.
#[derive(Debug)]
pub(super) struct Node {
    folder: PathBuf,
    programs: Programs,
    processes: Processes,
    space: Space,
}

impl Node {
    /// The node that runs, if one does.
    ///
    /// # Errors
    /// None of today.
    pub(super) fn running(folder: &Path, programs: &Programs) -> Result<Option<Self>> {
        let processes = Processes::of(folder);
        let space = Space::of(folder, &processes);
        Ok(space.map(|space| Self { folder: folder.to_owned(), programs: programs.clone(), processes, space }))
    }

    /// From nothing to a node that is ready, with its images.
    ///
    /// # Errors
    /// When a part does not come up: with the end of its log.
    pub(super) fn start(folder: &Path, programs: &Programs, images: &Images) -> Result<Self> {
        for name in ["logs", "configuration", "cni.d", "volume-plugins"] {
            fs::create_dir_all(folder.join(name))?;
        }
        certificates::make(&folder.join("certificates"))?;
        let processes = Processes::of(folder);
        let space = Space::open(folder, &processes)?;
        let node = Self { folder: folder.to_owned(), programs: programs.clone(), processes, space };
        node.configure()?;
        node.control()?;
        node.import(images)?;
        node.ready("the API server", |node| node.kubectl(&["get", "--raw", "/readyz"]).is_ok())?;
        node.work()?;
        node.ready("the node", |node| {
            let json = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            node.kubectl(&["get", "node", NODE, "-o", json]).is_ok_and(|status| status == "True")
        })?;
        // Pods are refused until their service account is there.
        node.ready("service accounts", |node| {
            node.kubectl(&["--namespace", "default", "get", "serviceaccount", "default"]).is_ok()
        })?;
        node.tell()?;
        Ok(node)
    }

    fn configure(&self) -> Result<()> {
        let kit = repository().join("tests/kubernetes/node");
        let packages = self.programs.packages();
        for (file, to) in [
            ("containerd.toml", "configuration/containerd.toml"),
            ("kubelet.yaml", "configuration/kubelet.yaml"),
            ("Corefile", "configuration/Corefile"),
            ("cni.conflist", "cni.d/pods.conflist"),
        ] {
            let text = fs::read_to_string(kit.join(file)).with_context(|| file.to_owned())?;
            let text = text
                .replace("@STATE@", &self.folder.to_string_lossy())
                .replace("@PACKAGES@", &packages.to_string_lossy())
                .replace("@NODE_IP@", NODE_IP)
                .replace("@POD_NET@", POD_NET);
            fs::write(self.folder.join(to), text)?;
        }
        Ok(())
    }

    /// One part, inside the node's namespaces.
    fn part(&self, name: &str, program: &str, words: &[String]) -> Result<()> {
        let mut command = self.space.command(self.programs.path(program)?);
        command.args(words).current_dir(&self.folder).env("PATH", self.path()?);
        self.processes.start(name, &mut command).map(drop)
    }

    /// containerd finds its shims on `PATH`, the kube-proxy its iptables.
    fn path(&self) -> Result<String> {
        let packages = self.programs.packages();
        let packages = packages.display();
        let usual = std::env::var("PATH").context("PATH is not set")?;
        Ok(format!("{packages}/usr/bin:{packages}/usr/sbin:/usr/sbin:/sbin:{usual}"))
    }

    fn certificate(&self, name: &str) -> String {
        self.folder.join("certificates").join(name).display().to_string()
    }

    /// The store, the API server, containerd: nobody of them needs another one to be there first.
    fn control(&self) -> Result<()> {
        let file = |name: &str| self.certificate(name);
        let store = [
            "--name=node".to_owned(),
            format!("--data-dir={}", self.folder.join("etcd").display()),
            format!("--listen-client-urls={STORE}"),
            format!("--advertise-client-urls={STORE}"),
            format!("--listen-peer-urls={STORE_PEER}"),
            format!("--initial-advertise-peer-urls={STORE_PEER}"),
            format!("--initial-cluster=node={STORE_PEER}"),
            // A test's data need not survive the machine.
            "--unsafe-no-fsync".to_owned(),
        ];
        self.part("etcd", "etcd", &store)?;
        let configuration = self.folder.join("configuration/containerd.toml");
        self.part("containerd", "containerd", &["--config".to_owned(), configuration.display().to_string()])?;
        let server = [
            format!("--etcd-servers={STORE}"),
            format!("--advertise-address={NODE_IP}"),
            "--secure-port=6443".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_NET}"),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("api-server.crt")),
            format!("--tls-private-key-file={}", file("api-server.key")),
            format!("--kubelet-certificate-authority={}", file("ca.crt")),
            format!("--kubelet-client-certificate={}", file("api-server-client.crt")),
            format!("--kubelet-client-key={}", file("api-server-client.key")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-signing-key-file={}", file("tokens.key")),
            format!("--service-account-key-file={}", file("tokens.pub")),
        ];
        self.part("api-server", "kube-apiserver", &server)?;
        self.ready("containerd", |node| node.ctr(&["version"]).is_ok())
    }

    /// All that asks the API server.
    fn work(&self) -> Result<()> {
        let file = |name: &str| self.certificate(name);
        let account = |name: &str| format!("--kubeconfig={}", file(&format!("{name}.kubeconfig")));
        let controllers = [
            account("controller-manager"),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={}", file("tokens.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--flex-volume-plugin-dir={}", self.folder.join("volume-plugins").display()),
        ];
        self.part("controller-manager", "kube-controller-manager", &controllers)?;
        let scheduler =
            [account("scheduler"), "--leader-elect=false".to_owned(), "--bind-address=127.0.0.1".to_owned()];
        self.part("scheduler", "kube-scheduler", &scheduler)?;
        let kubelet = [
            format!("--config={}", self.folder.join("configuration/kubelet.yaml").display()),
            account("kubelet"),
            format!("--cert-dir={}", self.folder.join("kubelet-pki").display()),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={NODE_IP}"),
            "--v=2".to_owned(),
        ];
        self.part("kubelet", "kubelet", &kubelet)?;
        let proxy = [
            account("proxy"),
            "--proxy-mode=iptables".to_owned(),
            format!("--hostname-override={NODE}"),
            "--iptables-localhost-nodeports=false".to_owned(),
            // The table of connections is the whole machine's: its size is left alone.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        ];
        self.part("kube-proxy", "kube-proxy", &proxy)?;
        let names = self.folder.join("configuration/Corefile");
        self.part("coredns", "coredns", &["-conf".to_owned(), names.display().to_string()])
    }

    /// Waits for something; a part that ended instead is said.
    fn ready(&self, what: &str, so: impl Fn(&Self) -> bool) -> Result<()> {
        if waited(LONGEST, || so(self)) {
            return Ok(());
        }
        bail!("{what}: not ready within {LONGEST:?}. {}", self.processes.ended(&PARTS).join("\n"))
    }

    /// What tests need to know.
    fn tell(&self) -> Result<()> {
        let socket = self.folder.join("containerd-run/containerd.sock");
        let lines = [
            format!("KUBECONFIG={}", kubeconfig(&self.folder).display()),
            format!("KUBECTL={}", self.programs.path("kubectl")?.display()),
            format!("CTR={}", self.programs.path("ctr")?.display()),
            format!("CONTAINERD={}", socket.display()),
            format!("KUBELET={}", self.folder.join("kubelet").display()),
            format!("RUNC={}", self.programs.path("runc")?.display()),
            format!("HOLDER={}", self.space.holder()),
            format!("NODE={NODE}"),
            format!("NODE_IP={NODE_IP}"),
            format!("API={}", api_server()),
        ];
        Ok(fs::write(self.folder.join("cluster.env"), lines.join("\n"))?)
    }

    fn kubectl(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(self.programs.path("kubectl")?);
        command.arg("--kubeconfig").arg(kubeconfig(&self.folder)).arg("--request-timeout=10s").args(words);
        output(&mut command)
    }

    fn ctr(&self, words: &[&str]) -> Result<String> {
        let mut command = self.space.command(self.programs.path("ctr")?);
        output(command.args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"]).args(words))
    }

    /// Brings archives of images to containerd.
    ///
    /// # Errors
    /// When it refuses one.
    pub(super) fn import(&self, images: &Images) -> Result<()> {
        for archive in images.archives() {
            let mut command = self.space.command(self.programs.path("ctr")?);
            command.args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"]);
            command.args(["images", "import"]).arg(archive);
            logged(&mut command, &self.processes.log("import"))?;
        }
        Ok(())
    }

    /// Stops all of it: the kubelet first, so that nobody starts a container again, then the containers, then the rest.
    ///
    /// # Errors
    /// When a process stays.
    pub(super) fn stop(self) -> Result<()> {
        let [kubelet, rest @ ..] = PARTS;
        self.processes.stop(kubelet);
        self.containers();
        rest.iter().for_each(|part| self.processes.stop(part));
        self.space.close(&self.processes)?;
        self.processes.all().iter().for_each(Process::stop);
        self.processes.forget();
        Ok(())
    }

    /// Ends all containers. What containerd does not answer for ends with the namespaces.
    fn containers(&self) {
        for namespace in ["k8s.io", PLAIN] {
            let ctr = |words: &[&str]| {
                let mut command = self.space.command(self.programs.path("ctr")?);
                command.args(["--address", "/run/containerd/containerd.sock", "--connect-timeout", "5s"]);
                output(command.args(["--namespace", namespace]).args(words))
            };
            let tasks = || ctr(&["tasks", "list", "-q"]).unwrap_or_default();
            for id in tasks().lines() {
                let _ = ctr(&["tasks", "kill", "--signal", "SIGKILL", id]);
            }
            for id in tasks().lines() {
                let _ = ctr(&["tasks", "delete", "--force", id]);
            }
            for id in ctr(&["containers", "list", "-q"]).unwrap_or_default().lines() {
                let _ = ctr(&["containers", "delete", id]);
            }
        }
    }
}

/// The administrator's.
pub(super) fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("certificates/admin.kubeconfig")
}

/// Removes the state of a node that does not run any more.
///
/// # Errors
/// When a folder cannot be removed.
pub(super) fn wipe(folder: &Path) -> Result<()> {
    for name in STATE {
        let path = folder.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
    }
    Processes::of(folder).forget();
    Ok(())
}
