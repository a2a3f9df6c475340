//! A file system that does not answer: a FUSE server, written by hand, that keeps silent where the test says so.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use objects::Objects;

use crate::support::{Folder, Test, impatient, mapped, object, wait_until};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;
const ENOSYS: i32 = 38;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("fuse::a_file_whose_opening_hangs_holds_up_nobody", opening_hangs),
        ("fuse::a_file_whose_reading_hangs_holds_up_nobody", reading_hangs),
    ]
}

/// A mounted file system in which every name is the same file.
struct Silent {
    mount: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Silent {
    /// Mounts it; requests of kind `silent_on` get no answer. None where there is no FUSE.
    fn mount(mount: PathBuf, silent_on: u32) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        fs::create_dir(&mount).unwrap();
        let target = CString::new(mount.as_os_str().as_encoded_bytes()).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = CString::new(options).unwrap();
        // SAFETY: strings that live until the call returns.
        let result =
            unsafe { libc::mount(c"silent".as_ptr(), target.as_ptr(), c"fuse".as_ptr(), 0, options.as_ptr().cast()) };
        if result != 0 {
            return None;
        }
        let server = Some(thread::spawn(move || serve(device, silent_on)));
        Some(Self { mount, server })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let target = CString::new(self.mount.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: a string that lives until the calls return. Forcing fails all that waits; the file system is then
        // let go of even if somebody still holds files.
        unsafe {
            libc::umount2(target.as_ptr(), libc::MNT_FORCE);
            libc::umount2(target.as_ptr(), libc::MNT_DETACH);
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn serve(mut device: File, silent_on: u32) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(bytes) = device.read(&mut buffer) {
        let request = &buffer[..bytes];
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let (opcode, node) = (word(4), word(16));
        let body = match opcode {
            FORGET | BATCH_FORGET => continue,
            silent if silent == silent_on => continue,
            INIT => {
                let mut body = [7_u32, 31, 0, 0, 0, 4096, 1].map(u32::to_le_bytes).concat();
                body.resize(64, 0);
                Ok(body)
            }
            LOOKUP => Ok([long(&[2, 0, 3600, 3600, 0]), attributes(2)].concat()),
            GETATTR => Ok([long(&[3600, 0]), attributes(node)].concat()),
            OPEN => Ok(long(&[1, 0])),
            STATFS => Ok(vec![0; 80]),
            _ => Err(ENOSYS),
        };
        let (error, body) = body.map_or_else(|error| (-error, Vec::new()), |body| (0, body));
        let mut reply = (16 + body.len() as u32).to_le_bytes().to_vec();
        reply.extend_from_slice(&error.to_le_bytes());
        reply.extend_from_slice(&request[8..16]);
        reply.extend_from_slice(&body);
        let _ = device.write(&reply);
    }
}

fn long(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `struct fuse_attr`: the root is a directory, everything else a file.
fn attributes(node: u32) -> Vec<u8> {
    let mode: u32 = if node == 1 { 0o040_755 } else { 0o100_755 };
    let mut bytes = long(&[node.into(), 100_000, 200, 0, 0, 0]);
    bytes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes).concat());
    bytes
}

/// How long it takes to learn that a file is not readable.
fn unreadable_after(room: &Objects, path: &Path) -> Duration {
    let start = Instant::now();
    assert!(!object(room, path).readable);
    start.elapsed()
}

fn opening_hangs() {
    let folder = Folder::new();
    let Some(silent) = Silent::mount(folder.path("mount"), OPEN) else {
        println!("there is no FUSE here");
        return;
    };
    let mut config = impatient();
    config.timeouts.open = Duration::from_secs(2);
    let room = Objects::start(config).unwrap();
    let path = silent.mount.join("a");
    assert_eq!(mapped(&path).inode, 2, "names are answered");
    assert!(unreadable_after(&room, &path) >= Duration::from_secs(2));
    // The device is known for it now.
    thread::sleep(Duration::from_millis(150));
    assert!(unreadable_after(&room, &path) < Duration::from_secs(2), "it was opened again");
    let good = folder.executable("good", "");
    assert!(object(&room, &good).readable);
    assert_eq!(room.stats().worker_restarts, 0);
    assert_eq!(room.stats().open_errors, 2);
    drop(silent);
}

fn reading_hangs() {
    let folder = Folder::new();
    let Some(silent) = Silent::mount(folder.path("mount"), READ) else {
        println!("there is no FUSE here");
        return;
    };
    let room = Objects::start(impatient()).unwrap();
    let stuck = room.stats().worker_pid;
    assert!(unreadable_after(&room, &silent.mount.join("a")) >= Duration::from_millis(700));
    assert_eq!(room.stats().worker_restarts, 1);
    // Neither the worker that cannot be killed nor another file of the device holds up the next one.
    let good = folder.executable("good", "");
    assert!(object(&room, &good).readable);
    assert_ne!(fs::metadata(&good).unwrap().dev(), fs::metadata(&silent.mount).unwrap().dev());
    drop(silent);
    wait_until("the stuck worker ends", || {
        let stat = fs::read_to_string(format!("/proc/{stuck}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z"))
    });
}
