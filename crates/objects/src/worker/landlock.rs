//! Landlock (Linux 5.13): a process gives up opening files. Descriptors that it is handed still work.
//!
//! **In / Out**: nothing; whether the wall stands.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// `struct landlock_ruleset_attr` up to the part that the version 4 knows.
#[repr(C)]
#[derive(Default)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
}

const CREATE_RULESET_VERSION: u32 = 1;
/// Bytes of the attributes that version 1 knows.
const FIRST_ATTRIBUTES_BYTES: usize = 8;

/// Forbids every kind of access to the file system, and TCP, that this kernel can forbid. No rule allows anything.
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
        handled_access_net: if version >= 4 { 3 } else { 0 },
    };
    let bytes = if version >= 4 { size_of::<RulesetAttributes>() } else { FIRST_ATTRIBUTES_BYTES };
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
