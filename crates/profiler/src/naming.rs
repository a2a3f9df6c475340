//! The thread between sampler and exporter: takes windows, gives names to their frames and to their owners, hands profiles
//! on.
//!
//! **In**: closed windows. **Out**: profiles, by a function that must not block for long. **Limits**: the channel
//! holds [`WINDOWS_WAITING`]; the sampler drops and counts what does not fit. A profile that breaks its own rules would
//! harm every sink: it is not handed on, and its samples count as dropped in naming.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use identity::Identities;
use profile::{DropReason, ElfAddress, Ledger, ObjectId, Profile, SymbolName, Window};
use symbolizer::{KernelSymbols, NameSource, Namer, NamerCounters, NamerLimits};

use crate::limits;

/// Windows that may wait for names.
const WINDOWS_WAITING: usize = 4;

/// Tables of files that were not used for so long, to twice as long, are let go. Then free memory goes back as well: windows come and go,
/// and leave holes behind.
const UNUSED: Duration = Duration::from_secs(60);

/// The running thread.
pub(crate) struct Naming {
    thread: JoinHandle<()>,
    progress: Arc<Progress>,
    counters: Arc<NamerCounters>,
}

/// What others may know of the thread.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    last_ms: AtomicU64,
    running: AtomicBool,
}

impl Progress {
    /// Milliseconds since the last window was named, or since the start.
    pub(crate) fn idle_ms(&self) -> u64 {
        millis(self.started).saturating_sub(self.last_ms.load(Ordering::Relaxed))
    }

    /// Whether the thread runs.
    pub(crate) fn running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Naming {
    /// Starts the thread; windows go into the returned channel. It ends when the channel is closed and empty.
    ///
    /// # Errors
    /// The thread can not be started.
    pub(crate) fn start(
        source: Arc<objects::Objects>,
        identities: Arc<Identities>,
        ledger: Arc<Ledger>,
        mut sink: impl FnMut(Arc<Profile>) + Send + 'static,
    ) -> anyhow::Result<(Self, SyncSender<Window>)> {
        let (sender, receiver) = sync_channel(WINDOWS_WAITING);
        let namer = Namer::new(kernel_symbols(), NamerLimits::default());
        let counters = namer.stats();
        let progress =
            Arc::new(Progress { started: Instant::now(), last_ms: AtomicU64::new(0), running: AtomicBool::new(true) });
        let seen = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("naming".to_owned())
            .spawn(move || {
                // Whether it returns or panics, the health check shall know.
                let _end = OnDrop(Arc::clone(&seen));
                let mut released = Instant::now();
                let objects = Arc::clone(&source);
                let sink = |profile| {
                    sink(profile);
                    if released.elapsed() >= UNUSED {
                        objects.release_unused();
                        limits::release_memory();
                        released = Instant::now();
                    }
                };
                name_all(&receiver, namer, &Files(source), &identities, &ledger, &seen, sink);
            })
            .context("cannot start the naming thread")?;
        Ok((Self { thread, progress, counters }, sender))
    }

    /// What others may know of the thread.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The namer's numbers.
    pub(crate) fn counters(&self) -> Arc<NamerCounters> {
        Arc::clone(&self.counters)
    }

    /// Waits until every window is named. The sender must be gone.
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the naming thread panicked: the last windows are lost");
        }
    }
}

/// The names in target files, for the namer.
struct Files(Arc<objects::Objects>);

impl NameSource for Files {
    fn names(&self, object: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
        self.0.names(object, addresses)
    }
}

struct OnDrop(Arc<Progress>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Relaxed);
    }
}

fn name_all(
    windows: &Receiver<Window>,
    mut namer: Namer,
    source: &dyn NameSource,
    identities: &Identities,
    ledger: &Ledger,
    progress: &Progress,
    mut sink: impl FnMut(Arc<Profile>),
) {
    for window in windows {
        let start = Instant::now();
        let profile = identities.attribute(namer.name(&window, source));
        let (taken, named) = (window.samples, profile.samples());
        match profile.check() {
            Ok(()) if named == taken => {
                ledger.named(taken);
                sink(Arc::new(profile));
            }
            broken => {
                // A mistake of ours, told and counted; the next window may well be good.
                ledger.dropped(DropReason::NamingFull, taken);
                tracing::error!(taken, named, ?broken, "a window could not be named and was dropped");
            }
        }
        progress.last_ms.store(millis(progress.started), Ordering::Relaxed);
        tracing::debug!(
            samples = taken,
            entries = window.entries.len(),
            milliseconds = start.elapsed().as_millis(),
            "window named"
        );
    }
}

/// The kernel's symbols now. Modules that are loaded later stay unnamed.
fn kernel_symbols() -> KernelSymbols {
    let symbols = match std::fs::read("/proc/kallsyms") {
        Ok(bytes) => KernelSymbols::parse(&bytes),
        Err(error) => {
            tracing::warn!(%error, "/proc/kallsyms cannot be read: kernel functions stay unnamed");
            return KernelSymbols::default();
        }
    };
    match symbols.missing() {
        Some(reason) => tracing::warn!(reason, "kernel functions stay unnamed"),
        None => tracing::debug!(symbols = symbols.len(), "kernel symbols read"),
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_is_seen_as_ended() {
        let progress = Progress { started: Instant::now(), last_ms: AtomicU64::new(0), running: AtomicBool::new(true) };
        let progress = Arc::new(progress);
        let seen = Arc::clone(&progress);
        assert!(progress.running());
        let thread = std::thread::spawn(move || {
            let _end = OnDrop(seen);
            std::panic::resume_unwind(Box::new("a sink that fails"));
        });
        assert!(thread.join().is_err() && !progress.running());
    }
}
