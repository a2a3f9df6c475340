//! The OpenTelemetry eBPF profiler, as its users run it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::bpf::Whose;
use e2e::process::{Running, Start, wait_for};

/// Starts what follows, with the file system of tracepoints where it is not mounted; in a mount namespace of its own.
const IN_TRACEFS: &str =
    "[ -d /sys/kernel/tracing/events ] || mount -t tracefs nodev /sys/kernel/tracing && exec \"$@\"";

/// One that runs.
pub(crate) struct Theirs {
    running: Running,
    /// Its programs and maps.
    pub(crate) loaded: Whose,
}

impl Theirs {
    /// Starts it and waits until its programs are loaded. It pushes to a receiver of OTLP over gRPC on this port.
    pub(crate) fn start(program: &Path, hz: u32, port: u16, folder: &Path) -> Result<Self> {
        let loaded = Whose::from_now()?;
        let mut running = Start::new("otel-profiler", "unshare", folder)
            .args(["-m", "sh", "-c", IN_TRACEFS, "sh"])
            .args([program])
            .args(["-disable-tls", "-collection-agent", &format!("127.0.0.1:{port}")])
            .args(["-samples-per-second", &hz.to_string()])
            .start()?;
        wait_for("the programs of the OpenTelemetry profiler", Duration::from_secs(60), || {
            running.still_runs()?;
            Ok(loaded.have_timers()?.then_some(()))
        })?;
        Ok(Self { running, loaded })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.running.still_runs().context("while it was measured")?;
        self.running.stop(Duration::from_secs(30))?;
        Ok(())
    }
}
