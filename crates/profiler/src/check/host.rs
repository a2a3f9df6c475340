//! What the host gives: /proc, files, cgroups, the port, and walls around the worker process.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

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
            "grant CAP_SYS_PTRACE; what stays closed even then belongs to another user namespace, or to a security module's rule",
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
        // In a pod, the check runs beside the agent.
        Err(_) if runs_already(address) => Item::ok(NAME, format!("{address} is a running profiler's")),
        Err(error) => Item::fails(NAME, format!("{error:#}"), "free it, or choose another one with --listen"),
    }
}

/// Whether a profiler answers there: its metrics say so.
fn runs_already(address: SocketAddr) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    const MAX_ANSWER_BYTES: u64 = 4 << 20;
    let local = if address.is_ipv6() { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let address = if address.ip().is_unspecified() { SocketAddr::new(local, address.port()) } else { address };
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream
            .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| String::from_utf8_lossy(&answer).contains("\nprofiler_build_info{"))
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::State;
    use super::*;

    #[test]
    fn a_port_of_a_running_profiler_is_no_fault_and_anybody_elses_is() {
        let serve = |body: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}").as_bytes());
                drop(stream);
                // The port stays taken.
                std::thread::sleep(Duration::from_secs(5));
                drop(listener);
            });
            port(address)
        };
        let own = serve("# TYPE profiler_build_info gauge\nprofiler_build_info{version=\"1\"} 1\n");
        assert!(own.state == State::Ok && own.seen.contains("running profiler"), "{own:?}");
        assert_eq!(serve("# HELP other\nother 1\n").state, State::Fails);
    }
}
