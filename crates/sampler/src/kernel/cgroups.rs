//! Which cgroups the ids of samples stand for, and how the same ids are had from paths.
//!
//! **In**: `/proc/cgroups`, the kernel's BTF, `/proc/1/mountinfo`. **Out**: [`CgroupIds`], [`CgroupMounts`].
//! **Units**: ids as `sampler_abi::CgroupIdParts` has them. **Limits**: [`MAX_FILE_BYTES`] of each file.
//!
//! A cgroup's number is that of its node in the kernel's tree (`cgroup->kn->id`). On 64-bit kernels since 5.5 it is also the inode
//! number of the cgroup's directory, so `stat` tells it without any privilege (`name_to_handle_at` tells it too). The root has 1.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use sampler_abi::{CgroupIdParts, KernelLayout};

use super::btf::{Btf, BtfError};

/// Of a file that is read whole: mount tables of nodes with thousands of containers have a megabyte.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// The number of every hierarchy's root.
const ROOT: u64 = 1;
const POINTER_BYTES: u32 = 8;
const ENUMERATION: &str = "cgroup_subsys_id";

/// Controllers whose cgroup tells containers apart, the most telling first: runtimes and systemd use these for everything they
/// start. With the enumerator that says where a task has it.
const CONTROLLERS: [(&str, &str); 3] = [("memory", "memory_cgrp_id"), ("pids", "pids_cgrp_id"), ("cpu", "cpu_cgrp_id")];

/// Which hierarchies a sample's cgroup id stands for, on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupIds {
    controller: Option<usize>,
}

impl CgroupIds {
    /// As this host has them now. What cannot be read counts as not there: then it is version 2.
    pub(super) fn of_host() -> Self {
        let table = read("/proc/cgroups").unwrap_or_default();
        Self { controller: v1_controller(&String::from_utf8_lossy(&table)) }
    }

    /// Fills in where the program finds the controller's cgroup; gives the controller up where the kernel's types do not tell.
    pub(super) fn locate(&mut self, btf: &Btf, layout: &mut KernelLayout) {
        let Some(&(_, enumerator)) = self.controller.and_then(|index| CONTROLLERS.get(index)) else { return };
        let located = || -> Result<KernelLayout, BtfError> {
            let slot = btf.enumerator(ENUMERATION, enumerator)?;
            Ok(KernelLayout {
                has_v1_cgroups: 1,
                task_cgroups: btf.offset("task_struct", "cgroups")?,
                css_set_subsys: btf.offset("css_set", "subsys")?.saturating_add(slot.saturating_mul(POINTER_BYTES)),
                css_cgroup: btf.offset("cgroup_subsys_state", "cgroup")?,
                cgroup_kn: btf.offset("cgroup", "kn")?,
                kernfs_node_id: btf.offset("kernfs_node", "id")?,
                ..*layout
            })
        };
        match located() {
            Ok(with_cgroups) => *layout = with_cgroups,
            Err(error) => {
                tracing::warn!(error = %error, "containers cannot be told apart by cgroups of version 1");
                self.controller = None;
            }
        }
    }

    /// The controller of version 1 whose hierarchy is part of the ids, as `/proc/PID/cgroup` names it; none where ids are of
    /// version 2 alone.
    #[must_use]
    pub fn v1_controller(self) -> Option<&'static str> {
        CONTROLLERS.get(self.controller?).map(|(name, _)| *name)
    }

    /// The id that a sample has of a task in these two cgroups, from the numbers of their directories. `v1` means nothing where
    /// [`CgroupIds::v1_controller`] is none.
    #[must_use]
    pub fn id(self, v2: u64, v1: u64) -> u64 {
        CgroupIdParts { v2, v1: self.controller.map(|_| v1) }.id()
    }

    /// Where the hierarchies' roots are mounted: as process 1 has it, whose root directory is `host_root` (`/proc/1/root`), else
    /// as this process has it. A mount of a part of a hierarchy is none.
    #[must_use]
    pub fn mounts(self, host_root: &Path) -> CgroupMounts {
        let mut mounts = CgroupMounts { ids: self, ..CgroupMounts::default() };
        for (table, root) in [("/proc/1/mountinfo", host_root), ("/proc/self/mountinfo", Path::new("/"))] {
            // Not to be read without CAP_SYS_PTRACE, or not there; then the other one.
            let Ok(table) = read(table) else { continue };
            mounts.look_in(&table, root, &|point| fs::metadata(point).is_ok_and(|at| at.ino() == ROOT));
        }
        mounts
    }
}

/// Where the hierarchies' roots are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupMounts {
    ids: CgroupIds,
    /// Of version 2; none where it is not mounted: then no task leaves its root.
    pub v2: Option<PathBuf>,
    /// Of the controller of version 1; none where the ids have none.
    pub v1: Option<PathBuf>,
}

impl CgroupMounts {
    /// `mountinfo`: `36 35 98:0 ROOT MOUNTPOINT options tags - TYPE source SUPER-OPTIONS`.
    fn look_in(&mut self, table: &[u8], root: &Path, is_whole: &dyn Fn(&Path) -> bool) {
        for line in table.split(|byte| *byte == b'\n') {
            let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let Some(dash) = words.iter().position(|word| *word == b"-") else { continue };
            let (Some(point), Some(kind)) = (words.get(4), words.get(dash + 1)) else { continue };
            let options = words.get(dash + 3).copied().unwrap_or_default();
            let has_controller = || {
                let controller = self.ids.v1_controller();
                controller.is_some_and(|name| options.split(|byte| *byte == b',').any(|one| one == name.as_bytes()))
            };
            let slot = match *kind {
                b"cgroup" if has_controller() => &mut self.v1,
                b"cgroup2" => &mut self.v2,
                _ => continue,
            };
            let point = unescaped(point);
            let point = root.join(point.strip_prefix("/").unwrap_or(&point));
            if slot.is_none() && is_whole(&point) {
                *slot = Some(point);
            }
        }
    }

    /// The id that a sample has of a task in the cgroups of these paths, counted from the hierarchies' roots (`/` is the root).
    /// Two calls of `stat`.
    ///
    /// # Errors
    /// Where such a cgroup is not there (any more).
    pub fn id(&self, v2_path: &Path, v1_path: &Path) -> io::Result<u64> {
        let number = |mount: &Option<PathBuf>, path: &Path| match mount {
            Some(mount) => fs::symlink_metadata(mount.join(path.strip_prefix("/").unwrap_or(path))).map(|at| at.ino()),
            None => Ok(ROOT),
        };
        let v2 = number(&self.v2, v2_path)?;
        let v1 = if self.ids.controller.is_some() { number(&self.v1, v1_path)? } else { ROOT };
        Ok(self.ids.id(v2, v1))
    }
}

/// The first of [`CONTROLLERS`] that is enabled and in a hierarchy of version 1 (those of version 2 have number 0).
fn v1_controller(table: &str) -> Option<usize> {
    let in_v1 = |name: &str| {
        table.lines().any(|line| {
            let mut words = line.split_whitespace();
            let (controller, hierarchy, _, enabled) = (words.next(), words.next(), words.next(), words.next());
            controller == Some(name) && hierarchy.is_some_and(|number| number != "0") && enabled == Some("1")
        })
    };
    CONTROLLERS.iter().position(|(name, _)| in_v1(name))
}

/// A mount table writes blanks and backslashes as `\` and three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).filter(|byte| matches!(byte, b'0'..=b'7')).map(|byte| byte - b'0');
        let octal = match (digit(0), digit(1), digit(2)) {
            (Some(high @ 0..=3), Some(middle), Some(low)) if first == b'\\' => Some(high << 6 | middle << 3 | low),
            _ => None,
        };
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { behind.get(3..).unwrap_or_default() } else { behind };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
        cpuset\t3\t1\t1\ncpu\t1\t1\t1\nmemory\t4\t22\t1\npids\t8\t1\t1\n";

    #[test]
    fn the_controller_that_tells_containers_apart() {
        let check = |table: &str, name: Option<&str>| {
            let ids = CgroupIds { controller: v1_controller(table) };
            assert_eq!(ids.v1_controller(), name, "{table}");
        };
        check(HYBRID, Some("memory"));
        // Switched off on the kernel's command line.
        check(&HYBRID.replace("22\t1", "22\t0"), Some("pids"));
        check("cpu 5 1 1\nmemory 0 90 1\n", Some("cpu"));
        // Version 2 only.
        check("cpu\t0\t90\t1\nmemory\t0\t90\t1\npids\t0\t90\t1\n", None);
        check("memory", None);
        check("", None);
    }

    #[test]
    fn mounts_of_each_kind_of_host() {
        let v1 = CgroupIds { controller: Some(0) };
        let check = |table: &str, ids: CgroupIds, v2: Option<&str>, v1: Option<&str>| {
            let mut found = CgroupMounts { ids, ..CgroupMounts::default() };
            found.look_in(table.as_bytes(), Path::new("/host"), &|point| !point.ends_with("part"));
            assert_eq!((found.v2, found.v1), (v2.map(PathBuf::from), v1.map(PathBuf::from)), "{table}");
        };
        let unified = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        check(unified, CgroupIds::default(), Some("/host/sys/fs/cgroup"), None);
        let hybrid = "26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
            28 25 0:25 / /sys/fs/cgroup/a\\040memory rw shared:6 master:7 - cgroup cgroup rw,memory\n\
            29 25 0:25 / /again rw - cgroup cgroup rw,memory\n";
        check(hybrid, v1, Some("/host/sys/fs/cgroup/unified"), Some("/host/sys/fs/cgroup/a memory"));
        check(hybrid, CgroupIds::default(), Some("/host/sys/fs/cgroup/unified"), None);
        // A container's own view is not the host's.
        let part = "30 25 0:22 /kubepods/pod1 /part ro - cgroup2 cgroup rw\n";
        check(part, CgroupIds::default(), None, None);
        check(&format!("{part}{unified}"), CgroupIds::default(), Some("/host/sys/fs/cgroup"), None);
        check("- cgroup2\n1 2 3 / /x - \n- - -\n\n", v1, None, None);
    }

    #[test]
    fn escapes() {
        let check = |word: &str, path: &str| assert_eq!(unescaped(word.as_bytes()), PathBuf::from(path));
        check("/a\\040b\\134c", "/a b\\c");
        check("/\\04", "/\\04");
        check("/\\777", "/\\777");
        check("/\\", "/\\");
    }

    #[test]
    fn ids_from_directories() {
        let folder = tempfile::tempdir().unwrap();
        let (v2, v1) = (folder.path().join("v2/pod"), folder.path().join("v1/pod"));
        fs::create_dir_all(&v2).unwrap();
        fs::create_dir_all(&v1).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let (both, only_v2) = (CgroupIds { controller: Some(0) }, CgroupIds::default());
        let mounts = |ids| CgroupMounts { ids, v2: Some(folder.path().join("v2")), v1: Some(folder.path().join("v1")) };
        let pod = Path::new("/pod");
        assert_eq!(mounts(only_v2).id(pod, pod).unwrap(), inode(&v2));
        assert_eq!(mounts(both).id(pod, pod).unwrap(), both.id(inode(&v2), inode(&v1)));
        assert_ne!(mounts(both).id(pod, pod).unwrap(), mounts(both).id(pod, Path::new("/")).unwrap());
        let without_v2 = CgroupMounts { v2: None, ..mounts(both) };
        assert_eq!(without_v2.id(Path::new("/"), pod).unwrap(), both.id(ROOT, inode(&v1)));
        assert!(mounts(both).id(pod, Path::new("/gone")).is_err());
    }
}
