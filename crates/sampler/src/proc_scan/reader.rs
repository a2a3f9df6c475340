//! Reading /proc.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use objects::MappedFile;
use procfs::process::{Process, Stat};
use profile::Place;

use super::{ProcSource, ScannedProcess, maps_text};
use crate::clock;
use crate::comm::Comm;
use crate::place::{Host, PlaceSource};

/// What is read of one file at the most: some 80,000 mappings.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// /proc of this host.
#[derive(Debug)]
pub(crate) struct ProcFs {
    root: PathBuf,
    ticks_per_second: u64,
    errors: AtomicU64,
    host: Option<Host>,
}

impl ProcFs {
    /// The host's own, without cgroups.
    pub(crate) fn new() -> Self {
        Self {
            root: PathBuf::from("/proc"),
            ticks_per_second: procfs::ticks_per_second().max(1),
            errors: AtomicU64::new(0),
            host: None,
        }
    }

    /// With cgroups. `controller`: the one of version 1 that is part of samples' ids.
    pub(crate) fn with_cgroups(controller: Option<&'static str>) -> Self {
        let proc = Self::new();
        let host = Some(Host::new(&proc.root, controller));
        Self { host, ..proc }
    }

    /// `stat` of a process.
    pub(crate) fn stat(&self, tgid: u32) -> Option<Stat> {
        Process::new_with_root(self.path(tgid, "")).ok()?.stat().ok()
    }

    /// The process that a pid belongs to: itself, unless it is a thread's.
    pub(crate) fn leader(&self, pid: u32) -> Option<u32> {
        let status = self.read(&self.path(pid, "status")).ok()?;
        let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
        std::str::from_utf8(line).ok()?.trim().parse().ok()
    }

    /// Every tgid now.
    pub(crate) fn tgids(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(&self.root) else {
            self.errors.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        };
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
    }

    /// The parents of every process now.
    pub(crate) fn parents(&self) -> BTreeMap<u32, u32> {
        let parent = |tgid| Some((tgid, u32::try_from(self.stat(tgid)?.ppid).ok()?));
        self.tgids().into_iter().filter_map(parent).collect()
    }

    fn path(&self, tgid: u32, name: &str) -> PathBuf {
        self.root.join(tgid.to_string()).join(name)
    }

    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Counts an error unless it only says that the process has ended.
    fn counted<T>(&self, tgid: u32, result: std::io::Result<T>) -> Option<T> {
        result.inspect_err(|_| self.count_unless_gone(tgid)).ok()
    }

    fn count_unless_gone(&self, tgid: u32) {
        if self.exists(tgid) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ProcSource for ProcFs {
    fn process(&self, tgid: u32) -> Option<ScannedProcess> {
        let process = Process::new_with_root(self.path(tgid, "")).ok()?;
        let Ok(stat) = process.stat() else {
            self.count_unless_gone(tgid);
            return None;
        };
        if matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1 {
            return None;
        }
        let boot_ns = u128::from(stat.starttime) * 1_000_000_000 / u128::from(self.ticks_per_second);
        let latest_start_mono_ns = u64::try_from(boot_ns).unwrap_or(u64::MAX);
        let start_mono_ns = latest_start_mono_ns.saturating_sub(clock::boottime_ahead_of_monotonic_ns());
        let comm = self.read(&self.path(tgid, "comm")).unwrap_or_default();
        let comm = Comm::from_bytes(comm.strip_suffix(b"\n").unwrap_or(&comm));
        let text = self.counted(tgid, self.read(&self.path(tgid, "maps")));
        let maps = text.map(|text| {
            let (maps, bad) = maps_text::executable_mappings(&text);
            self.errors.fetch_add(bad, Ordering::Relaxed);
            maps
        });
        // Kernel threads have none.
        let path = std::fs::read_link(self.path(tgid, "exe")).ok();
        let executable = path.map(|path| {
            let path = path.as_os_str().as_bytes();
            let mapped = maps.iter().flatten().find(|m| m.file.path == path);
            mapped.map_or_else(|| MappedFile { path: path.to_vec(), ..MappedFile::default() }, |m| m.file.clone())
        });
        let place = self.place_of(tgid);
        let threads = u32::try_from(stat.num_threads).unwrap_or(1);
        Some(ScannedProcess { tgid, start_mono_ns, latest_start_mono_ns, comm, threads, maps, executable, place })
    }

    fn all(&self) -> Vec<ScannedProcess> {
        self.tgids().into_iter().filter_map(|tgid| self.process(tgid)).collect()
    }

    fn exists(&self, tgid: u32) -> bool {
        self.path(tgid, "").exists()
    }

    fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

impl PlaceSource for ProcFs {
    fn key_of_created(&self, number: u64) -> u64 {
        self.host.as_ref().map_or(number, |host| host.key_of_v2(number))
    }

    fn place(&self, id: u64, created: Option<&[u8]>) -> Option<Place> {
        self.host.as_ref()?.place(id, created)
    }

    fn place_of(&self, tgid: u32) -> Option<(u64, Place)> {
        self.host.as_ref()?.of_process(tgid)
    }

    fn cgroup_exists(&self, id: u64) -> Option<bool> {
        self.host.as_ref()?.exists(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_program() {
        let proc = ProcFs::new();
        let me = proc.process(std::process::id()).unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        assert_eq!(me.executable.as_ref().unwrap().path, exe.as_os_str().as_bytes());
        assert!(me.executable.as_ref().unwrap().inode != 0, "from its mapping");
        assert!(me.maps.as_ref().unwrap().iter().any(|m| m.file.path == b"[vdso]"));
        let here = this_process_is_found_with_its_program as *const () as u64;
        assert!(me.maps.unwrap().iter().any(|m| m.start <= here && here < m.end));
        assert!(me.start_mono_ns <= clock::now().mono_ns);
        assert!(proc.all().iter().any(|p| p.tgid == std::process::id()));
        assert!(proc.parents().contains_key(&std::process::id()));
    }

    #[test]
    fn a_process_that_is_gone_is_none() {
        let proc = ProcFs::new();
        assert_eq!(proc.process(u32::MAX), None);
        assert!(!proc.exists(u32::MAX));
        assert_eq!(proc.errors(), 0);
    }
}
