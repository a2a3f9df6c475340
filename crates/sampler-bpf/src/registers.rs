//! The registers of a task's user half (x86-64).
//!
//! In user mode they are the interrupted ones. In kernel mode they are those that the kernel saved at its entry, at the
//! top of the task's kernel stack.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{bpf_perf_event_data, pt_regs},
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs},
};
use sampler_abi::{FLAG_COMPAT, FLAG_USER_MODE, FLAG_USER_REGS, SampleHead};

use crate::{
    layout,
    task::{self, Task},
};

/// `__USER32_CS`: the code segment of 32-bit programs.
const USER32_CS: u64 = 0x23;
/// The privilege level in a code segment's selector.
const RING_MASK: u64 = 3;

/// Whether the timer interrupted user mode.
///
/// # Safety
/// `ctx` is the context of a perf_event program.
#[inline(always)]
pub unsafe fn in_user_mode(ctx: *mut c_void) -> bool {
    // SAFETY: see the function's own contract.
    unsafe { (*ctx.cast::<bpf_perf_event_data>()).regs.cs & RING_MASK == RING_MASK }
}

/// Puts the interrupted registers into the head.
///
/// # Safety
/// `ctx` is the context of a perf_event program that interrupted user mode; `head` is ours to write.
#[inline(always)]
pub unsafe fn interrupted(ctx: *mut c_void, head: *mut SampleHead) -> u32 {
    let ctx = ctx.cast::<bpf_perf_event_data>();
    // SAFETY: see the function's own contract. Volatile: the verifier wants each member read from the context at its
    // place and width, not merged with a neighbour.
    unsafe {
        let regs = &raw const (*ctx).regs;
        (*head).user_pc = (&raw const (*regs).rip).read_volatile();
        (*head).user_sp = (&raw const (*regs).rsp).read_volatile();
        (*head).user_fp = (&raw const (*regs).rbp).read_volatile();
        let cs = (&raw const (*regs).cs).read_volatile();
        FLAG_USER_MODE | FLAG_USER_REGS | compat(cs)
    }
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
            (stack as *const u8).wrapping_add((layout::thread_bytes() as usize).wrapping_sub(size_of::<pt_regs>()))
        };
        let mut regs = core::mem::MaybeUninit::<pt_regs>::uninit();
        if bpf_probe_read_kernel(regs.as_mut_ptr().cast(), size_of::<pt_regs>() as u32, from.cast()) != 0 {
            return 0;
        }
        let regs = regs.as_ptr();
        // The kernel's own workers of a process (io_uring) have this place, but nothing in it.
        if (*regs).cs & RING_MASK != RING_MASK || (*regs).rip == 0 || (*regs).rsp == 0 {
            return 0;
        }
        (*head).user_pc = (*regs).rip;
        (*head).user_sp = (*regs).rsp;
        (*head).user_fp = (*regs).rbp;
        FLAG_USER_REGS | compat((*regs).cs)
    }
}

#[inline(always)]
fn compat(cs: u64) -> u32 {
    if cs & 0xffff == USER32_CS { FLAG_COMPAT } else { 0 }
}
