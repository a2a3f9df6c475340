//! The host's cgroups: from a cgroup's number to its path, and from a process to both.
//!
//! A cgroup's number is the inode of its directory, and never used again. The kernel opens a directory by that number
//! alone (`open_by_handle_at`), so a path is had without any process, and nobody can have moved in between. Without
//! `CAP_DAC_READ_SEARCH` that is refused: then `/proc/PID/cgroup` tells a path, and the inode of what is there tells
//! whether it is still the one that was asked for.
//!
//! **In**: mounts of a process that sees the host's (the first, the kernel's own), /proc; names are hostile. **Out**:
//! [`Place`]s. **Units**: ids as samples have them ([`CgroupIdParts`]), host pids. **Limits**: [`MAX_TEXT_BYTES`] of a
//! file of /proc.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use profile::Place;
use sampler_abi::{CGROUP_ID_PART_MASK, CgroupIdParts};

use super::mount::{Mount, ROOT_ID};
use super::path::place;
use super::text::{self, Hierarchy};

/// Of a file of /proc.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// `PROC_CGROUP_INIT_INO`: the number of the cgroup namespace that the machine began with.
const INITIAL_NAMESPACE: u64 = 0xefff_fffb;
/// Whose mounts may be the host's: the first process's, a kernel thread's (where the first may not be looked at), ours.
const WITNESSES: [&str; 3] = ["1", "2", "self"];

/// The hierarchies that samples' ids stand for.
#[derive(Debug)]
pub(crate) struct Host {
    proc: PathBuf,
    v2: Tree,
    /// Of the controller that tells containers apart, where version 1 has it.
    v1: Option<Tree>,
}

/// One hierarchy.
#[derive(Debug)]
struct Tree {
    hierarchy: Hierarchy,
    mount: Option<Mount>,
    /// The path that paths in /proc begin from; none where that is not known, and they tell nothing.
    base: Option<Vec<u8>>,
}

impl Host {
    /// Looks for the hierarchies' mounts. `controller`: the one of version 1 that is part of ids.
    pub(crate) fn new(proc: &Path, controller: Option<&'static str>) -> Self {
        let is_own = fs::metadata(proc.join("self/ns/cgroup")).is_ok_and(|ns| ns.ino() != INITIAL_NAMESPACE);
        let tree = |hierarchy| Tree::new(proc, hierarchy, is_own);
        let (v2, v1) = (tree(Hierarchy::Unified), controller.map(|name| tree(Hierarchy::Of(name))));
        if v1.as_ref().unwrap_or(&v2).mount.is_none() {
            tracing::warn!("no mount of the host's cgroups is in sight: containers are known only from their start on");
        }
        Self { proc: proc.to_owned(), v2, v1 }
    }

    /// What a cgroup's number in version 2 is in a sample's id.
    pub(crate) fn key_of_v2(&self, number: u64) -> u64 {
        if self.v1.is_some() { number & CGROUP_ID_PART_MASK } else { number }
    }

    /// The place that a sample's id stands for. `created`: the path of its cgroup of version 2, if the kernel told it when
    /// that was made.
    pub(crate) fn place(&self, id: u64, created: Option<&[u8]>) -> Option<Place> {
        let parts = CgroupIdParts::of(id);
        let v2 = created.map(<[u8]>::to_vec).or_else(|| self.v2.path(parts.v2));
        match (&self.v1, parts.v1) {
            (None, None) => Some(place(&v2?)),
            (Some(tree), Some(number)) => both(v2.as_deref().map(place), tree.path(number).as_deref().map(place)),
            _ => None,
        }
    }

    /// The id that samples of a process have now, and its place.
    pub(crate) fn of_process(&self, tgid: u32) -> Option<(u64, Place)> {
        let text = read(&self.proc.join(tgid.to_string()).join("cgroup")).ok()?;
        let v2 = self.v2.in_text(&text);
        let Some(v1) = &self.v1 else {
            let (number, path) = v2?;
            return Some((number, place(&path)));
        };
        // Without a mount, version 2 has but its root.
        let (number, path) = v2.or_else(|| self.v2.mount.is_none().then(|| (ROOT_ID, b"/".to_vec())))?;
        let (v1_number, v1_path) = v1.in_text(&text)?;
        let id = CgroupIdParts { v2: number, v1: Some(v1_number) }.id();
        Some((id, both(Some(place(&path)), Some(place(&v1_path)))?))
    }

    /// Whether the cgroup of an id is there; none where that cannot be told.
    pub(crate) fn exists(&self, id: u64) -> Option<bool> {
        let parts = CgroupIdParts::of(id);
        let v2 = self.v2.exists(parts.v2)?;
        match (&self.v1, parts.v1) {
            (Some(tree), Some(number)) => Some(v2 && tree.exists(number)?),
            _ => Some(v2),
        }
    }
}

/// Whether the kernel's records of new cgroups are of version 2: they are of the hierarchy that has `perf_event`.
pub(crate) fn new_cgroups_are_of_v2() -> bool {
    let table = read(Path::new("/proc/cgroups")).unwrap_or_default();
    table.split(|&b| b == b'\n').any(|line| line.starts_with(b"perf_event\t0\t"))
}

/// One place out of what both versions tell. A runtime may use either or both; systemd has its units in version 2. Where
/// they name two containers, neither is believed; where one of them is not known, the other may be so only if it names a
/// container.
fn both(v2: Option<Place>, v1: Option<Place>) -> Option<Place> {
    match (v2, v1) {
        (Some(v2), Some(v1)) => Some(match (&v2.container, &v1.container) {
            (Some(a), Some(b)) if a.id != b.id => Place { cgroup: v1.cgroup, ..Place::default() },
            (_, Some(_)) => v1,
            (Some(_), None) => v2,
            (None, None) if v2.unit.is_some() || &*v1.cgroup == "/" => v2,
            (None, None) => v1,
        }),
        (one, other) => one.or(other).filter(|place| place.container.is_some()),
    }
}

impl Tree {
    fn new(proc: &Path, hierarchy: Hierarchy, is_own: bool) -> Self {
        let mount = WITNESSES.iter().find_map(|witness| {
            let witness = proc.join(witness);
            Mount::whole(&read(&witness.join("mountinfo")).ok()?, &witness.join("root"), hierarchy)
        });
        let base = if is_own { own(proc, hierarchy, mount.as_ref()) } else { Some(b"/".to_vec()) };
        Self { hierarchy, mount, base }
    }

    fn path(&self, number: u64) -> Option<Vec<u8>> {
        if number == ROOT_ID { Some(b"/".to_vec()) } else { self.mount.as_ref()?.path(number) }
    }

    fn exists(&self, number: u64) -> Option<bool> {
        if number == ROOT_ID { Some(true) } else { self.mount.as_ref()?.exists(number) }
    }

    /// The number and path of the cgroup that `/proc/PID/cgroup` names.
    fn in_text(&self, text: &[u8]) -> Option<(u64, Vec<u8>)> {
        let path = text::absolute(text::path(text, self.hierarchy)?, self.base.as_deref()?)?;
        let number = if path == b"/" { ROOT_ID } else { self.mount.as_ref()?.number(&path)? };
        Some((number, path))
    }
}

/// Where this process's cgroup namespace begins: at the root of its own mount.
fn own(proc: &Path, hierarchy: Hierarchy, whole: Option<&Mount>) -> Option<Vec<u8>> {
    let text = read(&proc.join("self/mountinfo")).ok()?;
    let own = Mount::any(&text, Path::new("/"), hierarchy)?;
    let whole = whole?;
    whole.path(own.root()).or_else(|| whole.search(own.root()))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_TEXT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use profile::{Container, Runtime};

    use super::*;

    fn at(cgroup: &str, container: Option<&str>, unit: Option<&str>) -> Place {
        let container = container.map(|id| Container { id: id.into(), runtime: Runtime::Docker, pod: None });
        Place { cgroup: cgroup.into(), container, unit: unit.map(Into::into) }
    }

    #[test]
    fn two_versions_make_one_place() {
        let docker = at("/docker/a", Some("a"), None);
        let service = at("/system.slice/docker.service", None, Some("docker.service"));
        let root = at("/", None, None);
        let named = at("/default/web", None, None);
        let check = |v2: Option<&Place>, v1: Option<&Place>, expected: Option<&Place>| {
            assert_eq!(both(v2.cloned(), v1.cloned()).as_ref(), expected, "{v2:?} {v1:?}");
        };
        // An old runtime leaves its containers in its own cgroup of version 2.
        check(Some(&service), Some(&docker), Some(&docker));
        check(Some(&root), Some(&docker), Some(&docker));
        check(Some(&docker), Some(&docker), Some(&docker));
        check(Some(&docker), Some(&root), Some(&docker));
        check(Some(&service), Some(&root), Some(&service));
        check(Some(&service), Some(&service), Some(&service));
        check(Some(&root), Some(&named), Some(&named));
        check(Some(&root), Some(&root), Some(&root));
        // Contradictions and what is not known.
        let other = at("/docker/b", Some("b"), None);
        check(Some(&docker), Some(&other), Some(&at("/docker/b", None, None)));
        check(Some(&docker), None, Some(&docker));
        check(None, Some(&docker), Some(&docker));
        check(Some(&service), None, None);
        check(None, Some(&service), None);
        check(Some(&root), None, None);
        check(None, None, None);
    }

    /// Where /proc/1 is this process's view, as on any host with access.
    #[test]
    fn this_processes_own_cgroup() {
        let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let has_memory = table.lines().any(|l| l.starts_with("memory") && l.split_whitespace().nth(1) != Some("0"));
        let host = Host::new(Path::new("/proc"), has_memory.then_some("memory"));
        let Some((id, place)) = host.of_process(std::process::id()) else { return };
        assert!(place.cgroup.starts_with('/'), "{place:?}");
        assert!(host.exists(id).unwrap_or(true));
        // By number alone it is the same, where that is permitted.
        if let Some(by_number) = host.place(id, None) {
            assert_eq!(by_number, place);
        }
        assert_eq!(host.of_process(u32::MAX), None);
        assert!(
            host.place(CgroupIdParts { v2: 0x7fff_fff0, v1: has_memory.then_some(0x7fff_fff0) }.id(), None).is_none()
        );
    }
}
