//! Where the running kernel keeps what we read, and what it can do: constants that user space fills in before loading.
//!
//! The map behind this section is frozen, so the verifier knows the values and drops the branches that they rule out:
//! a helper that this kernel does not have is never looked at.

use sampler_abi::KernelLayout;

/// In a section of its own: the compiler may merge other read-only data with a zeroed static, and filling it in from user
/// space would then change that too.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.cfg")]
static LAYOUT: KernelLayout = KernelLayout::EMPTY;

/// One function for each field: volatile, so that the compiler cannot assume the initial zero.
macro_rules! fields {
    ($($field:ident)*) => {
        $(
            #[inline(always)]
            pub fn $field() -> u32 {
                // SAFETY: a field of a static that nobody writes once the program is loaded.
                unsafe { (&raw const LAYOUT.$field).read_volatile() }
            }
        )*
    };
}

fields! {
    task_flags
    task_mm
    task_pid
    task_tgid
    task_group_leader
    task_start_time
    task_stack
    saved_regs
    has_task_pt_regs
    max_kernel_frames
    has_v1_cgroups
    task_cgroups
    css_set_subsys
    css_cgroup
    cgroup_kn
    kernfs_node_id
}
