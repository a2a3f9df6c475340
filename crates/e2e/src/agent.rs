//! The profiler itself, as a user runs it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::paths;
use crate::process::{Running, Start, free_port, tail, wait_for};
use crate::scrape::Scrape;
use crate::stacks::Stacks;
use crate::{otlp, pprof};

/// Samples per second and CPU, unless a test says otherwise.
pub const RATE: u32 = 99;
/// What one sample at [`RATE`] stands for.
pub const PERIOD_NS: u64 = 10_101_010;

/// A profiler to start.
pub struct Setup {
    start: Start,
    port: u16,
}

/// The variables that must not come from whoever runs the tests.
const OURS: &[&str] = &["OTEL_", "PROFILER_", "RUST_LOG"];

/// Any command of the profiler; its files and output in `folder`.
///
/// # Errors
/// When it was not built.
pub fn command(name: &str, folder: &Path) -> Result<Start> {
    Ok(Start::new(name, paths::profiler()?, folder).without(OURS))
}

/// Runs a command of the profiler to its end.
///
/// # Errors
/// When it cannot be started, or does not end.
pub fn run<S: AsRef<OsStr>>(
    name: &str,
    folder: &Path,
    words: impl IntoIterator<Item = S>,
    longest: Duration,
) -> Result<Finished> {
    let mut running = command(name, folder)?.args(words).start()?;
    let status = running.wait(longest)?;
    Ok(Finished { status, log: running.errors(), output: running.output() })
}

/// `profiler record` at 99 Hz with further words, into `NAME.pb.gz`; read back.
///
/// # Errors
/// When it fails, or its file is no good pprof file.
pub fn record<S: AsRef<OsStr>>(
    name: &str,
    folder: &Path,
    words: impl IntoIterator<Item = S>,
) -> Result<pprof_proto::Profile> {
    let file = folder.join(format!("{name}.pb.gz"));
    let mut start = command(name, folder)?.args(["record", "-F"]).args([RATE.to_string()]).args(["-o"]).args([&file]);
    start = start.args(words);
    let mut running = start.start()?;
    let status = running.wait(Duration::from_secs(300))?;
    Finished { status, log: running.errors(), output: running.output() }.success()?;
    pprof::read(&std::fs::read(&file).with_context(|| file.display().to_string())?)
}

/// How a profiler ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard error.
    pub log: String,
    /// Standard output.
    pub output: String,
}

impl Finished {
    /// An error unless it ended well.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn success(self) -> Result<Self> {
        ensure!(self.status.success(), "{}: {}", self.status, tail(&self.log));
        Ok(self)
    }
}

impl Setup {
    /// The agent at 99 Hz on a free port, with every base window exported on its own.
    ///
    /// # Errors
    /// When it was not built, or no port is free.
    pub fn new(name: &str, folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let start = command(name, folder)?
            .env("PROFILER_LISTEN", format!("127.0.0.1:{port}"))
            .env("PROFILER_FREQUENCY", RATE.to_string())
            .env("PROFILER_EXPORT_INTERVAL", "5s")
            .env("PROFILER_LOG_FORMAT", "json")
            // Each test begins without the tables that another one left.
            .env("PROFILER_UNWIND_CACHE", folder.join("cache"));
        Ok(Self { start, port })
    }

    /// Listens on another address than 127.0.0.1, which must contain that one.
    #[must_use]
    pub fn listen(self, address: &str) -> Self {
        let listen = format!("{address}:{}", self.port);
        self.env("PROFILER_LISTEN", listen)
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.start = self.start.env(name, value);
        self
    }

    /// Adds words to the command line.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.start = self.start.args(words);
        self
    }

    /// Pushes to an OTLP receiver: `grpc` or `http/protobuf`.
    #[must_use]
    pub fn otlp(self, protocol: &str, url: &str) -> Self {
        self.env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within 30 s.
    pub fn start(self) -> Result<Agent> {
        let client = crate::http::client(Duration::from_secs(120))?;
        let mut agent = Agent { running: self.start.start()?, port: self.port, client };
        wait_for("the agent", Duration::from_secs(30), || {
            agent.running.still_runs()?;
            let url = agent.url("/readyz");
            Ok(agent.client.get(url).send().is_ok_and(|r| r.status().is_success()).then_some(()))
        })?;
        Ok(agent)
    }
}

/// An agent that runs.
pub struct Agent {
    /// Its process.
    pub running: Running,
    /// Where it listens.
    pub port: u16,
    client: reqwest::blocking::Client,
}

impl Agent {
    /// An address of it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The body of an address.
    ///
    /// # Errors
    /// When the answer is no success.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.client.get(self.url(path)).send()?;
        let status = answer.status();
        let body = answer.bytes()?.to_vec();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// The status that an address answers with.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn status(&self, path: &str) -> Result<u16> {
        Ok(self.client.get(self.url(path)).send()?.status().as_u16())
    }

    /// `/metrics`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn scrape(&self) -> Result<Scrape> {
        Scrape::parse(&String::from_utf8(self.get("/metrics")?)?)
    }

    /// Waits for the third base window. The first one is as long as it happens to be, and may be exported together with
    /// the second; from the third on, what is exported are base windows one by one.
    ///
    /// # Errors
    /// When it does not come.
    pub fn settle(&self) -> Result<()> {
        wait_for("the third base window", Duration::from_secs(30), || {
            let published = self.scrape()?.sum("profiler_store_published_total")?;
            Ok((published >= 2.0).then_some(()))
        })
    }

    /// The pprof endpoint's answer for the next seconds.
    ///
    /// # Errors
    /// When it is no good profile.
    pub fn pprof(&self, seconds: u32) -> Result<Stacks> {
        pprof::stacks(&pprof::read(&self.get(&format!("/debug/pprof/profile?seconds={seconds}"))?)?)
    }

    /// The pid of its worker.
    ///
    /// # Errors
    /// When it has none.
    pub fn worker(&self) -> Result<u32> {
        let pid = self.running.pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let mut children: Vec<u32> = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            children.extend(list.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
        }
        children.first().copied().with_context(|| format!("the agent has no child: {text}"))
    }

    /// SIGTERM; waits for its end.
    ///
    /// # Errors
    /// When it does not end within 30 s.
    pub fn stop(mut self) -> Result<Finished> {
        let status = self.running.stop(Duration::from_secs(30))?;
        Ok(Finished { status, log: self.running.errors(), output: self.running.output() })
    }
}

/// The profiles of a list that begin and end within a span, give or take a tenth of a second: wall-clock time is slewed
/// while windows follow the monotonic clock, so that ends are a few nanoseconds apart. Windows are seconds long.
#[must_use]
pub fn within(profiles: &[otlp::Received], from_unix_ns: u64, to_unix_ns: u64) -> Vec<otlp::Received> {
    const SLACK_NS: u64 = 100_000_000;
    let (from, to) = (from_unix_ns - SLACK_NS, to_unix_ns + SLACK_NS);
    let inside = |r: &&otlp::Received| r.stacks.from_unix_ns >= from && r.stacks.to_unix_ns <= to;
    profiles.iter().filter(inside).cloned().collect()
}
