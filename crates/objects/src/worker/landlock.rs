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
