//! Work that the system may hold up for ever (opening a file on a dead network or FUSE file system), done by a runner
//! thread that is left behind when it takes too long.
//!
//! **In**: a closure. **Out**: its value, or nothing. **Units**: wall-clock durations.
//! **Limits**: at most [`MAX_STUCK`] threads are left behind; while there are so many, nothing more is tried.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Threads that hang at the same time.
pub(crate) const MAX_STUCK: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

/// Runs closures one at a time, each with a time limit.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    runner: Mutex<Option<Sender<Job>>>,
    stuck: Arc<AtomicUsize>,
}

impl Timed {
    /// The closure's value; nothing if it takes longer than `limit` or too many closures hang already.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stuck.load(Ordering::Relaxed) >= MAX_STUCK {
            return None;
        }
        let (reply, answer) = sync_channel(1);
        let job: Job = Box::new(move || {
            let _ = reply.send(work()); // nobody waits any more
        });
        let jobs = match runner.take() {
            Some(jobs) => jobs,
            None => self.new_runner()?,
        };
        jobs.send(job).ok()?;
        match answer.recv_timeout(limit) {
            Ok(value) => {
                *runner = Some(jobs);
                Some(value)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                // The runner ends when it gets through, since nobody can send it jobs any more.
                self.stuck.fetch_add(1, Ordering::Relaxed);
                let stuck = Arc::clone(&self.stuck);
                let leave: Job = Box::new(move || {
                    stuck.fetch_sub(1, Ordering::Relaxed);
                });
                let _ = jobs.send(leave); // it has just ended
                None
            }
        }
    }

    fn new_runner(&self) -> Option<Sender<Job>> {
        let (jobs, received) = channel::<Job>();
        let work = move || received.into_iter().for_each(|job| job());
        thread::Builder::new().name("file-opener".into()).spawn(work).ok()?;
        Some(jobs)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_hangs_is_left_behind_and_what_follows_runs() {
        let timed = Timed::default();
        assert_eq!(timed.run(Duration::from_secs(5), || 1), Some(1));
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        for _ in 0..MAX_STUCK {
            let gate = Arc::clone(&gate);
            let hang = move || drop(gate.lock());
            assert_eq!(timed.run(Duration::from_millis(5), hang), None);
        }
        assert_eq!(timed.run(Duration::from_secs(5), || 2), None, "too many hang");
        drop(closed);
        let start = Instant::now();
        while timed.stuck.load(Ordering::Relaxed) > 0 && start.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(timed.run(Duration::from_secs(5), || 3), Some(3));
    }
}
