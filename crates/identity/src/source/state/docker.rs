//! Docker: one directory for each container.

use profile::Runtime;
use serde::Deserialize;

use super::Found;
use super::host::Host;
use crate::bounds;
use crate::record::{self, ContainerRecord};

/// Where the containers are.
const CONTAINERS: &str = "var/lib/docker/containers";

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "RestartCount", default)]
    restarts: Option<u32>,
    #[serde(rename = "Config", default)]
    config: Inner,
}

#[derive(Debug, Default, Deserialize)]
struct Inner {
    #[serde(rename = "Image", default)]
    image: String,
}

pub(super) fn by_id(host: &Host, id: &str) -> Option<Found> {
    let bytes = host.read(&format!("{CONTAINERS}/{id}/config.v2.json"))?;
    let config: Config = serde_json::from_slice(&bytes).ok()?;
    let name = config.name.trim_start_matches('/');
    let record = ContainerRecord {
        id: bounds::name(id)?,
        runtime: Runtime::Docker,
        image: bounds::image(&config.config.image),
        restarts: config.restarts,
        ..ContainerRecord::default()
    };
    Some(match record::of_kubelet_name(name) {
        Some((container, pod)) => {
            (ContainerRecord { is_pause: container.is_none(), name: container, ..record }, Some(pod))
        }
        None => (ContainerRecord { name: Some(bounds::name(name)?), ..record }, None),
    })
}
