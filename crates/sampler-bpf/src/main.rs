//! The kernel side of the sampler: what runs at every tick of every CPU.
//!
//! **In**: the interrupted task, as the kernel shows it; `CONTROL`, `OWN_TGIDS`, `TGIDS` and `VERDICTS` of [`maps`], and the tables
//! in [`maps::SHARDS`] with [`maps::PROCESSES`], which user space changes while it runs; [`layout`], constants that user space
//! filled in before loading.
//! **Out**: one record of [`sampler_abi::SampleHead`] with kernel frames and user frames or a piece of the user stack in
//! [`maps::RING`]; counters of everything, per CPU, in [`maps::COUNTERS`].
//! **Units**: times are `CLOCK_MONOTONIC` nanoseconds, lengths are bytes.
//! **Limits**: see `sampler-abi`; what cannot be handed over is counted in `CpuCounters`.
//!
//! Every tick ends in exactly one of `idle`, `filtered`, `taken`; a taken one in a record, `lost_ring` or `lost_scratch`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod family;
mod layout;
mod maps;
mod record;
mod registers;
mod task;
mod walking;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{perf_event, raw_tracepoint},
    programs::{PerfEventContext, RawTracePointContext},
};
use sampler_abi::{
    CONTROL_NO_KERNEL_THREADS, CONTROL_NO_SELF, CONTROL_ONLY_LISTED, CONTROL_PAUSED, CONTROL_VERDICTS, Control,
    CpuCounters,
};

/// One tick of one CPU, walked over tables where they are there.
#[perf_event]
pub fn sample(ctx: PerfEventContext) -> u32 {
    run::<true>(&ctx)
}

/// One tick of one CPU, never walked: where no tables are wanted, or where the kernel does not take [`sample`].
#[perf_event]
pub fn sample_without_tables(ctx: PerfEventContext) -> u32 {
    run::<false>(&ctx)
}

/// One tick of one CPU.
///
/// The kernel runs no second program of this kind on a CPU before the first has ended (`bpf_prog_active`), so
/// everything per CPU belongs to the tick alone.
#[inline(always)]
fn run<const TABLES: bool>(ctx: &PerfEventContext) -> u32 {
    // SAFETY: a helper without arguments.
    let started = unsafe { bpf_ktime_get_ns() };
    let Some(counters) = maps::COUNTERS.get_ptr_mut(0) else { return 0 };
    let Some(control) = maps::CONTROL.get_ptr(0) else { return 0 };
    // SAFETY: both point to values of their maps; `counters` is this CPU's own, and user space only reads it.
    unsafe {
        let passed = tick::<TABLES>(ctx, started, control, counters);
        let took = bpf_ktime_get_ns() - started;
        (*counters).run_ns += took;
        if !passed {
            (*counters).filtered_ns += took;
        }
    }
    0
}

/// Counts the tick as idle, filtered or taken, and hands over what is taken. Returns whether the filters let it pass.
///
/// # Safety
/// `control` and `counters` point to values of their maps; `counters` is this CPU's own.
#[inline(always)]
unsafe fn tick<const TABLES: bool>(
    ctx: &PerfEventContext,
    started: u64,
    control: *const Control,
    counters: *mut CpuCounters,
) -> bool {
    // SAFETY: a helper without arguments.
    let pid_tgid = unsafe { bpf_get_current_pid_tgid() };
    // SAFETY: see the function's own contract; the task is the running one.
    unsafe {
        if pid_tgid as u32 == 0 {
            (*counters).idle += 1;
            return true;
        }
        let task = task::current();
        let user_mode = registers::in_user_mode(ctx.as_ptr());
        let kernel_thread = !user_mode && task::is_kernel_thread(task);
        let tgid = (pid_tgid >> 32) as u32;
        // Read once: user space may change it at any time.
        let flags = (&raw const (*control).flags).read_volatile();
        if !wanted(flags, tgid, kernel_thread) {
            (*counters).filtered += 1;
            return false;
        }
        let cgroup_id = task::cgroup_id(task);
        if flags & CONTROL_VERDICTS != 0 && maps::is_refused(cgroup_id, tgid) {
            (*counters).filtered += 1;
            return false;
        }
        (*counters).taken += 1;
        let Some(slot) = maps::scratch() else {
            (*counters).lost_scratch += 1;
            return true;
        };
        let mode = match (user_mode, kernel_thread) {
            (true, _) => record::Mode::User,
            (false, false) => record::Mode::Kernel,
            (false, true) => record::Mode::KernelThread,
        };
        record::fill_and_send::<TABLES>(
            ctx.as_ptr(),
            slot,
            started,
            pid_tgid,
            task,
            cgroup_id,
            mode,
            flags,
            control,
            counters,
        );
        true
    }
}

/// Whether the filters let this task pass that need neither its cgroup nor what user space has learned of it.
#[inline(always)]
fn wanted(flags: u32, tgid: u32, kernel_thread: bool) -> bool {
    if flags & CONTROL_PAUSED != 0 {
        return false;
    }
    if flags & CONTROL_NO_SELF != 0 && maps::is_own(tgid) {
        return false;
    }
    if flags & CONTROL_NO_KERNEL_THREADS != 0 && kernel_thread {
        return false;
    }
    flags & CONTROL_ONLY_LISTED == 0 || maps::is_listed(tgid)
}

/// `sched_process_fork(parent, child)`: the child of a listed process is listed before it runs.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_forked(ctx: RawTracePointContext) -> i32 {
    let parent: *const u8 = ctx.arg(0);
    let child: *const u8 = ctx.arg(1);
    // SAFETY: the tracepoint's arguments are two task_structs, alive while the program runs.
    unsafe { family::forked(parent, child) };
    0
}

/// `sched_process_free(task)`: nobody can wait for the task any more and its number may be given out again.
#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn process_freed(ctx: RawTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    // SAFETY: the tracepoint's argument is a task_struct, alive while the program runs.
    unsafe { family::freed(task) };
    0
}

/// `sched_process_exec(task, old_pid, binary)`: the process runs another program, whose tables are not published yet.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_executed(ctx: RawTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    // SAFETY: the tracepoint's first argument is a task_struct, alive while the program runs.
    unsafe { walking::executed(task) };
    0
}

/// What the kernel checks before it lends helpers that are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: nothing here panics, or the verifier would refuse the endless loop.
    loop {}
}
