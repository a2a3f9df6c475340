//! containerd: the OCI specification of each container that runs, in a directory named after namespace and id.
//!
//! Its `linux.cgroupsPath` says which cgroup is the container's, its annotations what the CRI plugin knows of the pod.

use std::collections::HashMap;

use profile::Runtime;
use serde::Deserialize;

use super::Found;
use super::host::Host;
use crate::bounds;
use crate::controllers;
use crate::record::ContainerRecord;
use crate::workload::Pod;

/// Where containerd keeps its tasks, by who brought it along.
const STATES: [&str; 4] = [
    "run/containerd/io.containerd.runtime.v2.task",
    "run/k3s/containerd/io.containerd.runtime.v2.task",
    "var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task",
    "run/docker/containerd/daemon/io.containerd.runtime.v2.task",
];
/// The most namespaces of one containerd.
const MAX_NAMESPACES: usize = 32;
/// The most specifications that are read in search of cgroups.
const MAX_SPECIFICATIONS: usize = 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Specification {
    annotations: Option<HashMap<String, String>>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    cgroups_path: String,
}

/// The container of that id, in any namespace.
pub(super) fn by_id(host: &Host, id: &str) -> Option<Found> {
    directories(host).find_map(|(namespace, directory)| {
        let bytes = host.read(&format!("{directory}/{id}/config.json"))?;
        found(&bytes, &namespace, id)
    })
}

/// All specifications that name a cgroup, once they were read.
#[derive(Debug, Default)]
pub(super) struct Specifications(Option<Vec<Found>>);

impl Specifications {
    /// The container of that cgroup, or of one above it.
    pub(super) fn by_cgroup(&mut self, host: &Host, cgroup: &str) -> Option<Found> {
        let all = self.0.get_or_insert_with(|| read(host));
        all.iter().find(|(record, _)| contains(record, cgroup)).cloned()
    }
}

fn read(host: &Host) -> Vec<Found> {
    let mut ids = Vec::new();
    for (namespace, directory) in directories(host) {
        ids.extend(host.list(&directory).into_iter().map(|id| (namespace.clone(), directory.clone(), id)));
    }
    let one = |(namespace, directory, id): (String, String, String)| {
        let bytes = host.read(&format!("{directory}/{id}/config.json"))?;
        found(&bytes, &namespace, &id).filter(|(record, _)| record.cgroup.is_some())
    };
    ids.into_iter().take(MAX_SPECIFICATIONS).filter_map(one).collect()
}

/// Whether a cgroup is the container's or one below it.
pub(super) fn contains(record: &ContainerRecord, cgroup: &str) -> bool {
    let Some(path) = record.cgroup.as_deref() else { return false };
    cgroup.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a specification says of the container of that id.
pub(super) fn found(bytes: &[u8], namespace: &str, id: &str) -> Option<Found> {
    let specification: Specification = serde_json::from_slice(bytes).ok()?;
    let annotations = specification.annotations.unwrap_or_default();
    let get = |key: &str| annotations.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let cri = |key: &str| get(&format!("io.kubernetes.cri.{key}"));
    let pod = cri("sandbox-uid").and_then(|uid| {
        let mut pod = Pod {
            uid: bounds::name(uid)?,
            namespace: bounds::name(cri("sandbox-namespace")?)?,
            name: bounds::name(cri("sandbox-name")?)?,
            ..Pod::default()
        };
        // Labels are not noted there.
        pod.controllers = controllers::of_name(&pod.name);
        Some(pod)
    });
    let is_pause = cri("container-type") == Some("sandbox");
    let image = cri("image-name").or_else(|| get("nerdctl/image-name")).filter(|_| !is_pause);
    let named = cri("container-name").or_else(|| get("nerdctl/name"));
    // An id that somebody chose is a name; one of 64 digits is a new one each time.
    let chosen = (!is_id(id)).then_some(id);
    let path = specification.linux.cgroups_path;
    let record = ContainerRecord {
        id: bounds::name(id)?,
        name: named.or(chosen).and_then(bounds::name).filter(|_| !is_pause),
        runtime: if namespace == "moby" { Runtime::Docker } else { Runtime::Containerd },
        image: image.and_then(bounds::image),
        is_pause,
        cgroup: (path.starts_with('/') && path.len() > 1).then(|| path.trim_end_matches('/').into()),
        ..ContainerRecord::default()
    };
    Some((record, pod))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn directories(host: &Host) -> impl Iterator<Item = (String, String)> + '_ {
    STATES.iter().flat_map(|state| {
        let names = host.list(state).into_iter().take(MAX_NAMESPACES);
        names.map(move |namespace| {
            let directory = format!("{state}/{namespace}");
            (namespace, directory)
        })
    })
}
