//! Whose a sample is, and whether it is wanted.

use std::fs;

use profile::{Owner, Place};

use super::*;
use crate::judge::{Scope, Subject, Verdict};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const HOST: u64 = 1;
const CONTAINER: u64 = 77;

fn in_cgroup(time: u64, cgroup_id: u64) -> SampleHead {
    SampleHead { cgroup_id, ..head(time, 0x1010) }
}

fn is_in(bench: &FakeProc, number: u64, path: &str) {
    *bench.cgroup.borrow_mut() = Some((number, path.to_owned()));
}

fn owners(mut bench: Bench) -> Vec<(Owner, u64)> {
    let now = Now { mono_ns: 30 * SECOND, unix_ns: 30 * SECOND };
    let mut windows = std::mem::take(&mut bench.windows);
    windows.extend(bench.pipeline.finish(now));
    let row = |w: &Window, e: &profile::window::WindowEntry| ((*w.owners[e.owner as usize]).clone(), e.count);
    let mut all: Vec<_> = windows.iter().flat_map(|w| w.entries.iter().map(move |e| row(w, e))).collect();
    all.sort_by_key(|(owner, _)| owner.cgroup_id);
    all
}

/// A runtime forks, moves the child, then it executes the container's program.
#[test]
fn samples_from_before_a_move_belong_to_the_cgroup_before() {
    let proc = FakeProc::default();
    is_in(&proc, HOST, "/system.slice/containerd.service");
    let mut bench = Bench::new(proc.clone());
    bench.batch(2 * SECOND, begin(), vec![in_cgroup(SECOND + 30, HOST); 2], &[]);
    is_in(&proc, CONTAINER, &format!("/docker/{ID}"));
    // All of one batch: what /proc says is already the container's.
    let samples = [HOST, HOST, CONTAINER, CONTAINER, CONTAINER];
    let samples = samples.iter().zip(40..).map(|(&cgroup, at)| in_cgroup(SECOND + at, cgroup)).collect();
    bench.batch(3 * SECOND, vec![], samples, &[]);
    let seen: Vec<_> =
        owners(bench).into_iter().map(|(o, count)| (o.container_id().map(str::to_owned), count)).collect();
    assert_eq!(seen, [(None, 4), (Some(ID.to_owned()), 3)]);
}

#[test]
fn a_process_that_moved_before_its_first_sample_was_read_is_of_an_unknown_place() {
    let proc = FakeProc::default();
    is_in(&proc, CONTAINER, &format!("/docker/{ID}"));
    let mut bench = Bench::new(proc);
    // Nobody can tell of its first cgroup any more.
    bench.batch(2 * SECOND, begin(), vec![in_cgroup(SECOND + 30, 50), in_cgroup(SECOND + 31, CONTAINER)], &[]);
    assert_eq!(bench.shared.counted.unknown_place_samples.load(Ordering::Relaxed), 1);
    let seen: Vec<_> = owners(bench).into_iter().map(|(o, _)| o.place.map(|p| p.container.is_some())).collect();
    assert_eq!(seen, [None, Some(true)]);
}

#[test]
fn a_container_that_is_gone_is_known_by_the_record_of_its_cgroup() {
    let mut bench = Bench::new(FakeProc::default());
    let path = format!("/docker/{ID}").into_bytes().into();
    let mut records = vec![(SECOND + 1, Kind::Cgroup { number: CONTAINER, path })];
    records.extend(begin());
    records.push((SECOND + 40, Kind::Exit { tgid: 10, tid: 10 }));
    bench.batch(2 * SECOND, records, vec![in_cgroup(SECOND + 30, CONTAINER)], &[]);
    assert_eq!(owners(bench)[0].0.container_id(), Some(ID));
}

#[test]
fn what_is_learned_of_a_cgroup_stays_for_its_other_processes() {
    let proc = FakeProc::default();
    is_in(&proc, CONTAINER, &format!("/docker/{ID}"));
    let mut bench = Bench::new(proc.clone());
    bench.batch(2 * SECOND, begin(), vec![], &[]);
    *proc.cgroup.borrow_mut() = None;
    let unknown = SampleHead { tgid: 99, tid: 99, leader_start_mono_ns: 3, ..in_cgroup(SECOND + 50, CONTAINER) };
    bench.batch(2 * SECOND + 1, vec![], vec![unknown], &[]);
    assert_eq!(owners(bench)[0].0.container_id(), Some(ID), "read at the exec of another");
}

#[test]
fn the_environment_is_read_once_for_each_program() {
    let proc = tempfile::tempdir().unwrap();
    let at = proc.path().join("10/environ");
    fs::create_dir(at.parent().unwrap()).unwrap();
    fs::write(&at, "OTEL_SERVICE_NAME=first\0").unwrap();
    let known = FakeProc::default();
    known.processes.borrow_mut().insert(10, scanned(vec![map(0x1000, "/app")]));
    let mut bench = Bench::with(known, Arc::new(TakeAll), Some(proc.path()));
    bench.batch(2 * SECOND, begin(), vec![in_cgroup(SECOND + 30, 1)], &[]);
    fs::write(&at, "OTEL_SERVICE_NAME=second\0").unwrap();
    bench.batch(2 * SECOND + 1, vec![], vec![in_cgroup(SECOND + 31, 2)], &[]);
    let exec = Kind::Comm { tgid: 10, comm: Comm::from_bytes(b"app"), exec: true };
    bench.batch(2 * SECOND + 2, vec![(SECOND + 40, exec)], vec![in_cgroup(SECOND + 41, 3)], &[]);
    // A child has its parent's memory, and so its environment, until it executes.
    fs::write(&at, "").unwrap();
    let fork = Kind::Fork { tgid: 11, tid: 11, parent_tgid: 10 };
    let child = SampleHead { tgid: 11, tid: 11, leader_start_mono_ns: SECOND + 44, ..in_cgroup(SECOND + 50, 4) };
    bench.batch(2 * SECOND + 3, vec![(SECOND + 45, fork)], vec![child], &[]);
    assert_eq!(bench.shared.counted.place_readings.load(Ordering::Relaxed), 2 + bench.pipeline.places.readings());
    let names: Vec<_> = owners(bench).into_iter().map(|(o, _)| o.declared.unwrap().service_name.clone()).collect();
    assert_eq!(names, ["first", "first", "second", "second"].map(|name| Some(name.into())));
}

/// Refuses one program.
#[derive(Debug)]
struct Refuses(&'static str);

impl Judge for Refuses {
    fn filters(&self) -> bool {
        true
    }

    fn judge(&self, subject: &Subject<'_>) -> Verdict {
        let ruling = if subject.executable_path == self.0 { Ruling::Drop } else { Ruling::Take };
        Verdict { ruling, scope: Scope::Process }
    }

    fn generation(&self) -> u64 {
        0
    }

    fn seen(&self, _: &Place, _: u32) {}
}

#[test]
fn what_is_refused_is_dropped_before_it_is_unwound() {
    let check = |refused, dropped, requests| {
        let mut bench = Bench::with(FakeProc::default(), Arc::new(Refuses(refused)), None);
        bench.batch(2 * SECOND, begin(), vec![head(SECOND + 30, 0x1010); 4], &[0x1020]);
        let ledger = bench.shared.ledger.snapshot(KernelCounts::default);
        assert_eq!(ledger.dropped(DropReason::Filtered), dropped);
        assert_eq!(bench.objects.requests.get(), requests);
        assert_eq!(bench.objects.paths().is_empty(), dropped > 0, "nor is any file of it opened");
        assert_eq!(bench.shared.counted.verdicts_refused.load(Ordering::Relaxed), u64::from(dropped > 0));
        bench.finish(3 * SECOND);
    };
    check("/app", 4, 0);
    check("/other", 0, 1);
}
