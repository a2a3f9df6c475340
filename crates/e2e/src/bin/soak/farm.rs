//! The farm: `cargo build` of this workspace's agent into a folder of its own, from nothing, again and again.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Builds until it is stopped.
pub(crate) struct Farm {
    stop: Arc<AtomicBool>,
    builds: Arc<AtomicU32>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Farm {
    /// Starts building; what cargo says goes to `farm.log`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = here.ancestors().nth(2).context("the repository")?.to_owned();
        let (stop, builds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, counted, folder) = (Arc::clone(&stop), Arc::clone(&builds), folder.to_owned());
        let thread = std::thread::spawn(move || {
            let result = build_again(&repository, &folder, &stopped, &counted);
            let _ = fs::remove_dir_all(target(&folder));
            result
        });
        Ok(Self { stop, builds, thread: Some(thread) })
    }

    /// An error where it does not build any more.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        self.joined()?;
        bail!("the farm ended by itself")
    }

    /// Ends what is being built; returns how many builds have ended.
    pub(crate) fn stop(mut self) -> Result<u32> {
        self.joined()?;
        Ok(self.builds.load(Ordering::Relaxed))
    }

    fn joined(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the farm's thread panicked"))?
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // What went wrong has been said already, or something worse is being said.
        let _ = self.joined();
    }
}

fn target(folder: &Path) -> PathBuf {
    folder.join("farm-target")
}

fn build_again(repository: &Path, folder: &Path, stopped: &AtomicBool, builds: &AtomicU32) -> Result<()> {
    while !stopped.load(Ordering::Relaxed) {
        let target = target(folder);
        if target.exists() {
            fs::remove_dir_all(&target).with_context(|| target.display().to_string())?;
        }
        let log = folder.join("farm.log");
        let out = File::create(&log)?;
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--offline", "--package", "profiler"]).current_dir(repository);
        command.env("CARGO_TARGET_DIR", &target).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // A group of its own, so that all that it starts can be ended with it.
        let mut child = command.process_group(0).spawn().context("cargo")?;
        let ended = wait(&mut child, stopped);
        if matches!(ended, Ok(false)) {
            builds.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let group = Pid::from_raw(i32::try_from(child.id())?);
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait();
        ended.with_context(|| log.display().to_string())?;
    }
    Ok(())
}

/// Waits for a build's end; whether it was stopped before.
fn wait(child: &mut Child, stopped: &AtomicBool) -> Result<bool> {
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(false);
            }
            bail!("the build failed: {status}");
        }
        if stopped.load(Ordering::Relaxed) {
            return Ok(true);
        }
        sleep(Duration::from_millis(100));
    }
}
