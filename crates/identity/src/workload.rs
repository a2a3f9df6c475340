//! What the sources know of a container and its pod.
//!
//! **In**: nothing. **Out**: plain values. **Limits**: texts, labels and annotations were bounded where they were read.

use std::sync::Arc;

use profile::Runtime;

/// A container, and the pod that it belongs to. Shared by all who ask for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The container's id, as its runtime says it.
    pub container_id: Arc<str>,
    /// Its name: in a pod that of the pod's specification, else the runtime's. None for a pod's sandbox, and as long as only
    /// the pod is known.
    pub container_name: Option<Arc<str>>,
    /// Who runs it.
    pub runtime: Runtime,
    /// The reference of its image, as its specification has it (`registry/name:tag`).
    pub image: Option<Arc<str>>,
    /// How often it was started again.
    pub restarts: Option<u32>,
    /// It is a pod's sandbox (the pause container).
    pub is_pause: bool,
    /// Its pod.
    pub pod: Option<Arc<Pod>>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Its UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The node that it runs on; empty where unknown.
    pub node: Arc<str>,
    /// Its labels, sorted by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Its annotations, without long ones, sorted by key.
    pub annotations: Vec<(Arc<str>, Arc<str>)>,
    /// What made it, the outermost first: a Deployment, then its ReplicaSet.
    pub controllers: Vec<(WorkloadKind, Arc<str>)>,
}

/// What makes pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// `Deployment` of `apps`.
    Deployment,
    /// `ReplicaSet` of `apps`.
    ReplicaSet,
    /// `StatefulSet` of `apps`.
    StatefulSet,
    /// `DaemonSet` of `apps`.
    DaemonSet,
    /// `CronJob` of `batch`.
    CronJob,
    /// `Job` of `batch`.
    Job,
    /// `ReplicationController`.
    ReplicationController,
}

impl WorkloadKind {
    /// As Kubernetes says it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::CronJob => "CronJob",
            Self::Job => "Job",
            Self::ReplicationController => "ReplicationController",
        }
    }

    /// The attribute that carries its name.
    #[must_use]
    pub fn attribute(self) -> &'static str {
        match self {
            Self::Deployment => "k8s.deployment.name",
            Self::ReplicaSet => "k8s.replicaset.name",
            Self::StatefulSet => "k8s.statefulset.name",
            Self::DaemonSet => "k8s.daemonset.name",
            Self::CronJob => "k8s.cronjob.name",
            Self::Job => "k8s.job.name",
            Self::ReplicationController => "k8s.replicationcontroller.name",
        }
    }
}

impl Workload {
    /// Its pod's namespace.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.pod.as_ref().map(|p| &*p.namespace)
    }

    /// Its pod's name.
    #[must_use]
    pub fn pod_name(&self) -> Option<&str> {
        self.pod.as_ref().map(|p| &*p.name)
    }

    /// The value of a label of its pod.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.pod.as_ref()?.label(key)
    }

    /// The value of an annotation of its pod.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.pod.as_ref()?.annotation(key)
    }

    /// What made its pod: the outermost controller's kind and name.
    #[must_use]
    pub fn controller(&self) -> Option<(WorkloadKind, &str)> {
        self.pod.as_ref()?.controllers.first().map(|(kind, name)| (*kind, &**name))
    }

    /// Everything is known that will be: of a container its name, or that it is a sandbox. Else only its pod is known yet.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.container_name.is_some() || self.is_pause
    }
}

impl Pod {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        find(&self.labels, key)
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        find(&self.annotations, key)
    }
}

fn find<'a>(sorted: &'a [(Arc<str>, Arc<str>)], key: &str) -> Option<&'a str> {
    let at = sorted.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
    sorted.get(at).map(|(_, value)| &**value)
}
