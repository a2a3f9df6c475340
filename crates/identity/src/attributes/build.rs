//! One identity out of what is known.
//!
//! **In**: an owner, what the sources know of its container. **Out**: `service.name` and the other attributes. **Limits**:
//! as many attributes as the settings allow; those that others may choose (annotations, the process's environment) come last,
//! and what finds no room is counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use profile::{Identity, Owner, Runtime};

use super::image::Image;
use super::service::{self, RESOURCE_PREFIX};
use super::text::{MAX_KEY, MAX_VALUE, clean, cut, fits, is_plain_key, plain_key};
use crate::settings::IdentitySettings;
use crate::workload::{Pod, Workload, WorkloadKind};

/// What neither a process nor an annotation may say, since it is known from elsewhere or would make another's.
const RESERVED: [&str; 7] = ["container.", "host.", "k8s.", "os.", "process.", "telemetry.", "thread."];

/// The identity of an owner, and how many attributes found no room.
pub(crate) fn identity(owner: &Owner, workload: Option<&Workload>, settings: &IdentitySettings) -> (Identity, u64) {
    let mut out = Attributes { values: BTreeMap::new(), refused: 0, settings };
    if !owner.kernel_thread {
        out.of_container(owner, workload);
        if let Some(pod) = workload.and_then(|w| w.pod.as_deref()) {
            out.of_pod(pod, workload);
        }
        out.of_service(owner, workload);
    }
    for (key, value) in &settings.attributes {
        out.put(key, value);
    }
    if !owner.kernel_thread {
        if let Some(pod) = workload.and_then(|w| w.pod.as_deref()) {
            out.selected(pod);
        }
        out.of_others(owner, workload);
    }
    let attributes = out.values.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    (Identity { service_name: service_name(owner, workload), attributes }, out.refused)
}

/// `service.name` of an owner whose container is `workload`, as [`Identities::attribute`](crate::Identities::attribute)
/// says it.
#[must_use]
pub fn service_name(owner: &Owner, workload: Option<&Workload>) -> Arc<str> {
    let name = if owner.kernel_thread {
        // One service for all of them, wherever the kernel put them.
        service::name(&Owner { kernel_thread: true, ..Owner::default() }, None)
    } else {
        service::name(owner, workload)
    };
    clean(&name, MAX_VALUE).as_ref().into()
}

struct Attributes<'a> {
    values: BTreeMap<String, String>,
    refused: u64,
    settings: &'a IdentitySettings,
}

impl Attributes<'_> {
    /// The first value of a key stays; empty ones are left out.
    fn put(&mut self, key: &str, value: &str) {
        let value = clean(value, MAX_VALUE);
        if value.is_empty() || key.is_empty() || key == "service.name" || self.values.contains_key(key) {
            return;
        }
        if self.values.len() >= self.settings.max_attributes {
            self.refused += 1;
            return;
        }
        self.values.insert(key.to_owned(), value.into_owned());
    }

    fn wanted(&self, optional: &str) -> bool {
        self.settings.optional_attributes.iter().any(|o| o == optional)
    }

    fn of_container(&mut self, owner: &Owner, workload: Option<&Workload>) {
        let container = owner.place.as_ref().and_then(|p| p.container.as_ref());
        let pod = container.and_then(|c| c.pod.as_ref());
        let id = container.map(|c| &*c.id).or(workload.map(|w| &*w.container_id)).unwrap_or_default();
        if id.is_empty() {
            return;
        }
        self.put("container.id", id);
        let in_pod = pod.is_some() || workload.is_some_and(|w| w.pod.is_some());
        if !in_pod || self.wanted("container.runtime.name") {
            let told = container.map_or(Runtime::Unknown, |c| c.runtime);
            let known = workload.map_or(Runtime::Unknown, |w| w.runtime);
            let runtime = if told == Runtime::Unknown { known } else { told };
            self.put("container.runtime.name", runtime.label());
        }
        if let Some(pod) = pod {
            // A source may know a better one: of a static pod the path tells only what the kubelet made up.
            let uid = workload.and_then(|w| w.pod.as_ref()).map_or(&*pod.uid, |p| &*p.uid);
            self.put("k8s.pod.uid", uid);
            self.put("k8s.node.name", self.settings.node_name.as_deref().unwrap_or_default());
        }
        let Some(workload) = workload else { return };
        let name = workload.container_name.as_deref().unwrap_or_default();
        self.put(if in_pod { "k8s.container.name" } else { "container.name" }, name);
        let image = Image::of(workload.image.as_deref().unwrap_or_default());
        self.put("container.image.name", image.name);
        self.put("container.image.tags", image.tag);
    }

    fn of_pod(&mut self, pod: &Pod, workload: Option<&Workload>) {
        self.put("k8s.namespace.name", &pod.namespace);
        self.put("k8s.pod.name", &pod.name);
        self.put("k8s.pod.uid", &pod.uid);
        self.put("k8s.node.name", &pod.node);
        self.put("k8s.node.name", self.settings.node_name.as_deref().unwrap_or_default());
        let has = |kind| pod.controllers.iter().any(|(k, _)| *k == kind);
        let (deployment, cron_job) = (has(WorkloadKind::Deployment), has(WorkloadKind::CronJob));
        for (kind, name) in &pod.controllers {
            let key = kind.attribute();
            let repeats = match kind {
                WorkloadKind::ReplicaSet => deployment,
                WorkloadKind::Job => cron_job,
                _ => false,
            };
            if !repeats || self.wanted(key) {
                self.put(key, name);
            }
        }
        if self.wanted("k8s.container.restart_count")
            && let Some(restarts) = workload.and_then(|w| w.restarts)
        {
            self.put("k8s.container.restart_count", &restarts.to_string());
        }
    }

    /// What the conventions say of a service beside its name.
    fn of_service(&mut self, owner: &Owner, workload: Option<&Workload>) {
        let declared = owner.declared.as_deref();
        let pod = workload.and_then(|w| w.pod.as_deref());
        for key in ["service.namespace", "service.version", "service.instance.id"] {
            self.put(key, declared.and_then(|d| service::attribute(d, key)).unwrap_or_default());
            self.put(key, pod.and_then(|p| p.annotation(&format!("{RESOURCE_PREFIX}{key}"))).unwrap_or_default());
        }
        let Some(pod) = pod else { return };
        self.put("service.namespace", &pod.namespace);
        self.put("service.version", pod.label("app.kubernetes.io/version").unwrap_or_default());
        if self.wanted("service.instance.id")
            && let Some(container) = workload.and_then(|w| w.container_name.as_deref())
        {
            self.put("service.instance.id", &format!("{}.{}.{container}", pod.namespace, pod.name));
        }
    }

    /// Labels and annotations that the settings ask for.
    fn selected(&mut self, pod: &Pod) {
        let settings = self.settings;
        for (prefix, patterns, pairs) in [
            ("k8s.pod.label.", &settings.labels, &pod.labels),
            ("k8s.pod.annotation.", &settings.annotations, &pod.annotations),
        ] {
            for (key, value) in pairs.iter().filter(|(key, _)| patterns.iter().any(|p| fits(p, key))) {
                let key = cut(key, MAX_KEY);
                let key = if settings.verbatim_keys { key.to_owned() } else { plain_key(key) };
                self.put(&format!("{prefix}{key}"), value);
            }
        }
    }

    /// What the process itself and its pod's annotations say.
    fn of_others(&mut self, owner: &Owner, workload: Option<&Workload>) {
        let declared = owner.declared.iter().flat_map(|d| d.attributes.iter()).map(|(k, v)| (&**k, &**v));
        let annotated = workload.and_then(|w| w.pod.as_deref()).into_iter().flat_map(|p| p.annotations.iter());
        let annotated = annotated.filter_map(|(k, v)| Some((k.strip_prefix(RESOURCE_PREFIX)?, &**v)));
        for (key, value) in declared.chain(annotated) {
            let reserved = RESERVED.iter().any(|r| key.starts_with(r)) && !key.starts_with("k8s.cluster.");
            if reserved {
                continue;
            }
            if is_plain_key(key) {
                self.put(key, value);
            } else {
                self.refused += 1;
            }
        }
    }
}
