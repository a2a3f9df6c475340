//! SIGINT, SIGTERM and SIGHUP: the first asks to stop, the second one stops at once.
//!
//! The signals are blocked in every thread (this must run before the first other thread starts) and waited for by a
//! thread of their own, so that no code runs inside a handler. Child processes inherit that: a recorded command unblocks
//! them, the worker goes when the agent goes.

use std::sync::mpsc::Sender;

use nix::sys::signal::{SigSet, Signal};

/// The exit code of the second signal.
const AT_ONCE: i32 = 130;

/// Starts the thread. The first signal is one message.
///
/// # Errors
/// The signals can not be blocked, or the thread not be started.
pub(crate) fn watch(notify: Sender<Signal>) -> std::io::Result<()> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let mut first = true;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            let Ok(signal) = set.wait() else { continue };
            if !std::mem::take(&mut first) {
                // Nothing is flushed: that is what the second signal asks for.
                std::process::exit(AT_ONCE);
            }
            let _ = notify.send(signal);
        }
    })?;
    Ok(())
}
