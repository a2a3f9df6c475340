//! Puts one record together in this CPU's scratch slot and hands it to the ring buffer.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{
        bpf_get_current_comm, bpf_get_smp_processor_id, bpf_get_stack, bpf_ktime_get_ns, bpf_probe_read_kernel,
        bpf_probe_read_user, bpf_ringbuf_output, bpf_ringbuf_query,
    },
};
use sampler_abi::{
    COMM_BYTES, CONTROL_TABLES, Control, CpuCounters, FLAG_CHECK, FLAG_COMPAT, FLAG_KERNEL_STACK_CUT,
    FLAG_KERNEL_STACK_FAILED, FLAG_KERNEL_THREAD, FLAG_SNAPSHOT_FAULT, FLAG_USER_MODE, FLAG_USER_REGS, FLAG_WALKED,
    MAX_KERNEL_FRAMES, MAX_RECORD_BYTES, MAX_SNAPSHOT_BYTES, MAX_USER_FRAMES, SCRATCH_BYTES, SNAPSHOT_CHUNK_BYTES,
    SampleHead,
};

use crate::{
    layout, maps, registers,
    task::{self, Task},
    walking,
};

const HEAD_BYTES: u32 = size_of::<SampleHead>() as u32;
const KERNEL_BYTES: u32 = MAX_KERNEL_FRAMES as u32 * 8;
const USER_BYTES: u32 = MAX_USER_FRAMES as u32 * 8;
const MAX_SNAPSHOT: u32 = MAX_SNAPSHOT_BYTES as u32;
const CHUNK: u32 = SNAPSHOT_CHUNK_BYTES as u32;
/// The first read ends at a page's end; then whole pages; then the rest.
const MAX_READS: u32 = MAX_SNAPSHOT / CHUNK + 1;
/// The ring buffer's own head of each record, which its fill level includes.
const RING_HEAD_BYTES: u64 = 8;

/// What the timer interrupted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A task in user mode.
    User,
    /// A task that has a user half, in kernel mode.
    Kernel,
    /// A task that has none.
    KernelThread,
}

/// Hides from the compiler what it knows of a number, so that the check behind it stays for the verifier to see.
/// (A real instruction: an empty one gives "Invalid line_info".)
#[inline(always)]
fn opaque(mut value: u32) -> u32 {
    // SAFETY: moves a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// Fills the slot, sends it, and counts what came of it.
///
/// # Safety
/// `ctx` is the context of a perf_event program, `slot` this CPU's slot of `SCRATCH_BYTES`, `task` the running task, `wanted` the
/// `CONTROL_*` as they were read, `control` and `counters` values of their maps, `counters` this CPU's own.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; a struct of them would live on the small stack")]
pub unsafe fn fill_and_send<const TABLES: bool>(
    ctx: *mut c_void,
    slot: *mut u8,
    started: u64,
    pid_tgid: u64,
    task: Task,
    cgroup_id: u64,
    mode: Mode,
    wanted: u32,
    control: *const Control,
    counters: *mut CpuCounters,
) {
    // SAFETY: see the function's own contract: the head is the first thing in the slot.
    unsafe {
        let head = slot.cast::<SampleHead>();
        (*head).time_mono_ns = started;
        (*head).leader_start_mono_ns = task::leader_start(task);
        (*head).cgroup_id = cgroup_id;
        (*head).user_pc = 0;
        (*head).user_sp = 0;
        (*head).user_fp = 0;
        (*head).user_lr = 0;
        (*head).mappings_serial = 0;
        (*head).walk_end = 0;
        (*head).tgid = (pid_tgid >> 32) as u32;
        (*head).tid = pid_tgid as u32;
        (*head).cpu = bpf_get_smp_processor_id();
        bpf_get_current_comm((&raw mut (*head).comm).cast(), COMM_BYTES as u32);

        let mut flags = match mode {
            Mode::User => registers::interrupted(ctx, head),
            Mode::Kernel => registers::saved(task, head),
            Mode::KernelThread => FLAG_KERNEL_THREAD,
        };
        let kernel_bytes = if mode == Mode::User { 0 } else { kernel_stack(ctx, slot, &mut flags) };

        let (mut user_bytes, mut snapshot_bytes) = (0u32, 0u32);
        if flags & FLAG_USER_REGS != 0 && flags & FLAG_COMPAT == 0 {
            if TABLES && wanted & CONTROL_TABLES != 0 {
                flags |= walking::user_half(ctx, head, flags, control, counters);
                if flags & FLAG_WALKED != 0 {
                    user_bytes = copy_frames(kernel_bytes);
                }
            }
            if flags & FLAG_WALKED == 0 || flags & FLAG_CHECK != 0 {
                snapshot_bytes = snapshot(kernel_bytes, user_bytes, &mut flags, control, counters);
            }
        }
        (*head).flags = flags;
        (*head).kernel_frames = kernel_bytes / 8;
        (*head).user_frames = user_bytes / 8;
        (*head).snapshot_bytes = snapshot_bytes;
        send(slot, HEAD_BYTES + kernel_bytes + user_bytes + snapshot_bytes, control, counters);
    }
}

/// Copies as much of the user stack as is asked for behind the frames; returns the bytes.
///
/// # Safety
/// `control` and `counters` are values of their maps, `counters` this CPU's own.
#[inline(always)]
unsafe fn snapshot(
    kernel_bytes: u32,
    user_bytes: u32,
    flags: &mut u32,
    control: *const Control,
    counters: *mut CpuCounters,
) -> u32 {
    // SAFETY: see the function's own contract.
    unsafe {
        let wanted = (*control).snapshot_bytes;
        let wanted = if wanted > MAX_SNAPSHOT { MAX_SNAPSHOT } else { wanted };
        let before = bpf_ktime_get_ns();
        let copied = copy_stack(kernel_bytes + user_bytes, wanted);
        (*counters).snapshot_ns += bpf_ktime_get_ns() - before;
        if copied < wanted {
            *flags |= FLAG_SNAPSHOT_FAULT;
        } else if wanted != 0 {
            (*counters).snapshot_full += 1;
        }
        copied
    }
}

/// Puts the frames of this CPU's walk behind `kernel_bytes` of kernel frames; returns their bytes.
///
/// A function of its own that takes a number only, as [`copy_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_frames(kernel_bytes: u32) -> u32 {
    let (Some(slot), Some(walk)) = (maps::scratch(), maps::walk()) else { return 0 };
    // SAFETY: this CPU's walk.
    let (frames, from) = unsafe { ((*walk).frames, &raw const (*walk).addresses) };
    // What the checks say is always so; they are for the verifier.
    let (before, bytes) = (opaque(kernel_bytes), opaque(frames.wrapping_mul(8)));
    if before > KERNEL_BYTES || bytes > USER_BYTES {
        return 0;
    }
    // SAFETY: the slot has room for all of both; so many frames are in the walk.
    let copied = unsafe { bpf_probe_read_kernel(slot.add((HEAD_BYTES + before) as usize).cast(), bytes, from.cast()) };
    if copied == 0 { bytes } else { 0 }
}

/// Puts the kernel stack behind the head; returns its bytes, a multiple of 8 and at most `KERNEL_BYTES`.
///
/// # Safety
/// `ctx` is the program's context, `slot` has `SCRATCH_BYTES`.
#[inline(always)]
unsafe fn kernel_stack(ctx: *mut c_void, slot: *mut u8, flags: &mut u32) -> u32 {
    // SAFETY: the slot has room for `KERNEL_BYTES` behind the head.
    let got = unsafe { bpf_get_stack(ctx, slot.add(HEAD_BYTES as usize).cast(), KERNEL_BYTES, 0) };
    if got < 0 {
        *flags |= FLAG_KERNEL_STACK_FAILED;
        return 0;
    }
    let bytes = got as u32 & !7;
    let bytes = if bytes > KERNEL_BYTES { KERNEL_BYTES } else { bytes };
    if bytes >= layout::max_kernel_frames() * 8 {
        *flags |= FLAG_KERNEL_STACK_CUT;
    }
    bytes
}

/// Copies the user stack from the head's `user_sp` upwards into this CPU's slot, behind so many bytes of frames: first the rest of the page, then page by page, until `wanted` is reached or a page is not there. Returns the bytes, at
/// most `wanted`.
///
/// A function of its own that takes numbers only: the verifier goes through it once, not once for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_stack(frame_bytes: u32, wanted: u32) -> u32 {
    let Some(slot) = maps::scratch() else { return 0 };
    // SAFETY: the head is the first thing in this CPU's slot, which belongs to the running tick.
    let sp = unsafe { (*slot.cast::<SampleHead>()).user_sp };
    let mut done = 0u32;
    for _ in 0..MAX_READS {
        if done >= wanted {
            break;
        }
        let from = sp.wrapping_add(u64::from(done));
        let mut chunk = CHUNK - (from as u32 & (CHUNK - 1));
        if chunk > wanted - done {
            chunk = wanted - done;
        }
        // What the checks below say is always so; they are for the verifier, which cannot add that up itself.
        let to = opaque(HEAD_BYTES + frame_bytes + done);
        if to > HEAD_BYTES + KERNEL_BYTES + USER_BYTES + MAX_SNAPSHOT {
            break;
        }
        let chunk = opaque(chunk);
        if chunk > CHUNK {
            break;
        }
        // SAFETY: `to + chunk` is at most `SCRATCH_BYTES`; the helper checks the source.
        if unsafe { bpf_probe_read_user(slot.add(to as usize).cast(), chunk, from as *const c_void) } != 0 {
            break;
        }
        done += chunk;
    }
    done
}

/// Hands the first `bytes` of the slot to the ring buffer, waking the reader only when enough waits there.
///
/// # Safety
/// `slot` has `SCRATCH_BYTES`; `control` and `counters` are values of their maps, `counters` this CPU's own.
#[inline(always)]
unsafe fn send(slot: *mut u8, bytes: u32, control: *const Control, counters: *mut CpuCounters) {
    let ring = (&raw const maps::RING).cast_mut().cast::<c_void>();
    let bytes = opaque(bytes);
    // SAFETY: see the function's own contract; `bytes` is checked to lie within the slot.
    unsafe {
        if bytes > MAX_RECORD_BYTES as u32 || bytes < HEAD_BYTES {
            (*counters).lost_scratch += 1;
            return;
        }
        let waiting = bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) + RING_HEAD_BYTES + u64::from(bytes);
        let wake = if waiting >= u64::from((*control).wakeup_bytes) { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
        if bpf_ringbuf_output(ring, slot.cast(), u64::from(bytes), u64::from(wake)) == 0 {
            (*counters).ring_bytes += u64::from(bytes);
        } else {
            (*counters).lost_ring += 1;
        }
    }
}

const _: () = assert!(
    HEAD_BYTES + KERNEL_BYTES + USER_BYTES + MAX_SNAPSHOT + CHUNK <= SCRATCH_BYTES as u32
        && FLAG_USER_MODE & FLAG_KERNEL_THREAD == 0
);
