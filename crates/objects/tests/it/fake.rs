//! Workers that talk nonsense, as one that a target has taken over might. Messages are written by hand: this is also
//! the test that their form on the wire is what it is.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use objects::{Objects, UnwindRequest};
use profile::{ElfAddress, StackEnd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::support::{Folder, NOBODY, Test, config_with, mapped, sample};

/// What a fake worker answers to every request.
const KINDS: [&str; 17] = [
    "nothing",
    "close",
    "magic",
    "random",
    "huge-meta",
    "huge-bulk",
    "short",
    "tail",
    "hello-again",
    "stacks",
    "endless-stacks",
    "names",
    "two-descriptors",
    "unsealed",
    "wrong-size",
    "bad-runs",
    "unexpected-descriptor",
];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("fake::nonsense_costs_workers_never_the_agent", nonsense),
        ("fake::descriptors_are_not_leaked", descriptors_are_not_leaked),
        ("fake::a_wrong_hello_is_refused", wrong_hello),
    ]
}

fn nonsense() {
    for kind in KINDS {
        let mut config = config_with(&["fake-worker", kind]);
        config.timeouts.unwind = Duration::from_millis(100);
        config.timeouts.extract = Duration::from_millis(100);
        let (room, folder) = (Objects::start(config).unwrap(), Folder::new());
        let start = Instant::now();
        let path = folder.executable("a", "");
        let info = room.object(&mapped(&path), NOBODY, 0..0);
        assert!(!info.readable, "{kind}");
        assert_eq!(room.names(info.id, &[ElfAddress(1)]), [None], "{kind}");
        let processes = vec![vec![profile::MapEntry { start: 0x10000, end: 0x20000, file_offset: 0, object: None }]];
        let stacks = room.unwind(&UnwindRequest { processes, samples: vec![sample(1, ""), sample(1, "")] });
        assert_eq!(stacks.len(), 2, "{kind}");
        assert!(stacks.iter().all(|stack| stack.end == StackEnd::WorkerFailed), "{kind}: {stacks:?}");
        let stats = room.stats();
        assert!(stats.worker_restarts >= 3 && stats.worker_failed_requests >= 3, "{kind}: {stats:?}");
        assert_eq!((stats.table_bytes, stats.extracted), (0, 0), "{kind}");
        assert!(start.elapsed() < Duration::from_secs(60), "{kind}");
    }
}

fn descriptors_are_not_leaked() {
    for kind in ["two-descriptors", "unsealed", "wrong-size", "unexpected-descriptor"] {
        let (room, folder) = (Objects::start(config_with(&["fake-worker", kind])).unwrap(), Folder::new());
        let count = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            links.filter_map(|fd| std::fs::read_link(fd.path()).ok()).filter(|link| is_from_fake(link)).count()
        };
        for at in 0..20 {
            let _ = room.object(&mapped(&folder.executable(&format!("f{at}"), "")), NOBODY, 0..0);
        }
        assert_eq!(count(), 0, "{kind}");
    }
}

fn is_from_fake(link: &std::path::Path) -> bool {
    link.to_string_lossy().contains("memfd:fake") || link.as_os_str() == "/etc/hostname"
}

fn wrong_hello() {
    for kind in ["version", "no-hello"] {
        let start = Instant::now();
        assert!(Objects::start(config_with(&["fake-worker", kind])).is_err(), "{kind}");
        assert!(start.elapsed() < Duration::from_secs(60), "{kind}");
    }
}

/// The fake worker.
pub(crate) fn run(kind: &str) {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let hello = match kind {
        "version" => vec![0, 99, 1, 1, 1, 1, 1, 1, 1, 1],
        "no-hello" => vec![4, 0],
        _ => vec![0, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    };
    message(&socket, &hello, &[]);
    loop {
        let mut head = [0; 16];
        if (&socket).read_exact(&mut head).is_err() {
            return;
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let mut rest = vec![0; (word(4) + word(8)) as usize];
        (&socket).read_exact(&mut rest).unwrap();
        // It says what a file is like any other, where the nonsense is in the tables.
        let is_identify = rest.first() == Some(&5);
        if is_identify && matches!(kind, "two-descriptors" | "unsealed" | "wrong-size" | "bad-runs") {
            message(&socket, &[6, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        } else if !answer(&socket, kind) {
            return;
        }
    }
}

fn answer(socket: &UnixStream, kind: &str) -> bool {
    let file = File::open("/etc/hostname").unwrap();
    // Extracted: hash "", no ELF, 16 + 0 + 16 bytes of tables, no problem, no debug file, no fingerprint.
    let extracted = [1, 0, 0, 16, 0, 16, 0, 0, 0];
    match kind {
        "nothing" => std::thread::sleep(Duration::from_secs(60)),
        "close" => return false,
        "magic" => raw(socket, [0x3157_5251, 2, 0, 0], &[2, 0]),
        "random" => {
            let bytes: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let _ = (&*socket).write_all(&bytes);
        }
        "huge-meta" => raw(socket, [MAGIC, u32::MAX, 0, 0], &[0; 64]),
        "huge-bulk" => raw(socket, [MAGIC, 2, u32::MAX, 0], &[0; 64]),
        "short" => raw(socket, [MAGIC, 1000, 0, 0], &[2, 0]),
        "tail" => message(socket, &[2, 0, 0, 0, 0], &[]),
        "hello-again" => message(socket, &[0, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[]),
        // Two stacks of one frame each, of an object that is not mapped.
        "stacks" => message(socket, &[3, 2, 1, 0, 77, 1, 0, 1, 0, 77, 1, 0], &[]),
        // Two billion stacks, says the length.
        "endless-stacks" => message(socket, &[3, 0xff, 0xff, 0xff, 0xff, 7, 0, 0], &[]),
        // One name, empty.
        "names" => message(socket, &[4, 1, 1, 0, 0], &[]),
        "two-descriptors" => message(socket, &extracted, &[file.as_fd(), file.as_fd()]),
        "unsealed" => {
            let memfd = rustix::fs::memfd_create("fake", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&memfd, 64).unwrap();
            message(socket, &extracted, &[memfd.as_fd()]);
        }
        // One run of blocks, of a file without any.
        "bad-runs" => {
            let mut extracted = vec![1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1];
            extracted.extend([0; 32]);
            message(socket, &extracted, &[]);
        }
        "wrong-size" => {
            use rustix::fs::SealFlags;
            let memfd = rustix::fs::memfd_create("fake", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&memfd, 1 << 20).unwrap();
            let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
            rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
            message(socket, &extracted, &[memfd.as_fd()]);
        }
        // A name reply may not carry one.
        "unexpected-descriptor" => message(socket, &[4, 1, 0], &[file.as_fd()]),
        other => panic!("{other}"),
    }
    true
}

const MAGIC: u32 = 0x3157_5250;

fn message(socket: &UnixStream, meta: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let head = [MAGIC, meta.len() as u32, 0, descriptors.len() as u32].map(u32::to_le_bytes).concat();
    let mut space = [MaybeUninit::uninit(); 256];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let _ = sendmsg(socket, &[std::io::IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL);
    let _ = (&*socket).write_all(meta);
}

fn raw(socket: &UnixStream, head: [u32; 4], bytes: &[u8]) {
    let _ = (&*socket).write_all(&head.map(u32::to_le_bytes).concat());
    let _ = (&*socket).write_all(bytes);
}
