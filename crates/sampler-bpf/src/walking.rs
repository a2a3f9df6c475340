//! The walk over tables.
//!
//! **In**: [`maps::PROCESSES`] and [`maps::SHARDS`], which user space fills; the interrupted task's registers and its own memory.
//! **Out**: [`maps::walk`], this CPU's walk: its frames, and why it ended. **Limits**: `Control::max_user_frames`, and those of
//! `unwind-table`; nothing that a table says makes the walk longer, or has it read another process's memory.
//!
//! The functions that are not inlined take numbers only, so that the verifier goes through each of them once and not for every way
//! that leads there.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_user};
use sampler_abi::{
    Control, CpuCounters, FLAG_CHECK, FLAG_USER_MODE, FLAG_WALK_GUESSED, FLAG_WALK_SIGNAL, FLAG_WALKED,
    MAX_USER_FRAMES, SampleHead,
};
use unwind_table::{End, MAX_FRAMES, Memory, SHARD_BYTES, WINDOW_WORDS, Walk, fill, find, rule, step};

use crate::{
    layout, maps,
    registers::{self, Machine},
    task::{self, Task},
};

/// Steps of one call of [`walk_run`].
const RUN: u32 = 32;

const _: () = assert!(MAX_USER_FRAMES == MAX_FRAMES as usize);

/// The tables, and the running task's memory.
struct Kernel;

impl Memory for Kernel {
    type Shard = *const u8;

    #[inline(always)]
    fn shard(&mut self, shard: u32) -> Option<*const u8> {
        Some(maps::SHARDS.get_value_ptr_mut(shard, &0)?.cast_const().cast())
    }

    #[inline(always)]
    fn load16(&self, shard: *const u8, at: u32) -> u32 {
        // SAFETY: masked to lie in the shard.
        unsafe { u32::from(shard.add((at & (SHARD_BYTES - 2)) as usize).cast::<u16>().read_volatile()) }
    }

    #[inline(always)]
    fn load32(&self, shard: *const u8, at: u32) -> u32 {
        // SAFETY: masked to lie in the shard.
        unsafe { shard.add((at & (SHARD_BYTES - 4)) as usize).cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    fn load64(&self, shard: *const u8, at: u32) -> u64 {
        // SAFETY: masked to lie in the shard.
        unsafe { shard.add((at & (SHARD_BYTES - 8)) as usize).cast::<u64>().read_volatile() }
    }

    #[inline(always)]
    fn stack(&mut self, address: u64, window: &mut [u64; WINDOW_WORDS]) -> u32 {
        let to: *mut c_void = window.as_mut_ptr().cast();
        let from = address as *const c_void;
        // SAFETY: the window has room for all of these; the helper checks the source.
        unsafe {
            if bpf_probe_read_user(to, WINDOW_WORDS as u32 * 8, from) == 0 {
                return WINDOW_WORDS as u32;
            }
            // The stack's last page, perhaps: as far as the page goes.
            let rest = 4096 - (address as u32 & 4095) & (WINDOW_WORDS as u32 * 8 - 8);
            if rest > 8 && bpf_probe_read_user(to, rest, from) == 0 {
                return rest / 8;
            }
            u32::from(bpf_probe_read_user(to, 8, from) == 0)
        }
    }

    #[inline(always)]
    fn fill(&mut self, walk: &mut Walk, address: u64) -> bool {
        published(walk);
        let filled = walk_fill(address);
        published(walk);
        filled != 0
    }

    #[inline(always)]
    fn find(&mut self, walk: &mut Walk, address: u64) -> bool {
        published(walk);
        let found = walk_find(address);
        published(walk);
        found != 0
    }

    #[inline(always)]
    fn rule(&mut self, walk: &mut Walk, address: u64) -> End {
        published(walk);
        let end = walk_rule(address);
        published(walk);
        End(end)
    }
}

/// What the compiler knows of the walk is written before, and read anew behind: another function changes it.
#[inline(always)]
fn published(walk: &mut Walk) {
    let mut at: *mut Walk = walk;
    // SAFETY: moves a register to itself, and may have changed any memory.
    unsafe { asm!("{0} = {0}", inout(reg) at, options(nostack)) };
    let _ = at;
}

/// Keeps an argument that means nothing: a call without one leaves its register undefined, which the verifier refuses.
#[inline(always)]
fn used(mut number: u32) {
    // SAFETY: moves a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack)) };
    let _ = number;
}

/// The window of this CPU's walk, from an address up.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_fill(address: u64) -> u32 {
    let Some(walk) = maps::walk() else { return 0 };
    // SAFETY: this CPU's own, and the tick's alone.
    u32::from(fill(unsafe { &mut *walk }, &mut Kernel, address))
}

/// The mapping of an address, for this CPU's walk.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_find(address: u64) -> u32 {
    let Some(walk) = maps::walk() else { return 0 };
    // SAFETY: this CPU's own, and the tick's alone.
    u32::from(find(unsafe { &mut *walk }, &mut Kernel, address))
}

/// The rule for an address, for this CPU's walk.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_rule(address: u64) -> u32 {
    let Some(walk) = maps::walk() else { return End::NO_SHARD.0 };
    // SAFETY: this CPU's own, and the tick's alone.
    rule(unsafe { &mut *walk }, &mut Kernel, address).0
}

/// One step of this CPU's walk. A function of its own that takes a number only: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_step(unused: u32) -> u32 {
    used(unused);
    let Some(walk) = maps::walk() else { return End::BAD_FRAME.0 };
    // SAFETY: this CPU's own, and the tick's alone.
    step::<Machine, _>(unsafe { &mut *walk }, &mut Kernel).0
}

/// Some steps: so that the verifier goes through the steps of a long walk in the sum of two loops and not in their product.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_run(unused: u32) -> u32 {
    used(unused);
    for _ in 0..RUN {
        let end = walk_step(0);
        if end != 0 {
            return end;
        }
    }
    0
}

/// All of this CPU's walk.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_all(unused: u32) -> u32 {
    used(unused);
    for _ in 0..=MAX_FRAMES / RUN {
        let end = walk_run(0);
        if end != 0 {
            return end;
        }
    }
    End::TOO_MANY_FRAMES.0
}

/// Walks the user half whose registers are in the head, if its process is published. The flags that it returns say what came of it;
/// without [`FLAG_WALKED`], a snapshot has to do.
///
/// # Safety
/// `ctx` is the context of a perf_event program; the head is filled in but for its last fields, `flags` are its flags; `control` and
/// `counters` are values of their maps, `counters` this CPU's own.
#[inline(always)]
pub unsafe fn user_half(
    ctx: *mut c_void,
    head: *mut SampleHead,
    flags: u32,
    control: *const Control,
    counters: *mut CpuCounters,
) -> u32 {
    // SAFETY: see the function's own contract.
    unsafe {
        let Some(walk) = maps::walk() else { return 0 };
        if !begin(head, walk, control) {
            (*counters).bridged_unknown += 1;
            return 0;
        }
        let before = bpf_ktime_get_ns();
        if flags & FLAG_USER_MODE != 0 {
            registers::leaf(ctx, walk);
        }
        let end = walk_all(0);
        (*counters).walk_ns += bpf_ktime_get_ns() - before;
        (*head).walk_end = end;
        if end == End::PENDING.0 || end == End::NO_SHARD.0 {
            (*counters).bridged_pending += 1;
            return 0;
        }
        if end == End::BAD_FRAME.0 {
            (*counters).bridged_bad_frame += 1;
            return 0;
        }
        if end == End::UNKNOWN_PROCESS.0 {
            (*counters).bridged_unknown += 1;
            return 0;
        }
        let mut walked = FLAG_WALKED;
        if (*walk).guesses != 0 {
            walked |= FLAG_WALK_GUESSED;
        }
        if (*walk).signals != 0 {
            walked |= FLAG_WALK_SIGNAL;
        }
        (*counters).walked += 1;
        (*counters).walked_frames += u64::from((*walk).frames);
        let every = (&raw const (*control).check_every).read_volatile();
        if every != 0 && (*counters).walked % u64::from(every) == 0 {
            (*counters).checks += 1;
            walked |= FLAG_CHECK;
        }
        walked
    }
}

/// Begins this CPU's walk where the head's process is published.
///
/// # Safety
/// As [`user_half`].
#[inline(always)]
unsafe fn begin(head: *mut SampleHead, walk: *mut Walk, control: *const Control) -> bool {
    // SAFETY: see the function's own contract; the entry stays memory of the map, whatever user space does to it.
    unsafe {
        let Some(entry) = maps::PROCESSES.get_ptr((*head).tgid) else { return false };
        let start = &raw const (*entry).leader_start_mono_ns;
        let serial = &raw const (*entry).serial;
        let (start_before, serial_before) = (start.read_volatile(), serial.read_volatile());
        // Place and number at once.
        let mappings = (&raw const (*entry).mappings).cast::<u64>().read_volatile();
        // Where user space removes or replaces the entry, its memory may become another's at any moment.
        let whole = start.read_volatile() == start_before && serial.read_volatile() == serial_before;
        if !whole || start_before == 0 || (*head).leader_start_mono_ns > start_before {
            return false;
        }
        (*head).mappings_serial = serial_before;
        let limit = (&raw const (*control).max_user_frames).read_volatile();
        (*walk).begin(
            [(*head).user_pc, (*head).user_sp, (*head).user_fp, (*head).user_lr],
            mappings as u32,
            (mappings >> 32) as u32,
            limit,
        );
        true
    }
}

/// Forgets the mappings of the program that ran before.
///
/// # Safety
/// `task` is a living `task_struct`.
#[inline(always)]
pub unsafe fn executed(task: Task) {
    // SAFETY: see the function's own contract.
    let tgid = unsafe { task::read_u32(task, layout::task_tgid()) };
    // An error means that it was not published.
    let _ = maps::PROCESSES.remove(tgid);
}
