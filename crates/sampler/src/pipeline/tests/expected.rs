//! Whom the thread of tables is told of: those of whom samples are to be expected.

use super::*;
use crate::judge::{Scope, Subject, Verdict};
use crate::tables::Why;

const WANTED: u64 = 70;
const REFUSED: u64 = 71;

/// Refuses one cgroup.
#[derive(Debug)]
struct ByCgroup;

impl Judge for ByCgroup {
    fn filters(&self) -> bool {
        true
    }

    fn judge(&self, subject: &Subject<'_>) -> Verdict {
        let ruling = if subject.cgroup_id == REFUSED { Ruling::Drop } else { Ruling::Take };
        Verdict { ruling, scope: Scope::Cgroup }
    }

    fn generation(&self) -> u64 {
        0
    }

    fn seen(&self, _: &profile::Place, _: u32) {}
}

fn fork(time: u64, tgid: u32, parent_tgid: u32) -> (u64, Kind) {
    (time, Kind::Fork { tgid, tid: tgid, parent_tgid })
}

fn exec(time: u64, tgid: u32) -> [(u64, Kind); 2] {
    let map = Kind::Map { tgid, map: Box::new(map(0x1000, "/app")) };
    [(time, Kind::Comm { tgid, comm: Comm::from_bytes(b"app"), exec: true }), (time + 1, map)]
}

fn sample(time: u64, tgid: u32, cgroup_id: u64) -> SampleHead {
    SampleHead { tgid, tid: tgid, cgroup_id, leader_start_mono_ns: SECOND + 5, ..head(time, 0x1010) }
}

/// Where none of these ends.
fn alive() -> FakeProc {
    let proc = FakeProc::default();
    for tgid in 20..40 {
        proc.processes.borrow_mut().insert(tgid, ScannedProcess { tgid, ..scanned(Vec::new()) });
    }
    proc
}

/// Those who were told of as who executed, or was sampled.
fn told(news: &std::sync::mpsc::Receiver<News>) -> Vec<u32> {
    let all = news.try_iter().flat_map(|news| news.processes.into_values().flatten());
    let mut tgids: Vec<u32> = all.filter(|mapped| mapped.why != Why::Changed).map(|mapped| mapped.tgid).collect();
    tgids.sort_unstable();
    tgids.dedup();
    tgids
}

#[test]
fn programs_of_a_cgroup_that_is_refused_are_not_prepared_for() {
    let mut bench = Bench::new(alive());
    bench.pipeline.verdicts = Verdicts::new(Arc::new(ByCgroup), Kernel { has_room: true });
    let news = bench.tells();
    let begin = [fork(SECOND + 10, 20, 1), fork(SECOND + 11, 30, 1)];
    bench.batch(2 * SECOND, begin.into(), vec![sample(SECOND + 20, 20, WANTED), sample(SECOND + 21, 30, REFUSED)], &[]);
    told(&news);
    // A child of each executes a program; the first time that is known only from records that wait.
    for (time, step) in [(3 * SECOND, 0), (4 * SECOND, 0), (5 * SECOND, 1)] {
        let children = [20, 30].into_iter().flat_map(|parent| {
            let (tgid, at) = (parent + 1 + step, time - 1000 + u64::from(parent));
            [fork(at, tgid, parent)].into_iter().chain(exec(at + 1, tgid))
        });
        let records = if time == 4 * SECOND { Vec::new() } else { children.collect() };
        bench.batch(time, records, vec![], &[]);
        assert_eq!(told(&news), [21 + step], "at {time}");
    }
    // One was moved by then: its sample tells, and it is known from then on.
    bench.batch(6 * SECOND, vec![], vec![sample(6 * SECOND - 900, 31, WANTED)], &[]);
    bench.batch(7 * SECOND, exec(7 * SECOND - 900, 31).into(), vec![], &[]);
    assert!(told(&news).contains(&31));
    drop(news);
    bench.finish(8 * SECOND);
}

#[test]
fn where_processes_are_listed_the_others_are_not_prepared_for() {
    for children in [false, true] {
        let mut bench = Bench::new(alive());
        bench.pipeline.table.list(Listed::Only { tgids: [20].into_iter().collect(), children });
        let news = bench.tells();
        let execs = [20, 21, 30, 31].into_iter().flat_map(|tgid| exec(SECOND + 20 + u64::from(tgid) * 4, tgid));
        let forks = [(20, 1), (21, 20), (30, 1), (31, 30)];
        let forks = forks.into_iter().map(|(tgid, parent)| fork(SECOND + u64::from(tgid) - 19, tgid, parent));
        // It was there already: no fork of it is told.
        let records = forks.skip(1).chain(execs).collect();
        bench.batch(2 * SECOND, records, vec![], &[]);
        let expected: &[u32] = if children { &[20, 21] } else { &[20] };
        assert_eq!(told(&news), expected);
        // A number that comes round.
        let records = [fork(3 * SECOND - 900, 20, 1)].into_iter().chain(exec(3 * SECOND - 800, 20)).collect();
        bench.batch(3 * SECOND, records, vec![], &[]);
        bench.batch(4 * SECOND, vec![], vec![], &[]);
        assert_eq!(told(&news), []);
    }
}
