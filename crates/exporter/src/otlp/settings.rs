//! What is said about the host and how much is said about each process.

/// What goes into the resource of every profile, and which optional parts a message carries.
#[derive(Clone, Debug, Default)]
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
    /// `OTEL_RESOURCE_ATTRIBUTES`: wins over the `host.*` and `os.*` above; `process.*` in it is ignored. A
    /// `service.name` in it counts where [`ResourceSettings::service_name`] is none.
    pub attributes: Vec<(String, String)>,
    /// `service.name` of everything; none: `unknown_service:<executable>` for each executable.
    pub service_name: Option<String>,
    /// Whether each process has a resource of its own, with `process.pid`. Backends that make a series of every
    /// resource grow without bound with it.
    pub include_pid: bool,
    /// Whether each profile carries itself as pprof too (`original_payload`).
    pub original_payload: bool,
    /// Whether samples carry `thread.name`, `thread.id` and `process.pid`. Pyroscope makes series of them.
    pub per_sample_attributes: bool,
}
