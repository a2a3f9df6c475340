//! The directory of the cache.
//!
//! It is opened once and everything below it is reached from there. Only its owner, who we are, may write to it: what lies in it
//! is what an agent put there.
//!
//! **In**: a path of the operator's. **Out**: files. **Units**: bytes, nanoseconds since the Unix epoch.
//! **Limits**: [`MAX_LISTED`] files are looked at when it is opened.

use std::ffi::CStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat, futimens, open,
    openat, renameat, statat, unlinkat,
};

use super::entry::Name;

/// Files of a directory that are looked at.
const MAX_LISTED: usize = 256 * 1024;
/// How temporary files begin.
const TEMPORARY: &str = ".new-";
/// A temporary file that is older was left by an agent that ended.
const LEFT_OVER_NS: u64 = 600 * 1_000_000_000;

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// It cannot be made or opened.
    #[error("it cannot be made or opened")]
    Io(#[from] io::Error),
    /// Somebody else owns it.
    #[error("it belongs to user {0}, not to this process's")]
    Owner(u32),
    /// Not only its owner may write to it.
    #[error("others may write to it (mode {0:o})")]
    Writable(u32),
}

/// A directory that only we write to.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: OwnedFd,
}

/// A file that is no entry yet.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) file: File,
    name: String,
}

impl Folder {
    /// Opens a directory, made if it is absent.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = open(path, flags, Mode::empty()).map_err(io::Error::from)?;
        let stat = fstat(&folder).map_err(io::Error::from)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(FolderError::Owner(stat.st_uid));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(FolderError::Writable(stat.st_mode & 0o7777));
        }
        Ok(Self { folder })
    }

    /// Calls `found` with each entry, its bytes and when it was used. Deletes what agents left that ended while they wrote.
    pub(crate) fn list(&self, now: u64, mut found: impl FnMut(Name, u64, u64)) -> io::Result<()> {
        for item in Dir::read_from(&self.folder)?.take(MAX_LISTED) {
            let item = item?;
            let Some(stat) = self.stat(item.file_name()) else { continue };
            let used = used(&stat);
            if let Some(name) = Name::parse(item.file_name().to_bytes()) {
                found(name, u64::try_from(stat.st_size).unwrap_or(u64::MAX), used);
            } else if item.file_name().to_bytes().starts_with(TEMPORARY.as_bytes())
                && now.saturating_sub(used) > LEFT_OVER_NS
            {
                unlinkat(&self.folder, item.file_name(), AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn stat(&self, name: &CStr) -> Option<Stat> {
        let stat = statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat)
    }

    /// Opens an entry, and marks it as used.
    pub(crate) fn entry(&self, name: &Name) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.folder, name.to_string(), flags, Mode::empty())?;
        let part = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        // Where that is refused it goes sooner: no harm.
        let _ = futimens(&file, &Timestamps { last_access: part(UTIME_OMIT), last_modification: part(UTIME_NOW) });
        Ok(file.into())
    }

    /// Deletes an entry; another agent may have done so already.
    pub(crate) fn delete(&self, name: &Name) {
        if let Err(error) = unlinkat(&self.folder, name.to_string(), AtFlags::empty()) {
            tracing::debug!(%name, %error, "an entry of the cache is not deleted");
        }
    }

    /// A new file under a name that nobody has.
    pub(crate) fn create(&self) -> io::Result<Temporary> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Agents of several pid namespaces may share it.
        let name = format!("{TEMPORARY}{}-{:x}-{number}", std::process::id(), super::now());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, name.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Temporary { file: file.into(), name })
    }

    /// Makes a file an entry, at once as a whole.
    pub(crate) fn publish(&self, temporary: Temporary, name: &Name) -> io::Result<()> {
        renameat(&self.folder, temporary.name.as_str(), &self.folder, name.to_string())
            .map_err(io::Error::from)
            .inspect_err(|_| self.discard(&temporary))
    }

    /// Deletes a file that does not become an entry.
    pub(crate) fn discard(&self, temporary: &Temporary) {
        let _ = unlinkat(&self.folder, temporary.name.as_str(), AtFlags::empty());
    }
}

fn used(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec)
}
