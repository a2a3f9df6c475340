//! What this room needs of `objects`.

use std::ops::Range;
use std::sync::Arc;

use objects::{MappedFile, Objects, UnwindRequest};
use profile::{ObjectInfo, UserStack};

/// Target files and unwinding; [`Objects`] but for tests.
pub(crate) trait ObjectSource {
    /// The file, if it is known already. No I/O.
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>>;
    /// The file; may take long.
    fn object(&self, file: &MappedFile, tgid: u32, range: Range<u64>) -> Arc<ObjectInfo>;
    /// The vDSO.
    fn vdso(&self) -> Option<Arc<ObjectInfo>>;
    /// One stack for each sample.
    fn unwind(&self, request: &UnwindRequest) -> Vec<UserStack>;
    /// The process that reads and unwinds; 0 where none runs.
    fn worker_tgid(&self) -> u32;
}

impl ObjectSource for Arc<Objects> {
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        Objects::known(self, file)
    }

    fn object(&self, file: &MappedFile, tgid: u32, range: Range<u64>) -> Arc<ObjectInfo> {
        Objects::object(self, file, tgid, range)
    }

    fn vdso(&self) -> Option<Arc<ObjectInfo>> {
        Objects::vdso(self)
    }

    fn unwind(&self, request: &UnwindRequest) -> Vec<UserStack> {
        Objects::unwind(self, request)
    }

    fn worker_tgid(&self) -> u32 {
        Objects::worker_pid(self)
    }
}
