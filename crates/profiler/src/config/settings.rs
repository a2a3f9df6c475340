//! Everything that can be set, with the defaults. Plain values; who sets them does not matter here.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use exporter::metrics::AggregatedSettings;
use exporter::otlp::DEFAULT_MAX_ATTRIBUTES;
use identity::IdentitySettings;
use sampler::UnwindConfig;

use crate::filter::Rule;

/// All settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// What is sampled, and how.
    pub(crate) sampling: Sampling,
    /// How user stacks are unwound.
    pub(crate) unwind: Unwind,
    /// Whose samples are wanted.
    pub(crate) filter: Filter,
    /// How it is found out who processes are.
    pub(crate) identity: IdentitySettings,
    /// The port.
    pub(crate) web: Web,
    /// Where profiles are pushed; none: nowhere.
    pub(crate) otlp: Option<Otlp>,
    /// How they are pushed.
    pub(crate) export: Export,
    /// The profiler's own metrics.
    pub(crate) metrics: Metrics,
    /// What describes this host.
    pub(crate) resource: Resource,
    /// The log.
    pub(crate) log: Log,
    /// Print the table of functions at the end.
    pub(crate) print: bool,
}

/// What is sampled, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// Samples per second and CPU.
    pub(crate) frequency_hz: u32,
    /// The processes; empty: all.
    pub(crate) pids: Vec<u32>,
    /// Their descendants too.
    pub(crate) children: bool,
    /// The length of one base window.
    pub(crate) window: Duration,
    /// How much of the user stack one sample copies.
    pub(crate) snapshot_bytes: u32,
    /// The ring buffer between kernel and user space; none: [`usual_ring_bytes`].
    pub(crate) ring_bytes: Option<u32>,
    /// Samples that wait for their process's records, in bytes.
    pub(crate) merge_bytes: u64,
    /// Keep threads apart.
    pub(crate) threads: bool,
    /// Keep the time of every sample.
    pub(crate) timestamps: bool,
    /// Sample the agent and its worker process too.
    pub(crate) include_self: bool,
    /// Sample kernel threads.
    pub(crate) kernel_threads: bool,
    /// Read `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` of each process.
    pub(crate) environment: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            frequency_hz: 19,
            pids: Vec::new(),
            children: false,
            window: Duration::from_secs(5),
            snapshot_bytes: 16 << 10,
            ring_bytes: None,
            merge_bytes: 32 << 20,
            threads: false,
            timestamps: false,
            include_self: false,
            kernel_threads: true,
            environment: true,
        }
    }
}

/// 512 KiB for each CPU, from 1 to 8 MiB. A CPU fills 31 KiB before the reader comes at 1000 Hz, and 465 KiB where every sample
/// carries a snapshot (docs/scaling.md); the ring is mapped twice, so that each page of it counts as two of the agent's.
pub(crate) fn usual_ring_bytes() -> u32 {
    // All of the machine's, whatever this process is confined to.
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    let cpus = online.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(8);
    cpus.clamp(2, 16).next_power_of_two() << 19
}

/// Where compiled tables are kept unless something else is said.
const CACHE: &str = "/var/cache/profiler";

/// How user stacks are unwound.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unwind {
    /// In the kernel by tables, and how that is checked.
    pub(crate) kernel: UnwindConfig,
    /// The directory of compiled tables, for the next start; none: nothing is written.
    pub(crate) cache: Option<PathBuf>,
}

impl Default for Unwind {
    fn default() -> Self {
        Self { kernel: UnwindConfig::default(), cache: Some(PathBuf::from(CACHE)) }
    }
}

/// Whose samples are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    /// Only those that one of these rules means; none: all.
    pub(crate) include: Vec<Rule>,
    /// But not those that one of these means.
    pub(crate) exclude: Vec<Rule>,
}

/// Who may see profiles on the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProfilesFrom {
    /// Only clients on this machine.
    Loopback,
    /// Everybody who reaches the port.
    Any,
}

/// The port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Web {
    /// The address; an unspecified IPv4 address also means IPv6 where the machine has it.
    pub(crate) listen: SocketAddr,
    /// Who may see profiles.
    pub(crate) profiles_from: ProfilesFrom,
    /// How long windows are kept for the page.
    pub(crate) keep: Duration,
    /// And how many bytes of them.
    pub(crate) keep_bytes: u64,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 2112)),
            profiles_from: ProfilesFrom::Loopback,
            keep: Duration::from_secs(15 * 60),
            keep_bytes: 32 << 20,
        }
    }
}

/// How OTLP travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    HttpProtobuf,
}

/// Pairs of header name and value. Values are secrets: they are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, _)| (name, "***"))).finish()
    }
}

/// One OTLP receiver and how to reach it.
#[derive(Clone, PartialEq)]
pub(crate) struct Otlp {
    /// gRPC: scheme, host and port. HTTP: the whole URL that requests are posted to.
    pub(crate) endpoint: String,
    /// How it travels.
    pub(crate) protocol: Protocol,
    /// Sent with each request.
    pub(crate) headers: Headers,
    /// For one request.
    pub(crate) timeout: Duration,
    /// Compress requests with gzip.
    pub(crate) gzip: bool,
    /// Trust these authorities instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The client's own certificate and key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

impl Otlp {
    /// The endpoint as logs may show it: without user, password and query.
    pub(crate) fn shown_endpoint(&self) -> String {
        exporter::delivery::without_credentials(&self.endpoint)
    }
}

/// For people and their logs: shows no secrets.
impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp")
            .field("endpoint", &self.shown_endpoint())
            .field("protocol", &self.protocol)
            .field("headers", &self.headers)
            .field("timeout", &self.timeout)
            .field("gzip", &self.gzip)
            .field("ca", &self.ca)
            .field("client", &self.client)
            .finish()
    }
}

/// How profiles are pushed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Export {
    /// Base windows are merged to this length.
    pub(crate) interval: Duration,
    /// Profiles that wait, in bytes.
    pub(crate) queue_bytes: u64,
    /// One request, in bytes.
    pub(crate) max_request_bytes: u64,
    /// `service.name` of every pushed profile; none: `unknown_service:<executable>`.
    pub(crate) service_name: Option<String>,
    /// `process.pid` on resources: a series for each process.
    pub(crate) pid: bool,
    /// The pprof form as `original_payload`.
    pub(crate) payload: bool,
    /// Thread names and ids on samples.
    pub(crate) sample_attributes: bool,
    /// Attributes of one resource.
    pub(crate) max_attributes: usize,
    /// For a push that waits at the end.
    pub(crate) shutdown_timeout: Duration,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            queue_bytes: 16 << 20,
            max_request_bytes: 3 << 20,
            service_name: None,
            pid: false,
            payload: false,
            sample_attributes: false,
            max_attributes: DEFAULT_MAX_ATTRIBUTES,
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// The profiler's own metrics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Metrics {
    /// Answer `/metrics`.
    pub(crate) prometheus: bool,
    /// Push them.
    pub(crate) otlp: Option<Otlp>,
    /// How often they are pushed.
    pub(crate) interval: Duration,
    /// Samples by function.
    pub(crate) aggregated: AggregatedSettings,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            prometheus: true,
            otlp: None,
            interval: Duration::from_secs(60),
            aggregated: AggregatedSettings::default(),
        }
    }
}

/// What describes this host, beside what the profiler finds out by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resource {
    /// Added to every resource; later ones win over earlier ones and over what was found out.
    pub(crate) attributes: Vec<(String, String)>,
    /// `service.name` of the profiler's own metrics. The profiled processes have names of their own.
    pub(crate) service_name: Option<String>,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter of `tracing`.
    pub(crate) level: String,
    /// How it looks.
    pub(crate) format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}
