//! What is said about the host and how much is said about each process.

/// What goes into the resource of every profile, and which optional parts a message carries.
#[derive(Clone, Debug)]
pub struct ResourceSettings {
    /// `host.name`; left out where empty.
    pub host_name: String,
    /// `host.id`; left out where empty.
    pub host_id: String,
    /// `host.arch`, in the semantic conventions' words (`amd64`, `arm64`); left out where empty.
    pub host_arch: String,
    /// `os.type` (`linux`); left out where empty.
    pub os_type: String,
    /// `os.version`: the kernel's release; left out where empty.
    pub os_version: String,
    /// The agent's own `OTEL_RESOURCE_ATTRIBUTES`: wins over the `host.*` and `os.*` above. What differs from process to
    /// process (`process.*`, `container.*`, `k8s.*` except of node and cluster) is ignored in it, and what a process's
    /// identity says wins. A `service.name` in it counts where [`ResourceSettings::service_name`] is none.
    pub attributes: Vec<(String, String)>,
    /// `service.name` of everything; none: as each identity says, else `unknown_service:<executable>`.
    pub service_name: Option<String>,
    /// Whether each process has a resource of its own, with `process.pid`. Backends that make a series of every
    /// resource grow without bound with it.
    pub include_pid: bool,
    /// Whether each profile carries itself as pprof too (`original_payload`).
    pub original_payload: bool,
    /// Whether samples carry `thread.name`, `thread.id` and `process.pid`. Pyroscope makes series of them.
    pub per_sample_attributes: bool,
    /// Attributes of one resource at most, those of its samples included; which give way is in `docs/attributes.md`.
    pub max_attributes: usize,
    /// Whether keys are sent as they are. If not, what is no letter, digit, dot or underscore in a key becomes an
    /// underscore, since backends that make labels of attributes refuse the rest (Pyroscope: the whole request).
    pub verbatim_keys: bool,
}

/// Attributes of one resource where nothing else is configured. Pyroscope takes 30 labels and adds four of its own.
pub const DEFAULT_MAX_ATTRIBUTES: usize = 26;

impl Default for ResourceSettings {
    fn default() -> Self {
        Self {
            host_name: String::new(),
            host_id: String::new(),
            host_arch: String::new(),
            os_type: String::new(),
            os_version: String::new(),
            attributes: Vec::new(),
            service_name: None,
            include_pid: false,
            original_payload: false,
            per_sample_attributes: false,
            max_attributes: DEFAULT_MAX_ATTRIBUTES,
            verbatim_keys: false,
        }
    }
}
