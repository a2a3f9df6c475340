//! Whom a stack belongs to.

use std::sync::Arc;

/// A process for as long as the machine runs: pids are reused, start times are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Start time of the group's leader, `CLOCK_MONOTONIC` nanoseconds.
    pub leader_start_mono_ns: u64,
}

/// Whom a stack belongs to. Two stacks of equal owners are one entry.
///
/// Texts come from the target and may hold anything that is valid UTF-8 (lossily decoded): whoever shows them escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The process.
    pub process: ProcessKey,
    /// The thread, where threads are asked for.
    pub tid: Option<u32>,
    /// The name of the thread (comm).
    pub comm: Arc<str>,
    /// The name of the process: its executable's file name, else its leader's comm; never empty.
    pub process_name: Arc<str>,
    /// The path of the executable as the process sees it; empty for kernel threads and where unknown.
    pub executable_path: Arc<str>,
    /// The object that is the executable, for pprof's `mapping[0]`.
    pub executable: Option<crate::ObjectId>,
    /// The cgroup that the task was in: a number that tells cgroups apart on this host, until the next boot.
    pub cgroup_id: u64,
    /// Where it runs, as its cgroup told while it lived; none where that was not learned.
    pub place: Option<Arc<Place>>,
    /// What its environment declares of it.
    pub declared: Option<Arc<Declared>>,
    /// The task is a kernel thread.
    pub kernel_thread: bool,
    /// Its service and the attributes of its resource; none before attribution.
    pub identity: Option<Arc<Identity>>,
}

impl Owner {
    /// The id of its container, if it runs in one.
    #[must_use]
    pub fn container_id(&self) -> Option<&str> {
        self.place.as_ref()?.container.as_ref().map(|c| &*c.id)
    }
}

/// Where a process runs, as far as its cgroup tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The path of its cgroup from the hierarchy's root, lossily decoded; `/` at the root.
    pub cgroup: Arc<str>,
    /// The container, if the path is one's.
    pub container: Option<Container>,
    /// The innermost systemd unit (`nginx.service`, `session-3.scope`), if it is one's and no container's.
    pub unit: Option<Arc<str>>,
}

/// A container, as the path of its cgroup tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// As its runtime calls it; 64 hex digits with most.
    pub id: Arc<str>,
    /// Who runs it.
    pub runtime: Runtime,
    /// The pod that it belongs to.
    pub pod: Option<PodRef>,
}

/// A pod, as the path of a cgroup tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its UID, with dashes; of a static pod the 32 hex digits that the kubelet made.
    pub uid: Arc<str>,
    /// Its quality of service.
    pub qos: Qos,
}

/// The quality-of-service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests or limits.
    Burstable,
    /// None.
    BestEffort,
}

/// Who runs a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    CriO,
    /// Docker.
    Docker,
    /// podman, and others on libpod.
    Podman,
    /// The path does not tell.
    #[default]
    Unknown,
}

impl Runtime {
    /// As `container.runtime.name` says it; empty where unknown.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Unknown => "",
        }
    }
}

/// What the variables `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` of a process say of it. Bounded where they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Declared {
    /// `OTEL_SERVICE_NAME`, if not empty.
    pub service_name: Option<Arc<str>>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, in their order, each key once.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// Who a process is, in the words of OpenTelemetry's semantic conventions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// `service.name`; never empty.
    pub service_name: Arc<str>,
    /// The other attributes of its resource (`container.*`, `k8s.*`, `service.*`, what was declared or selected), sorted by
    /// key, each key once, no value empty. Without `service.name`, `process.*`, `host.*` and `os.*`.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

impl Identity {
    /// The value of an attribute; `service.name` too.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        if key == "service.name" {
            return Some(&self.service_name);
        }
        let at = self.attributes.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.attributes.get(at).map(|(_, value)| &**value)
    }
}
