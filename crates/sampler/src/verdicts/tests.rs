use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::process::{ProcessTable, Sighting};

/// Refuses by the beginning of the name, and says how far that reaches.
#[derive(Debug, Default)]
struct ByName {
    generation: AtomicU64,
    asked: AtomicU64,
    refused: Mutex<Vec<(&'static str, Scope)>>,
}

impl Judge for ByName {
    fn filters(&self) -> bool {
        true
    }

    fn judge(&self, subject: &Subject<'_>) -> Verdict {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let refused = self.refused.lock().unwrap();
        let found = refused.iter().find(|(name, _)| subject.comm.starts_with(name));
        found.map_or(Verdict::default(), |&(_, scope)| Verdict { ruling: Ruling::Drop, scope })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn seen(&self, _: &Place, _: u32) {}
}

impl ByName {
    fn refuse(&self, refused: &[(&'static str, Scope)]) {
        *self.refused.lock().unwrap() = refused.to_vec();
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
struct Map(Arc<Mutex<Vec<VerdictKey>>>, usize);

impl Sink for Map {
    fn filter(&self, key: VerdictKey) -> bool {
        let mut held = self.0.lock().unwrap();
        let has_room = held.contains(&key) || held.len() < self.1;
        if has_room && !held.contains(&key) {
            held.push(key);
        }
        has_room
    }

    fn remove(&self, key: VerdictKey) {
        self.0.lock().unwrap().retain(|known| *known != key);
    }
}

struct Bench {
    judge: Arc<ByName>,
    map: Map,
    verdicts: Verdicts,
}

impl Bench {
    fn new(refused: &[(&'static str, Scope)], room: usize) -> Self {
        let judge = Arc::new(ByName::default());
        judge.refuse(refused);
        let map = Map(Arc::default(), room);
        let verdicts = Verdicts::new(Arc::clone(&judge) as Arc<dyn Judge>, map.clone());
        Self { judge, map, verdicts }
    }

    /// A sample, of a process that the table does not know.
    fn sample(&mut self, tgid: u32, comm: &str, cgroup_id: u64, now: u64) -> Ruling {
        let mut head = SampleHead { tgid, leader_start_mono_ns: 1, cgroup_id, ..SampleHead::default() };
        head.comm[..comm.len()].copy_from_slice(comm.as_bytes());
        self.verdicts.ruling(&head, None, None, now)
    }

    fn held(&self) -> Vec<VerdictKey> {
        let mut held = self.map.0.lock().unwrap().clone();
        held.sort_unstable();
        assert_eq!(held.len() as u64, self.verdicts.held());
        held
    }

    fn asked(&self) -> u64 {
        self.judge.asked.load(Ordering::Relaxed)
    }
}

#[test]
fn an_owner_is_judged_once_and_a_refusal_is_told_once() {
    let mut bench = Bench::new(&[("p", Scope::Process), ("c", Scope::Cgroup), ("u", Scope::Undecided)], 100);
    for _ in 0..10 {
        assert_eq!(bench.sample(1, "taken", 5, 0), Ruling::Take);
        assert_eq!(bench.sample(2, "p", 5, 0), Ruling::Drop);
        assert_eq!(bench.sample(3, "c", 6, 0), Ruling::Drop);
        assert_eq!(bench.sample(4, "u", 5, 0), Ruling::Drop);
    }
    assert_eq!(bench.asked(), 4);
    assert_eq!(bench.held(), [VerdictKey::process(5, 2), VerdictKey::cgroup(6)]);
    // Another of the same cgroup, from before it was told.
    bench.sample(7, "c", 6, 0);
    assert_eq!(bench.held().len(), 2);
}

#[test]
fn who_filters_nothing_is_never_asked() {
    #[derive(Debug)]
    struct Never;
    impl Judge for Never {
        fn filters(&self) -> bool {
            false
        }
        fn judge(&self, _: &Subject<'_>) -> Verdict {
            unreachable!()
        }
        fn generation(&self) -> u64 {
            unreachable!()
        }
        fn seen(&self, _: &Place, _: u32) {}
    }
    let mut verdicts = Verdicts::new(Arc::new(Never), Map(Arc::default(), 9));
    assert_eq!(verdicts.ruling(&SampleHead::default(), None, None, 0), Ruling::Take);
    verdicts.keep_house(u64::MAX, |_| unreachable!());
}

#[test]
fn whether_more_may_be_declared_is_said_and_asked_again_once_it_is_known() {
    /// Refuses what it knows all of.
    #[derive(Debug)]
    struct Known;
    impl Judge for Known {
        fn filters(&self) -> bool {
            true
        }
        fn judge(&self, subject: &Subject<'_>) -> Verdict {
            let scope = if subject.declared_known { Scope::Process } else { Scope::Undecided };
            Verdict { ruling: Ruling::Drop, scope }
        }
        fn generation(&self) -> u64 {
            0
        }
        fn seen(&self, _: &Place, _: u32) {}
    }
    let map = Map(Arc::default(), 9);
    let mut verdicts = Verdicts::new(Arc::new(Known), map.clone());
    let head = SampleHead { tgid: 7, leader_start_mono_ns: 1, cgroup_id: 5, ..SampleHead::default() };
    let mut table = ProcessTable::default();
    let sighting =
        Sighting { time_mono_ns: 2, tgid: 7, leader_start_mono_ns: 1, comm: Comm::from_bytes(b"x"), cgroup_id: 0 };
    let process = table.sighted(sighting).unwrap();
    verdicts.ruling(&head, Some(process), None, 0);
    assert!(map.0.lock().unwrap().is_empty(), "its environment was not read yet");
    process.environment = Environment::Read(None);
    verdicts.ruling(&head, Some(process), None, 0);
    assert_eq!(*map.0.lock().unwrap(), [VerdictKey::process(5, 7)]);
    let thread = SampleHead { flags: FLAG_KERNEL_THREAD, tgid: 9, ..head };
    verdicts.ruling(&thread, None, None, 0);
    assert_eq!(map.0.lock().unwrap().len(), 2, "a kernel thread has none");
}

#[test]
fn what_was_told_of_a_process_ends_with_it_and_with_its_name() {
    let comm = Comm::from_bytes(b"x");
    let records = [
        Kind::Comm { tgid: 2, comm, exec: false },
        Kind::Comm { tgid: 2, comm, exec: true },
        Kind::Exit { tgid: 2, tid: 2 },
        Kind::Fork { tgid: 2, tid: 2, parent_tgid: 1 },
    ];
    for record in records {
        let mut bench = Bench::new(&[("p", Scope::Process), ("c", Scope::Cgroup)], 100);
        bench.sample(2, "p", 5, 0);
        bench.sample(2, "p", 6, 0);
        bench.sample(3, "p", 6, 0);
        bench.sample(2, "c", 7, 0);
        bench.verdicts.record(&Kind::Exit { tgid: 2, tid: 9 });
        bench.verdicts.record(&Kind::Fork { tgid: 2, tid: 9, parent_tgid: 2 });
        assert_eq!(bench.held().len(), 4, "threads do not matter");
        bench.verdicts.record(&record);
        assert_eq!(bench.held(), [VerdictKey::process(6, 3), VerdictKey::cgroup(7)], "{record:?}");
        // It is told anew if it is still refused.
        assert_eq!(bench.sample(2, "p", 5, 0), Ruling::Drop);
        assert_eq!(bench.held().len(), 3);
    }
}

#[test]
fn a_changed_mind_reaches_those_of_whom_nothing_is_heard() {
    let mut bench = Bench::new(&[("p", Scope::Process), ("c", Scope::Cgroup)], 100);
    bench.sample(2, "p", 5, 0);
    bench.sample(3, "c", 6, 0);
    bench.verdicts.keep_house(1, |_| Some(true));
    assert_eq!((bench.held().len(), bench.asked()), (2, 2), "nothing to do");
    bench.judge.refuse(&[("c", Scope::Cgroup)]);
    bench.verdicts.keep_house(2, |_| Some(true));
    assert_eq!(bench.held(), [VerdictKey::cgroup(6)]);
    assert_eq!(bench.sample(2, "p", 5, 2), Ruling::Take);
    bench.judge.refuse(&[("c", Scope::Process)]);
    bench.verdicts.keep_house(3, |_| Some(true));
    assert_eq!(bench.held(), [], "to be told otherwise by the next sample");
    bench.sample(3, "c", 6, 3);
    assert_eq!(bench.held(), [VerdictKey::process(6, 3)]);
}

#[test]
fn a_cgroup_that_is_gone_and_age_take_back() {
    let mut bench = Bench::new(&[("c", Scope::Cgroup)], 100);
    bench.sample(1, "c", 5, 0);
    bench.sample(2, "c", 6, 0);
    let five_is_gone = |id| Some(id != 5);
    bench.verdicts.keep_house(REVIEW_INTERVAL_NS - 1, five_is_gone);
    assert_eq!(bench.held().len(), 2, "not looked at yet");
    bench.verdicts.keep_house(REVIEW_INTERVAL_NS, five_is_gone);
    assert_eq!(bench.held(), [VerdictKey::cgroup(6)]);
    bench.verdicts.keep_house(MAX_AGE_NS - 1, |_| None);
    assert_eq!(bench.held().len(), 1);
    bench.verdicts.keep_house(MAX_AGE_NS + REVIEW_INTERVAL_NS, |_| None);
    assert_eq!(bench.held(), []);
}

#[test]
fn without_room_samples_are_dropped_here() {
    let mut bench = Bench::new(&[("p", Scope::Process)], 3);
    for tgid in 1..=10 {
        for _ in 0..5 {
            assert_eq!(bench.sample(tgid, "p", 5, 0), Ruling::Drop);
        }
    }
    assert_eq!((bench.held().len(), bench.verdicts.refused()), (3, 7), "tried once in a window");
    bench.verdicts.record(&Kind::Exit { tgid: 1, tid: 1 });
    bench.verdicts.turn();
    bench.sample(10, "p", 5, 0);
    assert_eq!(bench.held().len(), 3, "there is room again");
}

#[test]
fn a_mind_that_changes_all_the_time_is_asked_a_bounded_number_of_times() {
    let mut bench = Bench::new(&[("p", Scope::Process)], 100);
    (1..=50).for_each(|tgid| assert_eq!(bench.sample(tgid, "p", 5, 0), Ruling::Drop));
    let before = bench.asked();
    for _ in 0..1000 {
        bench.judge.refuse(&[("p", Scope::Process)]);
        (1..=50).for_each(|tgid| assert_eq!(bench.sample(tgid, "p", 5, 1), Ruling::Drop));
        bench.verdicts.keep_house(1, |_| Some(true));
    }
    assert!(bench.asked() - before <= REVIEWS_PER_SECOND, "{}", bench.asked() - before);
}

#[test]
fn answers_are_forgotten_with_their_owners() {
    let mut bench = Bench::new(&[], 100);
    for tgid in 0..10_000 {
        bench.sample(tgid, "x", 5, 0);
        if tgid % 100 == 0 {
            bench.verdicts.turn();
        }
    }
    assert!(bench.verdicts.answers.len() <= 400, "{}", bench.verdicts.answers.len());
}

#[derive(Clone, Debug)]
enum Event {
    Sample { tgid: u32, cgroup: u64, name: &'static str },
    Record(u32),
    Rules(usize),
    House { gone: u64 },
    Turn,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1u32..6, 1u64..4, prop_oneof![Just("p"), Just("c"), Just("x")])
            .prop_map(|(tgid, cgroup, name)| Event::Sample { tgid, cgroup, name }),
        2 => (1u32..6).prop_map(Event::Record),
        1 => (0usize..4).prop_map(Event::Rules),
        2 => (0u64..4).prop_map(|gone| Event::House { gone }),
        1 => Just(Event::Turn),
    ]
}

proptest! {
    /// The kernel side holds what is known here, and after a look at everything, only what the judge says now.
    #[test]
    fn both_sides_agree(events in proptest::collection::vec(event(), 0..200), room in 0usize..6) {
        const RULES: [&[(&str, Scope)]; 4] = [
            &[],
            &[("p", Scope::Process)],
            &[("p", Scope::Process), ("c", Scope::Cgroup)],
            &[("p", Scope::Cgroup), ("c", Scope::Undecided)],
        ];
        let mut bench = Bench::new(RULES[2], room);
        let mut rules = 2;
        for (i, event) in events.into_iter().enumerate() {
            let now = i as u64 * SECOND_NS;
            match event {
                Event::Sample { tgid, cgroup, name } => {
                    let wanted = RULES[rules].iter().any(|(refused, _)| name.starts_with(refused));
                    let ruling = bench.sample(tgid, name, cgroup, now);
                    prop_assert_eq!(ruling == Ruling::Drop, wanted);
                }
                Event::Record(tgid) => {
                    bench.verdicts.record(&Kind::Exit { tgid, tid: tgid });
                    prop_assert!(bench.held().iter().all(|key| key.tgid != tgid));
                }
                Event::Rules(index) => { rules = index; bench.judge.refuse(RULES[index]); }
                Event::House { gone } => {
                    bench.verdicts.keep_house(now, |id| Some(id != gone));
                    if rules == 0 { prop_assert_eq!(bench.held(), []); }
                }
                Event::Turn => bench.verdicts.turn(),
            }
            prop_assert!(bench.held().len() <= room);
            let of_processes: usize = bench.verdicts.processes.values().map(Vec::len).sum();
            prop_assert_eq!(of_processes, bench.held().iter().filter(|key| key.tgid != 0).count());
        }
    }
}
