//! SIGINT, SIGTERM and SIGHUP: the first asks to stop, the second one stops at once.
//!
//! The signals are blocked in every thread (this must run before the first other thread starts) and waited for by a
//! thread of their own, so that no code runs inside a handler. Child processes get a clean mask from the standard
//! library.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use nix::sys::signal::{SigSet, Signal};

/// The exit code of the second signal.
const AT_ONCE: i32 = 130;

/// Whether a signal came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether a signal came.
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Starts the thread. Each signal sends one message; nobody has to listen.
///
/// # Errors
/// The signals can not be blocked, or the thread not be started.
pub(crate) fn watch(notify: Sender<Signal>) -> std::io::Result<Stop> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let stop = Stop::default();
    let flag = stop.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            let Ok(signal) = set.wait() else { continue };
            if flag.0.swap(true, Ordering::SeqCst) {
                // Nothing is flushed: that is what the second signal asks for.
                std::process::exit(AT_ONCE);
            }
            let _ = notify.send(signal);
        }
    })?;
    Ok(stop)
}
