//! What the process sets for itself before it begins: open files, and what the allocator keeps.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than this is never needed.
const ENOUGH: u64 = 1 << 16;
/// Heaps for all threads together; glibc would make up to eight for each CPU, and freed memory stays where it was.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// Allocations of so many bytes are mappings of their own, and as much free memory at a heap's end goes back to the system.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 256 << 10;

/// The soft limit of open files is for programs that use `select`: a profiler needs events, rings and tables for every
/// CPU and file. Raises it as far as the hard one lets it. Where that fails, there is less room for tables.
pub(crate) fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = hard.min(ENOUGH);
    if wanted > soft
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::debug!(%error, soft, wanted, "the limit of open files stays as it is");
    }
}

/// Has the allocator keep little of what was freed: most of what the profiler allocates lives for one window. To be called
/// while there is one thread.
pub(crate) fn keep_memory_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers, set before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
    }
}

/// Gives free memory back to the system, also what lies between what is in use. For now and then: it takes about a millisecond.
pub(crate) fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free pages back; touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
