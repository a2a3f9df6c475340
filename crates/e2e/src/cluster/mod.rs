//! The node that `cargo xtask cluster up` started, as tests see it: kubectl, containerd, pods, what overlays brought.
//!
//! **In**: the folder that `E2E_CLUSTER` names. **Out**: answers as JSON or text. **Limits**: every wait ends; what a test
//! applied is deleted again when it goes out of scope; when a test fails, the logs of all pods stand in its folder.

pub mod forward;
pub mod node;
pub mod overlay;
pub mod plain;
pub mod prometheus;
pub mod received;
pub mod remains;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::process::wait_for;
use crate::{figure, paths};

/// How long a pod may take to come or to go. Two CPUs that are saturated by workloads share themselves out slowly.
pub const LONGEST: Duration = Duration::from_secs(120);

/// The cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    facts: BTreeMap<String, String>,
    /// Where the running test keeps what it leaves.
    folder: PathBuf,
    /// The pods' logs are kept: of a failure the first moment is told.
    kept: Arc<AtomicBool>,
}

/// Runs one test on the cluster in an empty folder of its own. When it fails, what the cluster can say of it is kept there
/// and told in short.
///
/// # Errors
/// The test's.
pub fn with(test: &str, body: impl FnOnce(&Cluster, &Path) -> Result<()>) -> Result<()> {
    let folder = paths::scratch(test)?;
    let cluster = Cluster::attach(&folder)?;
    let done = body(&cluster, &folder);
    if done.is_err() {
        cluster.keep_logs();
    }
    done
}

impl Cluster {
    /// The cluster that runs.
    ///
    /// # Errors
    /// When none does.
    fn attach(folder: &Path) -> Result<Self> {
        let file = paths::cluster()?.join("cluster.env");
        let text = fs::read_to_string(&file).with_context(|| format!("{}: cargo xtask cluster up", file.display()))?;
        let facts = text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(Self { facts: facts.collect(), folder: folder.to_owned(), kept: Arc::default() })
    }

    fn fact(&self, name: &str) -> Result<&str> {
        self.facts.get(name).map(String::as_str).with_context(|| format!("cluster.env has no {name}"))
    }

    /// The node's name.
    ///
    /// # Errors
    /// When `cluster.env` does not tell.
    pub fn node(&self) -> Result<&str> {
        self.fact("NODE")
    }

    /// `kubectl` with words.
    ///
    /// # Errors
    /// When `cluster.env` does not tell where it is.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(self.fact("KUBECTL")?);
        // It keeps what it has learned of the server at home.
        command.env("KUBECONFIG", self.fact("KUBECONFIG")?).env("HOME", &self.folder);
        Ok(command)
    }

    /// What `kubectl` answers.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        finished(self.kubectl_command()?.args(words), &format!("kubectl {}", words.join(" ")))
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn get(&self, words: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], words].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// `ctr` of the node's containerd, in one of its namespaces.
    ///
    /// # Errors
    /// When it fails.
    pub fn ctr(&self, namespace: &str, words: &[&str]) -> Result<String> {
        let mut command = self.inside(self.fact("CTR")?)?;
        command.args(["--address", "/run/containerd/containerd.sock", "--namespace", namespace]).args(words);
        finished(&mut command, &format!("ctr {}", words.join(" ")))
    }

    /// A program in the node's namespaces of mounts and network.
    ///
    /// # Errors
    /// When `cluster.env` does not tell of them.
    pub fn inside(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.fact("HOLDER")?)).args(["--mount", "--net", "--", program]);
        Ok(command)
    }

    /// The node's files, as this machine sees them.
    ///
    /// # Errors
    /// When `cluster.env` does not tell.
    pub fn root(&self) -> Result<String> {
        Ok(format!("/proc/{}/root", self.fact("HOLDER")?))
    }

    /// Where the kubelet keeps a pod's volumes, as this machine sees it.
    ///
    /// # Errors
    /// When `cluster.env` does not tell.
    pub fn volume(&self, pod_uid: &str, name: &str) -> Result<PathBuf> {
        let pods = Path::new(self.fact("KUBELET")?).join("pods");
        Ok(pods.join(pod_uid).join("volumes/kubernetes.io~empty-dir").join(name))
    }

    /// Applies a file of `tests/kubernetes/workloads`; its objects go when the answer is dropped.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply(&self, file: &str) -> Result<Applied> {
        let path = paths::kubernetes(&format!("workloads/{file}"));
        self.apply_path("-f", &path)
    }

    /// Applies a file of the test's own.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply_file(&self, path: &Path) -> Result<Applied> {
        self.apply_path("-f", path)
    }

    fn apply_path(&self, how: &'static str, path: &Path) -> Result<Applied> {
        let applied = Applied { cluster: self.clone(), how, path: path.to_owned(), there: true };
        self.kubectl(&["apply", how, &path.to_string_lossy()])?;
        Ok(applied)
    }

    /// The pods of a namespace with a label.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn pods(&self, namespace: &str, label: &str) -> Result<Vec<Pod>> {
        let list = self.get(&["pods", "--namespace", namespace, "--selector", label])?;
        list["items"].as_array().context("a list of pods")?.iter().map(Pod::read).collect()
    }

    /// Waits for exactly one pod with a label, with all its containers ready.
    ///
    /// # Errors
    /// When it does not come.
    pub fn ready_pod(&self, namespace: &str, label: &str) -> Result<Pod> {
        wait_for(&format!("a ready pod {label} in {namespace}"), LONGEST, || {
            let pods: Vec<Pod> = self.pods(namespace, label)?.into_iter().filter(|p| !p.ending).collect();
            match pods.as_slice() {
                [pod] if pod.ready => Ok(Some(pod.clone())),
                [pod] => bail!("{}: {}", pod.name, pod.state),
                other => bail!("{} pods", other.len()),
            }
        })
    }

    /// What a container wrote so far.
    ///
    /// # Errors
    /// When the kubelet does not answer.
    pub fn log(&self, pod: &Pod, container: &str) -> Result<String> {
        self.kubectl(&["logs", "--namespace", &pod.namespace, &pod.name, "--container", container])
    }

    /// Waits until no pod with a label is there any more.
    ///
    /// # Errors
    /// When one stays.
    pub fn gone(&self, namespace: &str, label: &str) -> Result<()> {
        wait_for(&format!("the end of pods {label} in {namespace}"), LONGEST, || {
            Ok(self.pods(namespace, label)?.is_empty().then_some(()))
        })
    }

    /// Keeps what there is to know of every pod, once.
    fn keep_logs(&self) {
        if !self.kept.swap(true, Ordering::Relaxed)
            && let Err(error) = self.write_logs()
        {
            figure(format!("the cluster's logs cannot be had: {error:#}"));
        }
    }

    /// Writes it into the test's folder, and says the last lines of each container.
    fn write_logs(&self) -> Result<()> {
        let folder = self.folder.join("pods");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("events.txt"), self.kubectl(&["get", "events", "-A", "--sort-by=.lastTimestamp"])?)?;
        fs::write(folder.join("pods.yaml"), self.kubectl(&["get", "pods", "-A", "-o", "yaml"])?)?;
        let list = self.get(&["pods", "-A"])?;
        for pod in list["items"].as_array().into_iter().flatten() {
            let pod = Pod::read(pod)?;
            for container in &pod.containers {
                let text = self.log(&pod, &container.name).unwrap_or_else(|e| format!("{e:#}"));
                figure(format!("{}/{} {} ({}):", pod.namespace, pod.name, container.name, pod.state));
                crate::process::tail(&text).lines().for_each(|line| figure(format!("    {line}")));
                fs::write(folder.join(format!("{}-{}-{}.log", pod.namespace, pod.name, container.name)), text)?;
            }
        }
        Ok(())
    }
}

/// Runs a command to its end; returns its standard output.
fn finished(command: &mut Command, what: &str) -> Result<String> {
    let done = command.output().with_context(|| what.to_owned())?;
    ensure!(done.status.success(), "{what}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Objects that a test brought. Dropped before they were deleted, since the test failed, they leave their logs; then they
/// are deleted, unless `E2E_KEEP` says that somebody wants to look at them.
#[derive(Debug)]
pub struct Applied {
    cluster: Cluster,
    how: &'static str,
    path: PathBuf,
    there: bool,
}

impl Applied {
    /// Deletes them and waits until they are gone.
    ///
    /// # Errors
    /// When one stays.
    pub fn delete(mut self) -> Result<()> {
        self.there = false;
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        let timeout = format!("--timeout={}s", LONGEST.as_secs());
        let path = self.path.to_string_lossy();
        self.cluster.kubectl(&["delete", "--ignore-not-found", "--wait", &timeout, self.how, &path]).map(drop)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if !self.there {
            return;
        }
        self.cluster.keep_logs();
        if std::env::var_os("E2E_KEEP").is_none()
            && let Err(error) = self.remove()
        {
            figure(format!("{} stays: {error:#}", self.path.display()));
        }
    }
}

/// A pod, as the API server tells it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its address; empty while it has none.
    pub ip: String,
    /// All containers are ready.
    pub ready: bool,
    /// It is being deleted.
    pub ending: bool,
    /// Phase and reasons, for messages.
    pub state: String,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its id; empty while it has none.
    pub id: String,
    /// How often it was started again.
    pub restarts: u64,
}

impl Pod {
    fn read(value: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (meta, status) = (&value["metadata"], &value["status"]);
        let statuses = status["containerStatuses"].as_array().cloned().unwrap_or_default();
        let declared = value["spec"]["containers"].as_array().context("a pod has containers")?;
        let reasons = statuses.iter().map(|s| s["state"].to_string()).collect::<Vec<_>>().join(", ");
        let containers = declared.iter().map(|c| {
            let status = statuses.iter().find(|s| s["name"] == c["name"]);
            let id = status.map(|s| text(&s["containerID"])).unwrap_or_default();
            Container {
                name: text(&c["name"]),
                id: id.split_once("://").map(|(_, id)| id.to_owned()).unwrap_or_default(),
                restarts: status.and_then(|s| s["restartCount"].as_u64()).unwrap_or(0),
            }
        });
        Ok(Self {
            namespace: text(&meta["namespace"]),
            name: text(&meta["name"]),
            uid: text(&meta["uid"]),
            ip: text(&status["podIP"]),
            ready: statuses.len() == declared.len() && statuses.iter().all(|s| s["ready"] == true),
            ending: !meta["deletionTimestamp"].is_null(),
            state: format!("{} {reasons}", text(&status["phase"])),
            containers: containers.collect(),
        })
    }

    /// A container by name.
    ///
    /// # Errors
    /// When the pod has none of that name.
    pub fn container(&self, name: &str) -> Result<&Container> {
        let found = self.containers.iter().find(|c| c.name == name);
        found.with_context(|| format!("{} has no container {name}", self.name))
    }
}
