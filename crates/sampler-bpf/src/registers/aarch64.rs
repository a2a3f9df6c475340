//! arm64.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_perf_event_data, user_pt_regs};
use sampler_abi::SampleHead;
use unwind_table::Walk;

/// Whose rules a walk follows.
pub type Machine = unwind_table::Aarch64;
/// What the kernel saves at its entry: the beginning of its `pt_regs`.
pub type Saved = user_pt_regs;

/// The exception level in the processor's state, with the bit of 32-bit programs left out: 0 is user mode.
const LEVEL_MASK: u64 = 0xf;
/// A 32-bit program.
const MODE32: u64 = 0x10;
/// x29 and x30.
const FP: usize = 29;
const LR: usize = 30;

/// Whether the timer interrupted user mode.
///
/// # Safety
/// `ctx` is the context of a perf_event program.
#[inline(always)]
pub unsafe fn in_user_mode(ctx: *mut c_void) -> bool {
    // SAFETY: see the function's own contract.
    unsafe { (*ctx.cast::<bpf_perf_event_data>()).regs.pstate & LEVEL_MASK == 0 }
}

/// Puts the interrupted registers into the head. Whether they are a 32-bit program's.
///
/// # Safety
/// `ctx` is the context of a perf_event program that interrupted user mode; `head` is ours to write.
#[inline(always)]
pub unsafe fn from_context(ctx: *mut c_void, head: *mut SampleHead) -> bool {
    // SAFETY: see the function's own contract. Volatile: the verifier wants each member read from the context at its
    // place and width, not merged with a neighbour.
    unsafe {
        let regs = &raw const (*ctx.cast::<bpf_perf_event_data>()).regs;
        (*head).user_pc = (&raw const (*regs).pc).read_volatile();
        (*head).user_sp = (&raw const (*regs).sp).read_volatile();
        (*head).user_fp = (&raw const (*regs).regs[FP]).read_volatile();
        (*head).user_lr = (&raw const (*regs).regs[LR]).read_volatile();
        (&raw const (*regs).pstate).read_volatile() & MODE32 != 0
    }
}

/// Puts saved registers into the head. Whether they are a 32-bit program's; none where there are none.
///
/// # Safety
/// `regs` were read; `head` is ours to write.
#[inline(always)]
pub unsafe fn from_saved(regs: *const Saved, head: *mut SampleHead) -> Option<bool> {
    // SAFETY: see the function's own contract.
    unsafe {
        // The kernel's own workers of a process (io_uring) have this place, but nothing in it.
        if (*regs).pstate & LEVEL_MASK != 0 || (*regs).pc == 0 || (*regs).sp == 0 {
            return None;
        }
        (*head).user_pc = (*regs).pc;
        (*head).user_sp = (*regs).sp;
        (*head).user_fp = (*regs).regs[FP];
        (*head).user_lr = (*regs).regs[LR];
        Some((*regs).pstate & MODE32 != 0)
    }
}

/// No rules here are of registers other than the stack's and the frame's: a walk begins without them.
///
/// # Safety
/// None.
#[inline(always)]
pub unsafe fn leaf(_ctx: *mut c_void, _walk: *mut Walk) {}
