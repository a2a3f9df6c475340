//! Processes that tests start: always stopped again, by pid, however the test ends.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Waits until `ready` gives something.
///
/// # Errors
/// When the time is over: names what was waited for and the last error.
pub fn wait_for<T>(what: &str, longest: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + longest;
    loop {
        let last = match ready() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            return match last {
                Some(error) => Err(error.context(format!("{what}: not within {longest:?}"))),
                None => bail!("{what}: not within {longest:?}"),
            };
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A TCP port of the loopback address that nobody listens on now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A program to start.
pub struct Start {
    name: String,
    command: Command,
    log: PathBuf,
    group: bool,
}

impl Start {
    /// A program by its path; what it writes goes to `NAME.log` in `folder` (and `NAME.out` for standard output).
    pub fn new(name: &str, program: impl AsRef<OsStr>, folder: &Path) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).current_dir(folder);
        Self { name: name.to_owned(), command, log: folder.join(format!("{name}.log")), group: false }
    }

    /// Adds words.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command.args(words);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes variables of ours away.
    #[must_use]
    pub fn without(mut self, prefixes: &[&str]) -> Self {
        let ours: Vec<OsString> = std::env::vars_os().map(|(n, _)| n).collect();
        for name in ours {
            if prefixes.iter().any(|p| name.to_string_lossy().starts_with(p)) {
                self.command.env_remove(name);
            }
        }
        self
    }

    /// In a group of its own: when it is dropped, whatever it started in that group is stopped with it.
    #[must_use]
    pub fn group(mut self) -> Self {
        self.command.process_group(0);
        self.group = true;
        self
    }

    /// Starts it. It dies with the thread that started it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut self) -> Result<Running> {
        let out = self.log.with_extension("out");
        self.command.stdout(File::options().create(true).append(true).open(&out)?);
        self.command.stderr(File::options().create(true).append(true).open(&self.log)?);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            self.command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                Ok(())
            });
        }
        let child = self.command.spawn().with_context(|| format!("{} cannot be started", self.name))?;
        Ok(Running { name: self.name, child, log: self.log, out, status: None, group: self.group })
    }
}

/// A process of ours. Dropped, it is stopped.
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    out: PathBuf,
    status: Option<ExitStatus>,
    group: bool,
}

impl Running {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote on standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it wrote on standard output.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Its end, if it has ended.
    ///
    /// # Errors
    /// When the kernel does not know.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// An error if it has ended already.
    ///
    /// # Errors
    /// When it has: with the end of its log.
    pub fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended by itself ({status}): {}", self.name, tail(&self.errors()));
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it goes on for longer.
    pub fn wait(&mut self, longest: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), longest, || self.ended())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.still_runs()?;
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// SIGTERM, and its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self, longest: Duration) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(longest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.group
            && self.status.is_none()
            && let Ok(group) = i32::try_from(self.pid())
        {
            // Not waited for yet: the number is still its own.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        if matches!(self.ended(), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            if self.wait(Duration::from_secs(3)).is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// User and system CPU time of a process so far.
///
/// # Errors
/// When it is not there.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').context("a stat line has a name")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|&i| fields.get(i)?.parse::<u64>().ok()).sum();
    // The kernel shows times in hundredths of a second on every machine of today.
    Ok(Duration::from_millis(ticks * 10))
}
