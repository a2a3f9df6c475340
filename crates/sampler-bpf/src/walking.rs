//! The walk over tables: a first version, with a program of its own to try it.
//!
//! **In**: [`SHARDS`] and [`PROCESSES`], which user space fills; the interrupted task. **Out**: [`WALKS`], this CPU's walk, and
//! [`TRIALS`], what came of it.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_perf_event_data,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user, bpf_ringbuf_output},
    macros::{map, perf_event},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::PerfEventContext,
};
use sampler_abi::SampleHead;
use unwind_table::{
    End, FLAG_LEAF_REGISTERS, MAX_FRAMES, Memory, SHARD_BYTES, WINDOW_WORDS, Walk, X86_64, fill, find, rule, step,
};

use crate::{maps, record, registers, task};

/// The tables. Mapped by user space.
#[map]
static SHARDS: Array<[u64; SHARD_BYTES as usize / 8]> = Array::with_max_entries(1, 1 << 10);

/// Tgid to (place of its mappings, how many).
#[map]
static PROCESSES: HashMap<u32, [u32; 2]> = HashMap::with_max_entries(4096, 0);

/// This CPU's walk.
#[map]
static WALKS: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// Samples, frames, nanoseconds, then how many stacks ended in each way.
#[map]
static TRIALS: PerCpuArray<[u64; 16]> = PerCpuArray::with_max_entries(1, 0);

/// Whole walks, for who compares.
#[map]
static WALKED: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Frames at the most, and whether to hand walks over.
#[map]
static LIMIT: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// Steps of one call of [`walk_run`].
const RUN: u32 = 32;

const SNAPSHOT: u32 = 64 << 10;

struct Kernel;

impl Memory for Kernel {
    type Shard = *const u8;

    #[inline(always)]
    fn shard(&mut self, shard: u32) -> Option<*const u8> {
        Some(SHARDS.get_ptr(shard)?.cast())
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
    let Some(walk) = WALKS.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own, and the tick's alone.
    u32::from(fill(unsafe { &mut *walk }, &mut Kernel, address))
}

/// The mapping of an address, for this CPU's walk.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_find(address: u64) -> u32 {
    let Some(walk) = WALKS.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own, and the tick's alone.
    u32::from(find(unsafe { &mut *walk }, &mut Kernel, address))
}

/// The rule for an address, for this CPU's walk.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_rule(address: u64) -> u32 {
    let Some(walk) = WALKS.get_ptr_mut(0) else { return End::NO_SHARD.0 };
    // SAFETY: this CPU's own, and the tick's alone.
    rule(unsafe { &mut *walk }, &mut Kernel, address).0
}

/// One step of this CPU's walk. A function of its own that takes a number only: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_step(unused: u32) -> u32 {
    used(unused);
    let Some(walk) = WALKS.get_ptr_mut(0) else { return End::BAD_FRAME.0 };
    // SAFETY: this CPU's own, and the tick's alone.
    step::<X86_64, _>(unsafe { &mut *walk }, &mut Kernel).0
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

/// The interrupted registers, in the order of their DWARF numbers.
///
/// # Safety
/// `ctx` is the context of a perf_event program; `walk` is ours to write.
#[inline(always)]
unsafe fn leaf_registers(ctx: *mut c_void, walk: *mut Walk) {
    // SAFETY: see the function's own contract. Volatile: the verifier wants each member read from the context at its place
    // and width.
    unsafe {
        let regs = &raw const (*ctx.cast::<bpf_perf_event_data>()).regs;
        macro_rules! leaf {
            ($($number:literal $name:ident)*) => { $( (*walk).leaf[$number] = (&raw const (*regs).$name).read_volatile(); )* };
        }
        leaf!(0 rax 1 rdx 2 rcx 3 rbx 4 rsi 5 rdi 8 r8 9 r9 10 r10 11 r11 12 r12 13 r13 14 r14 15 r15);
        (*walk).flags |= FLAG_LEAF_REGISTERS;
    }
}

/// A tick that walks, and measures it.
#[perf_event]
pub fn walk_sample(ctx: PerfEventContext) -> u32 {
    // SAFETY: helpers, and values of maps of this CPU.
    unsafe {
        let pid_tgid = bpf_get_current_pid_tgid();
        let Some(process) = PROCESSES.get_ptr(&((pid_tgid >> 32) as u32)) else { return 0 };
        let Some(walk) = WALKS.get_ptr_mut(0) else { return 0 };
        let Some(trial) = TRIALS.get_ptr_mut(0) else { return 0 };
        let Some(limit) = LIMIT.get_ptr(0) else { return 0 };
        let Some(slot) = maps::scratch() else { return 0 };
        let head = slot.cast::<SampleHead>();
        (*head).user_pc = 0;
        (*head).user_sp = 0;
        (*head).user_fp = 0;
        let flags = if registers::in_user_mode(ctx.as_ptr()) {
            registers::interrupted(ctx.as_ptr(), head)
        } else {
            registers::saved(task::current(), head)
        };
        if flags & sampler_abi::FLAG_USER_REGS == 0 {
            return 0;
        }
        let started = bpf_ktime_get_ns();
        (*walk).begin(
            [(*head).user_pc, (*head).user_sp, (*head).user_fp, 0],
            (*process)[0],
            (*process)[1],
            (*limit)[0],
        );
        if flags & sampler_abi::FLAG_USER_MODE != 0 {
            leaf_registers(ctx.as_ptr(), walk);
        }
        let mut end = 0;
        for _ in 0..=MAX_FRAMES / RUN {
            end = walk_run(0);
            if end != 0 {
                break;
            }
        }
        let took = bpf_ktime_get_ns() - started;
        (*trial)[0] += 1;
        (*trial)[1] += u64::from((*walk).frames);
        (*trial)[2] += took;
        (*trial)[3 + (end & 7) as usize] += 1;
        if (*limit)[1] != 0 {
            (*walk).limit = end;
            (*walk).pc = (*head).user_pc;
            (*walk).sp = (*head).user_sp;
            (*walk).fp = (*head).user_fp;
            (*walk).lr = u64::from(pid_tgid as u32);
            let ring = (&raw const WALKED).cast_mut().cast::<c_void>();
            if bpf_ringbuf_output(ring, walk.cast(), size_of::<Walk>() as u64, 0) == 0 {
                // What the oracle needs: the whole piece, whatever was copied.
                record::copy_stack(0, SNAPSHOT);
                bpf_ringbuf_output(ring, slot.cast(), size_of::<SampleHead>() as u64 + u64::from(SNAPSHOT), 0);
            }
        }
    }
    0
}
