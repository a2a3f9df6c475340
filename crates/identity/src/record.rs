//! What a source says of one container or one pod, as every source says it.
//!
//! **In**: texts of others. **Out**: plain values within bounds. **Limits**: the constants below; a longer id or name makes
//! no record, a label or annotation too many or too long is left out.

use std::sync::Arc;

use profile::Runtime;

use crate::workload::Pod;

/// The longest id or name, in bytes. Kubernetes' own limit of a name is 253.
const MAX_NAME: usize = 253;
/// The most labels of a pod, and the most annotations.
const MAX_PAIRS: usize = 64;
/// The longest key of a label or annotation, in bytes: Kubernetes' own limit.
const MAX_PAIR_KEY: usize = 317;
/// The longest value of a label or annotation, in bytes. Those of labels may have 63 in Kubernetes.
const MAX_PAIR_VALUE: usize = 256;
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

/// An id or a name; none if it cannot be one.
pub(crate) fn name(text: &str) -> Option<Arc<str>> {
    let fit = !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(|c| c.is_control() || c == '/');
    fit.then(|| text.into())
}

/// The reference of an image; none if it cannot be one.
pub(crate) fn image(text: &str) -> Option<Arc<str>> {
    let fit = !text.is_empty() && text.len() <= 1024 && !text.chars().any(char::is_control);
    fit.then(|| text.into())
}

/// Labels or annotations, sorted, each key once.
pub(crate) fn pairs(all: impl IntoIterator<Item = (String, String)>) -> Vec<(Arc<str>, Arc<str>)> {
    let fit = |(key, value): &(String, String)| {
        !key.is_empty() && key.len() <= MAX_PAIR_KEY && !value.is_empty() && value.len() <= MAX_PAIR_VALUE
    };
    let mut kept: Vec<(Arc<str>, Arc<str>)> =
        all.into_iter().filter(fit).map(|(key, value)| (key.into(), value.into())).collect();
    kept.sort();
    kept.dedup_by(|a, b| a.0 == b.0);
    // Which ones is arbitrary, but always the same: services' names come before what tools leave behind.
    kept.sort_by_key(|(key, _)| {
        !key.starts_with("resource.opentelemetry.io/") && !key.starts_with("app.kubernetes.io/")
    });
    kept.truncate(MAX_PAIRS);
    kept.sort();
    kept
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

    #[test]
    fn many_labels_leave_those_that_name_services() {
        let many = (0..200).map(|i| (format!("a{i}"), "x".to_owned()));
        let named = ("resource.opentelemetry.io/service.name".to_owned(), "shop".to_owned());
        let kept = pairs(many.chain([named, ("long".into(), "x".repeat(999)), (String::new(), "x".into())]));
        assert_eq!(kept.len(), MAX_PAIRS);
        assert!(kept.iter().any(|(k, _)| &**k == "resource.opentelemetry.io/service.name"));
        assert!(kept.is_sorted());
    }
}
