//! Containers without Kubernetes: of podman, and of containerd by `ctr`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Cluster, finished};
use crate::figure;
use crate::paths;

/// containerd's namespace that Kubernetes has no part in.
pub const PLAIN: &str = "plain";

/// A container that runs; removed when it goes out of scope.
#[derive(Debug)]
pub struct Contained {
    /// Its full id.
    pub id: String,
    /// Commands that take it away.
    end: Vec<Vec<String>>,
}

impl Drop for Contained {
    fn drop(&mut self) {
        for words in &self.end {
            if let [program, rest @ ..] = words.as_slice()
                && let Err(error) = finished(Command::new(program).args(rest), &words.join(" "))
            {
                figure(format!("{error:#}"));
            }
        }
    }
}

fn words(command: &Command) -> Vec<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect()
}

/// A container of podman on this machine, with the image of one of the cluster's archives.
///
/// # Errors
/// When podman fails.
pub fn podman(folder: &Path, name: &str, image: &str, args: &[&str]) -> Result<Contained> {
    // No network and no limits of its own making: a test machine may allow neither.
    let settings = folder.join("containers.conf");
    std::fs::write(
        &settings,
        "[containers]\nnetns = \"host\"\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]\n\
         [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
    )?;
    let podman = || {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", &settings);
        command
    };
    let archive = paths::cluster()?.join("images").join(format!("{}.tar", image.replace(['/', ':'], "_")));
    finished(podman().args(["load", "--quiet", "--input"]).arg(&archive), "podman load")?;
    let id = finished(
        podman().args(["run", "--detach", "--pull", "never", "--name", name, image]).args(args),
        &format!("podman run {name}"),
    )?;
    let remove = ["podman", "rm", "--force", "--time", "0", name].map(str::to_owned).to_vec();
    let image = ["podman", "rmi", image].map(str::to_owned).to_vec();
    Ok(Contained { id: id.trim().to_owned(), end: vec![remove, image] })
}

/// A container of containerd alone, under an id of the test's choice.
///
/// # Errors
/// When containerd refuses it.
pub fn containerd(cluster: &Cluster, id: &str, image: &str, args: &[&str]) -> Result<Contained> {
    let archive = paths::cluster()?.join("images").join(format!("{}.tar", image.replace(['/', ':'], "_")));
    cluster.ctr(PLAIN, &["images", "import", &archive.to_string_lossy()])?;
    let run = ["run", "--detach", "--runc-binary", cluster.fact("RUNC")?, image, id];
    let program = format!("/usr/bin/{}", image.trim_start_matches("localhost/").split(':').next().unwrap_or(image));
    cluster.ctr(PLAIN, &[&run, [program.as_str()].as_slice(), args].concat())?;
    let base = cluster.ctr_words(PLAIN)?;
    let end = |rest: &[&str]| [base.clone(), rest.iter().map(|&w| w.to_owned()).collect()].concat();
    Ok(Contained {
        id: id.to_owned(),
        end: vec![
            end(&["tasks", "kill", "--signal", "SIGKILL", id]),
            end(&["tasks", "delete", "--force", id]),
            end(&["containers", "delete", id]),
        ],
    })
}

impl Cluster {
    fn ctr_words(&self, namespace: &str) -> Result<Vec<String>> {
        let mut command = self.inside(self.fact("CTR")?)?;
        command.args(["--address", "/run/containerd/containerd.sock", "--namespace", namespace]);
        Ok(words(&command))
    }
}
