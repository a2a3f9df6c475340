//! Which cgroups the ids of samples stand for.
//!
//! **In**: `/proc/cgroups`, the kernel's BTF. **Out**: [`CgroupIds`], and where the program finds a task's cgroup.
//! **Units**: ids as `sampler_abi::CgroupIdParts` has them. **Limits**: [`MAX_TABLE_BYTES`].
//!
//! A cgroup's number is that of its node in the kernel's tree (`cgroup->kn->id`). On 64-bit kernels since 5.5 it is also the inode
//! number of the cgroup's directory, so `stat` tells it without any privilege (`name_to_handle_at` tells it too). Every
//! hierarchy's root has 1.

use std::{fs::File, io::Read as _};

use sampler_abi::KernelLayout;

use super::btf::{Btf, BtfError};

/// The table has a line for each controller; kernels have about fifteen.
const MAX_TABLE_BYTES: u64 = 64 * 1024;
const TABLE: &str = "/proc/cgroups";
const POINTER_BYTES: u32 = 8;
const ENUMERATION: &str = "cgroup_subsys_id";

/// Controllers whose cgroup tells containers apart, the most telling first: runtimes and systemd use these for everything they
/// start. With the enumerator that says where a task has it.
const CONTROLLERS: [(&str, &str); 3] = [("memory", "memory_cgrp_id"), ("pids", "pids_cgrp_id"), ("cpu", "cpu_cgrp_id")];

/// Which hierarchies a sample's cgroup id stands for, on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupIds {
    controller: Option<usize>,
}

impl CgroupIds {
    /// As this host has them now. What cannot be read counts as not there: then it is version 2.
    pub(super) fn of_host() -> Self {
        let mut table = String::new();
        // What was read before an error counts.
        let _ = File::open(TABLE).and_then(|file| file.take(MAX_TABLE_BYTES).read_to_string(&mut table));
        Self { controller: v1_controller(&table) }
    }

    /// Fills in where the program finds the controller's cgroup; gives the controller up where the kernel's types do not tell.
    pub(super) fn locate(&mut self, btf: &Btf, layout: &mut KernelLayout) {
        let Some(&(_, enumerator)) = self.controller.and_then(|index| CONTROLLERS.get(index)) else { return };
        let located = || -> Result<KernelLayout, BtfError> {
            let slot = btf.enumerator(ENUMERATION, enumerator)?;
            Ok(KernelLayout {
                has_v1_cgroups: 1,
                task_cgroups: btf.offset("task_struct", "cgroups")?,
                css_set_subsys: btf.offset("css_set", "subsys")?.saturating_add(slot.saturating_mul(POINTER_BYTES)),
                css_cgroup: btf.offset("cgroup_subsys_state", "cgroup")?,
                cgroup_kn: btf.offset("cgroup", "kn")?,
                kernfs_node_id: btf.offset("kernfs_node", "id")?,
                ..*layout
            })
        };
        match located() {
            Ok(with_cgroups) => *layout = with_cgroups,
            Err(error) => {
                tracing::warn!(error = %error, "containers cannot be told apart by cgroups of version 1");
                self.controller = None;
            }
        }
    }

    /// The controller of version 1 whose hierarchy is part of the ids, as `/proc/PID/cgroup` names it; none where ids are of
    /// version 2 alone.
    #[must_use]
    pub fn v1_controller(self) -> Option<&'static str> {
        CONTROLLERS.get(self.controller?).map(|(name, _)| *name)
    }
}

/// The first of [`CONTROLLERS`] that is enabled and in a hierarchy of version 1 (those of version 2 have number 0).
fn v1_controller(table: &str) -> Option<usize> {
    let in_v1 = |name: &str| {
        table.lines().any(|line| {
            let mut words = line.split_whitespace();
            let (controller, hierarchy, _, enabled) = (words.next(), words.next(), words.next(), words.next());
            controller == Some(name) && hierarchy.is_some_and(|number| number != "0") && enabled == Some("1")
        })
    };
    CONTROLLERS.iter().position(|(name, _)| in_v1(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
        cpuset\t3\t1\t1\ncpu\t1\t1\t1\nmemory\t4\t22\t1\npids\t8\t1\t1\n";

    #[test]
    fn the_controller_that_tells_containers_apart() {
        let check = |table: &str, name: Option<&str>| {
            let ids = CgroupIds { controller: v1_controller(table) };
            assert_eq!(ids.v1_controller(), name, "{table}");
        };
        check(HYBRID, Some("memory"));
        // Switched off on the kernel's command line.
        check(&HYBRID.replace("22\t1", "22\t0"), Some("pids"));
        check("cpu 5 1 1\nmemory 0 90 1\n", Some("cpu"));
        // Version 2 only.
        check("cpu\t0\t90\t1\nmemory\t0\t90\t1\npids\t0\t90\t1\n", None);
        check("memory", None);
        check("", None);
    }
}
