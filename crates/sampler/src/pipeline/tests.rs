use std::path::Path;

use objects::MappedFile;
use profile::ledger::KernelCounts;
use profile::{ObjectId, Stage};
use proptest::prelude::*;
use sampler_abi::{SampleHead, VerdictKey};

use super::*;
use crate::fakes::{FakeObjects, FakeProc};
use crate::judge::{Judge, TakeAll};
use crate::sideband::MapRecord;
use crate::tables::{News, TablesCounted};
use crate::verdicts::Sink;

mod expected;
mod owners;
mod walked;

const SECOND: u64 = 1_000_000_000;

/// A kernel side that keeps nothing.
#[derive(Debug)]
struct Kernel {
    has_room: bool,
}

impl Sink for Kernel {
    fn filter(&self, _: VerdictKey) -> bool {
        self.has_room
    }

    fn remove(&self, _: VerdictKey) {}
}

struct Bench {
    pipeline: Pipeline<FakeObjects, FakeProc>,
    shared: Arc<Shared>,
    objects: FakeObjects,
    proc: FakeProc,
    windows: Vec<Window>,
    taken: u64,
}

impl Bench {
    fn new(proc: FakeProc) -> Self {
        Self::with(proc, Arc::new(TakeAll), None)
    }

    /// `environments`: where `/proc/PID/environ` is played.
    fn with(proc: FakeProc, judge: Arc<dyn Judge>, environments: Option<&Path>) -> Self {
        let shared = Arc::new(Shared {
            ledger: Arc::default(),
            counted: Arc::default(),
            inbox: Inbox::new(1 << 30),
            pool: Pool::default(),
        });
        let objects = FakeObjects::default();
        let windows = AggregatorConfig { length_ns: 5 * SECOND, period_ns: 1, timestamps: false };
        let start = Now { mono_ns: SECOND, unix_ns: SECOND };
        let parts = Parts {
            shared: Arc::clone(&shared),
            objects: objects.clone(),
            proc: proc.clone(),
            places: Places::new(Arc::clone(&judge)),
            environments: environments.map(|at| Environments::new(at.to_owned())),
            verdicts: Verdicts::new(judge, Kernel { has_room: false }),
            listed: Listed::All,
            own: OwnProcesses::new(None, 0),
            per_thread: false,
            max_user_frames: 256,
            desk: Desk::default(),
        };
        let pipeline = Pipeline::new(parts, windows, start);
        Self { pipeline, shared, objects, proc, windows: Vec::new(), taken: 0 }
    }

    fn batch(&mut self, time: u64, records: Vec<(u64, Kind)>, samples: Vec<SampleHead>, words: &[u64]) {
        let mut batch = Batch::new(time, false);
        for (time_mono_ns, kind) in records {
            batch.record(Record { time_mono_ns, cpu: 0, kind });
        }
        let snapshot: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        for head in samples {
            let sample = self.shared.pool.fill(head, [0xf0, 0xf8].into_iter(), std::iter::empty(), &snapshot);
            assert!(self.shared.inbox.admit(sample.cost_bytes()));
            batch.samples.push(sample);
            self.shared.ledger.read(1);
            self.taken += 1;
        }
        self.windows.extend(self.pipeline.batch(batch, Now { mono_ns: time, unix_ns: time }));
    }

    /// What the thread of tables is told from now on.
    fn tells(&mut self) -> std::sync::mpsc::Receiver<News> {
        let (send, receive) = std::sync::mpsc::sync_channel(100);
        self.pipeline.desk = Desk::new(send, Arc::new(TablesCounted::default()));
        self.pipeline.table.note_changes(true);
        receive
    }

    /// Everything that was counted: process name, user frames, how the stack ended.
    fn finish(mut self, time: u64) -> Vec<(String, Vec<Frame>, u64)> {
        let now = Now { mono_ns: time, unix_ns: time };
        self.windows.extend(self.pipeline.finish(now));
        let counted: u64 = self.windows.iter().map(|w| w.samples).sum();
        let filtered = self.shared.ledger.snapshot(KernelCounts::default).dropped(DropReason::Filtered);
        assert_eq!(counted + filtered, self.taken, "every sample is in a window, or was not wanted");
        let kernel = KernelCounts { taken: self.taken, ..KernelCounts::default() };
        let snapshot = self.shared.ledger.snapshot(|| kernel);
        assert_eq!(snapshot.held(Stage::Window), i64::try_from(counted).unwrap());
        assert_eq!(snapshot.held(Stage::Merge), 0);
        assert_eq!(snapshot.ends.iter().sum::<u64>(), counted);
        assert!(self.shared.inbox.admit(1 << 30), "all bytes were given back");
        let row = |w: &Window, e: &profile::window::WindowEntry| {
            let frames = e.stack.iter().filter(|f| !matches!(f, Frame::Kernel(_))).cloned().collect();
            (w.owners[e.owner as usize].process_name.to_string(), frames, e.count)
        };
        self.windows.iter().flat_map(|w| w.entries.iter().map(move |e| row(w, e))).collect()
    }
}

fn head(time: u64, pc: u64) -> SampleHead {
    SampleHead {
        time_mono_ns: time,
        leader_start_mono_ns: SECOND + 5,
        tgid: 10,
        tid: 10,
        user_pc: pc,
        flags: FLAG_USER_REGS,
        snapshot_bytes: 8,
        ..SampleHead::default()
    }
}

fn map(start: u64, path: &str) -> MapRecord {
    let file = MappedFile { inode: 3, path: path.into(), ..MappedFile::default() };
    MapRecord { start, end: start + 0x1000, offset: 0, file }
}

/// Process 10 begins `/app`, mapped at 0x1000.
fn begin() -> Vec<(u64, Kind)> {
    vec![
        (SECOND + 10, Kind::Fork { tgid: 10, tid: 10, parent_tgid: 1 }),
        (SECOND + 20, Kind::Comm { tgid: 10, comm: Comm::from_bytes(b"app"), exec: true }),
        (SECOND + 21, Kind::Map { tgid: 10, map: Box::new(map(0x1000, "/app")) }),
    ]
}

fn scanned(maps: Vec<MapRecord>) -> ScannedProcess {
    ScannedProcess {
        tgid: 10,
        start_mono_ns: SECOND,
        latest_start_mono_ns: SECOND,
        comm: Comm::from_bytes(b"app"),
        threads: 1,
        executable: maps.first().map(|m| m.file.clone()),
        maps: Some(maps),
        place: None,
    }
}

fn object(bench: &Bench, path: &str, address: u64) -> Frame {
    Frame::Object { object: bench.objects.id(path), address: profile::ElfAddress(address) }
}

#[test]
fn a_sample_gets_its_owner_and_frames() {
    let mut bench = Bench::new(FakeProc::default());
    bench.batch(2 * SECOND, begin(), vec![head(SECOND + 30, 0x1010); 2], &[0x1020]);
    let app = ObjectId(1);
    assert_eq!(bench.objects.id("/app"), app);
    let frames = vec![object(&bench, "/app", 0x10), object(&bench, "/app", 0x20)];
    let rows = bench.finish(3 * SECOND);
    assert_eq!(rows, [("app".to_owned(), frames, 2)]);
}

#[test]
fn an_address_without_mapping_is_looked_up_in_proc_once() {
    let proc = FakeProc::default();
    proc.processes.borrow_mut().insert(10, scanned(vec![map(0x1000, "/app"), map(0x5000, "/hidden")]));
    let mut bench = Bench::new(proc);
    bench.batch(2 * SECOND, begin(), vec![head(SECOND + 30, 0x5010)], &[]);
    assert_eq!(bench.proc.reads.get(), 1);
    // Another such address in the same second is not looked up.
    bench.batch(2 * SECOND + 1, vec![], vec![head(SECOND + 40, 0x8010); 5], &[]);
    assert_eq!(bench.proc.reads.get(), 1);
    let found = object(&bench, "/hidden", 0x10);
    let rows = bench.finish(3 * SECOND);
    assert_eq!(rows[0].1, [found]);
    assert_eq!(rows[1].1.last(), Some(&Frame::Cut(StackEnd::BadFrame)));
}

#[test]
fn a_callers_address_without_mapping_too_and_the_sample_is_unwound_again() {
    let proc = FakeProc::default();
    proc.processes.borrow_mut().insert(10, scanned(vec![map(0x1000, "/app"), map(0x5000, "/hidden")]));
    let mut bench = Bench::new(proc);
    bench.batch(2 * SECOND, begin(), vec![head(SECOND + 30, 0x1010)], &[0x5010]);
    assert_eq!((bench.proc.reads.get(), bench.objects.requests.get()), (1, 2));
    let frames = vec![object(&bench, "/app", 0x10), object(&bench, "/hidden", 0x10)];
    assert_eq!(bench.finish(3 * SECOND)[0].1, frames);
}

#[test]
fn readings_of_proc_are_bounded() {
    let mut bench = Bench::new(FakeProc::default());
    let many = |tgid: u32| SampleHead { tgid, tid: tgid, ..head(SECOND + 30, 0x1010) };
    bench.batch(2 * SECOND, vec![], (100..200).map(many).collect(), &[]);
    assert_eq!(bench.proc.reads.get() as u64, unsettled::REREADS_PER_SECOND);
    assert_eq!(bench.shared.counted.unknown_process_samples.load(Ordering::Relaxed), 100);
    for row in bench.finish(3 * SECOND) {
        assert_eq!(row.1.last(), Some(&Frame::Cut(StackEnd::UnknownProcess)));
    }
}

#[test]
fn lost_records_cause_one_whole_reading_at_a_time() {
    let proc = FakeProc::default();
    proc.processes.borrow_mut().insert(10, scanned(vec![map(0x1000, "/app")]));
    let mut bench = Bench::new(proc);
    for i in 0..10 {
        let lost = vec![(2 * SECOND + i, Kind::Lost { records: 5 })];
        bench.batch(2 * SECOND + i * SECOND / 10, lost, vec![], &[]);
    }
    assert_eq!(bench.proc.whole_reads.get(), 1);
    assert_eq!(bench.shared.counted.sideband_lost.load(Ordering::Relaxed), 50);
    // What was read is applied when its time has come: the process is known without a look of its own.
    bench.batch(4 * SECOND, vec![], vec![head(3 * SECOND, 0x1010)], &[]);
    assert_eq!(bench.proc.reads.get(), 0);
    assert_eq!(bench.proc.whole_reads.get(), 2, "losses after the first reading are healed by another");
    let rows = bench.finish(5 * SECOND);
    assert_eq!(rows[0].0, "app");
    assert!(!rows[0].1.iter().any(|f| matches!(f, Frame::Cut(_))));
}

#[test]
fn why_there_is_no_user_half() {
    let kernel_thread = SampleHead { flags: FLAG_KERNEL_THREAD, tgid: 2, tid: 2, ..head(SECOND + 40, 0) };
    let no_registers = SampleHead { flags: 0, ..head(SECOND + 50, 0) };
    let compat = SampleHead { flags: FLAG_USER_REGS | FLAG_COMPAT, ..head(SECOND + 60, 0x1010) };
    let no_memory =
        SampleHead { flags: FLAG_USER_REGS | FLAG_SNAPSHOT_FAULT, snapshot_bytes: 0, ..head(SECOND + 70, 0x1010) };
    let check = |head: SampleHead, exits: bool, expected: &[Frame]| {
        let mut bench = Bench::new(FakeProc::default());
        let mut records = begin();
        if exits {
            records.push((SECOND + 90, Kind::Exit { tgid: 10, tid: 10 }));
        }
        bench.batch(head.time_mono_ns, records, vec![head], &[]);
        assert_eq!(bench.finish(3 * SECOND)[0].1, expected, "{head:?}");
    };
    let at_leaf = |name: &str| Frame::Unmapped { mapping: name.into(), address: profile::UserAddress(0x1010) };
    check(kernel_thread, false, &[]);
    check(no_registers, false, &[Frame::Cut(StackEnd::NoRegisters)]);
    check(no_registers, true, &[]);
    check(compat, false, &[at_leaf("/app"), Frame::Cut(StackEnd::Compat)]);
    check(no_memory, true, &[]);
    let frame = Frame::Object { object: ObjectId(1), address: profile::ElfAddress(0x10) };
    check(SampleHead { time_mono_ns: 2 * SECOND, ..no_memory }, false, &[frame]);
    // Just after exec the registers are still those of the program before.
    check(no_memory, false, &[]);
}

#[test]
fn a_process_whose_exit_was_lost_goes_in_the_end() {
    let mut bench = Bench::new(FakeProc::default());
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    assert_eq!(bench.pipeline.table.stats().processes, 1);
    for second in 3..12 {
        bench.batch(second * SECOND, vec![], vec![], &[]);
    }
    assert_eq!(bench.pipeline.table.stats().processes, 0, "/proc does not have it");
}

proptest! {
    /// Whatever comes, in whatever order: each sample is counted once, and in the merge no byte is left.
    #[test]
    fn no_sample_vanishes(
        batches in proptest::collection::vec(
            (
                proptest::collection::vec((0u64..400_000_000, 8u32..14, any::<u8>(), 0u64..0x8000), 0..40),
                proptest::collection::vec((0u64..400_000_000, 8u32..14, 0u8..5), 0..10),
            ),
            0..20,
        ),
    ) {
        let mut bench = Bench::new(FakeProc::default());
        let mut time = SECOND;
        for (samples, records) in batches {
            let samples = samples.iter().map(|&(at, tgid, flags, pc)| SampleHead {
                flags: u32::from(flags),
                tgid,
                leader_start_mono_ns: u64::from(flags % 3),
                ..head(time + at, pc)
            });
            let records = records.iter().map(|&(at, tgid, kind)| (time + at, match kind {
                0 => Kind::Fork { tgid, tid: tgid, parent_tgid: tgid ^ 1 },
                1 => Kind::Exit { tgid, tid: tgid },
                2 => Kind::Comm { tgid, comm: Comm::from_bytes(b"x"), exec: true },
                3 => Kind::Map { tgid, map: Box::new(map(0x1000 * u64::from(tgid % 8), "/m")) },
                _ => Kind::Lost { records: 1 },
            }));
            let (samples, records) = (samples.collect(), records.collect());
            time += 200_000_000;
            bench.batch(time, records, samples, &[0x1010, 0x2020]);
        }
        bench.finish(time + SECOND);
    }
}
