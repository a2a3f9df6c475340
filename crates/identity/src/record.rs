//! What a source says of one container or one pod, as every source says it.
//!
//! **In**: texts of others. **Out**: plain values within bounds ([`crate::bounds`]). **Limits**: [`MAX_POD_CONTAINERS`]; an id or
//! name that is too long makes no record.

use std::sync::Arc;

use profile::Runtime;

use crate::bounds::name;
use crate::workload::Pod;

/// The most containers of a pod, those that ended included.
pub(crate) const MAX_POD_CONTAINERS: usize = 256;

/// How much a record's source knows: of two that speak of the same, the greater is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A sandbox, since nothing else is left that it could be.
    Guess,
    /// What a runtime keeps on disk.
    State,
    /// The CRI socket.
    Cri,
    /// The kubelet or the API server.
    Kubernetes,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerRecord {
    pub(crate) id: Arc<str>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) runtime: Runtime,
    pub(crate) image: Option<Arc<str>>,
    pub(crate) restarts: Option<u32>,
    pub(crate) is_pause: bool,
    /// Its cgroup's path, where the path does not tell the id.
    pub(crate) cgroup: Option<Arc<str>>,
}

/// One pod and its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodRecord {
    pub(crate) pod: Pod,
    /// What else paths of cgroups call it.
    pub(crate) aliases: Vec<Arc<str>>,
    /// All its containers are listed, and none is about to be started: what else runs in it is its sandbox.
    pub(crate) settled: bool,
    pub(crate) containers: Vec<ContainerRecord>,
}

/// A container's id with its runtime, as Kubernetes writes both: `containerd://ID`.
pub(crate) fn container_id(text: &str) -> Option<(Arc<str>, Runtime)> {
    let (scheme, id) = text.split_once("://")?;
    Some((name(id)?, runtime(scheme)))
}

/// The runtime of that name.
pub(crate) fn runtime(name: &str) -> Runtime {
    [Runtime::Containerd, Runtime::CriO, Runtime::Docker, Runtime::Podman]
        .into_iter()
        .find(|r| r.label() == name)
        .unwrap_or_default()
}

/// A container's name as the kubelet makes it for runtimes that want one: `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
/// None of the parts holds an underscore.
pub(crate) fn of_kubelet_name(text: &str) -> Option<(Option<Arc<str>>, Pod)> {
    let mut parts = text.trim_start_matches('/').split('_');
    let (prefix, container, pod, namespace, uid) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if prefix != "k8s" {
        return None;
    }
    let controllers = crate::controllers::of_name(pod);
    let pod = Pod { uid: name(uid)?, namespace: name(namespace)?, name: name(pod)?, controllers, ..Pod::default() };
    // What a sandbox is called.
    let container = if container == "POD" { None } else { Some(name(container)?) };
    Some((container, pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(container_id("containerd://ab"), Some(("ab".into(), Runtime::Containerd)));
        assert_eq!(container_id("cri-o://ab"), Some(("ab".into(), Runtime::CriO)));
        assert_eq!(container_id("new://ab"), Some(("ab".into(), Runtime::Unknown)));
        for bad in ["", "ab", "containerd://", "containerd://a/b", "containerd://a\nb"] {
            assert_eq!(container_id(bad), None, "{bad}");
        }
        assert_eq!(container_id(&format!("containerd://{}", "a".repeat(300))), None);
    }

    #[test]
    fn names_of_the_kubelet() {
        let (container, pod) = of_kubelet_name("/k8s_web_web-5d4-abc_shop_u-1_0").unwrap();
        assert_eq!(
            (container.as_deref(), &*pod.name, &*pod.namespace, &*pod.uid),
            (Some("web"), "web-5d4-abc", "shop", "u-1")
        );
        assert_eq!(of_kubelet_name("k8s_POD_web_shop_u-1_0").unwrap().0, None);
        for bad in ["", "web", "k8s_a_b_c", "x_a_b_c_d_0", "k8s__b_c_d_0"] {
            assert_eq!(of_kubelet_name(bad), None, "{bad}");
        }
    }
}
