//! Pods, as the kubelet and the API server write them.
//!
//! **In**: JSON. **Out**: [`PodRecord`]s; of each pod only what is needed is ever held. **Limits**: the most pods are told by
//! the caller; what is in one of them, [`crate::record`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::bounds;
use crate::controllers;
use crate::record::{self, ContainerRecord, MAX_POD_CONTAINERS, PodRecord};
use crate::workload::Pod;

/// Where the kubelet notes what it calls a static pod: the first in the API's picture of it, the second in its own.
const STATIC_UID: [&str; 2] = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];

/// A list of pods, as it was read.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) pods: Vec<PodRecord>,
    /// Pods without a name, and those that found no room.
    pub(crate) refused: u64,
}

/// Reads a `PodList`.
pub(crate) fn read_list(from: impl Read, max_pods: usize) -> serde_json::Result<Listing> {
    let mut json = serde_json::Deserializer::from_reader(from);
    let listing = ListSeed { max_pods }.deserialize(&mut json)?;
    json.end()?;
    Ok(listing)
}

/// A pod as it is written; only what is needed of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct PodJson {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) spec: Spec,
    #[serde(default)]
    pub(crate) status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) owner_references: Option<Vec<OwnerReference>>,
}

/// What made an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OwnerReference {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) controller: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    node_name: Option<String>,
    restart_policy: Option<String>,
    containers: Option<Vec<SpecContainer>>,
    init_containers: Option<Vec<SpecContainer>>,
    ephemeral_containers: Option<Vec<SpecContainer>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecContainer {
    name: String,
    image: Option<String>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    phase: Option<String>,
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    image: Option<String>,
    restart_count: Option<u32>,
    state: Option<State>,
    last_state: Option<State>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    running: Option<IgnoredAny>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    exit_code: i64,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
}

impl PodJson {
    /// The record of the pod; none if it lacks a name.
    pub(crate) fn record(self) -> Option<PodRecord> {
        let settled = self.settled();
        let Self { metadata, spec, status } = self;
        let (uid, namespace, name) =
            (bounds::name(&metadata.uid)?, bounds::name(&metadata.namespace)?, bounds::name(&metadata.name)?);
        let mut pod = Pod {
            uid,
            namespace,
            name,
            node: spec.node_name.as_deref().and_then(bounds::name).unwrap_or_default(),
            labels: bounds::pairs(metadata.labels.unwrap_or_default()),
            annotations: bounds::pairs(metadata.annotations.unwrap_or_default()),
            controllers: Vec::new(),
        };
        let owner = metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        if let Some(owner) = owner {
            pod.controllers = controllers::of_owner(&owner.kind, &owner.name, pod.label("pod-template-hash"));
        }
        let aliases: Vec<Arc<str>> = STATIC_UID
            .iter()
            .filter_map(|key| pod.annotation(key).and_then(bounds::name))
            .filter(|alias| *alias != pod.uid)
            .take(1)
            .collect();
        let containers = containers(&spec, &status);
        Some(PodRecord { pod, aliases, settled, containers })
    }

    /// Whether every container that there may be has an id: then another one in the pod's cgroup is its sandbox. The kubelet
    /// notes that a container ended before it starts it again.
    fn settled(&self) -> bool {
        let (spec, status) = (&self.spec, &self.status);
        let count = |list: &Option<Vec<SpecContainer>>| list.as_ref().map_or(0, Vec::len);
        let all =
            |list: &Option<Vec<ContainerStatus>>, wanted: usize, ended_for_good: &dyn Fn(&ContainerStatus) -> bool| {
                let list = list.as_deref().unwrap_or_default();
                let known = |s: &ContainerStatus| {
                    let state = s.state.clone().unwrap_or_default();
                    let has_id = s.container_id.as_deref().is_some_and(|id| !id.is_empty());
                    has_id && (state.running.is_some() || (state.terminated.is_some() && ended_for_good(s)))
                };
                list.len() >= wanted && list.iter().all(known)
            };
        // A container may have rules of its own.
        let never = spec.restart_policy.as_deref() == Some("Never")
            && spec.containers.iter().flatten().all(|c| c.restart_policy.is_none());
        let sidecar = |s: &ContainerStatus| {
            let of = spec.init_containers.iter().flatten().find(|c| c.name == s.name);
            of.is_some_and(|c| c.restart_policy.as_deref() == Some("Always"))
        };
        let succeeded = |s: &ContainerStatus| {
            let exit = s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
            exit == Some(0) && !sidecar(s)
        };
        status.phase.as_deref() == Some("Running")
            && count(&spec.containers) > 0
            && all(&status.container_statuses, count(&spec.containers), &|_| never)
            && all(&status.init_container_statuses, count(&spec.init_containers), &succeeded)
            && all(&status.ephemeral_container_statuses, count(&spec.ephemeral_containers), &|_| true)
    }
}

/// All containers that the status names, those that ran before included.
fn containers(spec: &Spec, status: &Status) -> Vec<ContainerRecord> {
    let mut out: Vec<ContainerRecord> = Vec::new();
    for (specs, statuses) in [
        (&spec.containers, &status.container_statuses),
        (&spec.init_containers, &status.init_container_statuses),
        (&spec.ephemeral_containers, &status.ephemeral_container_statuses),
    ] {
        for one in statuses.iter().flatten() {
            let Some(name) = bounds::name(&one.name) else { continue };
            // The specification's words stay the same when the runtime finds another name for the image.
            let written = specs.iter().flatten().find(|c| c.name == one.name).and_then(|c| c.image.as_deref());
            let image = written.or(one.image.as_deref()).and_then(bounds::image);
            let ended = |s: &Option<State>| s.as_ref().and_then(|s| s.terminated.as_ref()?.container_id.clone());
            let ids = [one.container_id.clone(), ended(&one.state), ended(&one.last_state)];
            for id in ids.into_iter().flatten() {
                let Some((id, runtime)) = record::container_id(&id) else { continue };
                if out.len() >= MAX_POD_CONTAINERS || out.iter().any(|c| c.id == id) {
                    continue;
                }
                out.push(ContainerRecord {
                    id,
                    name: Some(Arc::clone(&name)),
                    runtime,
                    image: image.clone(),
                    restarts: one.restart_count,
                    is_pause: false,
                    cgroup: None,
                });
            }
        }
    }
    out
}

struct ListSeed {
    max_pods: usize,
}

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = Listing;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Listing, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = Listing;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pods")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listing, A::Error> {
        let mut listing = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                listing = Some(map.next_value_seed(ItemsSeed { max_pods: self.max_pods })?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        // Without it, it is something else: an error in other words, or another service.
        listing.ok_or_else(|| serde::de::Error::missing_field("items"))
    }
}

struct ItemsSeed {
    max_pods: usize,
}

impl<'de> DeserializeSeed<'de> for ItemsSeed {
    type Value = Listing;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Listing, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed {
    type Value = Listing;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pods")
    }

    /// Go writes an empty list so.
    fn visit_unit<E: serde::de::Error>(self) -> Result<Listing, E> {
        Ok(Listing::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Listing, A::Error> {
        let mut listing = Listing::default();
        loop {
            if listing.pods.len() >= self.max_pods {
                let Some(IgnoredAny) = seq.next_element()? else { break };
                listing.refused = listing.refused.saturating_add(1);
                continue;
            }
            let Some(pod) = seq.next_element::<PodJson>()? else { break };
            match pod.record() {
                Some(record) => listing.pods.push(record),
                None => listing.refused = listing.refused.saturating_add(1),
            }
        }
        Ok(listing)
    }
}

#[cfg(test)]
mod tests;
