//! What a process has cost, as /proc tells.

use std::fs;

use anyhow::{Context as _, Result};

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Seconds of CPU time in user mode.
    pub(crate) user: f64,
    /// Seconds of CPU time in kernel mode.
    pub(crate) system: f64,
    /// Resident memory in MB.
    pub(crate) rss_mb: f64,
}

impl Cost {
    /// Of a process: CPU time so far, resident memory now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line has a name")?.1.split_whitespace().collect();
        // Hundredths of a second, on every Linux.
        let seconds = |i: usize| Ok::<f64, anyhow::Error>(fields.get(i).context("a field")?.parse::<f64>()? / 100.0);
        Ok(Self { user: seconds(11)?, system: seconds(12)?, rss_mb: status_mb(pid, "VmRSS:")? })
    }

    /// CPU time of both modes.
    pub(crate) fn cpu(&self) -> f64 {
        self.user + self.system
    }

    /// Both together.
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system, rss_mb: self.rss_mb + other.rss_mb }
    }

    /// What was added since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system, rss_mb: self.rss_mb }
    }
}

/// A line of `/proc/PID/status` that is a size, in MB.
pub(crate) fn status_mb(pid: u32, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(key)).with_context(|| key.to_owned())?;
    Ok(line.split_whitespace().next().context("a number")?.parse::<f64>()? * 1024.0 / 1e6)
}
