use objects::MappedFile;
use proptest::prelude::*;
use rustc_hash::FxHashSet;

use super::*;
use crate::proc_scan::ScannedProcess;

fn record(time_mono_ns: u64, kind: Kind) -> Record {
    Record { time_mono_ns, cpu: 0, kind }
}

fn fork(time: u64, tgid: u32, parent_tgid: u32) -> Record {
    record(time, Kind::Fork { tgid, tid: tgid, parent_tgid })
}

fn thread(time: u64, tgid: u32, tid: u32) -> Record {
    record(time, Kind::Fork { tgid, tid, parent_tgid: tgid })
}

fn exit(time: u64, tgid: u32, tid: u32) -> Record {
    record(time, Kind::Exit { tgid, tid })
}

fn exec(time: u64, tgid: u32, comm: &str) -> Record {
    record(time, Kind::Comm { tgid, comm: Comm::from_bytes(comm.as_bytes()), exec: true })
}

fn file(path: &str) -> MappedFile {
    let inode = path.bytes().map(u64::from).fold(1, |a, b| a * 31 + b);
    MappedFile { major: 8, minor: 1, inode, generation: 3, path: path.as_bytes().to_vec() }
}

fn map(time: u64, tgid: u32, start: u64, path: &str) -> Record {
    let map = MapRecord { start, end: start + 0x1000, offset: 0, file: file(path) };
    record(time, Kind::Map { tgid, map: Box::new(map) })
}

fn scan(tgid: u32, start_mono_ns: u64, path: &str) -> ScannedProcess {
    let file = MappedFile { generation: 0, ..file(path) };
    let map = MapRecord { start: 0x1000, end: 0x2000, offset: 0, file: file.clone() };
    ScannedProcess {
        tgid,
        start_mono_ns,
        latest_start_mono_ns: start_mono_ns,
        comm: Comm::from_bytes(b"scanned"),
        threads: 1,
        maps: Some(vec![map]),
        executable: Some(file),
        place: None,
    }
}

fn table(records: &[Record]) -> ProcessTable {
    let mut table = ProcessTable::default();
    for record in records {
        table.apply(record);
    }
    table
}

/// A sample's process: what it runs, and the file at 0x1000.
fn look(table: &mut ProcessTable, time: u64, tgid: u32, start: u64) -> (String, String) {
    let comm = Comm::from_bytes(b"sample");
    let process =
        table.sighted(Sighting { time_mono_ns: time, tgid, leader_start_mono_ns: start, comm, cgroup_id: 0 }).unwrap();
    let executable = process.executable.as_ref().map_or_else(String::new, |f| f.name.to_string());
    (executable, process.maps.find(0x1000).map_or_else(String::new, |m| m.file.name.to_string()))
}

fn pair(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

#[test]
fn a_fork_shares_and_an_exec_replaces() {
    let mut table =
        table(&[fork(100, 10, 1), exec(110, 10, "a"), map(111, 10, 0x1000, "/a"), map(112, 10, 0x5000, "/libc")]);
    table.apply(&fork(200, 11, 10));
    let maps = |table: &ProcessTable, tgid| Arc::clone(&table.chains[&tgid][0].maps);
    assert!(Arc::ptr_eq(&maps(&table, 10), &maps(&table, 11)), "no copy");
    assert_eq!(look(&mut table, 210, 11, 199), pair("/a"));
    table.apply(&map(220, 11, 0x9000, "/plugin"));
    assert_eq!((maps(&table, 10).list().len(), maps(&table, 11).list().len()), (2, 3), "the parent's stay");
    table.apply(&exec(300, 11, "b"));
    table.apply(&map(301, 11, 0x1000, "/b"));
    assert_eq!(look(&mut table, 310, 11, 199), pair("/b"));
    assert_eq!(look(&mut table, 310, 10, 99), pair("/a"));
    assert!(maps(&table, 11).find(0x5000).is_none());
}

#[test]
fn the_first_mapped_file_is_the_executable_but_not_anonymous_memory() {
    let mut anonymous = map(120, 10, 0x3000, "//anon");
    if let Kind::Map { map, .. } = &mut anonymous.kind {
        map.file.inode = 0;
    }
    let mut table = table(&[fork(100, 10, 1), exec(110, 10, "script.sh"), anonymous, map(121, 10, 0x1000, "/bin/sh")]);
    table.apply(&map(122, 10, 0x5000, "/ld.so"));
    assert_eq!(look(&mut table, 130, 10, 99), pair("/bin/sh"));
    assert_eq!(table.chains[&10][0].comm.text(), "script.sh");
}

#[test]
fn a_process_ends_with_its_last_thread_not_with_its_leader() {
    let mut table = table(&[fork(100, 10, 1), exec(101, 10, "a"), map(102, 10, 0x1000, "/a"), thread(110, 10, 11)]);
    table.apply(&exit(120, 10, 10));
    assert!(table.chains[&10][0].is_running(), "a thread runs");
    table.apply(&exit(130, 10, 11));
    assert!(!table.chains[&10][0].is_running());
    assert_eq!(look(&mut table, 131, 10, 99), pair("/a"), "samples from before, and of the last steps");
    table.expire(130 + GRACE_NS - 1);
    assert_eq!(table.stats().processes, 1);
    table.expire(130 + GRACE_NS);
    assert_eq!(table.stats().processes, 0);
    assert!(table.chains.is_empty());
}

#[test]
fn an_exec_by_another_thread_leaves_one() {
    let mut table = table(&[fork(100, 10, 1), thread(110, 10, 11), thread(111, 10, 12)]);
    // The leader's end is told, the old tid's is not.
    for record in [exit(120, 10, 12), exit(121, 10, 10), exec(122, 10, "b"), map(123, 10, 0x1000, "/b")] {
        table.apply(&record);
    }
    assert_eq!(look(&mut table, 130, 10, 99), pair("/b"));
    table.apply(&exit(140, 10, 10));
    assert!(!table.chains[&10][0].is_running());
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut table = table(&[
        fork(100, 10, 1),
        exec(101, 10, "a"),
        map(102, 10, 0x1000, "/a"),
        exit(200, 10, 10),
        fork(300, 10, 1),
        exec(301, 10, "b"),
        map(302, 10, 0x1000, "/b"),
    ]);
    assert_eq!(look(&mut table, 150, 10, 99), pair("/a"), "a late sample of the first");
    assert_eq!(look(&mut table, 310, 10, 299), pair("/b"));
    assert_eq!(look(&mut table, 151, 10, 99), pair("/a"));
    assert_eq!(look(&mut table, 320, 10, 0), pair("/b"), "without a start time the newest");
}

#[test]
fn a_process_whose_records_were_lost_is_unknown_not_its_predecessor() {
    let mut table = table(&[fork(100, 10, 1), exec(101, 10, "a"), map(102, 10, 0x1000, "/a")]);
    // Its end and the next fork and exec were lost.
    assert_eq!(look(&mut table, 500, 10, 450), pair(""));
    assert!(!table.chains[&10][1].maps_known && !table.chains[&10][0].is_running());
    // /proc knows.
    assert!(table.reread(&scan(10, 450, "/b")));
    assert_eq!(look(&mut table, 510, 10, 450), pair("/b"));
    assert_eq!(look(&mut table, 511, 10, 99), pair("/a"));
}

#[test]
fn a_lost_exec_is_healed_by_a_whole_reading_only() {
    let mut table = table(&[fork(100, 10, 1), exec(101, 10, "a"), map(102, 10, 0x1000, "/a")]);
    assert_eq!(look(&mut table, 110, 10, 99), pair("/a"));
    // A single reading for a sample may see a later program than the sample ran.
    assert!(!table.reread(&scan(10, 99, "/b")));
    assert_eq!(look(&mut table, 111, 10, 99), pair("/a"));
    table.apply(&record(120, Kind::Scanned(Box::new(scan(10, 99, "/b")))));
    assert_eq!(look(&mut table, 121, 10, 99), pair("/b"));
}

#[test]
fn a_second_look_adds_mappings_and_keeps_generations_of_inodes() {
    let mut table = table(&[fork(100, 10, 1), exec(101, 10, "a"), map(102, 10, 0x1000, "/a")]);
    assert!(!table.reread(&scan(10, 99, "/a")), "nothing new");
    let mut more = scan(10, 99, "/a");
    more.maps.as_mut().unwrap().push(MapRecord { start: 0x9000, end: 0xa000, offset: 0, file: file("/new") });
    assert!(table.reread(&more));
    let process = &table.chains[&10][0];
    assert_eq!(process.maps.list().len(), 2);
    assert_eq!(process.maps.find(0x1000).unwrap().file.mapped.generation, 3, "as the record said");
    assert_eq!(process.executable.as_ref().unwrap().mapped.generation, 3);
    // An ending process has no mappings; what was known stays.
    more.maps = Some(Vec::new());
    assert!(!table.reread(&more));
    assert_eq!(table.chains[&10][0].maps.list().len(), 2);
}

#[test]
fn what_ran_before_is_known_by_proc_and_its_own_fork_does_not_replace_it() {
    let start = 1_000_000_000;
    let mut table = table(&[record(start + 2_000, Kind::Scanned(Box::new(scan(10, start, "/a"))))]);
    // /proc saw the child before its fork record was written.
    table.apply(&fork(start + 5_000, 10, 1));
    assert_eq!(look(&mut table, start + 6_000, 10, start + 4_000), pair("/a"));
    assert_eq!(table.chains[&10].len(), 1);
    // Much later the pid comes round.
    table.apply(&fork(start + 3_000_000_000, 10, 1));
    assert_eq!(look(&mut table, start + 3_000_000_001, 10, start + 2_999_999_999), pair(""));
    assert_eq!(table.chains[&10].len(), 2);
}

#[test]
fn a_whole_reading_ends_what_it_did_not_see() {
    let mut table = table(&[fork(100, 10, 1), fork(100, 11, 1), fork(500, 12, 1)]);
    table.only_these_run(&FxHashSet::from_iter([11]), 300);
    let running = |tgid: u32| table.chains[&tgid][0].is_running();
    assert!(!running(10) && running(11) && running(12), "12 began after the reading");
}

#[test]
fn an_end_that_was_miscounted_is_taken_back() {
    let mut table = table(&[fork(100, 10, 1), exec(101, 10, "a"), map(102, 10, 0x1000, "/a"), exit(200, 10, 10)]);
    assert_eq!(look(&mut table, 200 + REVIVE_NS + 1, 10, 99), pair("/a"));
    assert!(table.chains[&10][0].is_running());
    table.expire(u64::MAX);
    assert_eq!(table.stats().processes, 1);
}

#[test]
fn every_running_process_is_checked_in_turn() {
    let mut table = table(&[fork(1, 10, 1), fork(2, 11, 1), fork(3, 12, 1), exit(4, 12, 12)]);
    let mut seen: Vec<u32> = (0..2).flat_map(|_| table.next_to_check(1)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [10, 11]);
    table.gone(10, 50);
    assert_eq!(table.next_to_check(9), [11]);
}

#[test]
fn a_flood_of_processes_is_refused_at_the_limit() {
    let mut table = ProcessTable::default();
    let count = u32::try_from(MAX_PROCESSES).unwrap() + 100;
    for tgid in 2..=count + 1 {
        table.apply(&fork(u64::from(tgid), tgid, 1));
    }
    assert_eq!(table.stats().processes, MAX_PROCESSES as u64);
    assert_eq!(table.stats().refused_processes, 100);
    let unknown = Sighting {
        time_mono_ns: 1 << 40,
        tgid: count + 2,
        leader_start_mono_ns: 1 << 39,
        comm: Comm::default(),
        cgroup_id: 0,
    };
    assert!(table.sighted(unknown).is_none());
    // Ended ones make room before their time.
    table.apply(&exit(1 << 40, 7, 7));
    assert!(table.sighted(unknown).is_some());
}

#[test]
fn one_pid_reused_often_keeps_a_few() {
    let mut table = ProcessTable::default();
    for round in 1..100u64 {
        table.apply(&fork(round * 10, 10, 1));
        table.apply(&exit(round * 10 + 5, 10, 10));
    }
    assert_eq!(table.chains[&10].len(), MAX_CHAIN);
    assert_eq!(table.stats().processes, MAX_CHAIN as u64);
    table.expire(u64::MAX);
    assert_eq!(table.stats().processes, 0);
}

/// A history of up to four pids, as it really was.
#[derive(Clone, Debug)]
enum Step {
    Fork { parent: u8, child: u8 },
    Exec { process: u8 },
    Map { process: u8 },
    Thread { process: u8 },
    ExitThread { process: u8 },
    Sample { process: u8 },
    Expire,
}

#[derive(Clone, Debug, Default)]
struct Truth {
    start: u64,
    program: String,
    plugins: Vec<(u64, String)>,
    threads: u32,
}

fn step() -> impl Strategy<Value = Step> {
    let p = 0u8..4;
    prop_oneof![
        2 => (p.clone(), p.clone()).prop_map(|(parent, child)| Step::Fork { parent, child }),
        2 => p.clone().prop_map(|process| Step::Exec { process }),
        1 => p.clone().prop_map(|process| Step::Map { process }),
        1 => p.clone().prop_map(|process| Step::Thread { process }),
        3 => p.clone().prop_map(|process| Step::ExitThread { process }),
        4 => p.prop_map(|process| Step::Sample { process }),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    /// Against the history itself: whatever forks, executes, maps, ends and comes again under the same pid, a sample
    /// gets the program and the mappings that its process had at that time.
    #[test]
    fn samples_find_their_program_in_any_history(steps in proptest::collection::vec(step(), 0..200)) {
        let mut table = ProcessTable::default();
        let mut truth: [Option<Truth>; 4] = Default::default();
        table.apply(&fork(1_000, 100, 1));
        table.apply(&exec(1_001, 100, "p0"));
        table.apply(&map(1_002, 100, 0x1000, "/p0"));
        truth[0] = Some(Truth { start: 999, program: "/p0".to_owned(), plugins: vec![], threads: 1 });
        for (i, step) in steps.iter().enumerate() {
            let time = 2_000 + i as u64 * 10;
            let at = |p: u8| usize::from(p);
            let tgid = |p: u8| 100 + u32::from(p);
            match *step {
                Step::Fork { parent, child } if truth[at(parent)].is_some() && truth[at(child)].is_none() => {
                    let copy = truth[at(parent)].clone().unwrap();
                    truth[at(child)] = Some(Truth { start: time, threads: 1, ..copy });
                    table.apply(&fork(time + 1, tgid(child), tgid(parent)));
                }
                Step::Exec { process } if truth[at(process)].is_some() => {
                    let own = truth[at(process)].as_mut().unwrap();
                    own.program = format!("/p{time}");
                    own.plugins.clear();
                    own.threads = 1;
                    table.apply(&exec(time, tgid(process), "p"));
                    table.apply(&map(time + 1, tgid(process), 0x1000, &own.program));
                }
                Step::Map { process } if truth[at(process)].is_some() => {
                    let path = format!("/plugin{time}");
                    let start = 0x10_000 + time * 0x1000;
                    table.apply(&map(time, tgid(process), start, &path));
                    truth[at(process)].as_mut().unwrap().plugins.push((start, path));
                }
                Step::Thread { process } if truth[at(process)].is_some() => {
                    truth[at(process)].as_mut().unwrap().threads += 1;
                    table.apply(&thread(time, tgid(process), 5_000));
                }
                Step::ExitThread { process } if truth[at(process)].is_some() => {
                    let own = truth[at(process)].as_mut().unwrap();
                    own.threads -= 1;
                    if own.threads == 0 {
                        truth[at(process)] = None;
                    }
                    table.apply(&exit(time, tgid(process), 5_000));
                }
                Step::Sample { process } if truth[at(process)].is_some() => {
                    let own = truth[at(process)].clone().unwrap();
                    prop_assert_eq!(look(&mut table, time, tgid(process), own.start), pair(&own.program));
                    let chain = &table.chains[&tgid(process)];
                    let maps = &chain.last().unwrap().maps;
                    prop_assert_eq!(maps.list().len(), 1 + own.plugins.len());
                    for (start, path) in &own.plugins {
                        prop_assert_eq!(&*maps.find(*start).unwrap().file.name, path.as_str());
                    }
                }
                Step::Expire => table.expire(time.saturating_sub(500)),
                _ => (),
            }
            let held: usize = table.chains.values().map(Vec::len).sum();
            prop_assert_eq!(held as u64, table.stats().processes);
        }
    }
}

/// What is handed out for these records that wait.
fn previews(table: &mut ProcessTable, waiting: &[Record]) -> Vec<(u32, u64, Vec<u64>)> {
    let mut out = Vec::new();
    table.preview(waiting, |preview| {
        let starts = preview.maps.list().iter().map(|mapping| mapping.start).collect();
        out.push((preview.tgid, preview.started_by_mono_ns, starts));
    });
    out.sort_unstable();
    out
}

#[test]
fn programs_that_begin_are_told_of_before_their_turn_and_keep_the_number_of_their_mappings() {
    let mut table = table(&[fork(10, 7, 1), map(11, 7, 0x9000, "/old")]);
    table.note_changes(true);
    let all = [
        exec(20, 7, "new"),
        map(21, 7, 0x1000, "/new"),
        fork(22, 8, 7),
        exec(23, 8, "child"),
        map(24, 8, 0x2000, "/child"),
        fork(25, 9, 7),
        exec(26, 9, "brief"),
        map(27, 9, 0x3000, "/brief"),
        exit(28, 9, 9),
        // No exec of this one is known: its turn comes.
        map(29, 5, 0x4000, "/lib"),
        map(30, 7, 0x5000, "/lib"),
    ];
    assert_eq!(previews(&mut table, &all[..9]), [(7, 10, vec![0x1000]), (8, 22, vec![0x2000])]);
    assert_eq!(previews(&mut table, &all[..9]), [], "once");
    assert_eq!(previews(&mut table, &all), [(7, 10, vec![0x1000, 0x5000])], "as there is more");
    let serial = table.previews[&7].maps.serial();
    assert_eq!(table.running(7).unwrap().maps.list()[0].start, 0x9000, "samples from before have the old ones");

    // A part of it has its turn; the rest is still to come.
    all[..9].iter().for_each(|record| table.apply(record));
    table.take_changes(|_, _| ());
    assert_eq!(previews(&mut table, &all[9..]), [], "it is known");
    all[9..].iter().for_each(|record| table.apply(record));
    let mut changed = Vec::new();
    table.take_changes(|tgid, change| match change {
        Change::Mapped { process, executed } => changed.push((tgid, executed, process.maps.serial() == serial)),
        Change::Ended => changed.push((tgid, false, false)),
    });
    changed.sort_unstable();
    assert_eq!(changed, [(5, false, false), (7, false, true)]);
    assert_eq!(previews(&mut table, &[]), []);
    assert!(table.previews.is_empty());
}

#[test]
fn what_has_changed_is_handed_out_once_as_it_is_by_then() {
    let mut table = ProcessTable::default();
    table.apply(&exec(5, 3, "nobody asks"));
    table.note_changes(true);
    let records = [fork(10, 7, 3), exec(11, 7, "x"), map(12, 7, 0x1000, "/x"), exit(13, 3, 3), fork(14, 8, 7)];
    records.iter().for_each(|record| table.apply(record));
    let take = |table: &mut ProcessTable| {
        let mut changed = Vec::new();
        table
            .take_changes(|tgid, change| changed.push((tgid, matches!(change, Change::Mapped { executed: true, .. }))));
        changed.sort_unstable();
        changed
    };
    assert_eq!(take(&mut table), [(3, false), (7, true)], "a fork alone is no change");
    assert_eq!(take(&mut table), []);
    assert_eq!(table.running_tgids(), FxHashSet::from_iter([7, 8]));
}
