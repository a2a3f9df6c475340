//! Finding and opening the file behind a mapping.
//!
//! A path alone proves nothing: the file may have been replaced, and paths are the process's own. Every way is tried
//! with `O_PATH` first, which has no effect on devices and FIFOs; only what is a regular file with the mapping's inode
//! and device is opened for reading. Ways, in this order: the kernel's own link to the mapped file; the path below the
//! process's root; its executable; the path below our root; the path below the roots of processes of other mount
//! namespaces (for a process that has ended already).
//!
//! **In**: a mapping (numbers from the kernel, a hostile path). **Out**: a descriptor for reading, and the file's
//! state. **Units**: bytes, nanoseconds. **Limits**: [`MAX_MAPS_BYTES`], [`MAX_ROOTS`]. Blocking is the caller's
//! matter (`timed`).

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Statx, StatxFlags, fstat, fstatfs, major, minor, open,
    openat2, statx,
};
use rustix::io::Errno;

use crate::MappedFile;

/// Bytes of `/proc/PID/maps` that are searched for the file.
const MAX_MAPS_BYTES: u64 = 8 << 20;
/// Mount namespaces remembered, each by the last process of it that a file was opened for.
const MAX_ROOTS: usize = 32;
/// What the kernel puts behind the path of a deleted file.
const DELETED: &[u8] = b" (deleted)";
/// File systems where a mapping's device is not the one that `stat` tells: `OVERLAYFS_SUPER_MAGIC`, which may tell a
/// number of its own for each layer, and `BTRFS_SUPER_MAGIC` (subvolumes).
const ODD_DEVICES: [u64; 2] = [OVERLAY, BTRFS];
const OVERLAY: u64 = 0x794c_7630;
const BTRFS: u64 = 0x9123_683e;
/// Since this version of Linux a mapping has its overlay's device, as that's directories have it; before, its layer's.
const OVERLAYS_TELL: (u32, u32) = (6, 18);
/// FUSE, NFS, SMB and its successors, 9P, Ceph, Lustre, AFS.
const REMOTE: [u64; 8] =
    [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400, 0x0bd0_0bd0, 0x5346_414f];

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) file: MappedFile,
    /// A process that maps it, or did.
    pub(crate) tgid: u32,
    /// Where.
    pub(crate) range: Range<u64>,
}

/// What differs between two states of one inode's content, or between two files that had the inode one after the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) bytes: u64,
    /// Seconds and nanoseconds since the Unix epoch.
    pub(crate) modified: (i64, i64),
    /// Of the inode: also changes with links, owners and modes.
    pub(crate) changed: (i64, i64),
}

impl Change {
    /// Whether the content is the same, as far as times tell.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        (self.bytes, self.modified) == (other.bytes, other.modified)
    }
}

/// An opened file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) descriptor: OwnedFd,
    pub(crate) change: Change,
    /// It has no name any more: a ` (deleted)` behind its path is the kernel's.
    pub(crate) deleted: bool,
    /// It is on a file system that has to ask others, who may not answer.
    pub(crate) is_remote: bool,
}

/// Why a file is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// No way led to any file.
    #[error("no way leads to it")]
    Absent,
    /// The process that maps it has ended, and nothing else leads to it.
    #[error("its process has ended")]
    Gone,
    /// Files were found, but others.
    #[error("another file is in its place")]
    Mismatch,
    /// It is the file, but no regular one.
    #[error("not a regular file")]
    NotRegular,
    /// The file system did not answer.
    #[error("its file system does not answer")]
    TimedOut,
}

/// Processes whose roots other processes' files may be found by.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    /// Mount namespace and process, the last used first.
    recent: Mutex<VecDeque<(u64, u32)>>,
}

impl Roots {
    /// Remembers a living process's mount namespace.
    fn remember(&self, tgid: u32) {
        let Some(namespace) = mount_namespace(&tgid.to_string()) else { return };
        if mount_namespace("self") == Some(namespace) {
            return;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(other, _)| *other != namespace);
        recent.push_front((namespace, tgid));
        recent.truncate(MAX_ROOTS);
    }

    fn tgids(&self) -> Vec<u32> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, tgid)| *tgid).collect()
    }
}

/// Opens the file behind a mapping.
pub(crate) fn open_mapped(wanted: &Wanted, roots: &Roots) -> Result<Opened, OpenError> {
    let mut search = Search { wanted, best: OpenError::Absent };
    let tgid = wanted.tgid;
    let alive = || roots.remember(tgid);

    if let Some(opened) = search.by_link(&wanted.range) {
        alive();
        return Ok(opened);
    }
    if let Some(range) = mapped_elsewhere(wanted)
        && let Some(opened) = search.by_link(&range)
    {
        alive();
        return Ok(opened);
    }
    let paths = paths(&wanted.file.path);
    for path in &paths {
        if let Some(opened) = search.below(&format!("/proc/{tgid}/root"), path, Whose::TheProcess) {
            alive();
            return Ok(opened);
        }
    }
    // What it executes need not be what is wanted, and an overlay's file says little by its number.
    if let Some(opened) = search.try_path(format!("/proc/{tgid}/exe").as_bytes(), Whose::TheExecutable) {
        alive();
        return Ok(opened);
    }
    for path in &paths {
        if let Some(opened) = search.try_path(path, Whose::Others) {
            return Ok(opened);
        }
    }
    for sibling in roots.tgids() {
        for path in &paths {
            if let Some(opened) = search.below(&format!("/proc/{sibling}/root"), path, Whose::Others) {
                return Ok(opened);
            }
        }
    }
    let has_ended = search.best == OpenError::Absent && !Path::new(&format!("/proc/{tgid}")).exists();
    Err(if has_ended { OpenError::Gone } else { search.best })
}

/// The state of the file behind a mapping now, if that is cheap to tell and it is the file. Asks no file system that
/// would have to ask others.
pub(crate) fn change_by_link(wanted: &Wanted) -> Option<Change> {
    let Range { start, end } = wanted.range;
    let link = format!("/proc/{}/map_files/{start:x}-{end:x}", wanted.tgid);
    let found = statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
    (found.stx_ino == wanted.file.inode).then(|| change_of_statx(&found))
}

/// Whose way led to a file: the process's own ways need not agree on the device where file systems hide it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    TheProcess,
    TheExecutable,
    Others,
}

struct Search<'a> {
    wanted: &'a Wanted,
    best: OpenError,
}

impl Search<'_> {
    fn by_link(&mut self, range: &Range<u64>) -> Option<Opened> {
        let link = format!("/proc/{}/map_files/{:x}-{:x}", self.wanted.tgid, range.start, range.end);
        self.try_path(link.as_bytes(), Whose::TheProcess)
    }

    fn try_path(&mut self, path: &[u8], whose: Whose) -> Option<Opened> {
        let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        self.take(&found, whose)
    }

    /// A path below a directory as if that were the root, for symbolic links too.
    fn below(&mut self, root: &str, path: &[u8], whose: Whose) -> Option<Opened> {
        let root_fd = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&root_fd, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(found) => {
                // Of a path, which may lead into another overlay than the mapping's: the directory tells.
                let is_elsewhere = overlays_tell_their_device()
                    && is_on(&found, &[OVERLAY])
                    && !self.is_below_wanted_device(&root_fd, path, resolve);
                self.take(&found, if is_elsewhere { Whose::Others } else { whose })
            }
            // Not known here, or forbidden by a filter of system calls: links may lead astray, but the file is checked.
            Err(Errno::NOSYS | Errno::PERM) => self.try_path(&[root.as_bytes(), path].concat(), whose),
            Err(_) => None,
        }
    }

    /// Opens what was found for reading, if it is what is wanted.
    fn take(&mut self, found: &OwnedFd, whose: Whose) -> Option<Opened> {
        let stat = fstat(found).ok()?;
        if !self.is_wanted(found, &stat, whose) {
            self.best = OpenError::Mismatch;
            return None;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            self.best = OpenError::NotRegular;
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // The descriptor's own link: there is no path in between that could be changed.
        let descriptor = open(format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty()).ok()?;
        let stat = fstat(&descriptor).ok()?;
        if !generation_fits(&descriptor, self.wanted.file.generation) {
            self.best = OpenError::Mismatch;
            return None;
        }
        let is_remote = is_on(&descriptor, &REMOTE);
        Some(Opened { descriptor, change: change_of_stat(&stat), deleted: stat.st_nlink == 0, is_remote })
    }

    /// Whether the directory of a path is on the wanted device.
    fn is_below_wanted_device(&self, root: &OwnedFd, path: &[u8], resolve: ResolveFlags) -> bool {
        let end = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat2(root, path.get(..end).unwrap_or_default(), flags, Mode::empty(), resolve);
        let stat = directory.and_then(fstat);
        stat.is_ok_and(|stat| {
            (major(stat.st_dev), minor(stat.st_dev)) == (self.wanted.file.major, self.wanted.file.minor)
        })
    }

    fn is_wanted(&self, found: &OwnedFd, stat: &Stat, whose: Whose) -> bool {
        let file = &self.wanted.file;
        if stat.st_ino != file.inode {
            return false;
        }
        if (major(stat.st_dev), minor(stat.st_dev)) == (file.major, file.minor) {
            return true;
        }
        match whose {
            Whose::TheProcess => is_on(found, &ODD_DEVICES),
            Whose::TheExecutable if overlays_tell_their_device() => is_on(found, &[BTRFS]),
            Whose::TheExecutable => is_on(found, &ODD_DEVICES),
            Whose::Others => false,
        }
    }
}

/// Whether this kernel's mappings of files on an overlay have the overlay's device. What cannot be parsed is old.
fn overlays_tell_their_device() -> bool {
    static TELL: OnceLock<bool> = OnceLock::new();
    *TELL.get_or_init(|| version(&fs::read("/proc/sys/kernel/osrelease").unwrap_or_default()) >= Some(OVERLAYS_TELL))
}

/// The first two numbers of a kernel's release: `6.18.4-generic`.
fn version(release: &[u8]) -> Option<(u32, u32)> {
    let mut numbers =
        release.split(|byte| !byte.is_ascii_digit()).map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Whether a file is on one of these file systems.
fn is_on(file: &OwnedFd, systems: &[u64]) -> bool {
    fstatfs(file).is_ok_and(|system| u64::try_from(system.f_type).is_ok_and(|magic| systems.contains(&magic)))
}

/// Whether an inode's generation is the wanted one, where both are known.
fn generation_fits(descriptor: &OwnedFd, wanted: u64) -> bool {
    wanted == 0 || generation(descriptor).is_none_or(|found| found == 0 || u64::from(found) == wanted & 0xffff_ffff)
}

/// An inode's generation, where its file system tells.
fn generation(descriptor: &OwnedFd) -> Option<u32> {
    /// `_IOR('v', 1, long)`; but what is written is an int.
    const FS_IOC_GETVERSION: libc::Ioctl = 0x8008_7601_u32 as libc::Ioctl;
    let mut generation: [u32; 2] = [0; 2];
    // SAFETY: the call writes an int, or at the most a long: eight bytes, which there are.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), FS_IOC_GETVERSION, generation.as_mut_ptr()) };
    let [low, _] = generation;
    (result == 0).then_some(low)
}

/// Where else the process maps the file: mappings merge, split and move.
fn mapped_elsewhere(wanted: &Wanted) -> Option<Range<u64>> {
    let maps = File::open(format!("/proc/{}/maps", wanted.tgid)).ok()?;
    let file = &wanted.file;
    for line in BufReader::new(maps.take(MAX_MAPS_BYTES)).split(b'\n') {
        let line = line.ok()?;
        let line = String::from_utf8_lossy(&line);
        let mut columns = line.split_ascii_whitespace();
        let (range, _, _) = (columns.next()?, columns.next()?, columns.next()?);
        let device = columns.next()?;
        if columns.next()?.parse() == Ok(file.inode) && device == format!("{:02x}:{:02x}", file.major, file.minor) {
            let (start, end) = range.split_once('-')?;
            return Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?);
        }
    }
    None
}

/// The paths that a mapping's path may mean: itself, and itself without the kernel's ` (deleted)`.
fn paths(path: &[u8]) -> Vec<&[u8]> {
    if !path.starts_with(b"/") || path.contains(&0) {
        return Vec::new();
    }
    let mut paths = vec![path];
    paths.extend(path.strip_suffix(DELETED));
    paths
}

/// A path to show, without the kernel's ` (deleted)`.
pub(crate) fn shown_path(path: &[u8], deleted: bool) -> String {
    let path = if deleted { path.strip_suffix(DELETED).unwrap_or(path) } else { path };
    String::from_utf8_lossy(path).into_owned()
}

fn mount_namespace(process: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(fs::metadata(format!("/proc/{process}/ns/mnt")).ok()?.ino())
}

pub(crate) fn change_of_stat(stat: &Stat) -> Change {
    let nanoseconds = |value| i64::try_from(value).unwrap_or_default();
    Change {
        bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
    }
}

fn change_of_statx(found: &Statx) -> Change {
    Change {
        bytes: found.stx_size,
        modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into()),
        changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let check = |release: &[u8], expected| assert_eq!(version(release), expected, "{release:?}");
        check(b"6.18.44-fc-v769", Some((6, 18)));
        check(b"6.8.0-45-generic", Some((6, 8)));
        check(b"7.2", Some((7, 2)));
        check(b"rolling", None);
        check(b"6", None);
        check(b"", None);
        assert!(version(b"6.8.0") < Some(OVERLAYS_TELL) && version(b"x") < Some(OVERLAYS_TELL));
        assert!(version(b"6.18.0-rc1") >= Some(OVERLAYS_TELL) && version(b"7.0.1") >= Some(OVERLAYS_TELL));
    }
}
