//! Samples on their way through the worker, in batches.
//!
//! **In**: samples with owner and mappings. **Out**: the same in the same order, with frames. **Units**: addresses of
//! the process; frames hold lookup addresses. **Limits**: a batch is full at [`BATCH_SAMPLES`] or [`BATCH_BYTES`]; a
//! stack has at most as many user frames as the caller says ([`MAX_FRAMES`] where it says nothing), whatever the worker answers.

use std::sync::Arc;

use objects::{UnwindRequest, UserSample};
use profile::{
    ElfAddress, FileOffset, Frame, ObjectId, ObjectInfo, Owner, StackEnd, UserAddress, UserFrame, UserRegisters,
    UserStack,
};
use sampler_abi::SampleHead;

use crate::checks::Check;
use crate::process::MapSet;
use crate::resolve::Entries;
use crate::sample::Sample;
use crate::walked::kernel_frames;

const BATCH_SAMPLES: usize = 256;
const BATCH_BYTES: usize = 2 << 20;
/// User frames of one stack where nobody asks for fewer; the worker's own limit is lower.
pub(crate) const MAX_FRAMES: usize = 4096;

/// How the user half of a sample comes to its frames.
#[derive(Debug)]
pub(crate) enum UserHalf {
    /// It has none, or none can be had: but for the address at its leaf, perhaps.
    Ended(StackEnd),
    /// The worker unwinds it with these mappings.
    Snapshot(Entries),
}

/// A sample that waits for its frames.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) sample: Sample,
    pub(crate) owner: Arc<Owner>,
    /// Of its process, for the names of what is no file. None for kernel threads and unknown processes.
    pub(crate) maps: Option<Arc<MapSet>>,
    pub(crate) user: UserHalf,
    /// It was walked and counted already, and is only to be compared.
    pub(crate) check: Option<Check>,
}

/// Samples that wait for the next batch.
#[derive(Debug, Default)]
pub(crate) struct WaitingList {
    list: Vec<Waiting>,
    bytes: usize,
}

impl WaitingList {
    /// Adds one; true when the batch is full.
    pub(crate) fn push(&mut self, waiting: Waiting) -> bool {
        self.bytes += waiting.sample.snapshot.len();
        if let UserHalf::Snapshot(new) = &waiting.user {
            let has = |w: &Waiting| matches!(&w.user, UserHalf::Snapshot(known) if Arc::ptr_eq(known, new));
            // Each set of mappings goes into the request once. A process may have tens of thousands, and change them
            // between any two of its samples.
            if !self.list.iter().rev().any(has) {
                self.bytes += size_of_val(new.as_slice());
            }
        }
        self.list.push(waiting);
        self.list.len() >= BATCH_SAMPLES || self.bytes >= BATCH_BYTES
    }

    /// Empties it.
    pub(crate) fn take(&mut self) -> Vec<Waiting> {
        self.bytes = 0;
        std::mem::take(&mut self.list)
    }
}

/// Unwinds the snapshots among `waiting`: one answer for each that has one, none for the others. The snapshots'
/// buffers are where they were afterwards.
pub(crate) fn unwind(
    waiting: &mut [Waiting],
    through: impl FnOnce(&UnwindRequest) -> Vec<UserStack>,
) -> Vec<Option<UserStack>> {
    let mut request = UnwindRequest::default();
    let mut sets: Vec<Entries> = Vec::new();
    for Waiting { sample, user, .. } in &mut *waiting {
        let UserHalf::Snapshot(entries) = user else { continue };
        let known = sets.iter().position(|set| Arc::ptr_eq(set, entries));
        let process = known.unwrap_or_else(|| {
            request.processes.push(entries.to_vec());
            sets.push(Arc::clone(entries));
            sets.len() - 1
        });
        request.samples.push(UserSample {
            process: u32::try_from(process).unwrap_or(u32::MAX),
            registers: registers(&sample.head),
            stack: std::mem::take(&mut sample.snapshot),
        });
    }
    let mut answers = if request.samples.is_empty() { Vec::new() } else { through(&request) }.into_iter();
    let mut sent = request.samples.iter_mut();
    waiting
        .iter_mut()
        .map(|w| match w.user {
            UserHalf::Ended(_) => None,
            UserHalf::Snapshot(_) => {
                if let Some(sent) = sent.next() {
                    w.sample.snapshot = std::mem::take(&mut sent.stack);
                }
                let failed = || UserStack { frames: Vec::new(), end: StackEnd::WorkerFailed };
                Some(answers.next().unwrap_or_else(failed))
            }
        })
        .collect()
}

/// The whole stack of a sample into `frames`, leaf first; never empty, and with so many user frames at the most. Returns how it
/// ended. `info` finds the objects that this room has named to the worker.
pub(crate) fn build_stack<'a>(
    waiting: &Waiting,
    answer: Option<UserStack>,
    max_user_frames: usize,
    info: impl Fn(ObjectId) -> Option<&'a Arc<ObjectInfo>>,
    frames: &mut Vec<Frame>,
) -> StackEnd {
    frames.clear();
    kernel_frames(&waiting.sample.kernel, frames);
    let name = |address: u64| {
        let mapping = waiting.maps.as_ref().and_then(|maps| maps.find(address));
        mapping.map_or_else(|| Arc::from(""), |m| Arc::clone(&m.file.name))
    };
    let unmapped = |address| Frame::Unmapped { mapping: name(address), address: UserAddress(address) };
    let end = match (answer, &waiting.user) {
        (Some(UserStack { frames: user, end }), _) => {
            // A failed worker has no frames at all; where the CPU was is known anyhow.
            if user.is_empty() && !end.is_whole() {
                let pc = waiting.sample.head.user_pc;
                frames.push(leaf(&waiting.user, pc, &info).unwrap_or_else(|| unmapped(pc)));
            }
            let is_cut = user.len() > max_user_frames;
            frames.extend(user.into_iter().take(max_user_frames).map(|frame| match frame {
                UserFrame::Object { object, address } if info(object).is_some() => {
                    Frame::Object { object, address: ElfAddress(address) }
                }
                UserFrame::Object { address, .. } | UserFrame::Unmapped { address } => unmapped(address),
            }));
            if is_cut { StackEnd::TooManyFrames } else { end }
        }
        (None, UserHalf::Ended(end)) => {
            let has_leaf = matches!(end, StackEnd::UnknownProcess | StackEnd::Compat);
            frames.extend(has_leaf.then(|| unmapped(waiting.sample.head.user_pc)));
            *end
        }
        (None, UserHalf::Snapshot(_)) => StackEnd::WorkerFailed,
    };
    if !end.is_whole() || frames.is_empty() {
        frames.push(Frame::Cut(end));
    }
    end
}

/// The frame of an address in a file, without the worker.
fn leaf<'a>(user: &UserHalf, pc: u64, info: impl Fn(ObjectId) -> Option<&'a Arc<ObjectInfo>>) -> Option<Frame> {
    let UserHalf::Snapshot(entries) = user else { return None };
    let entry = entries.iter().find(|e| e.start <= pc && pc < e.end)?;
    let object = entry.object?;
    let offset = FileOffset(entry.file_offset.checked_add(pc - entry.start)?);
    Some(Frame::Object { object, address: info(object)?.elf_address_of(offset)? })
}

fn registers(head: &SampleHead) -> UserRegisters {
    UserRegisters { pc: head.user_pc, sp: head.user_sp, fp: head.user_fp, lr: head.user_lr }
}

#[cfg(test)]
mod tests {
    use objects::MappedFile;
    use profile::{BuildId, MapEntry, Segment};

    use super::*;
    use crate::process::{MapBudget, MapFile, Mapping};

    fn waiting(user: UserHalf) -> Waiting {
        let budget = Arc::new(MapBudget::default());
        let mut maps = MapSet::new(&budget);
        let file = Arc::new(MapFile::new(MappedFile { path: b"//anon".to_vec(), ..MappedFile::default() }));
        assert!(maps.insert(Mapping { start: 0x1000, end: 0x2000, offset: 0, file }));
        let head = SampleHead { user_pc: 0x1234, ..SampleHead::default() };
        let sample = Sample { head, kernel: vec![0xf0, 0xf8], user: Vec::new(), snapshot: b"stack".to_vec() };
        Waiting { sample, owner: Arc::default(), maps: Some(Arc::new(maps)), user, check: None }
    }

    fn entries() -> Entries {
        Arc::new(vec![MapEntry { start: 0x1000, end: 0x2000, file_offset: 0, object: None }])
    }

    /// Loaded at the ELF address 0x400000.
    fn object(id: u64) -> Arc<ObjectInfo> {
        let segment = Segment { elf_address: 0x40_0000, file_offset: 0, file_bytes: 0x5000, executable: true };
        Arc::new(ObjectInfo {
            id: ObjectId(id),
            path: "/x".into(),
            build_id: BuildId::default(),
            segments: vec![segment],
            readable: true,
        })
    }

    #[test]
    fn without_the_worker_the_leaf_still_has_its_place_in_the_file() {
        let map = MapEntry { start: 0x1000, end: 0x2000, file_offset: 0x3000, object: Some(ObjectId(7)) };
        let failed = waiting(UserHalf::Snapshot(Arc::new(vec![map])));
        let answer = UserStack { frames: vec![], end: StackEnd::WorkerFailed };
        let mut frames = Vec::new();
        let known = object(7);
        build_stack(&failed, Some(answer), MAX_FRAMES, |id| (id == ObjectId(7)).then_some(&known), &mut frames);
        let leaf = Frame::Object { object: ObjectId(7), address: ElfAddress(0x40_3234) };
        assert_eq!(frames[2..], [leaf, Frame::Cut(StackEnd::WorkerFailed)]);
    }

    #[test]
    fn kernel_frames_come_first_and_callers_are_looked_up_at_their_call() {
        let mut all = vec![waiting(UserHalf::Snapshot(entries()))];
        let answers = unwind(&mut all, |request| {
            assert_eq!(request.samples[0].stack, b"stack");
            assert_eq!(request.samples[0].registers.pc, 0x1234);
            let frames = vec![
                UserFrame::Object { object: ObjectId(7), address: 0x99 },
                UserFrame::Object { object: ObjectId(8), address: 0x77 },
                UserFrame::Unmapped { address: 0x1001 },
            ];
            vec![UserStack { frames, end: StackEnd::BadFrame }]
        });
        assert_eq!(all[0].sample.snapshot, b"stack", "the buffer came back");
        let mut frames = Vec::new();
        let known = object(7);
        let info = |id| (id == ObjectId(7)).then_some(&known);
        let end = build_stack(&all[0], answers.into_iter().next().unwrap(), MAX_FRAMES, info, &mut frames);
        let unmapped =
            |mapping: &str, address| Frame::Unmapped { mapping: mapping.into(), address: UserAddress(address) };
        assert_eq!(end, StackEnd::BadFrame);
        assert_eq!(
            frames,
            [
                Frame::Kernel(0xf0),
                Frame::Kernel(0xf7),
                Frame::Object { object: ObjectId(7), address: ElfAddress(0x99) },
                unmapped("", 0x77),
                unmapped("//anon", 0x1001),
                Frame::Cut(StackEnd::BadFrame),
            ]
        );
    }

    #[test]
    fn each_set_of_mappings_is_sent_once_and_missing_answers_are_failures() {
        let shared = entries();
        let mut all = vec![
            waiting(UserHalf::Snapshot(Arc::clone(&shared))),
            waiting(UserHalf::Ended(StackEnd::NoUserHalf)),
            waiting(UserHalf::Snapshot(shared)),
            waiting(UserHalf::Snapshot(entries())),
        ];
        let answers = unwind(&mut all, |request| {
            assert_eq!(request.processes.len(), 2);
            assert_eq!(request.samples.iter().map(|s| s.process).collect::<Vec<_>>(), [0, 0, 1]);
            vec![UserStack { frames: vec![UserFrame::Unmapped { address: 1 }], end: StackEnd::Root }]
        });
        let ends: Vec<_> = answers.iter().map(|a| a.as_ref().map(|a| a.end)).collect();
        let failed = Some(StackEnd::WorkerFailed);
        assert_eq!(ends, [Some(StackEnd::Root), None, failed, failed]);
    }

    #[test]
    fn no_stack_is_empty() {
        let mut frames = Vec::new();
        for end in StackEnd::ALL {
            let mut bare = waiting(UserHalf::Ended(end));
            bare.sample.kernel.clear();
            assert_eq!(build_stack(&bare, None, MAX_FRAMES, |_| None, &mut frames), end);
            assert_eq!(frames.last(), Some(&Frame::Cut(end)), "{end:?}");
            let with_kernel = waiting(UserHalf::Ended(end));
            build_stack(&with_kernel, None, MAX_FRAMES, |_| None, &mut frames);
            assert_eq!(matches!(frames.last(), Some(Frame::Cut(_))), !end.is_whole());
        }
    }

    #[test]
    fn a_batch_is_full_by_count_or_by_bytes() {
        let mut list = WaitingList::default();
        let pushed = (0..).take_while(|_| !list.push(waiting(UserHalf::Ended(StackEnd::Root)))).count();
        assert_eq!(pushed + 1, BATCH_SAMPLES);
        assert_eq!(list.take().len(), BATCH_SAMPLES);
        let mut big = waiting(UserHalf::Ended(StackEnd::Root));
        big.sample.snapshot = vec![0; BATCH_BYTES];
        assert!(list.push(big));
        list.take();
        let entry = MapEntry { start: 0, end: 1, file_offset: 0, object: None };
        let many = || Arc::new(vec![entry; BATCH_BYTES / size_of::<MapEntry>() / 2 + 1]);
        let same = many();
        assert!(!list.push(waiting(UserHalf::Snapshot(Arc::clone(&same)))));
        assert!(!list.push(waiting(UserHalf::Snapshot(same))), "it is sent once");
        assert!(list.push(waiting(UserHalf::Snapshot(many()))));
    }
}
