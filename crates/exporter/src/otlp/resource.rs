//! Which resource an owner belongs to, and what its attributes are.
//!
//! **Out**: plain strings and integers. **Limits**: attributes configured by the user are as many as the user wrote;
//! ours are at most twelve.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use profile::Owner;

use super::ResourceSettings;

/// The name of the one resource of all kernel threads: their own names are many and change.
pub(crate) const KERNEL: &str = "[kernel]";

/// What the kernel puts behind the path of a file that has no name any more.
const DELETED: &str = " (deleted)";

/// What tells resources apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ResourceKey<'a> {
    executable: &'a str,
    path: &'a str,
    container: Option<&'a str>,
    process: Option<profile::ProcessKey>,
}

impl<'a> ResourceKey<'a> {
    pub(crate) fn of(owner: &'a Owner, settings: &ResourceSettings) -> Self {
        let process = settings.include_pid.then_some(owner.process);
        if owner.kernel_thread {
            return Self { executable: KERNEL, path: "", container: None, process };
        }
        // A program that was replaced while it runs is the same service as before.
        let path = owner.executable_path.strip_suffix(DELETED).unwrap_or(&owner.executable_path);
        let file = path.rsplit('/').next().unwrap_or_default();
        Self {
            executable: if file.is_empty() { &owner.process_name } else { file },
            path,
            container: owner.container_id().filter(|id| !id.is_empty()),
            process,
        }
    }

    pub(crate) fn resource(&self, settings: &ResourceSettings) -> Resource {
        let mut out = Attributes::default();
        let configured = |name: &str| settings.attributes.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        let service = settings.service_name.as_deref().or_else(|| configured("service.name")).filter(|s| !s.is_empty());
        out.text("service.name", service.map_or_else(|| format!("unknown_service:{}", self.executable), Into::into));
        out.text("process.executable.name", self.executable.to_owned());
        out.text("process.executable.path", self.path.to_owned());
        if let Some(process) = self.process {
            out.put("process.pid", Value::IntValue(i64::from(process.tgid)));
        }
        out.text("container.id", self.container.unwrap_or_default().to_owned());
        for (name, value) in &settings.attributes {
            // What is known of each process is not for one setting to say of all.
            if !name.starts_with("process.") {
                out.text(name, value.clone());
            }
        }
        for (name, value) in [
            ("host.name", &settings.host_name),
            ("host.id", &settings.host_id),
            ("host.arch", &settings.host_arch),
            ("os.type", &settings.os_type),
            ("os.version", &settings.os_version),
        ] {
            out.text(name, value.clone());
        }
        Resource { attributes: out.0, ..Resource::default() }
    }
}

/// Attributes with unique keys: the first value of a key stays, empty ones are left out.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.put(key, Value::StringValue(value));
        }
    }

    fn put(&mut self, key: &str, value: Value) {
        if !key.is_empty() && self.0.iter().all(|a| a.key != key) {
            self.0.push(KeyValue {
                key: key.to_owned(),
                value: Some(AnyValue { value: Some(value) }),
                ..KeyValue::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Builder;

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
        let resource = ResourceKey::of(&owner, &settings).resource(&settings);
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
        assert!(has(&ResourceKey::of(&owner, &settings).resource(&settings), "process.pid", "7"));
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
        let resource = ResourceKey::of(&sealed, &settings).resource(&settings);
        assert!(has(&resource, "process.executable.name", "memfd:sealed"));
    }

    #[test]
    fn kernel_threads_are_one_resource() {
        let settings = ResourceSettings::default();
        let (a, b) = (Builder::owner(2, "", "kworker/0:1"), Builder::owner(3, "", "ksoftirqd/1"));
        assert_eq!(ResourceKey::of(&a, &settings), ResourceKey::of(&b, &settings));
        let resource = ResourceKey::of(&a, &settings).resource(&settings);
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
        let resource = ResourceKey::of(&owner, &settings).resource(&settings);
        assert!(has(&resource, "host.name", "given") && has(&resource, "service.name", "from-attributes"));
        assert!(has(&resource, "team", "a") && !has(&resource, "team", "b"));
        assert!(has(&resource, "container.id", "c0ffee") && !has(&resource, "process.pid", "1"));
        settings.service_name = Some("given".into());
        assert!(has(&ResourceKey::of(&owner, &settings).resource(&settings), "service.name", "given"));
    }
}
