//! The processes that were named: whether they run, and whether they still do.

use crate::config::Target;
use crate::error::SamplerError;
use crate::proc_scan::ProcFs;

/// The named processes, by their start time in clock ticks.
#[derive(Debug)]
pub(crate) struct Targets {
    proc: ProcFs,
    named: Vec<(u32, u64)>,
}

impl Targets {
    /// Looks the named processes up.
    pub(crate) fn look_up(target: &Target, proc: &ProcFs) -> Result<Self, SamplerError> {
        let mut named = Vec::new();
        if let Target::Processes { tgids, .. } = target {
            for &tgid in tgids {
                let stat = proc.stat(tgid).filter(|_| tgid != 0).ok_or(SamplerError::NoProcess { tgid })?;
                if let Some(leader) = proc.leader(tgid)
                    && leader != tgid
                {
                    return Err(SamplerError::Thread { tid: tgid, tgid: leader });
                }
                named.push((tgid, stat.starttime));
            }
        }
        Ok(Self { proc: ProcFs::new(), named })
    }

    /// Whether all of them have ended (a zombie has). False where none was named.
    pub(crate) fn exited(&self) -> bool {
        !self.named.is_empty() && !self.named.iter().any(|&(tgid, start)| self.runs(tgid, start))
    }

    fn runs(&self, tgid: u32, start: u64) -> bool {
        self.proc
            .stat(tgid)
            // A leader may end before its threads, and is a zombie until they have.
            .is_some_and(|s| s.starttime == start && (!matches!(s.state, 'Z' | 'X' | 'x') || s.num_threads > 1))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn look_up(tgid: u32) -> Result<Targets, SamplerError> {
        Targets::look_up(&Target::Processes { tgids: vec![tgid], children: false }, &ProcFs::new())
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = look_up(4_000_000_000).unwrap_err().to_string();
        assert_eq!(error, "no process with pid 4000000000");
        assert!(look_up(0).is_err());
    }

    #[test]
    fn a_thread_is_not_a_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(nix::unistd::gettid()).unwrap();
            let _ = wait.recv();
        });
        let tid = receive.recv().unwrap();
        let error = look_up(u32::try_from(tid.as_raw()).unwrap()).unwrap_err().to_string();
        assert!(error.contains(&format!("is a thread of process {}", std::process::id())), "{error}");
        drop(done);
        thread.join().unwrap();
    }

    #[test]
    fn the_end_of_a_process_is_seen_before_it_is_waited_for() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let targets = look_up(child.id()).unwrap();
        assert!(!targets.exited());
        drop(child.stdin.take());
        let exited = || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            targets.exited()
        };
        assert!((0..250).any(|_| exited()), "still a zombie");
        child.wait().unwrap();
        assert!(targets.exited());
        assert!(!Targets::look_up(&Target::All, &ProcFs::new()).unwrap().exited());
    }
}
