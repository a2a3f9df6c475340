//! Which samples are wanted: the question that the sampler asks, and the answer.
//!
//! The rules are not this room's: whoever starts the sampler hands in a [`Judge`]. It is asked once for each owner and
//! each of its own generations; samples that it refuses are dropped before they are unwound
//! ([`profile::DropReason::Filtered`]), and where the answer's [`Scope`] allows, the kernel side is told, so that the
//! next ones never leave it.
//!
//! **In**: [`Subject`], whose texts are the target's (hostile). **Out**: [`Verdict`]. **Units**: pids of the initial
//! namespace. **Limits**: none here; how often is asked, and how many answers are kept, is `verdicts`'s matter.

use std::fmt::Debug;

use profile::{Declared, Place, ProcessKey};

/// What is known of whom a sample belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The process.
    pub process: ProcessKey,
    /// The name of the process's leader; of the thread, where the process is not known.
    pub comm: &'a str,
    /// The path of the executable as the process sees it; empty for kernel threads and where unknown.
    pub executable_path: &'a str,
    /// The task is a kernel thread.
    pub kernel_thread: bool,
    /// The cgroup that the task was in, by the kernel's number.
    pub cgroup_id: u64,
    /// Where it runs; none where that is not known.
    pub place: Option<&'a Place>,
    /// What its environment declares of it.
    pub declared: Option<&'a Declared>,
    /// The environment was read, or there is none to read. False: `declared` may still come.
    pub declared_known: bool,
}

/// What happens to a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ruling {
    /// It is wanted.
    #[default]
    Take,
    /// It is not.
    Drop,
}

/// How far a ruling reaches, and so what the kernel side may be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// It may change without the subject's change: nothing is told.
    #[default]
    Undecided,
    /// It holds for this process as long as it stays in this cgroup.
    Process,
    /// It holds for all processes of this cgroup.
    Cgroup,
}

/// The answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What happens to the samples.
    pub ruling: Ruling,
    /// Of whom else that is true.
    pub scope: Scope,
}

/// Who decides.
pub trait Judge: Send + Sync + Debug {
    /// Whether there is anything to decide. False: it is never asked, and the kernel side looks nothing up. Read once,
    /// when the sampler starts.
    fn filters(&self) -> bool;

    /// Whether samples of the subject are wanted. No I/O: it is called on the thread that unwinds, once for each owner and
    /// generation.
    fn judge(&self, subject: &Subject<'_>) -> Verdict;

    /// Changes when answers may have changed: then everything is asked again, a bounded number of times a second.
    fn generation(&self) -> u64;

    /// A container was seen for the first time, at an exec or in a sample, in the process `tgid`: one by its path, or a
    /// cgroup that may be one's and says nothing (plain containerd's). It may be told again after a long time. Must not
    /// block.
    fn seen(&self, place: &Place, tgid: u32);
}

/// Wants everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeAll;

impl Judge for TakeAll {
    fn filters(&self) -> bool {
        false
    }

    fn judge(&self, _: &Subject<'_>) -> Verdict {
        Verdict::default()
    }

    fn generation(&self) -> u64 {
        0
    }

    fn seen(&self, _: &Place, _: u32) {}
}
