//! What a sample's cgroup id stands for.
//!
//! A task is in one cgroup of version 2 and in one of each hierarchy of version 1. The kernel numbers the cgroups of each hierarchy
//! on their own, so one number says nothing without its hierarchy. Which cgroup is the container's depends on the host:
//!
//! - *version 2 only*: that one.
//! - *version 1 only*: any controller's. The task's cgroup of version 2 is the root, everywhere.
//! - *both* (“hybrid”: controllers in version 1, version 2 for systemd's bookkeeping): always the controllers' cgroup, since
//!   runtimes set their limits there; in version 2 old runtimes leave a container in its runtime's cgroup, newer ones make one for
//!   it. Units of systemd are in version 2 always, in a controller's hierarchy only where that controller is used for them.
//!
//! So where a controller is in version 1, the id is put together from both: what differs in either differs in the id.

/// Set in an id that is put together from both versions.
pub const CGROUP_ID_OF_BOTH: u64 = 1 << 63;
/// The bits that such an id keeps of each version's number.
///
/// The kernel's numbers are 64 bits wide: the lower half counts up to `i32::MAX`, the upper half how often that has wrapped. Two cgroups
/// that the rest takes for one are thus two thousand million cgroups of one hierarchy apart.
pub const CGROUP_ID_PART_MASK: u64 = 0x7fff_ffff;

const V2_SHIFT: u32 = 31;

/// A sample's cgroup id, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupIdParts {
    /// The number of the cgroup of version 2: 1 is the root. Whole where `v1` is none, else its bits of [`CGROUP_ID_PART_MASK`].
    pub v2: u64,
    /// The same of the controller of version 1 that tells containers apart, where the host has one.
    pub v1: Option<u64>,
}

impl CgroupIdParts {
    /// Takes an id apart.
    #[must_use]
    pub const fn of(id: u64) -> Self {
        if id & CGROUP_ID_OF_BOTH == 0 {
            return Self { v2: id, v1: None };
        }
        Self { v2: id >> V2_SHIFT & CGROUP_ID_PART_MASK, v1: Some(id & CGROUP_ID_PART_MASK) }
    }

    /// Puts an id together, of whole numbers or of parts.
    #[must_use]
    #[inline(always)]
    pub const fn id(self) -> u64 {
        match self.v1 {
            None => self.v2,
            Some(v1) => CGROUP_ID_OF_BOTH | (self.v2 & CGROUP_ID_PART_MASK) << V2_SHIFT | v1 & CGROUP_ID_PART_MASK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_apart_and_put_together() {
        let check = |v2, v1, id| {
            let parts = CgroupIdParts { v2, v1 };
            assert_eq!(parts.id(), id);
            assert_eq!(CgroupIdParts::of(id), parts);
        };
        check(1, None, 1);
        check(0x1_0000_0007, None, 0x1_0000_0007);
        check(1, Some(1), 0x8000_0000_8000_0001);
        check(0x7fff_ffff, Some(0x7fff_ffff), 0xbfff_ffff_ffff_ffff);
        check(0x7fff_ffff, Some(0), 0xbfff_ffff_8000_0000);
    }

    #[test]
    fn the_wrapped_half_is_left_out_where_there_are_two() {
        let whole = CgroupIdParts { v2: 0x3_0000_0005, v1: Some(0x2_0000_0009) };
        assert_eq!(whole.id(), CgroupIdParts { v2: 5, v1: Some(9) }.id());
    }
}
