//! The maps: what user space and the programs share.

use aya_ebpf::{
    btf_maps,
    helpers::generated::bpf_get_smp_processor_id,
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use sampler_abi::{
    Control, CpuCounters, MAX_FILTERED_TGIDS, OwnTgids, ProcessEntry, ScratchSlot, VERDICT_FILTER, VerdictKey,
};
use unwind_table::{SHARD_BYTES, Walk};

/// What user space may change while the programs run. One value.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// The tgids that are wanted with `CONTROL_ONLY_LISTED`. The value means nothing.
///
/// Preallocated: programs that run in any context must not allocate.
#[map]
pub static TGIDS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_FILTERED_TGIDS, 0);

/// The profiler's own processes. One value.
#[map]
static OWN_TGIDS: Array<OwnTgids> = Array::with_max_entries(1, 0);

/// What user space has decided of cgroups and processes; the number of entries is set by user space.
///
/// Preallocated, as [`TGIDS`].
#[map]
static VERDICTS: HashMap<VerdictKey, u32> = HashMap::with_max_entries(1, 0);

/// One row per CPU.
#[map]
pub static COUNTERS: PerCpuArray<CpuCounters> = PerCpuArray::with_max_entries(1, 0);

/// Where a record is put together: one slot per possible CPU, the number set by user space. A plain array, since a value of a
/// per-CPU array cannot be that large.
#[map]
static SCRATCH: Array<ScratchSlot> = Array::with_max_entries(1, 0);

/// The records. The size is set by user space.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(4096, 0);

/// User space may map it into its memory.
const BPF_F_MMAPABLE: usize = 1 << 10;

/// The tables: user space adds a shard when it needs one; how many there may be is set by it. (Shards of one size without
/// `BPF_F_INNER_MAP` are looked up without a call.)
#[btf_map]
pub static SHARDS: btf_maps::ArrayOfMaps<btf_maps::Array<[u64; SHARD_BYTES as usize / 8], 1, BPF_F_MMAPABLE>, 1> =
    btf_maps::ArrayOfMaps::new();

/// Where the mappings of each process are; the number of entries is set by user space.
///
/// Preallocated, as [`TGIDS`].
#[map]
pub static PROCESSES: HashMap<u32, ProcessEntry> = HashMap::with_max_entries(1, 0);

/// This CPU's walk. Interpreters' programs, reached by tail call, find it here.
#[map]
static WALKS: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's walk.
#[inline(always)]
pub fn walk() -> Option<*mut Walk> {
    WALKS.get_ptr_mut(0)
}

/// This CPU's slot.
#[inline(always)]
pub fn scratch() -> Option<*mut u8> {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    Some(SCRATCH.get_ptr_mut(cpu)?.cast())
}

/// Whether a process is in [`TGIDS`].
#[inline(always)]
pub fn is_listed(tgid: u32) -> bool {
    TGIDS.get_ptr(tgid).is_some()
}

/// Whether a process is one of the profiler's own.
#[inline(always)]
pub fn is_own(tgid: u32) -> bool {
    let Some(own) = OWN_TGIDS.get_ptr(0) else { return false };
    // SAFETY: points to the map's value. User space may write it at the same time; any mix of old and new will do.
    unsafe { (*own).contains(&tgid) }
}

/// Whether the verdict about a process, else that about its cgroup, is to filter it.
#[inline(always)]
pub fn is_refused(cgroup_id: u64, tgid: u32) -> bool {
    let verdict = match VERDICTS.get_ptr(VerdictKey::process(cgroup_id, tgid)) {
        None => VERDICTS.get_ptr(VerdictKey::cgroup(cgroup_id)),
        of_process => of_process,
    };
    match verdict {
        // SAFETY: points to a value of the map. Where user space removes the entry at the same time, the value may already be
        // another key's: this one tick is judged by that.
        Some(verdict) => unsafe { *verdict == VERDICT_FILTER },
        None => false,
    }
}
