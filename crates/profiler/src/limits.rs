//! The soft limit of open files is for programs that use `select`: a profiler needs events, rings and tables for every
//! CPU and file.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than this is never needed.
const ENOUGH: u64 = 1 << 16;

/// Raises the soft limit as far as the hard one lets it. Where that fails, there is less room for tables.
pub(crate) fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = hard.min(ENOUGH);
    if wanted > soft
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::debug!(%error, soft, wanted, "the limit of open files stays as it is");
    }
}
