//! The registers of a task's user half.
//!
//! In user mode they are the interrupted ones. In kernel mode they are those that the kernel saved at its entry, at the
//! top of the task's kernel stack. What differs between machines is in a module for each.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs};
use sampler_abi::{FLAG_COMPAT, FLAG_USER_MODE, FLAG_USER_REGS, SampleHead};

use crate::{
    layout,
    task::{self, Task},
};

#[cfg(bpf_target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod machine;
#[cfg(bpf_target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod machine;

pub use machine::{Machine, in_user_mode, leaf};
use machine::{Saved, from_context, from_saved};

/// Puts the interrupted registers into the head.
///
/// # Safety
/// `ctx` is the context of a perf_event program that interrupted user mode; `head` is ours to write.
#[inline(always)]
pub unsafe fn interrupted(ctx: *mut c_void, head: *mut SampleHead) -> u32 {
    // SAFETY: see the function's own contract.
    let compat = unsafe { from_context(ctx, head) };
    FLAG_USER_MODE | FLAG_USER_REGS | if compat { FLAG_COMPAT } else { 0 }
}

/// Puts the saved registers into the head; no flag where the task has none.
///
/// # Safety
/// `task` is the running task, in kernel mode; `head` is ours to write.
#[inline(always)]
pub unsafe fn saved(task: Task, head: *mut SampleHead) -> u32 {
    // SAFETY: the helpers check what they are given; all-zero registers are registers.
    unsafe {
        // A task that is about to end has given its memory back. What is mapped then is another's, and kernels before 6.4 would
        // read that.
        if task::read_u64(task, layout::task_mm()) == 0 {
            return 0;
        }
        let from: *const u8 = if layout::has_task_pt_regs() != 0 {
            bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8
        } else {
            let stack = task::read_u64(task, layout::task_stack());
            (stack as *const u8).wrapping_add(layout::saved_regs() as usize)
        };
        let mut regs = MaybeUninit::<Saved>::uninit();
        if bpf_probe_read_kernel(regs.as_mut_ptr().cast(), size_of::<Saved>() as u32, from.cast()) != 0 {
            return 0;
        }
        let Some(compat) = from_saved(regs.as_ptr(), head) else { return 0 };
        FLAG_USER_REGS | if compat { FLAG_COMPAT } else { 0 }
    }
}
