//! Samples that the kernel has walked.

use sampler_abi::{FLAG_CHECK, FLAG_WALK_SIGNAL};

use super::*;
use crate::allocations;
use crate::judge::{Scope, Subject, Verdict};

const WALKED: u32 = FLAG_USER_REGS | FLAG_WALKED;

/// A sample of process 10 that was walked with its mappings of this serial.
fn walked(time: u64, pc: u64, serial: u64) -> SampleHead {
    let head = head(time, pc);
    SampleHead { flags: WALKED, mappings_serial: serial, walk_end: End::ROOT.0, snapshot_bytes: 0, ..head }
}

/// Where process 10 has not ended.
fn alive() -> FakeProc {
    let proc = FakeProc::default();
    proc.processes.borrow_mut().insert(10, scanned(vec![map(0x1000, "/app")]));
    proc
}

fn of_inode(inode: u64, map: MapRecord) -> MapRecord {
    MapRecord { file: MappedFile { inode, ..map.file }, ..map }
}

impl Bench {
    /// Samples with these addresses, and with these words of stack where they are to be compared.
    fn walk(&mut self, time: u64, records: Vec<(u64, Kind)>, samples: &[(SampleHead, &[u64], &[u64])]) {
        let batch = self.walk_batch(time, records, samples);
        self.windows.extend(self.pipeline.batch(batch, Now { mono_ns: time, unix_ns: time }));
    }

    fn walk_batch(&mut self, time: u64, records: Vec<(u64, Kind)>, samples: &[(SampleHead, &[u64], &[u64])]) -> Batch {
        let mut batch = Batch::new(time, false);
        for (time_mono_ns, kind) in records {
            batch.record(Record { time_mono_ns, cpu: 0, kind });
        }
        for &(head, addresses, words) in samples {
            let snapshot: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            let user_frames = u32::try_from(addresses.len()).unwrap();
            let head = SampleHead { user_frames, ..head };
            let (kernel, user) = ([0xf0, 0xf8].into_iter(), addresses.iter().copied());
            let sample = self.shared.pool.fill(head, kernel, user, &snapshot);
            assert!(self.shared.inbox.admit(sample.cost_bytes()));
            batch.samples.push(sample);
            self.shared.ledger.read(1);
            self.taken += 1;
        }
        batch
    }

    /// The serial of process 10's mappings now; they count as published.
    fn publish(&mut self) -> u64 {
        let sighting = Sighting {
            time_mono_ns: 2 * SECOND,
            tgid: 10,
            leader_start_mono_ns: SECOND + 5,
            comm: Comm::default(),
            cgroup_id: 0,
        };
        let maps = Arc::clone(&self.pipeline.table.sighted(sighting).unwrap().maps);
        self.pipeline.walks.published.handed_on(10, &maps, 2 * SECOND);
        maps.serial()
    }

    fn count(&self, counter: impl Fn(&Counted) -> &std::sync::atomic::AtomicU64) -> u64 {
        counter(&self.shared.counted).load(Ordering::Relaxed)
    }
}

#[test]
fn equal_stacks_from_the_walk_and_from_a_snapshot_are_one_entry() {
    let mut bench = Bench::new(alive());
    let lib = (SECOND + 22, Kind::Map { tgid: 10, map: Box::new(map(0x5000, "/lib")) });
    let anonymous =
        MapRecord { file: MappedFile { path: b"//anon".to_vec(), ..MappedFile::default() }, ..map(0x7000, "") };
    let anonymous = (SECOND + 23, Kind::Map { tgid: 10, map: Box::new(anonymous) });
    let records = begin().into_iter().chain([lib, anonymous]).collect();
    bench.batch(2 * SECOND, records, vec![head(SECOND + 30, 0x1010)], &[0x5020, 0x7030, 0x5040]);
    let serial = bench.publish();
    let stack = [0x1010, 0x5020, 0x7030, 0x5040];
    bench.walk(3 * SECOND, vec![], &[(walked(2 * SECOND + 1, 0x1010, serial), &stack[..], &[][..]); 2]);
    assert_eq!(bench.objects.requests.get(), 1, "the worker saw the snapshot alone");
    let anonymous = Frame::Unmapped { mapping: "//anon".into(), address: profile::UserAddress(0x7030) };
    let frames =
        vec![object(&bench, "/app", 0x10), object(&bench, "/lib", 0x20), anonymous, object(&bench, "/lib", 0x40)];
    assert_eq!(bench.finish(4 * SECOND), [("app".to_owned(), frames, 3)]);
}

#[test]
fn a_cut_walk_says_why_and_long_snapshots_are_cut_at_the_same_frame() {
    let mut bench = Bench::new(alive());
    let words = [0x1020; 300];
    bench.batch(2 * SECOND, begin(), vec![head(SECOND + 30, 0x1020)], &words);
    let serial = bench.publish();
    let head = SampleHead { walk_end: End::TOO_MANY_FRAMES.0, ..walked(2 * SECOND + 1, 0x1020, serial) };
    bench.walk(3 * SECOND, vec![], &[(head, &words[..256], &[])]);
    let rows = bench.finish(4 * SECOND);
    let [(_, frames, 2)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((frames.len(), frames.last()), (257, Some(&Frame::Cut(StackEnd::TooManyFrames))));
}

#[test]
fn only_files_that_the_stack_leads_through_are_opened() {
    let mut bench = Bench::new(alive());
    let lib = (SECOND + 22, Kind::Map { tgid: 10, map: Box::new(map(0x5000, "/lib")) });
    bench.batch(2 * SECOND, begin().into_iter().chain([lib]).collect(), vec![], &[]);
    let serial = bench.publish();
    bench.walk(3 * SECOND, vec![], &[(walked(2 * SECOND + 1, 0x1010, serial), &[0x1010], &[])]);
    assert_eq!(bench.objects.paths(), ["/app"]);
}

#[test]
fn frames_behind_code_that_was_mapped_since_are_not_believed() {
    let mut bench = Bench::new(alive());
    let lib = |inode, path: &str| Kind::Map { tgid: 10, map: Box::new(of_inode(inode, map(0x5000, path))) };
    let records = begin().into_iter().chain([(SECOND + 22, lib(7, "/old"))]).collect();
    bench.batch(2 * SECOND, records, vec![], &[]);
    let old = bench.publish();
    let stack = [0x1010, 0x1020, 0x5030, 0x1040];
    let sample = |time| (walked(time, 0x1010, old), &stack[..], &[][..]);
    // Before the library is replaced, after it, and after the new mappings are published.
    let records = vec![(2 * SECOND + 10, lib(8, "/new"))];
    bench.walk(3 * SECOND, records, &[sample(2 * SECOND + 5), sample(2 * SECOND + 15)]);
    let new = bench.publish();
    bench.walk(3 * SECOND + 1, vec![], &[(walked(3 * SECOND, 0x1010, new), &stack, &[]), sample(3 * SECOND)]);
    assert_eq!(bench.count(|c| &c.stale_walks), 2);
    let app = |address| object(&bench, "/app", address);
    let [old, new] = ["/old", "/new"].map(|path| object(&bench, path, 0x30));
    let cut = Frame::Cut(StackEnd::BadFrame);
    let mut expected = [
        ("app".to_owned(), vec![app(0x10), app(0x20), old, app(0x40)], 1),
        ("app".to_owned(), vec![app(0x10), app(0x20), new.clone(), cut], 2),
        ("app".to_owned(), vec![app(0x10), app(0x20), new, app(0x40)], 1),
    ];
    let mut rows = bench.finish(4 * SECOND);
    rows.sort_by_key(|row| format!("{row:?}"));
    expected.sort_by_key(|row| format!("{row:?}"));
    assert_eq!(rows, expected);
}

#[test]
fn a_walk_with_mappings_that_nobody_knows_is_believed_at_its_leaf_alone() {
    let mut bench = Bench::new(alive());
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    bench.publish();
    let sample = walked(2 * SECOND + 1, 0x1010, 999_999);
    bench.walk(3 * SECOND, vec![], &[(sample, &[0x1010, 0x1020], &[]), (sample, &[0x1010], &[])]);
    let frames = vec![object(&bench, "/app", 0x10), Frame::Cut(StackEnd::BadFrame)];
    assert_eq!(bench.finish(4 * SECOND), [("app".to_owned(), frames, 2)]);
}

#[test]
fn a_program_that_executes_another_shows_nothing_of_the_old_one() {
    let mut bench = Bench::new(alive());
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    let old = bench.publish();
    let records = vec![
        (2 * SECOND + 10, Kind::Comm { tgid: 10, comm: Comm::from_bytes(b"next"), exec: true }),
        (2 * SECOND + 11, Kind::Map { tgid: 10, map: Box::new(of_inode(9, map(0x1000, "/next"))) }),
    ];
    // The leaf is the new program's; what an old table made of its stack is not.
    let after = walked(2 * SECOND + 20, 0x1010, old);
    // The registers are still those of the old program, and its memory is gone.
    let between = SampleHead { walk_end: End::UNREADABLE.0, ..walked(2 * SECOND + 12, 0x1010, old) };
    bench.walk(3 * SECOND, records, &[(after, &[0x1010, 0x1020], &[]), (between, &[0x1010], &[])]);
    let leaf = vec![object(&bench, "/next", 0x10), Frame::Cut(StackEnd::BadFrame)];
    let rows = bench.finish(4 * SECOND);
    assert_eq!(rows, [("next".to_owned(), leaf, 1), ("next".to_owned(), vec![], 1)]);
}

#[test]
fn compared_stacks_are_counted_once_as_they_were_walked() {
    let mut bench = Bench::new(alive());
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    let serial = bench.publish();
    let head = walked(2 * SECOND + 1, 0x1010, serial);
    let check = SampleHead { flags: WALKED | FLAG_CHECK, snapshot_bytes: 8, ..head };
    let signal = SampleHead { flags: check.flags | FLAG_WALK_SIGNAL, ..check };
    let stack: &[u64] = &[0x1010, 0x1020];
    bench.walk(3 * SECOND, vec![], &[(check, stack, &[0x1020]), (check, stack, &[0x1030]), (signal, stack, &[0x1030])]);
    let counts = [bench.count(|c| &c.checks_agree), bench.count(|c| &c.checks_differ)];
    assert_eq!((counts, bench.count(|c| &c.checks_inconclusive)), ([1, 1], 1));
    let frames = vec![object(&bench, "/app", 0x10), object(&bench, "/app", 0x20)];
    assert_eq!(bench.finish(4 * SECOND), [("app".to_owned(), frames, 3)]);
}

#[test]
fn a_stack_that_was_seen_costs_no_allocation() {
    let mut bench = Bench::new(alive());
    bench.batch(SECOND + 500, begin(), vec![], &[]);
    let serial = bench.publish();
    let addresses: Vec<Vec<u64>> = (0..20).map(|i| (0..50).map(|j| 0x1010 + i * 8 + j * 16).collect()).collect();
    let allocated = |bench: &mut Bench, time: u64, samples: u64| {
        let samples: Vec<_> = (0..samples)
            .map(|i| (walked(time, 0x1010, serial), &addresses[usize::try_from(i % 20).unwrap()][..], &[][..]))
            .collect();
        let batch = bench.walk_batch(time, vec![], &samples);
        let now = Now { mono_ns: time, unix_ns: time };
        let (windows, allocations) = allocations::during(|| bench.pipeline.batch(batch, now));
        bench.windows.extend(windows);
        allocations
    };
    allocated(&mut bench, 2 * SECOND, 400);
    let (few, many) = (allocated(&mut bench, 2 * SECOND + 1, 40), allocated(&mut bench, 2 * SECOND + 2, 400));
    assert!(few <= 4 && many <= few + 1, "{few} {many}: what there is is of the batch, for sorting");
    // In the next window each stack is entered once more, but no frame is made again.
    let (first, again) = (allocated(&mut bench, 6 * SECOND, 400), allocated(&mut bench, 6 * SECOND + 1, 400));
    assert!(first < 40 && again <= many, "{first} {again}");
    assert_eq!(bench.finish(7 * SECOND).iter().map(|row| row.2).sum::<u64>(), 400 + 40 + 400 + 400 + 400);
}

#[test]
fn stacks_are_made_again_when_the_resolver_has_forgotten_their_mappings() {
    let mut bench = Bench::new(alive());
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    let serial = bench.publish();
    for window in 1..10 {
        let sample = walked((5 * window + 1) * SECOND, 0x1010, serial);
        bench.walk((5 * window + 2) * SECOND, vec![], &[(sample, &[0x1010, 0x1020], &[])]);
    }
    assert_eq!(bench.objects.paths(), ["/app"], "what is used is kept");
    assert!(bench.pipeline.resolver.info(ObjectId(1)).is_some());
    let frames = vec![object(&bench, "/app", 0x10), object(&bench, "/app", 0x20)];
    for row in bench.finish(60 * SECOND) {
        assert_eq!(row.1, frames);
    }
}

#[test]
fn a_stack_that_could_not_be_walked_says_which_files_it_needed() {
    let mut bench = Bench::new(alive());
    let news = bench.tells();
    let map = |inode, start, path: &str| Kind::Map { tgid: 10, map: Box::new(of_inode(inode, map(start, path))) };
    let maps = [map(4, 0x3000, "/unused"), map(5, 0x5000, "/lib"), map(6, 0x7000, "/walked")];
    let records = begin().into_iter().chain(maps.into_iter().map(|map| (SECOND + 22, map))).collect();
    bench.batch(2 * SECOND, records, vec![head(SECOND + 30, 0x1010)], &[0x5020, 0x5030]);
    let serial = bench.publish();
    let stack: &[u64] = &[0x1010, 0x7010];
    let check = SampleHead { flags: WALKED | FLAG_CHECK, ..walked(2 * SECOND + 1, 0x1010, serial) };
    bench.walk(3 * SECOND, vec![], &[(walked(2 * SECOND + 1, 0x1010, serial), stack, &[]), (check, stack, &[0x7010])]);
    let mut wanted: Vec<_> =
        news.try_iter().flat_map(|news| news.wanted).map(|(file, samples)| (file.name.to_string(), samples)).collect();
    wanted.sort();
    assert_eq!(wanted, [("/app".to_owned(), 1), ("/lib".to_owned(), 1)]);
    assert_eq!(bench.count(|c| &c.checks_agree), 1);
    bench.finish(4 * SECOND);
}

#[test]
fn a_file_whose_table_leads_elsewhere_is_taken_off() {
    let mut bench = Bench::new(alive());
    let news = bench.tells();
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    let serial = bench.publish();
    let check = SampleHead { flags: WALKED | FLAG_CHECK, ..walked(2 * SECOND + 1, 0x1010, serial) };
    bench.walk(3 * SECOND, vec![], &[(check, &[0x1010, 0x1020][..], &[0x1030][..]); 5]);
    bench.walk(3 * SECOND + 1, vec![], &[]);
    let taken_off: Vec<_> = news.try_iter().flat_map(|news| news.taken_off).collect();
    assert_eq!(taken_off, [bench.objects.id("/app")]);
    assert_eq!(bench.count(|c| &c.checks_differ), 5);
    let frames = vec![object(&bench, "/app", 0x10), object(&bench, "/app", 0x20)];
    assert_eq!(bench.finish(4 * SECOND), [("app".to_owned(), frames, 5)]);
}

/// Refuses everything.
#[derive(Debug)]
struct Nobody;

impl Judge for Nobody {
    fn filters(&self) -> bool {
        true
    }

    fn generation(&self) -> u64 {
        0
    }

    fn judge(&self, _: &Subject<'_>) -> Verdict {
        Verdict { ruling: Ruling::Drop, scope: Scope::Undecided }
    }

    fn seen(&self, _: &profile::Place, _: u32) {}
}

#[test]
fn of_a_walked_sample_that_is_not_wanted_nothing_is_read() {
    let mut bench = Bench::with(alive(), Arc::new(Nobody), None);
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    let serial = bench.publish();
    let check = SampleHead { flags: WALKED | FLAG_CHECK, ..walked(2 * SECOND + 1, 0x1010, serial) };
    bench.walk(3 * SECOND, vec![], &[(check, &[0x1010, 0x1020][..], &[0x1020][..]); 3]);
    assert_eq!(bench.objects.paths(), [] as [&str; 0]);
    assert_eq!(bench.objects.requests.get(), 0);
    assert_eq!(bench.finish(4 * SECOND), []);
}
