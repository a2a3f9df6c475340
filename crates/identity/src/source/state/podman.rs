//! podman, buildah and CRI-O: all keep their containers in one list of `containers/storage`.

use profile::Runtime;
use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::Found;
use super::host::Host;
use crate::bounds;
use crate::record::{self, ContainerRecord};

/// Where root's storage is, and a user's in the home directory.
const ROOT: &str = "var/lib/containers/storage";
const USER: &str = ".local/share/containers/storage";
/// One list for each way of storing layers; containers that live until the next boot only are in another.
const LISTS: [&str; 4] = [
    "overlay-containers/containers.json",
    "overlay-containers/volatile-containers.json",
    "vfs-containers/containers.json",
    "btrfs-containers/containers.json",
];
/// The most containers of one list.
const MAX_CONTAINERS: usize = 16_384;

/// The lists that were read.
#[derive(Debug, Default)]
pub(super) struct Containers {
    by_storage: FxHashMap<String, FxHashMap<String, Stored>>,
}

#[derive(Debug, Deserialize)]
struct Stored {
    #[serde(default)]
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    metadata: String,
}

/// What the tool that made the container noted: JSON in a string.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Metadata {
    image_name: Option<String>,
    name: Option<String>,
    /// CRI-O only.
    pod_name: Option<String>,
}

impl Containers {
    pub(super) fn by_id(&mut self, host: &Host, id: &str) -> Option<Found> {
        self.in_storage(host, ROOT, id)
    }

    pub(super) fn rootless(&mut self, host: &Host, home: &str, id: &str) -> Option<Found> {
        self.in_storage(host, &format!("{}/{USER}", home.trim_matches('/')), id)
    }

    fn in_storage(&mut self, host: &Host, storage: &str, id: &str) -> Option<Found> {
        if !self.by_storage.contains_key(storage) {
            self.by_storage.insert(storage.to_owned(), read(host, storage));
        }
        found(self.by_storage.get(storage)?.get(id)?)
    }
}

fn read(host: &Host, storage: &str) -> FxHashMap<String, Stored> {
    let mut out = FxHashMap::default();
    for list in LISTS {
        let Some(bytes) = host.read(&format!("{storage}/{list}")) else { continue };
        let stored: Vec<Stored> = serde_json::from_slice(&bytes).unwrap_or_default();
        out.extend(stored.into_iter().take(MAX_CONTAINERS).map(|s| (s.id.clone(), s)));
    }
    out
}

fn found(stored: &Stored) -> Option<Found> {
    let metadata: Metadata = serde_json::from_str(&stored.metadata).unwrap_or_default();
    let name = stored.names.iter().flatten().next().or(metadata.name.as_ref())?;
    let of_kubelet = record::of_kubelet_name(name);
    let record = ContainerRecord {
        id: bounds::name(&stored.id)?,
        runtime: if metadata.pod_name.is_some() { Runtime::CriO } else { Runtime::Podman },
        image: metadata.image_name.as_deref().and_then(bounds::image),
        ..ContainerRecord::default()
    };
    Some(match of_kubelet {
        Some((container, pod)) => {
            (ContainerRecord { is_pause: container.is_none(), name: container, ..record }, Some(pod))
        }
        None => (ContainerRecord { name: Some(bounds::name(name)?), ..record }, None),
    })
}
