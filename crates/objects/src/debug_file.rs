//! Finding the separate debug file of a file: where debuggers look, below the root of the process that maps it.
//!
//! What it is named says nothing: the worker uses it only if it has the file's build id, and what it tells is used for this
//! process's file alone. So a process can mislead nobody but who looks at itself.
//!
//! **In**: a path, a build id and a name (hostile). **Out**: a descriptor for reading. **Limits**: four places. Blocking is the
//! caller's matter (`timed`).

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};

/// Where debug files of a system are.
const DIRECTORY: &[u8] = b"/usr/lib/debug";

/// Opens the first that is there: by the build id (lower-case hex), then by the name that the file says (`link`, perhaps empty)
/// beside it, below it in `.debug`, and in the system's directory.
pub(crate) fn open_debug_file(tgid: u32, path: &[u8], build_id: &str, link: &str) -> Option<OwnedFd> {
    if !path.starts_with(b"/") || path.contains(&0) {
        return None;
    }
    let root = open(format!("/proc/{tgid}/root"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.ok()?;
    places(path, build_id, link).iter().find_map(|place| open_regular(&root, place))
}

fn places(path: &[u8], build_id: &str, link: &str) -> Vec<Vec<u8>> {
    let mut places = Vec::with_capacity(4);
    if let Some((first, rest)) = build_id.split_at_checked(2)
        && !rest.is_empty()
    {
        places.push([DIRECTORY, b"/.build-id/", first.as_bytes(), b"/", rest.as_bytes(), b".debug"].concat());
    }
    if !link.is_empty() {
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let directory = path.get(..end).unwrap_or_default();
        places.push([directory, b"/", link.as_bytes()].concat());
        places.push([directory, b"/.debug/", link.as_bytes()].concat());
        places.push([DIRECTORY, directory, b"/", link.as_bytes()].concat());
    }
    // Some files name themselves.
    places.retain(|place| place != path);
    places
}

fn open_regular(root: &OwnedFd, place: &[u8]) -> Option<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // First without any effect on devices and FIFOs.
    let found = openat2(root, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).ok()?;
    if FileType::from_raw_mode(fstat(&found).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_may_be() {
        let check = |path: &str, build_id: &str, link: &str, expected: &[&str]| {
            let places: Vec<_> = places(path.as_bytes(), build_id, link).into_iter().map(String::from_utf8).collect();
            assert_eq!(places, expected.iter().map(|place| Ok((*place).to_owned())).collect::<Vec<_>>());
        };
        check("/usr/bin/a", "", "", &[]);
        check("/usr/bin/a", "ab", "", &[]);
        check("/usr/bin/a", "abcdef", "", &["/usr/lib/debug/.build-id/ab/cdef.debug"]);
        check(
            "/usr/bin/a",
            "",
            "a.debug",
            &["/usr/bin/a.debug", "/usr/bin/.debug/a.debug", "/usr/lib/debug/usr/bin/a.debug"],
        );
        check("/a", "", "a", &["/.debug/a", "/usr/lib/debug/a"]);
    }

    #[test]
    fn only_regular_files_below_the_root() {
        let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for (place, is_opened) in [
            ("/etc/passwd", true),
            ("/../../etc/passwd", true),
            ("/dev/null", false),
            ("/etc", false),
            ("/absent", false),
        ] {
            assert_eq!(open_regular(&root, place.as_bytes()).is_some(), is_opened, "{place}");
        }
        assert!(open_debug_file(u32::MAX, b"/bin/sleep", "abcdef", "x").is_none());
        assert!(open_debug_file(std::process::id(), b"[vdso]", "abcdef", "x").is_none());
    }
}
