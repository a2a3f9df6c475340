//! Landlock (Linux 5.13): a process gives up opening files. Descriptors that it is handed still work.
//!
//! **In / Out**: nothing; whether the wall stands.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// `struct landlock_ruleset_attr`, as version 6 knows it; older versions know the beginning.
#[repr(C)]
#[derive(Default)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

const CREATE_RULESET_VERSION: u32 = 1;
/// Bind and connect.
const ALL_TCP: u64 = 0b11;
/// Abstract sockets of, and signals to, processes outside.
const ALL_SCOPES: u64 = 0b11;

/// Forbids every kind of access to the file system, TCP, and signals to others, as far as this kernel can. No rule
/// allows anything. Processes outside cannot be traced any more either.
pub(super) fn forbid_files() -> bool {
    let Some(version) = version() else { return false };
    // Rights by version: 13 first, then refer, truncate, (4: network), ioctl on devices.
    let rights = match version {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let attributes = RulesetAttributes {
        handled_access_fs: (1 << rights) - 1,
        handled_access_net: if version >= 4 { ALL_TCP } else { 0 },
        scoped: if version >= 6 { ALL_SCOPES } else { 0 },
    };
    let known = match version {
        1..=3 => 1,
        4 | 5 => 2,
        _ => 3,
    };
    let bytes = known * size_of::<u64>();
    // SAFETY: the kernel reads `bytes` bytes of a value that lives until the call returns.
    let ruleset = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, bytes, 0_u32) };
    let Some(ruleset) = RawFd::try_from(ruleset).ok().filter(|&fd| fd >= 0) else { return false };
    // SAFETY: the kernel has just given us this descriptor.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: no pointers.
    let restricted =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, std::os::fd::AsRawFd::as_raw_fd(&ruleset), 0_u32) };
    restricted == 0
}

fn version() -> Option<i64> {
    // SAFETY: without attributes, and with this flag, the call only tells its version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttributes>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    (version >= 1).then_some(version)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    #[test]
    fn files_and_networks_are_out_of_reach_of_the_thread() {
        let Some(version) = version() else {
            eprintln!("SKIPPED: this kernel has no Landlock");
            return;
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let opened = File::open("/etc/passwd").unwrap();
        // The wall is the thread's.
        let (before, stands, file, connected, read) = thread::spawn(move || {
            let before = File::open("/etc/passwd").is_ok() && TcpStream::connect(address).is_ok();
            // SAFETY: a switch of this thread.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let stands = forbid_files();
            let file = File::open("/etc/passwd").map(drop).map_err(|error| error.kind());
            let connected = TcpStream::connect(address).map(drop).map_err(|error| error.kind());
            let read = io::read_to_string(opened).is_ok();
            (before, stands, file, connected, read)
        })
        .join()
        .unwrap();
        assert!(before && stands && read, "what was open stays open");
        assert_eq!(file, Err(io::ErrorKind::PermissionDenied));
        let expected = if version >= 4 { Err(io::ErrorKind::PermissionDenied) } else { Ok(()) };
        assert_eq!(connected, expected);
        assert!(File::open("/etc/passwd").is_ok(), "other threads are not meant");
    }
}
