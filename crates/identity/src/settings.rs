//! What an operator may choose.

use std::path::PathBuf;
use std::time::Duration;

/// Where a service account finds its token.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Who is asked about pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The kubelet; while it cannot be asked, the CRI socket; else what the runtimes themselves keep. Nobody before a
    /// container of a pod was seen.
    #[default]
    Auto,
    /// The kubelet only.
    Kubelet,
    /// The API server: a watch of this node's pods.
    Api,
    /// The CRI socket only.
    Cri,
    /// Nobody: of a pod only what the path of its cgroup tells is known.
    Off,
}

/// How identities are found and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    /// Who is asked about pods.
    pub kubernetes: Source,
    /// The kubelet's address, `https://10.0.0.5:10250` or `http://127.0.0.1:10255`; none: `https` at [`Self::node_ip`] or
    /// 127.0.0.1, port 10250.
    pub kubelet_url: Option<String>,
    /// PEM file with the authorities (or the very certificates) that the kubelet's certificate is checked against; none: the
    /// service account's `ca.crt` beside the token, and the certificate that the kubelet made for itself
    /// (`/var/lib/kubelet/pki/kubelet.crt` on the host), as far as these can be read.
    pub kubelet_ca: Option<PathBuf>,
    /// The service account's token, read again for every request.
    pub token_file: PathBuf,
    /// The kubelet's certificate is not checked. Whoever sits between then reads the token.
    pub insecure_skip_verify: bool,
    /// This node, as Kubernetes calls it: `NODE_NAME` in the DaemonSet.
    pub node_name: Option<String>,
    /// This node's address: `NODE_IP` in the DaemonSet.
    pub node_ip: Option<String>,
    /// For [`Source::Api`] outside of a pod: the kubeconfig; none: the service account's.
    pub kubeconfig: Option<PathBuf>,
    /// The CRI socket; none: the usual places of containerd and CRI-O under [`Self::host_root`].
    pub cri_socket: Option<PathBuf>,
    /// What the container runtimes keep about their containers is read.
    pub runtimes: bool,
    /// The host's root directory, as this process reaches it.
    pub host_root: PathBuf,
    /// Labels of pods that become attributes `k8s.pod.label.<key>`: keys, `*` for any text.
    pub labels: Vec<String>,
    /// Annotations of pods that become attributes `k8s.pod.annotation.<key>`: keys, `*` for any text.
    pub annotations: Vec<String>,
    /// Keys of labels and annotations become part of attributes as they are. Otherwise whatever is not a letter, a digit, `_`
    /// or `.` becomes `_`: Pyroscope refuses whole profiles for other signs.
    pub verbatim_keys: bool,
    /// Attributes that are known but left out unless named here: see [`OPTIONAL_ATTRIBUTES`].
    pub optional_attributes: Vec<String>,
    /// Attributes that every identity carries.
    pub attributes: Vec<(String, String)>,
    /// The most attributes of one identity, `service.name` not counted.
    pub max_attributes: usize,
    /// How long a container's names are kept after it is gone.
    pub keep: Duration,
    /// The most containers (and pods) whose names are kept.
    pub max_containers: usize,
}

/// What [`IdentitySettings::optional_attributes`] may name: of containers of pods the runtime and the count of restarts; a Job
/// whose CronJob is known, a ReplicaSet whose Deployment is known; an instance id made of namespace, pod and container. They
/// are left out since they repeat others, or since each run of a job makes a value that was never there before, and with it
/// new series in a store.
pub const OPTIONAL_ATTRIBUTES: [&str; 5] = [
    "container.runtime.name",
    "k8s.container.restart_count",
    "k8s.job.name",
    "k8s.replicaset.name",
    "service.instance.id",
];

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            kubernetes: Source::Auto,
            kubelet_url: None,
            kubelet_ca: None,
            token_file: TOKEN_FILE.into(),
            insecure_skip_verify: false,
            node_name: None,
            node_ip: None,
            kubeconfig: None,
            cri_socket: None,
            runtimes: true,
            host_root: "/proc/1/root".into(),
            labels: Vec::new(),
            annotations: Vec::new(),
            verbatim_keys: false,
            optional_attributes: Vec::new(),
            attributes: Vec::new(),
            max_attributes: 20,
            keep: Duration::from_secs(600),
            max_containers: 4096,
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The kubelet's address.
    #[error("kubelet address {url:?}: {why}")]
    KubeletUrl {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// An optional attribute that there is not.
    #[error("no optional attribute {name:?}; there are {}", OPTIONAL_ATTRIBUTES.join(", "))]
    OptionalAttribute {
        /// As it was given.
        name: String,
    },
    /// [`Source::Api`] without the name of the node.
    #[error("the API server's pods of this node cannot be watched without its name (NODE_NAME)")]
    NodeName,
}
