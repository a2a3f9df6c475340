//! What the eBPF program and user space say to each other: one definition, compiled for both sides.
//!
//! **In**: nothing. **Out**: plain `repr(C)` records of integers, without implicit padding.
//! **Units**: times are `CLOCK_MONOTONIC` nanoseconds, lengths are bytes, addresses are the process's own.
//! **Limits**: the constants below; both sides check against them.
#![no_std]
#![forbid(unsafe_code)]

mod cgroup;

pub use cgroup::{CGROUP_ID_OF_BOTH, CGROUP_ID_PART_MASK, CgroupIdParts};

/// Bytes of a task's comm, terminated by NUL where shorter.
pub const COMM_BYTES: usize = 16;
/// Kernel frames that one record holds at the most (`perf_event_max_stack` defaults to 127).
pub const MAX_KERNEL_FRAMES: usize = 127;
/// The largest snapshot of a user stack, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 64 * 1024;
/// The snapshot size where nothing else is asked, in bytes.
pub const DEFAULT_SNAPSHOT_BYTES: u32 = 16 * 1024;
/// Tgids that the filter may name at the most.
pub const MAX_FILTERED_TGIDS: u32 = 16 * 1024;
/// Verdicts that the kernel side holds at the most: more than any node's running processes and cgroups together. The map is
/// allocated at once, about 90 bytes each (3 MB), and only where verdicts are asked for at all.
pub const MAX_VERDICTS: u32 = 32 * 1024;
/// User frames that one record holds at the most.
pub const MAX_USER_FRAMES: usize = 1024;
/// The most user frames of a walk where nothing else is asked.
pub const DEFAULT_USER_FRAMES: u32 = 256;
/// Processes that can be walked at the same time. The map is allocated at once, about 90 bytes each (1.5 MB), and only where tables
/// are asked for at all.
pub const MAX_PROCESSES: u32 = 16 * 1024;
/// Processes of the profiler's own that it can leave out: the agent, its worker, and for a moment that one's successor.
pub const MAX_OWN_TGIDS: usize = 8;
/// The largest record of the ring buffer, in bytes: head, kernel frames, user frames, snapshot.
pub const MAX_RECORD_BYTES: usize =
    size_of::<SampleHead>() + MAX_KERNEL_FRAMES * 8 + MAX_USER_FRAMES * 8 + MAX_SNAPSHOT_BYTES;
/// How much of a user stack is read at once: the smallest page, so that a read is whole or fails whole.
pub const SNAPSHOT_CHUNK_BYTES: usize = 4096;
/// Where a CPU puts a record together. One more chunk than a record needs: the verifier sees where a read begins and how
/// long it is, but not that the two never are at their largest together.
pub const SCRATCH_BYTES: usize = MAX_RECORD_BYTES + SNAPSHOT_CHUNK_BYTES;

/// One value of the map `SCRATCH`.
pub type ScratchSlot = [u64; SCRATCH_BYTES.div_ceil(8)];

/// The task was in user mode when the timer fired.
pub const FLAG_USER_MODE: u32 = 1 << 0;
/// The task is a kernel thread: it has no user half.
pub const FLAG_KERNEL_THREAD: u32 = 1 << 1;
/// `user_pc`, `user_sp`, `user_fp`, `user_lr` hold the user half's registers.
pub const FLAG_USER_REGS: u32 = 1 << 2;
/// The user half is a 32-bit program: not unwound.
pub const FLAG_COMPAT: u32 = 1 << 3;
/// The kernel stack was cut at [`MAX_KERNEL_FRAMES`].
pub const FLAG_KERNEL_STACK_CUT: u32 = 1 << 4;
/// `bpf_get_stack` failed; the record has no kernel frames although the task was in the kernel.
pub const FLAG_KERNEL_STACK_FAILED: u32 = 1 << 5;
/// The snapshot ended because memory above was not readable (the end of the stack's mapping, or a page swapped out),
/// not because the wanted size was reached.
pub const FLAG_SNAPSHOT_FAULT: u32 = 1 << 6;
/// The user half was walked over tables: the record's user frames are its stack, and `walk_end` says why it ended.
pub const FLAG_WALKED: u32 = 1 << 7;
/// With [`FLAG_WALKED`]: a frame pointer, or what lay on top of the stack, led to a frame.
pub const FLAG_WALK_GUESSED: u32 = 1 << 8;
/// With [`FLAG_WALKED`]: the walk passed a signal handler's frame.
pub const FLAG_WALK_SIGNAL: u32 = 1 << 9;
/// With [`FLAG_WALKED`]: the record carries a snapshot too, for comparing.
pub const FLAG_CHECK: u32 = 1 << 10;

/// The fixed head of one record of the ring buffer.
///
/// Behind it follow `kernel_frames` addresses of 8 bytes, leaf first, then `user_frames` lookup addresses of 8 bytes, leaf first (the
/// pc of the leaf and of what a signal interrupted, else the return address minus one), then `snapshot_bytes` bytes of the user
/// stack from `user_sp` upwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleHead {
    /// When the timer fired (`bpf_ktime_get_ns`).
    pub time_mono_ns: u64,
    /// The start time of the thread group's leader (`task->group_leader->start_time`): with the tgid, the process's
    /// identity. Monotonic nanoseconds; 0 where the kernel's BTF did not tell its place.
    pub leader_start_mono_ns: u64,
    /// The task's cgroup; what it stands for: [`CgroupIdParts`].
    pub cgroup_id: u64,
    /// The user half's program counter. Valid with [`FLAG_USER_REGS`].
    pub user_pc: u64,
    /// The user half's stack pointer.
    pub user_sp: u64,
    /// The user half's frame pointer (rbp, x29).
    pub user_fp: u64,
    /// The user half's link register; 0 on x86-64.
    pub user_lr: u64,
    /// [`ProcessEntry::serial`] of the entry that a walk used, whatever came of it; 0 where none was tried.
    pub mappings_serial: u64,
    /// The process, in the initial pid namespace.
    pub tgid: u32,
    /// The thread, in the initial pid namespace.
    pub tid: u32,
    /// The CPU that took the sample.
    pub cpu: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// How many kernel frames follow the head.
    pub kernel_frames: u32,
    /// How many bytes of the user stack follow the user frames.
    pub snapshot_bytes: u32,
    /// How many user frames follow the kernel frames; 0 without [`FLAG_WALKED`].
    pub user_frames: u32,
    /// Why the walk ended (the numbers of `unwind_table::End`); 0 where none was tried.
    pub walk_end: u32,
    /// The thread's name.
    pub comm: [u8; COMM_BYTES],
}

const _: () = assert!(size_of::<SampleHead>() == 112);

/// What one CPU has counted since the program was loaded. Every field only grows.
///
/// `idle + filtered + taken` is the number of ticks that the program saw.
/// `taken - lost_ring - lost_scratch` is the number of records in the ring buffer, read or not.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// Ticks on the idle task.
    pub idle: u64,
    /// Ticks that a filter refused.
    pub filtered: u64,
    /// Ticks that became a sample.
    pub taken: u64,
    /// Samples for which the ring buffer had no room.
    pub lost_ring: u64,
    /// Samples for which the per-CPU scratch space was not to be had.
    pub lost_scratch: u64,
    /// Bytes of the records handed to the ring buffer.
    pub ring_bytes: u64,
    /// Nanoseconds spent inside the program, all ticks.
    pub run_ns: u64,
    /// Of `run_ns`: on ticks that a filter refused.
    pub filtered_ns: u64,
    /// Of `run_ns`: copying user stacks.
    pub snapshot_ns: u64,
    /// Samples whose snapshot was cut at the wanted size.
    pub snapshot_full: u64,
    /// Children of listed processes that were not listed because the filter was full.
    pub children_not_listed: u64,
    /// Of `run_ns`: walking over tables, whatever came of it.
    pub walk_ns: u64,
    /// Samples whose user half was walked ([`FLAG_WALKED`]).
    pub walked: u64,
    /// User frames of these.
    pub walked_frames: u64,
    /// Of `walked`: samples that carry a snapshot too ([`FLAG_CHECK`]).
    pub checks: u64,
    /// Samples with a snapshot instead: the process was not published, or has no mappings.
    pub bridged_unknown: u64,
    /// The same: the walk needed a table that is not loaded.
    pub bridged_pending: u64,
    /// The same: the walk came to a frame that made no sense.
    pub bridged_bad_frame: u64,
}

const _: () = assert!(size_of::<CpuCounters>() == 144);

/// Where the running kernel keeps what the program reads, and what it can do: the frozen constant `LAYOUT`, filled in by
/// user space from the kernel's BTF before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelLayout {
    /// Offset of `flags` in `task_struct`, in bytes; the same for the next ones.
    pub task_flags: u32,
    /// Offset of `pid`.
    pub task_pid: u32,
    /// Offset of `tgid`.
    pub task_tgid: u32,
    /// Offset of `group_leader`.
    pub task_group_leader: u32,
    /// Offset of `start_time`.
    pub task_start_time: u32,
    /// Offset of `stack`.
    pub task_stack: u32,
    /// Offset of the saved registers of the user half in a task's kernel stack. Used without `bpf_task_pt_regs` only.
    pub saved_regs: u32,
    /// 1 where the helpers `bpf_get_current_task_btf` and `bpf_task_pt_regs` are there (5.15).
    pub has_task_pt_regs: u32,
    /// Frames that the kernel's own stack walk gives at the most, or [`MAX_KERNEL_FRAMES`] if that is less.
    pub max_kernel_frames: u32,
    /// Offset of `mm` in `task_struct`.
    pub task_mm: u32,
    /// 1 where a controller of cgroup v1 tells containers apart: then the next five are used.
    pub has_v1_cgroups: u32,
    /// Offset of `cgroups` in `task_struct`.
    pub task_cgroups: u32,
    /// Offset of the controller's pointer in `css_set`.
    pub css_set_subsys: u32,
    /// Offset of `cgroup` in `cgroup_subsys_state`.
    pub css_cgroup: u32,
    /// Offset of `kn` in `cgroup`.
    pub cgroup_kn: u32,
    /// Offset of `id` in `kernfs_node`.
    pub kernfs_node_id: u32,
}

impl KernelLayout {
    /// Before user space has filled it in.
    pub const EMPTY: Self = Self {
        task_flags: 0,
        task_pid: 0,
        task_tgid: 0,
        task_group_leader: 0,
        task_start_time: 0,
        task_stack: 0,
        saved_regs: 0,
        has_task_pt_regs: 0,
        max_kernel_frames: 0,
        task_mm: 0,
        has_v1_cgroups: 0,
        task_cgroups: 0,
        css_set_subsys: 0,
        css_cgroup: 0,
        cgroup_kn: 0,
        kernfs_node_id: 0,
    };
}

const _: () = assert!(size_of::<KernelLayout>() == 64);

/// Only tgids of the filter map are taken.
pub const CONTROL_ONLY_LISTED: u32 = 1 << 0;
/// Children of listed tgids are listed by the kernel side at fork.
pub const CONTROL_FOLLOW_CHILDREN: u32 = 1 << 1;
/// Kernel threads are filtered.
pub const CONTROL_NO_KERNEL_THREADS: u32 = 1 << 2;
/// The profiler's own processes are filtered ([`OwnTgids`]).
pub const CONTROL_NO_SELF: u32 = 1 << 3;
/// Nothing is taken (every busy tick counts as filtered).
pub const CONTROL_PAUSED: u32 = 1 << 4;
/// Verdicts are looked up: first the process's ([`VerdictKey::process`]), else its cgroup's ([`VerdictKey::cgroup`]).
pub const CONTROL_VERDICTS: u32 = 1 << 5;
/// Samples are walked over tables where their process is published ([`ProcessEntry`]).
pub const CONTROL_TABLES: u32 = 1 << 6;

/// What user space may change while the program runs: the single value of the map `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// `CONTROL_*`.
    pub flags: u32,
    /// How much of the user stack a sample carries, in bytes; at most [`MAX_SNAPSHOT_BYTES`].
    pub snapshot_bytes: u32,
    /// Wake the reader when this many bytes wait in the ring buffer.
    pub wakeup_bytes: u32,
    /// User frames of a walk at the most; at most [`MAX_USER_FRAMES`].
    pub max_user_frames: u32,
    /// One in so many walked samples of a CPU carries a snapshot too; 0: none.
    pub check_every: u32,
}

const _: () = assert!(size_of::<Control>() == 20);

/// Where the mappings of a process are: a value of the map `PROCESSES`, whose keys are tgids.
///
/// An exec takes the process's entry away; who publishes one has to see to it that it is of the program that runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessEntry {
    /// Whose it is: the process with this tgid whose leader started at this time or before. Records of a fork tell the start only as a
    /// time that it lies before; who gets the tgid later started after that. Samples of these are not walked. Not 0.
    pub leader_start_mono_ns: u64,
    /// The publisher's number of this set of mappings; samples say which they were walked with. Not 0.
    pub serial: u64,
    /// `unwind_table::Place` of the mappings.
    pub mappings: u32,
    /// How many there are.
    pub mapping_count: u32,
}

const _: () = assert!(size_of::<ProcessEntry>() == 24);

/// The profiler's own processes, 0 where there is none: the single value of the map `OWN_TGIDS`.
pub type OwnTgids = [u32; MAX_OWN_TGIDS];

/// Samples of the key's process or cgroup are taken.
pub const VERDICT_TAKE: u32 = 1;
/// Ticks of the key's process or cgroup are filtered.
pub const VERDICT_FILTER: u32 = 2;

/// Whom a verdict is about: a key of the map `VERDICTS`, whose values are `VERDICT_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictKey {
    /// As samples have it ([`SampleHead::cgroup_id`]).
    pub cgroup_id: u64,
    /// The process; 0 for all of the cgroup that have no verdict of their own.
    pub tgid: u32,
    /// Always 0.
    pub unused: u32,
}

const _: () = assert!(size_of::<VerdictKey>() == 16);

impl VerdictKey {
    /// One process, as long as it is in this cgroup.
    #[must_use]
    pub const fn process(cgroup_id: u64, tgid: u32) -> Self {
        Self { cgroup_id, tgid, unused: 0 }
    }

    /// Everything in a cgroup; not what is in cgroups below it.
    #[must_use]
    pub const fn cgroup(cgroup_id: u64) -> Self {
        Self::process(cgroup_id, 0)
    }
}
