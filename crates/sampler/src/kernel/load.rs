//! Loads the embedded object: fits it to the running kernel, makes its maps, has its programs verified.
//!
//! **In**: the object that was built with this crate, the kernel's BTF, sizes. **Out**: the object's maps and programs.
//! **Units**: bytes. **Limits**: the scratch map has a slot of `sampler_abi::SCRATCH_BYTES` for each possible CPU. Where the kernel
//! refuses the program that walks over tables, the one without them is loaded.

use aya::{
    Ebpf, EbpfLoader,
    programs::{PerfEvent, ProgramError, ProgramType, RawTracePoint},
    sys::{BpfHelper, is_helper_supported},
};
use sampler_abi::{KernelLayout, MAX_KERNEL_FRAMES, MAX_PROCESSES};

use super::{
    btf::{Btf, BtfError},
    cgroups::CgroupIds,
    cpus,
    error::{self, KernelError},
    memory, sys,
};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the eBPF program reads the registers of x86-64 and arm64 only");

/// `cargo xtask build-bpf` makes them.
#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../sampler-bpf/sampler.bpf.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../sampler-bpf/sampler.aarch64.bpf.o");

/// A task's kernel stack, without KASAN; where pages are larger, it is a page.
const THREAD_BYTES: u32 = 16 * 1024;
/// What the kernel saves of a task's user half at the top of its stack.
const SAVED_REGS: &str = "pt_regs";

/// The program of the timer that walks over tables.
const SAMPLE: &str = "sample";
/// The same program without that.
const SAMPLE_WITHOUT_TABLES: &str = "sample_without_tables";
/// The program that forgets the tables of a process, and its tracepoint.
const EXECUTED: (&str, &str) = ("process_executed", "sched_process_exec");
/// The programs that follow children, and their tracepoints.
const FAMILY: [(&str, &str); 2] = [("process_forked", "sched_process_fork"), ("process_freed", "sched_process_free")];

#[repr(transparent)]
#[derive(Clone, Copy)]
struct LayoutValue(KernelLayout);

// SAFETY: `repr(transparent)` over a `repr(C)` struct of integers without padding.
unsafe impl aya::Pod for LayoutValue {}

/// What the running kernel looks like to the program, and what its cgroup ids stand for.
fn kernel_layout() -> Result<(KernelLayout, CgroupIds), BtfError> {
    let btf = Btf::of_kernel()?;
    let task = |member| btf.offset("task_struct", member);
    let has_task_pt_regs = has_task_pt_regs().unwrap_or(false);
    let saved_regs =
        if has_task_pt_regs { 0 } else { THREAD_BYTES.max(sys::page_bytes()).saturating_sub(btf.size(SAVED_REGS)?) };
    let mut layout = KernelLayout {
        task_flags: task("flags")?,
        task_pid: task("pid")?,
        task_tgid: task("tgid")?,
        task_group_leader: task("group_leader")?,
        task_start_time: task("start_time")?,
        task_stack: task("stack")?,
        saved_regs,
        has_task_pt_regs: u32::from(has_task_pt_regs),
        max_kernel_frames: max_kernel_frames(),
        task_mm: task("mm")?,
        ..KernelLayout::EMPTY
    };
    let mut cgroup_ids = CgroupIds::of_host();
    cgroup_ids.locate(&btf, &mut layout);
    Ok((layout, cgroup_ids))
}

/// Whether the kernel has the helpers that find a task's saved registers (since 5.15). An error says that it could not be tried.
pub(super) fn has_task_pt_regs() -> Result<bool, ProgramError> {
    for helper in [BpfHelper::BPF_FUNC_get_current_task_btf, BpfHelper::BPF_FUNC_task_pt_regs] {
        if !is_helper_supported(ProgramType::PerfEvent, helper)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn max_kernel_frames() -> u32 {
    let ours = u32::try_from(MAX_KERNEL_FRAMES).unwrap_or(u32::MAX);
    error::read_number("/proc/sys/kernel/perf_event_max_stack")
        .and_then(|frames| u32::try_from(frames).ok())
        .map_or(ours, |frames| frames.clamp(1, ours))
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Of the ring buffer.
    pub(super) ring_bytes: u32,
    /// Entries.
    pub(super) max_verdicts: u32,
    /// Entries; 0: no tables.
    pub(super) max_shards: u32,
}

/// The object in the kernel.
pub(super) struct Loaded {
    /// Its maps and programs.
    pub(super) ebpf: Ebpf,
    /// What the cgroup ids of its samples stand for.
    pub(super) cgroup_ids: CgroupIds,
    /// The name of the timer's program.
    pub(super) sample: &'static str,
    /// Why it walks no tables although they were asked for.
    pub(super) without_tables: Option<KernelError>,
    /// What the kernel has allocated for the maps, in bytes.
    pub(super) map_bytes: u64,
}

/// Loads object and maps, and has the timer's program verified. Where the kernel does not take the one that walks over tables, it is
/// the one without.
pub(super) fn load(sizes: Sizes) -> Result<Loaded, KernelError> {
    sys::raise_memlock();
    let (layout, cgroup_ids) = kernel_layout()?;
    let layout = LayoutValue(layout);
    // A slot is found by the CPU's number.
    let slots = cpus::possible().map_err(KernelError::Cpus)?.last().map_or(1, |last| last + 1);
    let tables = sizes.max_shards > 0;
    let mut loader = EbpfLoader::new();
    // The program has no relocations against the kernel's types.
    loader.btf(None);
    loader.override_global("LAYOUT", &layout, true);
    loader.map_max_entries("SCRATCH", slots);
    loader.map_max_entries("RING", sizes.ring_bytes);
    // A map must have one.
    loader.map_max_entries("VERDICTS", sizes.max_verdicts.max(1));
    loader.map_max_entries("SHARDS", sizes.max_shards.max(1));
    loader.map_max_entries("PROCESSES", if tables { MAX_PROCESSES } else { 1 });
    let loaded = loader.load(OBJECT).map_err(KernelError::from_load);
    drop(loader);
    sys::release_memory();
    let mut ebpf = loaded?;
    let map_bytes = memory::of_all(&ebpf);
    let walking = tables.then(|| load_walking(&mut ebpf));
    let sample = if let Some(Ok(())) = walking {
        SAMPLE
    } else {
        load_timers(&mut ebpf, SAMPLE_WITHOUT_TABLES)?;
        SAMPLE_WITHOUT_TABLES
    };
    let without_tables = walking.and_then(Result::err);
    Ok(Loaded { ebpf, cgroup_ids, sample, without_tables, map_bytes })
}

fn load_timers(ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
    let program: &mut PerfEvent =
        ebpf.program_mut(name).ok_or(KernelError::Missing(name))?.try_into().map_err(KernelError::from_load)?;
    program.load().map_err(KernelError::from_load)
}

/// The program that walks, and before it the one that keeps tables from outliving their program.
fn load_walking(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    attach(ebpf, EXECUTED, KernelError::Executions)?;
    load_timers(ebpf, SAMPLE)
}

fn attach(
    ebpf: &mut Ebpf,
    (name, tracepoint): (&'static str, &str),
    error: fn(ProgramError) -> KernelError,
) -> Result<(), KernelError> {
    let program: &mut RawTracePoint =
        ebpf.program_mut(name).ok_or(KernelError::Missing(name))?.try_into().map_err(error)?;
    program.load().map_err(error)?;
    program.attach(tracepoint).map_err(error)?;
    Ok(())
}

/// Loads and attaches the programs that follow children.
pub(super) fn follow_children(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    FAMILY.into_iter().try_for_each(|program| attach(ebpf, program, KernelError::Children))
}
