//! `/proc/PID/cgroup` and `/proc/PID/mountinfo`, from bytes.
//!
//! **In**: the files' text; names in them may hold anything but newlines, which the kernel escapes. **Out**: paths.
//! **Limits**: [`MAX_PATH_BYTES`]; what is read of the files is bounded by the caller.

use super::path::MAX_PATH_BYTES;

/// A hierarchy of cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// That of version 2.
    #[default]
    Unified,
    /// One of version 1, by one of its controllers.
    Of(&'static str),
}

impl Hierarchy {
    fn is_of(self, number: &[u8], controllers: &[u8]) -> bool {
        match self {
            Self::Unified => number == b"0" && controllers.is_empty(),
            Self::Of(name) => controllers.split(|&b| b == b',').any(|c| c == name.as_bytes()),
        }
    }
}

/// A process's path in a hierarchy, by the text of its `cgroup`.
pub(crate) fn path(text: &[u8], hierarchy: Hierarchy) -> Option<&[u8]> {
    text.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |&b| b == b':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        hierarchy.is_of(number, controllers).then_some(path)
    })
}

/// A path from the hierarchy's root. The kernel writes paths from the reader's own cgroup namespace, which begins at
/// `base`: what lies outside of it begins with `/..`.
pub(crate) fn absolute(path: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    if !path.starts_with(b"/") || path.len() + base.len() > 2 * MAX_PATH_BYTES {
        return None;
    }
    let mut names: Vec<&[u8]> = base.split(|&b| b == b'/').filter(|name| !name.is_empty()).collect();
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        match name {
            b".." => drop(names.pop()?),
            _ => names.push(name),
        }
    }
    let mut absolute = Vec::with_capacity(path.len() + base.len());
    for name in &names {
        absolute.push(b'/');
        absolute.extend_from_slice(name);
    }
    if names.is_empty() {
        absolute.push(b'/');
    }
    (absolute.len() <= MAX_PATH_BYTES).then_some(absolute)
}

/// Where a hierarchy is mounted, by the text of `mountinfo`. Places that the kernel had to escape are left out.
pub(crate) fn mounts(text: &[u8], hierarchy: Hierarchy) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'\n').filter_map(move |line| {
        // `id parent major:minor root place options [tags…] - type source options`
        let place = line.split(|&b| b == b' ').nth(4)?;
        let behind = line.windows(3).position(|w| w == b" - ")?;
        let mut fields = line.get(behind + 3..)?.split(|&b| b == b' ');
        let (kind, _, options) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match hierarchy {
            Hierarchy::Unified => kind == b"cgroup2",
            Hierarchy::Of(_) => kind == b"cgroup" && hierarchy.is_of(b"", options),
        };
        (is_it && !place.contains(&b'\\')).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HYBRID: &[u8] = b"13:name=systemd:/system.slice/x.service\n12:pids:/a\n4:cpu,cpuacct:/docker/c0ffee\n\
        1:name=odd:with:colons:/b:c\n0::/system.slice/x.service\n";

    #[test]
    fn each_hierarchy_has_its_line() {
        let check = |hierarchy: Hierarchy, expected: Option<&[u8]>| assert_eq!(path(HYBRID, hierarchy), expected);
        check(Hierarchy::Unified, Some(b"/system.slice/x.service"));
        check(Hierarchy::Of("pids"), Some(b"/a"));
        check(Hierarchy::Of("cpuacct"), Some(b"/docker/c0ffee"));
        check(Hierarchy::Of("name=systemd"), Some(b"/system.slice/x.service"));
        check(Hierarchy::Of("systemd"), None);
        check(Hierarchy::Of("memory"), None);
        assert_eq!(path(b"0::/\n", Hierarchy::Unified), Some(&b"/"[..]));
        assert_eq!(path(b"12:pids:/a\n", Hierarchy::Unified), None, "no version 2 here");
        assert_eq!(path(b"0:/\n\n:", Hierarchy::Unified), None);
    }

    #[test]
    fn a_reader_in_a_namespace_of_its_own() {
        let own = b"/kubepods/burstable/podA/c1";
        let check = |path: &[u8], expected: Option<&[u8]>| {
            let found = absolute(path, own);
            assert_eq!(found.as_deref(), expected, "{}", String::from_utf8_lossy(path));
        };
        check(b"/", Some(own));
        check(b"/sub", Some(b"/kubepods/burstable/podA/c1/sub"));
        check(b"/../c2", Some(b"/kubepods/burstable/podA/c2"));
        check(b"/../../podB/c3", Some(b"/kubepods/burstable/podB/c3"));
        check(b"/../../../besteffort/podC/c4", Some(b"/kubepods/besteffort/podC/c4"));
        check(b"/../../../../system.slice/x.service", Some(b"/system.slice/x.service"));
        check(b"/../../../..", Some(b"/"));
        check(b"/../../../../..", None);
        check(b"no path", None);
        check(b"/../c2 (deleted)", Some(b"/kubepods/burstable/podA/c2"));
        assert_eq!(absolute(b"/a/b", b"/").as_deref(), Some(&b"/a/b"[..]));
        assert_eq!(absolute(b"/../a", b"/"), None, "outside of what is known");
    }

    #[test]
    fn mounts_of_a_hierarchy() {
        let text = b"30 23 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n\
            33 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            34 30 0:31 / /odd\\040place rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 30 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\nx - \n";
        let check = |hierarchy: Hierarchy, expected: &[&[u8]]| {
            assert_eq!(mounts(text, hierarchy).collect::<Vec<_>>(), expected);
        };
        check(Hierarchy::Unified, &[b"/sys/fs/cgroup/unified"]);
        check(Hierarchy::Of("cpu"), &[b"/sys/fs/cgroup/cpu,cpuacct"]);
        check(Hierarchy::Of("name=systemd"), &[b"/sys/fs/cgroup/systemd"]);
        check(Hierarchy::Of("memory"), &[]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(text: Vec<u8>, base: Vec<u8>) {
            path(&text, Hierarchy::Unified);
            path(&text, Hierarchy::Of("cpu"));
            mounts(&text, Hierarchy::Unified).for_each(drop);
            if let Some(found) = absolute(&text, &base) {
                prop_assert!(found.starts_with(b"/"));
            }
            absolute(&[b"/", text.as_slice()].concat(), &base);
        }
    }
}
