//! A mounted hierarchy: directories by their number, numbers by their path.
//!
//! **In**: text of `mountinfo`. **Out**: absolute paths. **Units**: the kernel's numbers of cgroups. **Limits**:
//! [`MAX_DIRECTORIES`] looked into by [`Mount::search`].

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};

use super::path::MAX_PATH_BYTES;
use super::text::{self, Hierarchy};

/// A hierarchy's root directory.
pub(super) const ROOT_ID: u64 = 1;
/// `enum fid_type`: the file handle is a number of kernfs.
const FILEID_KERNFS: i32 = 0xfe;
/// Directories looked into for one cgroup.
const MAX_DIRECTORIES: usize = 16 * 1024;

/// A hierarchy, or a part of it, mounted somewhere.
#[derive(Debug)]
pub(super) struct Mount {
    directory: File,
    /// Where: the beginning of whatever path the kernel gives below it.
    at: Vec<u8>,
    /// The number of its root.
    root: u64,
}

/// `struct file_handle` with a number.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: u64,
}

impl Mount {
    /// The mount of a whole hierarchy, among those that a process sees whose root directory is `root`.
    pub(super) fn whole(mountinfo: &[u8], root: &Path, hierarchy: Hierarchy) -> Option<Self> {
        let all = text::mounts(mountinfo, hierarchy);
        all.filter_map(|at| Self::open_at(root, at, hierarchy)).find(|mount| mount.root == ROOT_ID)
    }

    /// The first mount of a hierarchy or of a part.
    pub(super) fn any(mountinfo: &[u8], root: &Path, hierarchy: Hierarchy) -> Option<Self> {
        text::mounts(mountinfo, hierarchy).find_map(|at| Self::open_at(root, at, hierarchy))
    }

    fn open_at(root: &Path, at: &[u8], hierarchy: Hierarchy) -> Option<Self> {
        let path = root.join(OsStr::from_bytes(at.strip_prefix(b"/")?));
        let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path).ok()?;
        let expected = if hierarchy == Hierarchy::Unified { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
        if fstatfs(&directory).ok()?.filesystem_type() != expected {
            return None;
        }
        let root = directory.metadata().ok()?.ino();
        Some(Self { at: link(directory.as_raw_fd())?, directory, root })
    }

    /// The number of its root.
    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// The path of a cgroup below it, by its number.
    pub(super) fn path(&self, number: u64) -> Option<Vec<u8>> {
        let cgroup = self.open(number).ok()?;
        let path = link(cgroup.as_raw_fd())?;
        // What begins otherwise is not below this mount.
        let path = path.strip_prefix(self.at.as_slice())?;
        match path.first() {
            None => Some(b"/".to_vec()),
            Some(b'/') if path.len() <= MAX_PATH_BYTES => Some(path.to_vec()),
            Some(_) => None,
        }
    }

    /// Whether a cgroup is there; none where that cannot be told.
    pub(super) fn exists(&self, number: u64) -> Option<bool> {
        match self.open(number) {
            Ok(_) => Some(true),
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Some(false),
            Err(_) => None,
        }
    }

    /// The number of the cgroup at a path.
    pub(super) fn number(&self, path: &[u8]) -> Option<u64> {
        let at = self.inside().join(OsStr::from_bytes(path.strip_prefix(b"/")?));
        fs::symlink_metadata(at).ok().filter(fs::Metadata::is_dir).map(|m| m.ino())
    }

    /// Looks through it for a cgroup, where that cannot be opened by its number.
    pub(super) fn search(&self, number: u64) -> Option<Vec<u8>> {
        let root = self.inside();
        let mut next = vec![PathBuf::new()];
        for _ in 0..MAX_DIRECTORIES {
            let directory = next.pop()?;
            for entry in fs::read_dir(root.join(&directory)).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let path = directory.join(entry.file_name());
                    if entry.ino() == number {
                        return Some([b"/", path.as_os_str().as_bytes()].concat());
                    }
                    next.push(path);
                }
            }
        }
        None
    }

    fn open(&self, number: u64) -> io::Result<OwnedFd> {
        let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: number };
        // SAFETY: `handle` is laid out as `struct file_handle` with the 8 bytes that it states, and outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                self.directory.as_raw_fd(),
                &raw mut handle,
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the call just returned this descriptor; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A way in that does not depend on where it is mounted.
    fn inside(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }
}

/// What the kernel says that a descriptor is.
fn link(fd: RawFd) -> Option<Vec<u8>> {
    let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.into_os_string().into_vec();
    path.starts_with(b"/").then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On this machine, as root; elsewhere there is nothing to try.
    fn unified() -> Option<(Mount, PathBuf)> {
        let text = fs::read("/proc/self/mountinfo").unwrap();
        let mount = Mount::whole(&text, Path::new("/"), Hierarchy::Unified)?;
        let at = PathBuf::from(OsStr::from_bytes(&mount.at));
        Some((mount, at))
    }

    #[test]
    fn a_cgroup_has_a_number_while_it_is_there() {
        let Some((mount, at)) = unified() else { return };
        let name = format!("profiler-test-{}", std::process::id());
        let outer = at.join(&name);
        let inner = outer.join("a\u{1}\\x2d (deleted)");
        if fs::create_dir_all(&inner).is_err() {
            return;
        }
        let number = fs::metadata(&inner).unwrap().ino();
        let path = format!("/{name}/a\u{1}\\x2d (deleted)").into_bytes();
        let found = mount.path(number);
        assert_eq!(mount.number(&path), Some(number));
        assert_eq!(mount.search(number), Some(path.clone()));
        let exists = mount.exists(number);
        fs::remove_dir(&inner).unwrap();
        fs::remove_dir(&outer).unwrap();
        if exists.is_some() {
            assert_eq!((found, exists), (Some(path.clone()), Some(true)));
            assert_eq!((mount.path(number), mount.exists(number)), (None, Some(false)));
        }
        assert_eq!(mount.number(&path), None);
        assert_eq!(mount.path(ROOT_ID).unwrap_or_else(|| b"/".to_vec()), b"/");
    }
}
