//! What the host gives: /proc, cgroups, the port, and walls around the worker process.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use objects::{Objects, ObjectsConfig};

use super::Item;
use crate::listen;

/// Looks at all of it.
pub(super) fn look(address: SocketAddr) -> Vec<Item> {
    vec![proc(), cgroup(), port(address), worker()]
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

fn cgroup() -> Item {
    const NAME: &str = "cgroups";
    for (path, seen) in [("/sys/fs/cgroup", "version 2"), ("/sys/fs/cgroup/unified", "version 2 beside version 1")] {
        if Path::new(path).join("cgroup.controllers").exists() {
            return Item::ok(NAME, format!("{seen}, at {path}"));
        }
    }
    Item::limited(NAME, "no version 2 hierarchy", "mount cgroup2 at /sys/fs/cgroup: without it containers have no ids")
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
