//! What is to be done for files, the hottest first.
//!
//! **Limits**: each file and object is in it once.

use std::ops::Range;
use std::sync::Arc;

use profile::ObjectId;

use crate::process::MapFile;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Find out which object a name stands for.
    Open(Arc<MapFile>),
    /// Fetch an object's table.
    Load(ObjectId),
}

/// What is to be done now, with what it takes.
#[derive(Debug)]
pub(crate) enum Work {
    /// Then [`State::opened`](super::State::opened).
    Open {
        file: Arc<MapFile>,
        /// A process that maps it, and where.
        tgid: u32,
        range: Range<u64>,
    },
    /// Then [`State::load`](super::State::load).
    Load { object: ObjectId },
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Queue(Vec<Job>);

impl Queue {
    pub(super) fn push(&mut self, job: Job) {
        self.0.push(job);
    }

    /// Takes the hottest; of equals the oldest. There are a few dozens, most often.
    pub(super) fn pop(&mut self, heat: impl Fn(&Job) -> u64) -> Option<Job> {
        let hottest = self.0.iter().enumerate().rev().max_by_key(|(_, job)| heat(job)).map(|(index, _)| index)?;
        Some(self.0.remove(hottest))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
