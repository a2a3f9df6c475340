//! Stand-ins for files and /proc, for tests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use objects::{MappedFile, UnwindRequest};
use profile::{BuildId, ObjectId, ObjectInfo, Place, Segment, StackEnd, UserFrame, UserStack};

use crate::place::{PlaceSource, place_of_path};
use crate::proc_scan::{ProcSource, ScannedProcess};
use crate::source::ObjectSource;

/// Files by their path, in the order in which they were opened. Unwinding gives the leaf, then every word of the
/// snapshot as a caller, until one lies in no mapping.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeObjects {
    pub(crate) opened: Rc<RefCell<Vec<Arc<ObjectInfo>>>>,
    pub(crate) requests: Rc<Cell<usize>>,
    pub(crate) unreadable: bool,
}

impl FakeObjects {
    pub(crate) fn paths(&self) -> Vec<String> {
        self.opened.borrow().iter().map(|o| o.path.to_string()).collect()
    }

    pub(crate) fn id(&self, path: &str) -> ObjectId {
        self.opened.borrow().iter().find(|o| &*o.path == path).unwrap().id
    }
}

impl ObjectSource for FakeObjects {
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        let path = String::from_utf8_lossy(&file.path);
        // Asking for one that cannot be read again shows in the list.
        self.opened.borrow().iter().find(|o| o.readable && *o.path == *path).cloned()
    }

    fn object(&self, file: &MappedFile, _: u32, _: Range<u64>) -> Arc<ObjectInfo> {
        self.known(file).unwrap_or_else(|| {
            let info = Arc::new(ObjectInfo {
                id: ObjectId(self.opened.borrow().len() as u64 + 1),
                path: String::from_utf8_lossy(&file.path).into(),
                build_id: BuildId::default(),
                segments: vec![Segment { elf_address: 0, file_offset: 0, file_bytes: 1 << 40, executable: true }],
                readable: !self.unreadable,
            });
            self.opened.borrow_mut().push(Arc::clone(&info));
            info
        })
    }

    fn vdso(&self) -> Option<Arc<ObjectInfo>> {
        Some(self.object(&MappedFile { path: b"[vdso]".to_vec(), ..MappedFile::default() }, 0, 0..0))
    }

    fn worker_tgid(&self) -> u32 {
        0
    }

    fn unwind(&self, request: &UnwindRequest) -> Vec<UserStack> {
        self.requests.set(self.requests.get() + 1);
        let one = |sample: &objects::UserSample| {
            let maps = &request.processes[sample.process as usize];
            let words = sample.stack.as_chunks::<8>().0.iter().map(|w| u64::from_ne_bytes(*w));
            let mut frames = Vec::new();
            for address in std::iter::once(sample.registers.pc).chain(words) {
                let Some(map) = maps.iter().find(|m| m.start <= address && address < m.end) else {
                    return UserStack { frames, end: StackEnd::BadFrame };
                };
                frames.push(match map.object {
                    Some(object) => UserFrame::Object { object, address: address - map.start + map.file_offset },
                    None => UserFrame::Unmapped { address },
                });
            }
            UserStack { frames, end: StackEnd::Root }
        };
        request.samples.iter().map(one).collect()
    }
}

/// A /proc of one's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeProc {
    pub(crate) processes: Rc<RefCell<BTreeMap<u32, ScannedProcess>>>,
    pub(crate) reads: Rc<Cell<usize>>,
    pub(crate) whole_reads: Rc<Cell<usize>>,
    /// The cgroup of every process.
    pub(crate) cgroup: Rc<RefCell<Option<(u64, String)>>>,
}

impl ProcSource for FakeProc {
    fn process(&self, tgid: u32) -> Option<ScannedProcess> {
        self.reads.set(self.reads.get() + 1);
        self.processes.borrow().get(&tgid).cloned()
    }

    fn all(&self) -> Vec<ScannedProcess> {
        self.whole_reads.set(self.whole_reads.get() + 1);
        self.processes.borrow().values().cloned().collect()
    }

    fn exists(&self, tgid: u32) -> bool {
        self.processes.borrow().contains_key(&tgid)
    }

    fn errors(&self) -> u64 {
        0
    }
}

impl PlaceSource for FakeProc {
    fn key_of_created(&self, number: u64) -> u64 {
        number
    }

    fn place(&self, id: u64, created: Option<&[u8]>) -> Option<Place> {
        let of = |(number, path): &(u64, String)| (*number == id).then(|| place_of_path(path.as_bytes()));
        created.map(place_of_path).or_else(|| self.cgroup.borrow().as_ref().and_then(of))
    }

    fn place_of(&self, _: u32) -> Option<(u64, Place)> {
        self.cgroup.borrow().as_ref().map(|(number, path)| (*number, place_of_path(path.as_bytes())))
    }

    fn cgroup_exists(&self, id: u64) -> Option<bool> {
        Some(self.cgroup.borrow().as_ref().is_some_and(|(number, _)| *number == id))
    }
}
