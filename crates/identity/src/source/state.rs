//! What the container runtimes of this node keep on disk about their containers.
//!
//! **In**: containers that are asked for; files of root's runtimes, and of users' own. **Out**: their records. **Limits**:
//! those of [`host`]; [`MAX_ANCESTORS`] processes are looked at for each container. Blocks: for a thread that may.
//!
//! Files are read by the id that is asked for, so a container that is known costs nothing. What a user's runtime keeps is
//! believed only of containers in that user's own cgroups.

mod ancestors;
mod containerd;
mod docker;
mod host;
mod podman;

use std::path::Path;

use profile::{Place, Runtime};

use crate::asking::Wanted;
use crate::bounds;
use crate::record::ContainerRecord;
use crate::workload::Pod;
use host::Host;

/// The most processes above a container's that are looked at.
const MAX_ANCESTORS: usize = 64;

/// What is found of a container: its record, and its pod if it has one.
pub(crate) type Found = (ContainerRecord, Option<Pod>);

/// Looks for all that are wanted.
pub(crate) fn look(host_root: &Path, wanted: &[Wanted]) -> std::io::Result<Vec<Found>> {
    let host = Host::open(host_root)?;
    // Files that tell of many containers are read once.
    let (mut podman, mut containerd) = (podman::Containers::default(), containerd::Specifications::default());
    let mut out = Vec::new();
    for wanted in wanted {
        let place = &wanted.place;
        let found = match (&place.container, rootless(place)) {
            (Some(container), _) => of_id(&host, &container.id, container.runtime, &mut podman)
                .or_else(|| ancestors::look(wanted.tgid, place, Some(&container.id))),
            (None, Some((user, id))) => host.home(user).and_then(|home| {
                let (mut record, pod) = podman.rootless(&host, &home, id)?;
                // Only its path says that it is one.
                record.cgroup = Some(place.cgroup.clone());
                Some((record, pod))
            }),
            (None, None) => {
                containerd.by_cgroup(&host, &place.cgroup).or_else(|| ancestors::look(wanted.tgid, place, None))
            }
        };
        out.extend(found);
    }
    Ok(out)
}

fn of_id(host: &Host, id: &str, runtime: Runtime, podman: &mut podman::Containers) -> Option<Found> {
    // An id becomes a part of paths.
    let id = &*bounds::name(id).filter(|id| !id.starts_with('.'))?;
    match runtime {
        Runtime::Containerd => containerd::by_id(host, id),
        Runtime::Docker => docker::by_id(host, id),
        Runtime::Podman | Runtime::CriO => podman.by_id(host, id),
        Runtime::Unknown => {
            docker::by_id(host, id).or_else(|| containerd::by_id(host, id)).or_else(|| podman.by_id(host, id))
        }
    }
}

/// The user and the id of a container that a user's own podman made, in that user's own cgroups.
fn rootless(place: &Place) -> Option<(u32, &str)> {
    let id = place.unit.as_deref()?.strip_prefix("libpod-")?.strip_suffix(".scope")?;
    let rest = place.cgroup.strip_prefix("/user.slice/user-")?;
    let (user, rest) = rest.split_once(".slice/user@")?;
    let (same, _) = rest.split_once(".service/")?;
    (user == same && id.len() == 64).then_some(())?;
    Some((user.parse().ok()?, id))
}

#[cfg(test)]
mod tests;
