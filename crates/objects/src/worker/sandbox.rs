//! The walls around the worker. Each is put up if the system lets us; what stands is reported to the agent.
//!
//! **In**: nothing. **Out**: [`SandboxReport`]. **Units**: bytes, counts.
//! **Limits**: the constants below, as resource limits of the process.

use std::fs;

use rustix::fs::Uid;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getgroups, nice, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, UnshareFlags, capabilities, clear_ambient_capability_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_name, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

use super::{landlock, seccomp};
use crate::protocol::SandboxReport;
use crate::tables::MAX_TABLE_BYTES;

/// Address space: memory, tables mapped for naming, and the program itself.
const MAX_ADDRESS_SPACE: u64 = 2 << 30;
/// Memory of its own.
const MAX_DATA: u64 = 1 << 30;
/// Open files: the standard streams, the socket, a file, its tables.
const MAX_OPEN_FILES: u64 = 16;
/// The user and group that own nothing.
const NOBODY: u32 = 65534;
/// A little behind everybody else when the CPU is short.
const NICE: i32 = 5;
/// When memory is short, the worker goes before the agent does: it is replaced, and loses nothing.
const OOM_SCORE: &str = "700";
/// The first descriptor behind the standard streams.
const FIRST_OTHER_FD: libc::c_uint = 3;
/// Capabilities that the kernel can know, for dropping them all.
const MAX_CAPABILITIES: u32 = 64;

/// Puts the walls up. Must be called while the process has one thread: most of them are the thread's.
pub(super) fn enter() -> SandboxReport {
    let _ = set_name(c"profiler-worker");
    close_inherited();
    ignore_signals();
    abort_on_panic();
    // Not walls: best effort, and nothing to report.
    let _ = nice(NICE);
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);

    let left_network = leave(UnshareFlags::NEWNET);
    let limits = set_limits();
    drop_bounding_set();
    let nobody = become_nobody();
    // Without CAP_SYS_ADMIN, by way of a user namespace, where the system allows these. Not earlier: nobody's number has
    // no meaning in there.
    let own_network = left_network || leave(UnshareFlags::NEWUSER | UnshareFlags::NEWNET);
    let no_capabilities = drop_capabilities();
    let no_new_privileges = set_no_new_privs(true).is_ok() && no_new_privs().unwrap_or(false);
    let no_files = no_new_privileges && landlock::forbid_files();
    // After the change of user, which resets both. A second process of that user could otherwise look inside.
    let not_dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
    // If the agent ended before this call, its end of the socket is closed: the first read ends the worker.
    let dies_with_agent = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    // The last: most of the above are calls that it forbids.
    let system_calls = no_new_privileges && seccomp::forbid_other_calls();
    SandboxReport {
        no_capabilities,
        no_new_privileges,
        nobody,
        own_network,
        no_files,
        limits,
        dies_with_agent,
        not_dumpable,
        system_calls,
    }
}

/// Closes what the agent's libraries may have left open without `O_CLOEXEC`.
fn close_inherited() {
    // SAFETY: `serve` is the first thing that the process does, so nothing in it owns a descriptor above the standard
    // streams. Before Linux 5.9 the call fails, and what was inherited stays.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_OTHER_FD, libc::c_uint::MAX, 0);
    }
}

/// The agent ends the worker by closing the socket: a terminal's signals are for the agent.
fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// A panic leaves the tools in an unknown state, and unwinding may drop secrets anywhere: end at once.
fn abort_on_panic() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        show(panic);
        std::process::abort();
    }));
}

fn leave(namespaces: UnshareFlags) -> bool {
    // SAFETY: no flag makes two threads or tables share less than before: there is one thread, and the descriptor table
    // stays.
    unsafe { unshare_unsafe(namespaces) }.is_ok()
}

fn set_limits() -> bool {
    let limits = [
        (Resource::As, MAX_ADDRESS_SPACE),
        (Resource::Data, MAX_DATA),
        (Resource::Core, 0),
        (Resource::Nofile, MAX_OPEN_FILES),
        (Resource::Fsize, MAX_TABLE_BYTES),
        (Resource::Nproc, 0),
    ];
    let set = limits
        .map(|(resource, limit)| setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).is_ok());
    set == [true; 6]
}

fn drop_bounding_set() {
    for capability in 0..MAX_CAPABILITIES {
        // Fails for numbers that the kernel does not know and without CAP_SETPCAP; `no_new_privs` holds then.
        let Some(capability) = 1_u64.checked_shl(capability) else { break };
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(capability));
    }
}

fn become_nobody() -> bool {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    // Without CAP_SETGID there may be no groups to begin with.
    let groups = set_thread_groups(&[]).is_ok() || getgroups().is_ok_and(|groups| groups.is_empty());
    let group = set_thread_res_gid(gid, gid, gid).is_ok();
    let user = set_thread_res_uid(uid, uid, uid).is_ok();
    groups && group && user
}

fn drop_capabilities() -> bool {
    let none = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let _ = clear_ambient_capability_set();
    set_capabilities(None, nothing).is_ok() && capabilities(None).is_ok_and(|sets| sets == nothing)
}
