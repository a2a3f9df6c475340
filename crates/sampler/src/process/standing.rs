//! Whether samples of a process are to be expected: what can be known of that before one comes.
//!
//! A process whose samples nobody wants is not prepared for. Whether it is one the kernel side decides with each tick; here is only
//! a guess, good enough to prepare or not: no record tells that a process was moved to another cgroup. Whoever is sampled all
//! the same is prepared for then.
//!
//! **In**: the processes that were named, forks, samples, what /proc says of cgroups. **Out**: [`Standing`].

use rustc_hash::FxHashSet;

/// The processes of which samples are taken.
#[derive(Debug, Default)]
pub(crate) enum Listed {
    /// All.
    #[default]
    All,
    /// These, as long as they run.
    Only {
        /// Their thread group ids.
        tgids: FxHashSet<u32>,
        /// Those that they fork are listed too.
        children: bool,
    },
}

/// What is known of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It is listed.
    pub(crate) is_listed: bool,
    /// The cgroup that it was seen in the last time, or its parent before it; 0: unknown.
    pub(crate) cgroup_id: u64,
}

impl Listed {
    /// Of a process that was there before anything was known of it.
    pub(super) fn first_seen(&self, tgid: u32) -> Standing {
        let is_listed = match self {
            Self::All => true,
            Self::Only { tgids, .. } => tgids.contains(&tgid),
        };
        Standing { is_listed, cgroup_id: 0 }
    }

    /// Of a process that was forked.
    pub(super) fn forked(&self, parent: Standing) -> Standing {
        let is_listed = match self {
            Self::All => true,
            Self::Only { children, .. } => *children && parent.is_listed,
        };
        Standing { is_listed, ..parent }
    }
}
