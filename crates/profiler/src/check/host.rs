//! What the host gives: /proc, files, cgroups, the port, and walls around the worker process.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use objects::{Objects, ObjectsConfig};

use super::{Item, cgroups};
use crate::listen;

/// Looks at all of it.
pub(super) fn look(address: SocketAddr, host_root: &Path) -> Vec<Item> {
    vec![proc(), root(host_root), cgroups::look(), port(address), worker()]
}

fn proc() -> Item {
    const NAME: &str = "other processes";
    if !Path::new("/proc/1").exists() {
        return Item::fails(
            NAME,
            "/proc does not show process 1",
            "mount /proc without hidepid, or grant CAP_SYS_PTRACE",
        );
    }
    let (mut all, mut closed) = (0_u32, 0_u32);
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        all += 1;
        let denied = std::fs::read(entry.path().join("maps")).is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
        closed += u32::from(denied);
    }
    match closed {
        0 => Item::ok(NAME, format!("/proc shows the mappings of all {all}")),
        n => Item::limited(
            NAME,
            format!("the mappings of {n} of {all} cannot be read: what they do is sampled, but stays unnamed"),
            "grant CAP_SYS_PTRACE, and those capabilities that these processes have and this one has not",
        ),
    }
}

/// Whether the files of processes and of the host are in reach.
fn root(host_root: &Path) -> Item {
    const NAME: &str = "the host's files";
    let shown = host_root.display();
    match host_root.join("etc").read_dir() {
        Ok(_) => Item::ok(NAME, format!("in reach, at {shown}")),
        Err(error) => Item::limited(
            NAME,
            format!("{shown}: {error}"),
            "grant CAP_SYS_PTRACE (and in a container AppArmor's `Unconfined`): without it the names of containers that no kubelet knows, and the \
             host's name, stay unknown",
        ),
    }
}

fn port(address: SocketAddr) -> Item {
    const NAME: &str = "port";
    match listen::bind(address) {
        Ok(_) => Item::ok(NAME, format!("{address} is free")),
        Err(error) => Item::fails(NAME, format!("{error:#}"), "free it, or choose another one with --listen"),
    }
}

fn worker() -> Item {
    const NAME: &str = "worker process";
    match Objects::start(ObjectsConfig::default()) {
        Ok(objects) => {
            let missing = objects.sandbox().missing();
            objects.shutdown();
            if missing.is_empty() {
                Item::ok(NAME, "starts, with every wall around it")
            } else {
                let seen = format!("starts, without these walls: {}", missing.join(", "));
                Item::limited(NAME, seen, "run as root on a kernel with Landlock (5.13); it works all the same")
            }
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            Item::fails(NAME, format!("{error:#}"), "the profiler must be able to start itself: mount /proc")
        }
    }
}
