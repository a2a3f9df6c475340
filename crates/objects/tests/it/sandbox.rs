//! The walls around the worker, as the kernel sees them and as the worker runs into them.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use objects::Objects;
use profile::ElfAddress;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{Folder, Test, object, room};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("sandbox::the_kernel_says_so", the_kernel_says_so),
        ("sandbox::network_files_and_children_are_out_of_reach", out_of_reach),
        ("sandbox::a_terminals_signals_are_ignored", signals_are_ignored),
        ("sandbox::it_has_no_inherited_descriptors", no_inherited_descriptors),
    ]
}

fn field(room: &Objects, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", room.stats().worker_pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {status}"));
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

fn the_kernel_says_so() {
    let room = room();
    let none = "0000000000000000";
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&room, set), none, "{set}");
    }
    assert_eq!(field(&room, "NoNewPrivs"), "1");
    assert_eq!(field(&room, "Uid"), "65534 65534 65534 65534");
    assert_eq!(field(&room, "Gid"), "65534 65534 65534 65534");
    assert_eq!(field(&room, "Groups"), "");
    assert_eq!(field(&room, "Threads"), "1");
    assert_eq!(field(&room, "Name"), "profiler-worker");

    let pid = room.stats().worker_pid;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (name, value) in [("Max core file size", "0"), ("Max open files", "16"), ("Max processes", "0")] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_whitespace().next(), Some(value), "{name}");
    }
    for name in ["Max address space", "Max data size", "Max file size"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_ne!(line.split_whitespace().next(), Some("unlimited"), "{name}");
    }
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(arguments.starts_with(b"profiler-worker\0"));

    let missing = room.sandbox().missing();
    // Landlock may be switched off; everything else is root's to have.
    assert!(missing.is_empty() || missing == ["no_files"], "{missing:?}");
}

fn out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", &format!("probe={port}")));
    let name = room.names(info.id, &[ElfAddress(0)]).remove(0).unwrap().name;
    let opened = room.sandbox().missing().contains(&"no_files");
    // Standard input is the socket; standard output and error, the file.
    let expected = format!("connect=false open={opened} fork=false env=0 fds=4@0");
    assert_eq!(name, expected);
}

fn signals_are_ignored() {
    let room = room();
    let worker = Pid::from_raw(room.stats().worker_pid as i32).unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        kill_process(worker, signal).unwrap();
    }
    thread::sleep(Duration::from_millis(50));
    assert!(test_kill_process(worker).is_ok());
    assert!(object(&room, &Folder::new().executable("a", "")).readable);
    assert_eq!(room.stats().worker_restarts, 0);
}

fn no_inherited_descriptors() {
    // A library that forgets O_CLOEXEC.
    let leak = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let room = room();
    let fds = fs::read_dir(format!("/proc/{}/fd", room.stats().worker_pid)).unwrap();
    let links: Vec<_> = fds.map(|fd| fs::read_link(fd.unwrap().path()).unwrap()).collect();
    assert_eq!(links.len(), 3, "{links:?}");
    assert_eq!(links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count(), 1, "{links:?}");
    assert_eq!(links.iter().filter(|link| link.as_os_str() == "/dev/null").count(), 2, "{links:?}");
}
