//! Files of the host, from a process that may be in a container of its own.
//!
//! Paths are resolved inside the host's root: a link in them leads nowhere else. **Limits**: [`MAX_FILE`] bytes of regular
//! files only, [`MAX_ENTRIES`] names of a directory.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat, openat2};
use rustix::io::Errno;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// The most names of a directory.
const MAX_ENTRIES: usize = 16_384;

/// A directory below which paths are resolved.
#[derive(Debug)]
pub(super) struct Host {
    root: OwnedFd,
}

impl Host {
    pub(super) fn open(root: &Path) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: open(root, flags, Mode::empty())? })
    }

    /// The content of a file; none if it is not there, not regular, or too large.
    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        let file = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        content(file)
    }

    /// The names in a directory.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let Some(directory) = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(entries) = Dir::new(directory) else { return Vec::new() };
        let names = entries.take(MAX_ENTRIES).flatten().filter_map(|e| e.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| !name.starts_with('.')).collect()
    }

    /// The home directory of a user, as the host's list of users says.
    pub(super) fn home(&self, user: u32) -> Option<String> {
        let users = String::from_utf8(self.read("etc/passwd")?).ok()?;
        let of = |line: &str| {
            let mut fields = line.split(':');
            let uid: u32 = fields.nth(2)?.parse().ok()?;
            (uid == user).then(|| fields.nth(2).map(str::to_owned))?
        };
        users.lines().find_map(of).filter(|home| home.starts_with('/'))
    }

    fn at(&self, path: &str, flags: OFlags) -> Option<OwnedFd> {
        let path = path.trim_start_matches('/');
        let flags = flags | OFlags::CLOEXEC;
        match openat2(
            self.root.as_fd(),
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Ok(file) => Some(file),
            // Some sandboxes know no openat2: then no link at the end at least.
            Err(Errno::NOSYS | Errno::PERM) => {
                openat(self.root.as_fd(), path, flags | OFlags::NOFOLLOW, Mode::empty()).ok()
            }
            Err(_) => None,
        }
    }
}

/// The content of a file of a running process (`/proc`), by its whole path.
pub(super) fn read_proc(path: &str, max: u64) -> Option<Vec<u8>> {
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut out = Vec::new();
    std::fs::File::from(file).take(max).read_to_end(&mut out).ok()?;
    Some(out)
}

/// The content of a file below a directory that `/proc` leads to.
pub(super) fn read_below(directory: &str, path: &str) -> Option<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory, flags, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    content(openat(directory, path, flags, Mode::empty()).ok()?)
}

fn content(file: OwnedFd) -> Option<Vec<u8>> {
    let stat = fstat(&file).ok()?;
    let size = u64::try_from(stat.st_size).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > MAX_FILE {
        return None;
    }
    let mut out = Vec::new();
    // It may grow while it is read.
    std::fs::File::from(file).take(MAX_FILE).read_to_end(&mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("etc/file"), "inside").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/up")).unwrap();
        std::os::unix::fs::symlink("/etc/file", root.join("etc/absolute")).unwrap();
        rustix::fs::mknodat(CWD, root.join("etc/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let host = Host::open(&root).unwrap();
        assert_eq!(host.read("etc/file").as_deref(), Some(&b"inside"[..]));
        assert_eq!(host.read("/etc/absolute").as_deref(), Some(&b"inside"[..]));
        for path in ["etc/up", "../secret", "etc/pipe", "etc", "none", ""] {
            assert_eq!(host.read(path), None, "{path}");
        }
        assert_eq!(host.list("etc").len(), 4);
        assert!(host.list("etc/file").is_empty() && Host::open(&root.join("none")).is_err());
        let large = std::fs::File::create(root.join("large")).unwrap();
        large.set_len(MAX_FILE + 1).unwrap();
        assert_eq!(host.read("large"), None);
    }

    #[test]
    fn homes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let users = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\nodd:x:7:7::relative:x\n";
        std::fs::write(dir.path().join("etc/passwd"), users).unwrap();
        let host = Host::open(dir.path()).unwrap();
        assert_eq!(host.home(1000).as_deref(), Some("/home/ann"));
        assert_eq!((host.home(0).as_deref(), host.home(7), host.home(8)), (Some("/root"), None, None));
    }
}
