//! The profiler's own processes, as the kernel side is told of them.
//!
//! **In**: the worker's pid, whenever it may have changed. **Out**: the kernel side's list. **Units**: host pids.

use crate::kernel::OwnTgidsHandle;

/// Keeps the list.
#[derive(Debug)]
pub(crate) struct OwnProcesses {
    handle: Option<OwnTgidsHandle>,
    agent: u32,
    worker: u32,
}

impl OwnProcesses {
    /// With the agent alone, as the kernel side was started. Without `handle` nothing is told.
    pub(crate) fn new(handle: Option<OwnTgidsHandle>, agent: u32) -> Self {
        Self { handle, agent, worker: 0 }
    }

    /// The worker's pid now; 0 where none runs: then what is known of the last stays, since its last ticks count too.
    pub(crate) fn follow(&mut self, worker: u32) {
        let Some(handle) = &self.handle else { return };
        if let Some(tgids) = next(self.agent, &mut self.worker, worker)
            && let Err(error) = handle.set(&tgids)
        {
            self.worker = 0;
            tracing::warn!(error = %error, "the worker process is sampled too");
        }
    }
}

/// What to tell, if it is something new.
fn next(agent: u32, known: &mut u32, worker: u32) -> Option<[u32; 2]> {
    if worker == 0 || worker == *known {
        return None;
    }
    *known = worker;
    Some([agent, worker])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_worker_is_told_once() {
        let mut known = 0;
        assert_eq!(next(7, &mut known, 0), None);
        assert_eq!(next(7, &mut known, 8), Some([7, 8]));
        assert_eq!(next(7, &mut known, 8), None);
        assert_eq!(next(7, &mut known, 0), None);
        assert_eq!(next(7, &mut known, 9), Some([7, 9]));
    }
}
