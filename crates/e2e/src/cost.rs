//! What a process has cost, as the kernel tells.
//!
//! **In**: pids. **Out**: [`Cost`]. **Units**: seconds of CPU time, MB (a million bytes) of memory. **Limits**: none.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Seconds of CPU time, to the nanosecond, threads that ended included.
    pub cpu: f64,
    /// Seconds of it in user mode.
    pub user: f64,
    /// Resident memory in MB.
    pub rss_mb: f64,
    /// Of that, what is in no file: nobody else has it.
    pub anonymous_mb: f64,
}

impl Cost {
    /// Of a process: CPU time so far, resident memory now.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(pid: u32) -> Result<Self> {
        let cpu = cpu_seconds(pid)?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line has a name")?.1.split_whitespace().collect();
        // Hundredths of a second, on every Linux.
        let seconds = |i: usize| Ok::<f64, anyhow::Error>(fields.get(i).context("a field")?.parse::<f64>()? / 100.0);
        let (user, system) = (seconds(11)?, seconds(12)?);
        let share = if user + system > 0.0 { user / (user + system) } else { 1.0 };
        let status = Status::of(pid)?;
        Ok(Self { cpu, user: cpu * share, rss_mb: status.mb("VmRSS:")?, anonymous_mb: status.mb("RssAnon:")? })
    }

    /// Seconds of CPU time in kernel mode.
    #[must_use]
    pub fn system(&self) -> f64 {
        self.cpu - self.user
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            user: self.user + other.user,
            rss_mb: self.rss_mb + other.rss_mb,
            anonymous_mb: self.anonymous_mb + other.anonymous_mb,
        }
    }

    /// What was added since; memory as it is now.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        // The ticks by which it is divided are coarse: the earlier share may have been the larger one.
        Self { cpu: self.cpu - before.cpu, user: (self.user - before.user).max(0.0), ..*self }
    }
}

/// CPU time of a process so far, in seconds.
///
/// # Errors
/// When it is not there.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid)?))?;
    Ok(Duration::from(clock_gettime(clock)?).as_secs_f64())
}

/// `/proc/PID/status`.
pub struct Status(String);

impl Status {
    /// Reads it.
    ///
    /// # Errors
    /// When the process is not there.
    pub fn of(pid: u32) -> Result<Self> {
        Ok(Self(fs::read_to_string(format!("/proc/{pid}/status"))?))
    }

    /// A line that is a size, in MB.
    ///
    /// # Errors
    /// When it is not there: a process that has ended has none.
    pub fn mb(&self, key: &str) -> Result<f64> {
        let line = self.0.lines().find_map(|l| l.strip_prefix(key)).with_context(|| key.to_owned())?;
        Ok(line.split_whitespace().next().context("a number")?.parse::<f64>()? * 1024.0 / 1e6)
    }
}

/// Memory of a process in MB, pages that several have shared out among these.
///
/// # Errors
/// When it is not there.
pub fn proportional_mb(pid: u32) -> Result<f64> {
    Status(fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?).mb("Pss:")
}
