//! The walls around the worker, as the kernel sees them and as the worker runs into them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use objects::{Objects, UnwindRequest, UserSample};
use profile::{ElfAddress, StackEnd};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{Folder, Running, Test, maps, object, room, sample, until_nobody_writes, wait_until};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("sandbox::the_kernel_says_so", the_kernel_says_so),
        ("sandbox::it_knows_nothing_but_what_it_was_handed", knows_nothing),
        ("sandbox::a_call_that_it_does_not_need_ends_it", other_calls_end_it),
        ("sandbox::a_terminals_signals_are_ignored", signals_are_ignored),
        ("sandbox::without_privileges_the_rest_stands", without_privileges),
        ("sandbox::it_ends_with_a_killed_agent_even_while_it_hangs", ends_with_a_killed_agent),
        ("sandbox::snapshots_are_wiped_from_its_memory", snapshots_are_wiped),
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
    assert_eq!(field(&room, "Seccomp"), "2", "a filter");
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

fn knows_nothing() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", "probe"));
    let name = room.names(info.id, &[ElfAddress(0)]).remove(0).unwrap().name;
    // Standard input is the socket; standard output and error, the file, its tables.
    assert_eq!(name, "env=0 fds=5@0");
}

fn other_calls_end_it() {
    let (private, executable) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_EXEC);
    let (own, page) = (i64::from(std::process::id()), 4096);
    let calls = [
        (libc::SYS_getppid, [0; 4]),
        (libc::SYS_openat, [i64::from(libc::AT_FDCWD), 0, 0, 0]),
        (libc::SYS_newfstatat, [0; 4]),
        (libc::SYS_statx, [0; 4]),
        (libc::SYS_socket, [i64::from(libc::AF_INET), i64::from(libc::SOCK_STREAM), 0, 0]),
        (libc::SYS_socketpair, [i64::from(libc::AF_UNIX), i64::from(libc::SOCK_STREAM), 0, 0]),
        (libc::SYS_connect, [0; 4]),
        (libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0]),
        (libc::SYS_execve, [0; 4]),
        (libc::SYS_execveat, [0, 0, 0, 0]),
        (libc::SYS_kill, [own, 0, 0, 0]),
        (libc::SYS_tgkill, [own, own, 0, 0]),
        (libc::SYS_ptrace, [i64::from(libc::PTRACE_TRACEME), 0, 0, 0]),
        (libc::SYS_process_vm_readv, [own, 0, 0, 0]),
        (libc::SYS_bpf, [0; 4]),
        (libc::SYS_perf_event_open, [0; 4]),
        (libc::SYS_io_uring_setup, [8, 0, 0, 0]),
        (libc::SYS_userfaultfd, [0; 4]),
        (libc::SYS_keyctl, [0; 4]),
        (libc::SYS_ioctl, [0; 4]),
        (libc::SYS_fcntl, [0, i64::from(libc::F_SETOWN), own, 0]),
        (libc::SYS_mmap, [0, page, i64::from(executable), i64::from(private)]),
        (libc::SYS_mprotect, [0, 0, i64::from(executable), 0]),
    ];
    let folder = Folder::new();
    let ask = |name: &str, (call, [a, b, c, d]): (i64, [i64; 4])| {
        let room = room();
        let info = object(&room, &folder.executable(name, &format!("call={call},{a},{b},{c},{d}")));
        let answer = room.names(info.id, &[ElfAddress(0)]).remove(0).map(|name| name.name);
        (answer, room.stats().worker_restarts)
    };
    for call in calls {
        // It is tried once more before the file is left alone.
        assert_eq!(ask("forbidden", call), (None, 2), "{call:?}");
    }
    // The same way of asking, with calls that it needs.
    let readable = i64::from(libc::PROT_READ);
    for call in [
        (libc::SYS_getpid, [0; 4]),
        (libc::SYS_mmap, [0, page, readable, i64::from(private)]),
        (libc::SYS_fcntl, [0, i64::from(libc::F_GETFD), 0, 0]),
    ] {
        assert_eq!(ask("needed", call), (Some("done@0".to_owned()), 0), "{call:?}");
    }
    assert_eq!(ask("without_effect", (libc::SYS_close, [-1, 0, 0, 0])).0.unwrap(), "refused@0");
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
    let leak = File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let room = room();
    let fds = fs::read_dir(format!("/proc/{}/fd", room.stats().worker_pid)).unwrap();
    let links: Vec<_> = fds.map(|fd| fs::read_link(fd.unwrap().path()).unwrap()).collect();
    assert_eq!(links.len(), 3, "{links:?}");
    assert_eq!(links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count(), 1, "{links:?}");
    assert_eq!(links.iter().filter(|link| link.as_os_str() == "/dev/null").count(), 2, "{links:?}");
}

fn without_privileges() {
    // As nobody, from a place that nobody can reach.
    let folder = Folder::new();
    let program = folder.path("it");
    fs::copy("/proc/self/exe", &program).unwrap();
    until_nobody_writes(&program);
    for path in [&program, program.parent().unwrap()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--no-new-privs"])
        .arg(&program)
        .args(["--exact", "worker::extracts_loads_unwinds_and_names"])
        .env("TMPDIR", "/tmp")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// An agent of its own, whose worker hangs in a file.
pub(crate) fn agent(file: &Path) {
    let room = room();
    thread::scope(|scope| {
        scope.spawn(|| object(&room, file));
        thread::sleep(Duration::from_millis(300));
        println!("{}", room.stats().worker_pid);
        thread::sleep(Duration::from_secs(600));
    });
}

fn ends_with_a_killed_agent() {
    let folder = Folder::new();
    let file = folder.executable("a", "hang");
    let child = Command::new("/proc/self/exe").arg("agent").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let mut agent = Running(child);
    let mut line = String::new();
    BufReader::new(agent.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let worker = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    assert!(test_kill_process(worker).is_ok());
    drop(agent);
    wait_until("the worker ends", || has_ended(worker));
}

/// Gone, or a zombie that whoever adopted it has not fetched.
fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.contains(") Z"))
}

fn snapshots_are_wiped() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", ""));
    // Made at run time, so that it is nowhere else.
    let secret: Vec<u8> = (0..64_u8).map(|at| at.wrapping_mul(37) ^ 0xa5).collect();
    let with_secret = |command: &str| {
        let mut sample = sample(1, command);
        sample.stack.resize(16 << 10, 0);
        let at = sample.stack.len() - secret.len();
        sample.stack[at..].copy_from_slice(&secret);
        sample
    };
    let samples: Vec<UserSample> = (0..100).map(|_| with_secret("")).collect();
    assert!(find_in_memory(std::process::id(), &secret) > 0, "the search finds what there is");
    let request = UnwindRequest { processes: vec![maps(&[&info])], samples };
    assert!(room.unwind(&request).iter().all(|stack| stack.end == StackEnd::Root));
    assert_eq!(find_in_memory(room.stats().worker_pid, &secret), 0);
    assert_eq!(room.stats().worker_restarts, 0);
}

/// How often some bytes are in a process's writable memory.
fn find_in_memory(pid: u32, wanted: &[u8]) -> usize {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            found += bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
        }
    }
    found
}
