//! Which resource an owner belongs to, and what its attributes are.
//!
//! A resource is a container, or what its identity says where there is none, and in it an executable; kernel threads are
//! one resource. **In**: owners after attribution; without it an executable is all that is known. **Out**: plain strings
//! and integers. **Limits**: see [`super::attributes`] and [`super::groups`].

use std::sync::Arc;

use opentelemetry_proto::tonic::resource::v1::Resource;
use profile::Owner;

use super::ResourceSettings;
use super::attributes::{Attributes, Weight};
use crate::names::{executable_name, executable_path};

/// The name of the one resource of all kernel threads: their own names are many and change.
pub(crate) const KERNEL: &str = "[kernel]";

/// `service.name` of what has no executable either.
const UNKNOWN: &str = "unknown_service";

/// Attributes that a sample carries at most.
pub(super) const SAMPLE_ATTRIBUTES: usize = 3;

/// Keys and values of an identity.
type Texts<'a> = &'a [(Arc<str>, Arc<str>)];

/// What tells resources apart; borrowed from an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ResourceKey<'a> {
    /// `service.name` and the attributes of its identity.
    identity: Option<(&'a str, Texts<'a>)>,
    container: Option<&'a str>,
    /// Empty: of no executable in particular.
    executable: &'a str,
    path: &'a str,
    process: Option<profile::ProcessKey>,
}

impl<'a> ResourceKey<'a> {
    pub(crate) fn of(owner: &'a Owner, settings: &ResourceSettings) -> Self {
        let process = settings.include_pid.then_some(owner.process);
        let identity = owner.identity.as_ref().map(|i| (&*i.service_name, &*i.attributes));
        if owner.kernel_thread {
            return Self { identity, executable: KERNEL, process, ..Self::default() };
        }
        Self {
            identity,
            container: owner.container_id().filter(|id| !id.is_empty()),
            executable: executable_name(owner),
            path: executable_path(owner),
            process,
        }
    }

    /// What it belongs to, without its executable.
    pub(crate) fn family(&self) -> Self {
        Self { executable: "", path: "", process: None, ..self.clone() }
    }

    /// Its executable.
    pub(crate) fn executable(&self) -> (&'a str, &'a str) {
        (self.executable, self.path)
    }

    /// The resource, and how many attributes were left out of it.
    pub(crate) fn resource(&self, settings: &ResourceSettings) -> (Resource, u64) {
        let mut out = Attributes::new(settings.verbatim_keys);
        out.text(Weight::Service, "service.name", &self.service_name(settings));
        out.text(Weight::Name, "process.executable.name", self.executable);
        out.text(Weight::Conventional, "process.executable.path", self.path);
        if let Some(process) = self.process {
            out.number(Weight::Name, "process.pid", i64::from(process.tgid));
        }
        out.text(Weight::Name, "container.id", self.container.unwrap_or_default());
        // Who a process is, is not for a setting to say of all; and what the kernel tells of it and of its host is not for
        // what it declares of itself.
        let (_, own) = self.identity.unwrap_or_default();
        for (key, value) in own.iter().filter(|(key, _)| !is_measured(key)) {
            out.text(Weight::of(key), key, value);
        }
        for (key, value) in settings.attributes.iter().filter(|(key, _)| !is_of_process(key)) {
            // The agent itself says some of what is the host's this way.
            let weight = if key.starts_with("os.") { Weight::Host } else { Weight::Configured };
            out.text(weight, key, value);
        }
        for (key, value) in [
            ("host.name", &settings.host_name),
            ("host.id", &settings.host_id),
            ("host.arch", &settings.host_arch),
            ("os.type", &settings.os_type),
            ("os.version", &settings.os_version),
        ] {
            out.text(Weight::of(key), key, value);
        }
        // Backends that make labels of both count them together.
        let of_samples = if settings.per_sample_attributes { SAMPLE_ATTRIBUTES } else { 0 };
        let (attributes, left_out) = out.finish(settings.max_attributes.saturating_sub(of_samples));
        (Resource { attributes, ..Resource::default() }, left_out)
    }

    fn service_name(&self, settings: &ResourceSettings) -> String {
        let configured = || settings.attributes.iter().find(|(k, _)| k == "service.name").map(|(_, v)| v.as_str());
        let given = settings.service_name.as_deref().or_else(configured).filter(|s| !s.is_empty());
        match given.or_else(|| self.identity.map(|(name, _)| name).filter(|s| !s.is_empty())) {
            Some(name) => name.to_owned(),
            None if self.executable.is_empty() => UNKNOWN.to_owned(),
            None => format!("{UNKNOWN}:{}", self.executable),
        }
    }
}

/// Whether an attribute says of each process something else, so that none can be configured for all.
fn is_of_process(key: &str) -> bool {
    let of_node = key.starts_with("k8s.node.") || key.starts_with("k8s.cluster.");
    ["process.", "container.", "k8s."].iter().any(|head| key.starts_with(head)) && !of_node
}

/// Whether an attribute says what the agent sees for itself.
fn is_measured(key: &str) -> bool {
    ["process.", "host.", "os."].iter().any(|head| key.starts_with(head))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::KeyValue;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    use super::*;
    use crate::fixture::Builder;

    fn resource_of(owner: &Owner, settings: &ResourceSettings) -> Resource {
        ResourceKey::of(owner, settings).resource(settings).0
    }

    fn texts(r: &Resource) -> Vec<(String, String)> {
        let show = |v: &Value| match v {
            Value::StringValue(s) => s.clone(),
            Value::IntValue(i) => i.to_string(),
            other => format!("{other:?}"),
        };
        let value = |a: &KeyValue| show(a.value.as_ref().unwrap().value.as_ref().unwrap());
        r.attributes.iter().map(|a| (a.key.clone(), value(a))).collect()
    }

    fn has(r: &Resource, key: &str, value: &str) -> bool {
        texts(r).iter().any(|(k, v)| k == key && v == value)
    }

    #[test]
    fn a_process_is_its_executable() {
        let mut settings =
            ResourceSettings { host_name: "n1".into(), os_type: "linux".into(), ..ResourceSettings::default() };
        let owner = Builder::owner(7, "/usr/bin/app", "worker");
        let resource = resource_of(&owner, &settings);
        assert_eq!(
            texts(&resource),
            [
                ("service.name", "unknown_service:app"),
                ("process.executable.name", "app"),
                ("process.executable.path", "/usr/bin/app"),
                ("host.name", "n1"),
                ("os.type", "linux"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
        assert_eq!(
            ResourceKey::of(&owner, &settings),
            ResourceKey::of(&Builder::owner(8, "/usr/bin/app", "x"), &settings)
        );
        settings.include_pid = true;
        assert!(has(&resource_of(&owner, &settings), "process.pid", "7"));
        assert_ne!(
            ResourceKey::of(&owner, &settings),
            ResourceKey::of(&Builder::owner(8, "/usr/bin/app", "x"), &settings)
        );
    }

    #[test]
    fn a_replaced_program_is_the_same_service() {
        let settings = ResourceSettings::default();
        let (new, old) = (Builder::owner(7, "/usr/bin/app", "app"), Builder::owner(6, "/usr/bin/app (deleted)", "app"));
        assert_eq!(ResourceKey::of(&old, &settings), ResourceKey::of(&new, &settings));
        let sealed = Builder::owner(9, "/memfd:sealed (deleted)", "sealed");
        let resource = resource_of(&sealed, &settings);
        assert!(has(&resource, "process.executable.name", "memfd:sealed"));
    }

    #[test]
    fn kernel_threads_are_one_resource() {
        let settings = ResourceSettings::default();
        let (a, b) = (Builder::owner(2, "", "kworker/0:1"), Builder::owner(3, "", "ksoftirqd/1"));
        assert_eq!(ResourceKey::of(&a, &settings), ResourceKey::of(&b, &settings));
        let resource = resource_of(&a, &settings);
        assert!(has(&resource, "process.executable.name", "[kernel]"));
        assert!(has(&resource, "service.name", "unknown_service:[kernel]"));
    }

    #[test]
    fn the_user_has_the_last_word_on_hosts_and_none_on_processes() {
        let attribute = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let mut settings = ResourceSettings {
            host_name: "n1".into(),
            attributes: vec![
                attribute("host.name", "given"),
                attribute("process.pid", "1"),
                attribute("service.name", "from-attributes"),
                attribute("team", "a"),
                attribute("team", "b"),
            ],
            ..ResourceSettings::default()
        };
        let mut owner = Builder::owner(7, "/usr/bin/app", "worker");
        owner.place = Builder::place("c0ffee");
        let resource = resource_of(&owner, &settings);
        assert!(has(&resource, "host.name", "given") && has(&resource, "service.name", "from-attributes"));
        assert!(has(&resource, "team", "a") && !has(&resource, "team", "b"));
        assert!(has(&resource, "container.id", "c0ffee") && !has(&resource, "process.pid", "1"));
        settings.service_name = Some("given".into());
        assert!(has(&resource_of(&owner, &settings), "service.name", "given"));
    }

    #[test]
    fn an_identity_says_who_it_is_and_settings_say_what_is_common_to_all() {
        let own = [
            ("container.id", "c0ffee"),
            ("deployment.environment.name", "canary"),
            ("host.name", "imitated"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.label.app.kubernetes.io/name", "cart"),
            ("k8s.pod.name", "cart-7f9-x2"),
            ("process.pid", "1"),
        ];
        let mut owner = Builder::owner(7, "/app/cart", "cart");
        owner.place = Builder::place("c0ffee");
        owner.identity = Builder::identity("cart", &own);
        let attribute = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let mut settings = ResourceSettings {
            host_name: "n1".into(),
            attributes: vec![
                attribute("deployment.environment.name", "prod"),
                attribute("k8s.cluster.name", "c1"),
                attribute("k8s.pod.name", "profiler-abcde"),
                attribute("k8s.namespace.name", "profiler"),
            ],
            ..ResourceSettings::default()
        };
        let want = [
            ("service.name", "cart"),
            ("process.executable.name", "cart"),
            ("process.executable.path", "/app/cart"),
            ("container.id", "c0ffee"),
            ("deployment.environment.name", "canary"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.label.app.kubernetes.io_name", "cart"),
            ("k8s.pod.name", "cart-7f9-x2"),
            ("k8s.cluster.name", "c1"),
            ("host.name", "n1"),
        ];
        assert_eq!(texts(&resource_of(&owner, &settings)), want.map(|(k, v)| (k.to_owned(), v.to_owned())));
        settings.verbatim_keys = true;
        assert!(has(&resource_of(&owner, &settings), "k8s.pod.label.app.kubernetes.io/name", "cart"));
        settings.service_name = Some("given".into());
        settings.max_attributes = 3;
        let (few, left_out) = ResourceKey::of(&owner, &settings).resource(&settings);
        let few: Vec<&str> = few.attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!((few, left_out), (vec!["service.name", "container.id", "host.name"], 7));
        // A process of the host does not inherit the pod that the agent itself runs in.
        let host = Builder::owner(8, "/usr/bin/sshd", "sshd");
        let settings = ResourceSettings { max_attributes: 26, service_name: None, ..settings };
        let found = texts(&resource_of(&host, &settings));
        assert!(!found.iter().any(|(k, _)| k.starts_with("k8s.pod") || k.starts_with("k8s.namespace")), "{found:?}");
    }

    #[test]
    fn one_resource_per_container_and_executable() {
        let settings = ResourceSettings::default();
        let owner = |tgid, path, container: &str, version| {
            let mut owner = Builder::owner(tgid, path, "x");
            owner.place = Builder::place(container);
            owner.identity = Builder::identity("cart", &[("service.version", version)]);
            owner
        };
        let one = owner(7, "/app/cart", "c0ffee", "1");
        for (other, same) in [
            (owner(8, "/app/cart", "c0ffee", "1"), true),
            (owner(7, "/app/sh", "c0ffee", "1"), false),
            (owner(7, "/app/cart", "decade", "1"), false),
            (owner(7, "/app/cart", "c0ffee", "2"), false),
        ] {
            assert_eq!(ResourceKey::of(&one, &settings) == ResourceKey::of(&other, &settings), same, "{other:?}");
        }
    }
}
