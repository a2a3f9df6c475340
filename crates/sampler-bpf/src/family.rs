//! Following the children of listed processes.

use sampler_abi::CONTROL_FOLLOW_CHILDREN;

use crate::{
    layout, maps,
    task::{self, Task},
};

/// Lists the child's process where the parent's is listed. Runs in the parent, before the child does.
///
/// # Safety
/// Both are living `task_struct`s.
#[inline(always)]
pub unsafe fn forked(parent: Task, child: Task) {
    if !following() {
        return;
    }
    // SAFETY: see the function's own contract; counters and maps are ours.
    unsafe {
        let from = task::read_u32(parent, layout::task_tgid());
        let to = task::read_u32(child, layout::task_tgid());
        // A thread is no new process.
        if to == 0 || from == to || !maps::is_listed(from) {
            return;
        }
        if maps::TGIDS.insert(to, 1, 0).is_err()
            && let Some(counters) = maps::COUNTERS.get_ptr_mut(0)
        {
            (*counters).children_not_listed += 1;
        }
    }
}

/// Takes a process off the list when its leader is freed: that happens after its last thread is gone and it has been
/// waited for, so nothing of it can run any more. (The leader that an exec of another thread replaces has a number of its
/// own by then.)
///
/// # Safety
/// `task` is a living `task_struct`.
#[inline(always)]
pub unsafe fn freed(task: Task) {
    if !following() {
        return;
    }
    // SAFETY: see the function's own contract.
    unsafe {
        let tgid = task::read_u32(task, layout::task_tgid());
        if tgid != 0 && tgid == task::read_u32(task, layout::task_pid()) {
            // An error means that it was not listed.
            let _ = maps::TGIDS.remove(tgid);
        }
    }
}

#[inline(always)]
fn following() -> bool {
    match maps::CONTROL.get_ptr(0) {
        // SAFETY: points to the map's value; user space may change it, and either value will do.
        Some(control) => unsafe { (*control).flags & CONTROL_FOLLOW_CHILDREN != 0 },
        None => false,
    }
}
