//! x86-64.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_perf_event_data, pt_regs};
use sampler_abi::SampleHead;
use unwind_table::{FLAG_LEAF_REGISTERS, Walk};

/// Whose rules a walk follows.
pub type Machine = unwind_table::X86_64;
/// What the kernel saves at its entry.
pub type Saved = pt_regs;

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
        (*head).user_pc = (&raw const (*regs).rip).read_volatile();
        (*head).user_sp = (&raw const (*regs).rsp).read_volatile();
        (*head).user_fp = (&raw const (*regs).rbp).read_volatile();
        is_compat((&raw const (*regs).cs).read_volatile())
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
        if (*regs).cs & RING_MASK != RING_MASK || (*regs).rip == 0 || (*regs).rsp == 0 {
            return None;
        }
        (*head).user_pc = (*regs).rip;
        (*head).user_sp = (*regs).rsp;
        (*head).user_fp = (*regs).rbp;
        Some(is_compat((*regs).cs))
    }
}

/// All interrupted registers, in the order of their DWARF numbers.
///
/// # Safety
/// `ctx` is the context of a perf_event program that interrupted user mode; `walk` is ours to write.
#[inline(always)]
pub unsafe fn leaf(ctx: *mut c_void, walk: *mut Walk) {
    // SAFETY: see the function's own contract. Volatile, as above.
    unsafe {
        let regs = &raw const (*ctx.cast::<bpf_perf_event_data>()).regs;
        macro_rules! leaf {
            ($($number:literal $name:ident)*) => { $( (*walk).leaf[$number] = (&raw const (*regs).$name).read_volatile(); )* };
        }
        leaf!(0 rax 1 rdx 2 rcx 3 rbx 4 rsi 5 rdi 8 r8 9 r9 10 r10 11 r11 12 r12 13 r13 14 r14 15 r15);
        (*walk).flags |= FLAG_LEAF_REGISTERS;
    }
}

#[inline(always)]
fn is_compat(cs: u64) -> bool {
    cs & 0xffff == USER32_CS
}
