//! Reading `task_struct` at the offsets of the running kernel.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel};
use sampler_abi::CgroupIdParts;

use crate::layout;

/// `PF_KTHREAD` of `task->flags`: the same bit in every kernel since 3.x.
const PF_KTHREAD: u32 = 0x0020_0000;

/// A `task_struct`.
pub type Task = *const u8;

/// The running task.
#[inline(always)]
pub fn current() -> Task {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task() as Task }
}

/// Reads a 4-byte member; 0 where the memory cannot be read.
///
/// # Safety
/// None beyond the helper's: a bad address is an error, not a fault.
#[inline(always)]
pub unsafe fn read_u32(base: *const u8, offset: u32) -> u32 {
    let mut value = 0u32;
    // SAFETY: the destination is 4 bytes of our stack; the helper checks the source.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 4, base.wrapping_add(offset as usize).cast()) };
    value
}

/// Reads an 8-byte member; 0 where the memory cannot be read.
///
/// # Safety
/// None beyond the helper's: a bad address is an error, not a fault.
#[inline(always)]
pub unsafe fn read_u64(base: *const u8, offset: u32) -> u64 {
    let mut value = 0u64;
    // SAFETY: the destination is 8 bytes of our stack; the helper checks the source.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, base.wrapping_add(offset as usize).cast()) };
    value
}

/// Whether the task has no user half.
///
/// # Safety
/// `task` is a living `task_struct`.
#[inline(always)]
pub unsafe fn is_kernel_thread(task: Task) -> bool {
    // SAFETY: see the function's own contract.
    unsafe { read_u32(task, layout::task_flags()) & PF_KTHREAD != 0 }
}

/// When the leader of the task's thread group started, in monotonic nanoseconds; 0 where it cannot be read.
///
/// # Safety
/// `task` is a living `task_struct`.
#[inline(always)]
pub unsafe fn leader_start(task: Task) -> u64 {
    // SAFETY: see the function's own contract; a leader outlives its group.
    unsafe {
        let leader = read_u64(task, layout::task_group_leader());
        if leader == 0 { 0 } else { read_u64(leader as Task, layout::task_start_time()) }
    }
}

/// The cgroup of the running task.
///
/// # Safety
/// `task` is the running task.
#[inline(always)]
pub unsafe fn cgroup_id(task: Task) -> u64 {
    // SAFETY: a helper without arguments.
    let v2 = unsafe { bpf_get_current_cgroup_id() };
    if layout::has_v1_cgroups() == 0 {
        return v2;
    }
    // SAFETY: see the function's own contract. Its set of cgroups lives as long as it does, and holds the cgroups; a pointer
    // that cannot be read is 0, and what would lie behind it too.
    let v1 = unsafe {
        let set = read_u64(task, layout::task_cgroups());
        let state = read_u64(set as *const u8, layout::css_set_subsys());
        let cgroup = read_u64(state as *const u8, layout::css_cgroup());
        let node = read_u64(cgroup as *const u8, layout::cgroup_kn());
        read_u64(node as *const u8, layout::kernfs_node_id())
    };
    CgroupIdParts { v2, v1: Some(v1) }.id()
}
