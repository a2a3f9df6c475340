//! Files with commands, processes that map them, and a room whose worker is this executable.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use objects::{MappedFile, Objects, ObjectsConfig, Timeouts, UserSample, WorkerCommand};
use profile::{MapEntry, ObjectInfo, UserRegisters};

use crate::tools::COMMAND_BYTES;

pub(crate) type Test = (&'static str, fn());

/// How long a room of these tests waits for its worker: longer than a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A room whose worker has the test tools.
pub(crate) fn config() -> ObjectsConfig {
    config_with(&["worker"])
}

pub(crate) fn config_with(args: &[&str]) -> ObjectsConfig {
    ObjectsConfig {
        worker: WorkerCommand {
            program: std::env::current_exe().unwrap(),
            args: args.iter().map(OsString::from).collect(),
            inherit_stderr: false,
        },
        timeouts: Timeouts {
            extract: PATIENCE,
            load: PATIENCE,
            unwind: PATIENCE,
            names: PATIENCE,
            // What blocks is seen by the time that it takes.
            open: 2 * PATIENCE,
            ..Timeouts::default()
        },
        ..ObjectsConfig::default()
    }
}

/// As `config`, for what is to hang.
pub(crate) fn impatient() -> ObjectsConfig {
    let mut config = config();
    let timeout = Duration::from_millis(700);
    config.timeouts = Timeouts { extract: timeout, load: timeout, unwind: timeout, names: timeout, ..config.timeouts };
    config
}

pub(crate) fn room() -> Objects {
    Objects::start(config()).unwrap()
}

/// An executable of this machine with a command at its end.
pub(crate) fn executable(path: &Path, command: &str) {
    let mut content = fs::read("/bin/sleep").unwrap();
    let mut text = if command.is_empty() { String::new() } else { format!("command:{command}") }.into_bytes();
    text.resize(COMMAND_BYTES as usize, b' ');
    content.extend_from_slice(&text);
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&content).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    drop(file);
    until_nobody_writes(path);
}

/// Until a file can be executed. Another thread that starts a program has what is open here for a moment too.
pub(crate) fn until_nobody_writes(path: &Path) {
    let file = fs::File::open(path).unwrap();
    let start = Instant::now();
    // SAFETY: a system call on a descriptor that is open.
    let lease = |kind: libc::c_int| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    // A lease is to be had where nobody has the file open for writing.
    while lease(libc::F_RDLCK) != 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
        assert!(start.elapsed() < PATIENCE, "{} is being written", path.display());
        std::thread::yield_now();
    }
    lease(libc::F_UNLCK);
}

/// A file as a mapping of a process that does not exist: found by its path.
pub(crate) fn mapped(path: &Path) -> MappedFile {
    let meta = fs::metadata(path).unwrap();
    MappedFile {
        major: rustix::fs::major(meta.dev()),
        minor: rustix::fs::minor(meta.dev()),
        inode: meta.ino(),
        generation: 0,
        path: path.as_os_str().as_encoded_bytes().to_vec(),
    }
}

/// A tgid that no process has.
pub(crate) const NOBODY: u32 = 4_194_303;

pub(crate) fn object(room: &Objects, path: &Path) -> Arc<ObjectInfo> {
    room.object(&mapped(path), NOBODY, 0..0)
}

/// Files of one test.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn executable(&self, name: &str, command: &str) -> PathBuf {
        let path = self.path(name);
        executable(&path, command);
        path
    }
}

/// A running process, killed when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Starts a copy of `sleep`, and waits until it runs.
    pub(crate) fn sleep(program: &Path) -> Self {
        let child = Command::new(program).arg("600").stdin(Stdio::null()).spawn().unwrap();
        Self::when_it_runs(child, program)
    }

    /// Waits until a process executes a file, with its libraries.
    pub(crate) fn when_it_runs(child: Child, program: &Path) -> Self {
        let running = Self(child);
        let wanted = fs::metadata(program).unwrap().ino();
        wait_until("it has been executed", || {
            fs::metadata(format!("/proc/{}/exe", running.pid())).is_ok_and(|exe| exe.ino() == wanted)
                && fs::read_to_string(format!("/proc/{}/maps", running.pid())).is_ok_and(|maps| maps.contains("libc"))
        });
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its executable mapping of the file with this inode.
    pub(crate) fn mapping(&self, inode: u64) -> (MappedFile, Range<u64>) {
        let maps = fs::read(format!("/proc/{}/maps", self.pid())).unwrap();
        let maps = String::from_utf8_lossy(&maps).into_owned();
        let line = maps
            .lines()
            .find(|line| line.split_whitespace().nth(4) == Some(&inode.to_string()) && line.contains(" r-xp "))
            .unwrap_or_else(|| panic!("inode {inode} is not mapped:\n{maps}"));
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = columns[0].split_once('-').unwrap();
        let (major, minor) = columns[3].split_once(':').unwrap();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let path = line.as_bytes()[line.find('/').unwrap()..].to_vec();
        let file = MappedFile { major: number(major) as u32, minor: number(minor) as u32, inode, generation: 0, path };
        (file, number(start)..number(end))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The mapping of an object at 0x10000 * its place, 0x1000 bytes long.
pub(crate) fn maps(objects: &[&Arc<ObjectInfo>]) -> Vec<MapEntry> {
    (1..)
        .zip(objects)
        .map(|(place, object)| MapEntry {
            start: 0x10000 * place,
            end: 0x10000 * place + 0x1000,
            file_offset: 0,
            object: Some(object.id),
        })
        .collect()
}

/// A sample of the first process whose pc is in the mapping at this place; the stack may hold a command.
pub(crate) fn sample(place: u64, command: &str) -> UserSample {
    let mut stack = command.as_bytes().to_vec();
    stack.resize(64, 0);
    UserSample {
        process: 0,
        registers: UserRegisters { pc: 0x10000 * place + 0x10, sp: 0x7fff_0000, fp: 0, lr: 0 },
        stack,
    }
}
