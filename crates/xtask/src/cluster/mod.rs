//! `cargo xtask cluster`: a real Kubernetes of one node, for tests: from nothing to a node that is ready in seconds, and
//! back to nothing.
//!
//! etcd, the API server, its controllers and scheduler, kubelet, kube-proxy, containerd and CoreDNS run as processes of
//! this machine in namespaces of their own ([`space`]). Images come from archives made here ([`images`]): nothing is
//! pulled, and there is no way out of the node's network.
//!
//! **In**: programs from the peers' cache ([`programs`]), the files in `tests/kubernetes`. **Out**: a folder with
//! kubeconfig, logs and `cluster.env` that tells tests where everything is. **Limits**: one at a time on a machine; every
//! wait ends; all that was started is stopped by its pid.

mod certificates;
mod images;
mod node;
mod processes;
mod programs;
mod space;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::packages;
use crate::shell::{say, target, timed};
use images::Images;
use node::Node;
use programs::Programs;

/// The node's name.
const NODE: &str = "node-1";
/// The machine's address on the pair of interfaces to the node, and the node's.
const HOST_IP: &str = "10.213.64.1";
const NODE_IP: &str = "10.213.64.2";
/// containerd's namespace for tests of containers that Kubernetes has no part in.
const PLAIN: &str = "plain";
/// Where pods and Services have their addresses; the first of the latter is the API server's.
const POD_NET: &str = "10.244.0.0/24";
const SERVICE_NET: &str = "10.96.0.0/24";
const SERVICE_IP: &str = "10.96.0.1";

/// Where the API server answers.
fn api_server() -> String {
    format!("https://{NODE_IP}:6443")
}

/// What `cargo xtask cluster` takes.
#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Start the node, with all images imported; it runs until `down`.
    Up,
    /// Say whether all that a node is made of is built (exit code 0), or has to be (1: a quarter of an hour).
    Cached,
    /// Make the profiler's and the workloads' images anew and import them into the node that runs.
    Images,
    /// Stop the node and take everything away that it left.
    Down,
}

/// Runs a command of the cluster.
///
/// # Errors
/// When the node cannot be had, or does not go.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    match args.what {
        What::Up => {
            prepare()?;
            up()?;
            say(&format!("export KUBECONFIG={}", kubeconfig().display()));
            Ok(())
        }
        What::Cached => match Programs::present()? {
            Some(_) => Ok(()),
            None => bail!("not all of the cluster's programs are built: cargo xtask cluster up"),
        },
        What::Images => {
            let programs = Programs::ensure()?;
            let node = Node::running(&folder(), &programs)?.context("no node runs: cargo xtask cluster up")?;
            node.import(&Images::make(&folder(), &programs)?)
        }
        What::Down => down(),
    }
}

/// Where the node has its files.
pub(crate) fn folder() -> PathBuf {
    target().join("cluster")
}

/// For `kubectl`.
pub(crate) fn kubeconfig() -> PathBuf {
    node::kubeconfig(&folder())
}

/// Installs and builds what a node is made of.
///
/// # Errors
/// When something cannot be had.
pub(crate) fn prepare() -> Result<()> {
    packages::ensure(programs::NEEDS, &target().join("xtask-logs"))?;
    Programs::ensure().map(drop)
}

/// Starts the node, with all images. One that runs already is taken away first.
///
/// # Errors
/// When something is not there, or the node does not become ready.
pub(crate) fn up() -> Result<()> {
    let programs = Programs::present()?.context("the cluster's programs are not there: cargo xtask cluster up")?;
    down()?;
    fs::create_dir_all(folder())?;
    let images = timed("images", || Images::make(&folder(), &programs))?;
    timed("node", || Node::start(&folder(), &programs, &images)).map(drop)
}

/// Stops the node, if one runs, and takes away what is not in its folder.
///
/// # Errors
/// When something stays.
pub(crate) fn down() -> Result<()> {
    let folder = folder();
    if !folder.exists() {
        return Ok(());
    }
    let programs = Programs::present()?;
    if let Some(node) = programs.as_ref().and_then(|p| Node::running(&folder, p).transpose()).transpose()? {
        node.stop()?;
    }
    if !processes::Processes::of(&folder).all().is_empty() {
        bail!("processes of an earlier node run, and its programs are not there to stop it");
    }
    space::restore(&folder)?;
    node::wipe(&folder)
}
