//! Where processes run: cgroups, from the number in a sample to what its path tells.
//!
//! A cgroup's number is the key: it is in every sample, it changes at the very moment when a runtime moves a process, and
//! it is never used again. So a place is learned once for each cgroup and not for each process, and samples of a process
//! that has ended find theirs as long as the cgroup is known here.
//!
//! **In**: numbers of samples, the kernel's records of new cgroups, mounts and /proc (names are hostile). **Out**:
//! [`profile::Place`]s. **Units**: ids as `sampler_abi::CgroupIdParts` has them. **Limits**: see [`table`].

mod host;
mod mount;
mod path;
mod table;
mod text;

pub(crate) use host::{Host, new_cgroups_are_of_v2};
#[cfg(test)]
pub(crate) use path::place as place_of_path;
pub(crate) use table::{PlaceSource, Places};
