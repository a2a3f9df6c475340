//! Which hierarchies of cgroups there are, and whether the host's can be looked into: by them containers and systemd units are
//! told apart.
//!
//! **In**: /proc/cgroups and /proc/1/mountinfo. **Out**: one item. **Limits**: [`MAX_FILE_BYTES`] of a file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use super::Item;

const NAME: &str = "cgroups";
/// Mount tables of nodes with thousands of containers have a megabyte.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Controllers by which containers are told apart, where version 1 has them.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Whose mounts may be the host's: the first process's, the kernel's own (where the first may not be looked at), ours.
const WITNESSES: [&str; 3] = ["1", "2", "self"];
/// The inode of every hierarchy's root. Another one: only a part is mounted.
const ROOT: u64 = 1;

/// Looks at them.
pub(super) fn look() -> Item {
    let controllers = read("/proc/cgroups").unwrap_or_default();
    let mut seen = WITNESSES.iter().filter_map(|who| {
        let found = Hierarchies::of(&controllers, &read(&format!("/proc/{who}/mountinfo"))?);
        let root = found.mount.as_ref().map(|at| format!("/proc/{who}/root{at}"));
        let whole = root.is_some_and(|at| std::fs::metadata(at).is_ok_and(|m| m.ino() == ROOT));
        Some((found, whole))
    });
    let first = seen.next().unwrap_or_default();
    let (found, whole) = if first.1 { first } else { seen.find(|(_, whole)| *whole).unwrap_or(first) };
    found.item(whole)
}

fn read(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}

/// What there is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    /// The controller of version 1 that tells containers apart.
    v1: Option<&'static str>,
    v2: bool,
    /// Where the hierarchy that tells containers apart is mounted.
    mount: Option<String>,
}

impl Hierarchies {
    fn of(controllers: &str, mountinfo: &str) -> Self {
        // name, hierarchy, number of cgroups, enabled; hierarchy 0 is version 2.
        let in_v1 = |name: &&&str| {
            controllers.lines().any(|line| {
                let mut fields = line.split_whitespace();
                fields.next() == Some(**name) && fields.next().is_some_and(|hierarchy| hierarchy != "0")
            })
        };
        let mount = |kind: &str, controller: Option<&str>| {
            mountinfo.lines().find_map(|line| {
                let (before, after) = line.split_once(" - ")?;
                let mut after = after.split(' ');
                let has = |options: &str| controller.is_none_or(|name| options.split(',').any(|o| o == name));
                (after.next() == Some(kind) && after.nth(1).is_some_and(has)).then_some(())?;
                before.split(' ').nth(4).map(str::to_owned)
            })
        };
        let v2 = mount("cgroup2", None);
        let v1 = CONTROLLERS.iter().find(in_v1).copied();
        let of_v1 = v1.and_then(|name| mount("cgroup", Some(name)));
        Self { v1, v2: v2.is_some(), mount: if v1.is_some() { of_v1 } else { v2 } }
    }

    fn item(&self, whole: bool) -> Item {
        let which = match (self.v1, self.v2) {
            (None, true) => "version 2".to_owned(),
            (Some(name), true) => format!("version 1 (`{name}` tells containers apart) beside version 2"),
            (Some(name), false) => format!("version 1 (`{name}` tells containers apart)"),
            (None, false) => {
                let remedy = "mount cgroup2 at /sys/fs/cgroup: without cgroups no container is known";
                return Item::limited(NAME, "none are mounted", remedy);
            }
        };
        match (&self.mount, whole) {
            (Some(at), true) => Item::ok(NAME, format!("{which}, at {at}")),
            (Some(at), false) => Item::limited(
                NAME,
                format!("{which}, at {at} on the host, which cannot be looked into"),
                "grant CAP_SYS_PTRACE (for /proc/1/root), or mount the host's /sys/fs/cgroup: without it the container of a process that \
                 has ended stays unknown",
            ),
            (None, _) => Item::limited(
                NAME,
                format!("{which}, which is not mounted"),
                "mount it below /sys/fs/cgroup: without it the container of a process that has ended stays unknown",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      36 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    const ALL_V2: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t70\t1\nmemory\t0\t70\t1\n";
    const ALL_V1: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t70\t1\nmemory\t4\t70\t1\n";

    fn check(controllers: &str, mounts: &str, v1: Option<&'static str>, v2: bool, mount: Option<&str>) -> Hierarchies {
        let found = Hierarchies::of(controllers, mounts);
        assert_eq!(found, Hierarchies { v1, v2, mount: mount.map(str::to_owned) });
        found
    }

    #[test]
    fn hierarchies() {
        let pure = check(ALL_V2, V2, None, true, Some("/sys/fs/cgroup"));
        assert_eq!(pure.item(true).seen, "version 2, at /sys/fs/cgroup");
        assert!(pure.item(false).remedy.is_some_and(|r| r.contains("CAP_SYS_PTRACE")));
        let hybrid = format!("{V1}\n{}", V2.replace("cgroup rw,nosuid", "cgroup/unified rw,nosuid"));
        let hybrid = check(ALL_V1, &hybrid, Some("memory"), true, Some("/sys/fs/cgroup/memory"));
        assert!(hybrid.item(true).seen.contains("version 1 (`memory` tells containers apart) beside version 2"));
        check(ALL_V1, V1, Some("memory"), false, Some("/sys/fs/cgroup/memory"));
        check(ALL_V1, V2, Some("memory"), true, None);
        assert!(check("", "", None, false, None).item(true).seen.contains("none are mounted"));
        check("garbage\n\n x", "no dash\n - \n - cgroup2", None, false, None);
    }
}
