//! The node's processes: each is started in a session of its own, written down, and stopped by its pid.
//!
//! **Limits**: a process that does not end within [`GRACE`] is killed. A pid counts only together with its start time, so
//! that a reused pid is never taken for ours.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const GRACE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(100);

/// A process that was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// What it is called here.
    pub(super) name: String,
    /// Its pid.
    pub(super) pid: i32,
    /// When it started, in the kernel's clock ticks since boot.
    start: u64,
}

impl Process {
    /// A process that runs now.
    pub(super) fn of(name: &str, pid: i32) -> Option<Self> {
        Some(Self { name: name.to_owned(), pid, start: alive_since(pid)? })
    }

    /// Whether it still is that process, and not only its remains.
    pub(super) fn runs(&self) -> bool {
        alive_since(self.pid) == Some(self.start)
    }

    /// Ends it: by asking first.
    pub(super) fn stop(&self) {
        let pid = Pid::from_raw(self.pid);
        if self.runs() {
            let _ = kill(pid, Signal::SIGTERM);
        }
        if !waited(GRACE, || !self.runs()) {
            let _ = kill(pid, Signal::SIGKILL);
            waited(GRACE, || !self.runs());
        }
    }
}

/// When a process started; none where it has ended.
fn alive_since(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

/// Waits until something is so; false where it is not in time.
pub(super) fn waited(longest: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + longest;
    loop {
        if so() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(STEP);
    }
}

/// The list of processes of one node, in its file.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    folder: PathBuf,
}

impl Processes {
    /// Those of the node in `folder`.
    pub(super) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn list(&self) -> PathBuf {
        self.folder.join("processes")
    }

    /// The log of a process.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// All that were written down and still run.
    pub(super) fn all(&self) -> Vec<Process> {
        let text = fs::read_to_string(self.list()).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let (name, pid, start) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Process { name: name.to_owned(), pid, start })
        };
        text.lines().filter_map(line).filter(Process::runs).collect()
    }

    /// Starts a program that outlives us.
    ///
    /// # Errors
    /// When it cannot be started, or ends at once.
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Result<Process> {
        let log = File::create(self.log(name))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let pid = i32::try_from(child.id())?;
        let Some(process) = Process::of(name, pid) else { bail!("{name} ended at once: {}", self.log(name).display()) };
        let mut list = File::options().create(true).append(true).open(self.list())?;
        writeln!(list, "{name} {pid} {}", process.start)?;
        Ok(process)
    }

    /// Stops one by name, if it runs.
    pub(super) fn stop(&self, name: &str) {
        self.all().iter().filter(|p| p.name == name).for_each(Process::stop);
    }

    /// Nothing is written down any more.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(self.list());
    }

    /// The last lines of the logs of those that should run and do not.
    pub(super) fn ended(&self, names: &[&str]) -> Vec<String> {
        let running = self.all();
        let gone = names.iter().filter(|name| running.iter().all(|p| p.name != **name));
        gone.map(|name| {
            let text = fs::read(self.log(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            format!("{name} ended:\n{}", lines[lines.len().saturating_sub(8)..].join("\n"))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_pid_and_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::of("sleep", pid).unwrap();
        assert!(process.runs());
        let other = Process { start: process.start + 1, ..process.clone() };
        assert!(!other.runs());
        other.stop();
        assert!(process.runs(), "another process of the same pid was stopped");
        process.stop();
        assert!(!process.runs());
        child.wait().unwrap();
    }
}
