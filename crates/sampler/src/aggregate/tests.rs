use profile::{ElfAddress, ProcessKey};
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const UNIX: u64 = 1_700_000_000 * SECOND;

fn at(mono_ns: u64) -> Now {
    Now { mono_ns, unix_ns: UNIX + mono_ns }
}

fn config() -> AggregatorConfig {
    AggregatorConfig { length_ns: 5 * SECOND, period_ns: SECOND / 19, timestamps: true }
}

fn owner(tgid: u32) -> Arc<Owner> {
    Arc::new(Owner { process: ProcessKey { tgid, leader_start_mono_ns: 1 }, ..Owner::default() })
}

fn stack(address: u64) -> [Frame; 2] {
    [Frame::Kernel(7), Frame::Object { object: ObjectId(1), address: ElfAddress(address) }]
}

fn put(aggregator: &mut Aggregator, time: u64, owner: &Arc<Owner>, stack: &[Frame]) {
    let info = Arc::new(ObjectInfo {
        id: ObjectId(1),
        path: "/x".into(),
        build_id: profile::BuildId::default(),
        segments: vec![],
        readable: true,
    });
    aggregator.insert(time, owner, stack, |id| (id == ObjectId(1)).then_some(&info));
}

#[test]
fn equal_stacks_of_equal_owners_are_one_entry() {
    let mut aggregator = Aggregator::new(config(), at(10 * SECOND));
    let (first, same, other) = (owner(1), owner(1), owner(2));
    for (time, owner, address) in [(11, &first, 5), (12, &same, 5), (13, &other, 5), (14, &first, 6), (11, &first, 5)] {
        put(&mut aggregator, time * SECOND, owner, &stack(address));
    }
    assert_eq!(aggregator.entries(), 3);
    let windows = aggregator.advance(15 * SECOND, at(16 * SECOND));
    let [window] = windows.as_slice() else { panic!("{windows:?}") };
    assert_eq!((window.owners.len(), window.samples), (2, 5));
    assert_eq!(window.entries.iter().map(|e| e.count).collect::<Vec<_>>(), [3, 1, 1]);
    assert!(Arc::ptr_eq(&window.entries[0].stack, &window.entries[1].stack), "a stack exists once");
    assert!(window.objects.contains_key(&ObjectId(1)));
    assert_eq!(window.entries[0].times_unix_ns, [11, 12, 11].map(|t| UNIX + t * SECOND));
    assert_eq!(window.period_ns, SECOND / 19);
}

#[test]
fn a_stack_of_the_last_window_is_not_made_again() {
    let mut aggregator = Aggregator::new(config(), at(0));
    let owner = owner(1);
    put(&mut aggregator, SECOND, &owner, &stack(5));
    let first = aggregator.advance(5 * SECOND, at(5 * SECOND));
    put(&mut aggregator, 6 * SECOND, &owner, &stack(5));
    let second = aggregator.advance(10 * SECOND, at(10 * SECOND));
    assert!(Arc::ptr_eq(&first[0].entries[0].stack, &second[0].entries[0].stack));
    aggregator.advance(25 * SECOND, at(25 * SECOND));
    assert_eq!(aggregator.stacks.bytes(), 0);
}

#[test]
fn windows_end_at_multiples_and_empty_ones_are_given_too() {
    let mut aggregator = Aggregator::new(config(), at(12 * SECOND));
    assert!(aggregator.advance(15 * SECOND - 1, at(15 * SECOND)).is_empty());
    let windows = aggregator.advance(25 * SECOND, at(25 * SECOND));
    let spans: Vec<_> = windows.iter().map(|w| (w.span.from_mono_ns / SECOND, w.span.to_mono_ns / SECOND)).collect();
    assert_eq!(spans, [(12, 15), (15, 20), (20, 25)]);
    let last = aggregator.finish(at(27 * SECOND));
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].span.from_mono_ns, last[0].span.to_mono_ns), (25 * SECOND, 27 * SECOND));
}

#[test]
fn a_first_window_of_no_length_is_joined_with_the_next() {
    let mut aggregator = Aggregator::new(config(), at(15 * SECOND - 1_000));
    let windows = aggregator.advance(20 * SECOND, at(20 * SECOND));
    assert_eq!(windows.len(), 1);
    assert_eq!(windows[0].span.from_mono_ns, 15 * SECOND - 1_000);
}

#[test]
fn edges_belong_to_the_later_window() {
    let mut aggregator = Aggregator::new(config(), at(10 * SECOND));
    let owner = owner(1);
    put(&mut aggregator, 15 * SECOND - 1, &owner, &stack(1));
    put(&mut aggregator, 15 * SECOND, &owner, &stack(2));
    let windows = aggregator.advance(20 * SECOND, at(20 * SECOND));
    assert_eq!(windows.iter().map(|w| w.samples).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(windows[1].entries[0].stack[..], stack(2));
}

#[test]
fn a_late_sample_is_counted_in_the_oldest_open_window() {
    let mut aggregator = Aggregator::new(config(), at(10 * SECOND));
    aggregator.advance(15 * SECOND, at(15 * SECOND));
    put(&mut aggregator, 11 * SECOND, &owner(1), &stack(1));
    assert_eq!(aggregator.late(), 1);
    let windows = aggregator.advance(20 * SECOND, at(20 * SECOND));
    assert_eq!(windows[0].samples, 1);
    assert_eq!(windows[0].entries[0].times_unix_ns, [UNIX + 15 * SECOND]);
}

#[test]
fn the_wall_clock_may_jump_but_windows_abut() {
    let mut aggregator = Aggregator::new(config(), at(0));
    let mut windows = Vec::new();
    for (i, jump) in [0, 0, -3_600, 0, 7_200, 0].into_iter().enumerate() {
        let mono_ns = (i as u64 + 1) * 5 * SECOND;
        let ahead = i64::try_from(UNIX).unwrap() + jump * i64::try_from(SECOND).unwrap();
        let now = Now { mono_ns, unix_ns: mono_ns.checked_add_signed(ahead).unwrap() };
        put(&mut aggregator, mono_ns - 1, &owner(1), &stack(1));
        windows.extend(aggregator.advance(mono_ns, now));
    }
    check_abut(&windows);
    let jumped = windows[4].span;
    assert_eq!(jumped.to_unix_ns, UNIX + (25 + 7_200) * SECOND, "a jump ahead is followed at once");
}

fn check_abut(windows: &[Window]) {
    for pair in windows.windows(2) {
        assert_eq!(pair[0].span.to_mono_ns, pair[1].span.from_mono_ns);
        assert_eq!(pair[0].span.to_unix_ns, pair[1].span.from_unix_ns);
        assert!(pair[0].span.from_unix_ns / 1_000_000 < pair[1].span.from_unix_ns / 1_000_000);
    }
    for window in windows {
        assert!(window.span.from_mono_ns < window.span.to_mono_ns);
        assert!(window.span.from_unix_ns < window.span.to_unix_ns);
        let times = window.entries.iter().flat_map(|e| &e.times_unix_ns);
        assert!(times.clone().all(|t| (window.span.from_unix_ns..window.span.to_unix_ns).contains(t)));
        assert_eq!(times.count() as u64, window.samples);
        assert_eq!(window.entries.iter().map(|e| e.count).sum::<u64>(), window.samples);
    }
}

#[test]
fn a_full_window_is_closed_early() {
    let mut aggregator = Aggregator::new(AggregatorConfig { timestamps: false, ..config() }, at(0));
    let owner = owner(1);
    let deep: Vec<Frame> = (0..200).map(Frame::Kernel).collect();
    let (mut windows, mut put_in) = (Vec::new(), 0u64);
    for i in 0..20_000u64 {
        let time = i * 200_000;
        let stack = [vec![Frame::Kernel(i)], deep.clone()].concat();
        put(&mut aggregator, time, &owner, &stack);
        put_in += 1;
        if i % 100 == 0 {
            assert!(aggregator.bytes() < MAX_BYTES + (4 << 20));
            windows.extend(aggregator.advance(0, at(time)));
        }
    }
    windows.extend(aggregator.finish(at(4 * SECOND)));
    assert!(windows.len() > 2);
    assert_eq!(windows.iter().map(|w| w.samples).sum::<u64>(), put_in);
    for pair in windows.windows(2) {
        assert_eq!(pair[0].span.to_unix_ns, pair[1].span.from_unix_ns);
        assert!(pair[0].span.duration_ns() >= MIN_WINDOW_NS);
    }
}

#[test]
fn after_a_long_sleep_one_window_covers_the_gap() {
    let mut aggregator = Aggregator::new(config(), at(0));
    put(&mut aggregator, SECOND, &owner(1), &stack(1));
    let windows = aggregator.advance(100_003 * SECOND, at(100_003 * SECOND));
    assert_eq!(windows.len(), 1);
    assert_eq!(windows[0].span.to_mono_ns, 100_000 * SECOND);
    check_abut(&windows);
}

proptest! {
    /// Against a plain sum: whatever the times and whenever windows are closed, every sample is in exactly one window,
    /// in the one of its time unless that was closed, and the windows abut.
    #[test]
    fn every_sample_is_in_the_window_of_its_time(
        start in 0u64..20_000,
        samples in proptest::collection::vec((0u64..400, 0u32..3, 0u64..4, prop::bool::weighted(0.2)), 0..200),
    ) {
        const MS: u64 = 1_000_000;
        let mut aggregator = Aggregator::new(AggregatorConfig { length_ns: 1_000 * MS, ..config() }, at(start * MS));
        let mut windows = Vec::new();
        let mut expected: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        let mut clock = start;
        let mut late = 0;
        let mut closed_to = 0;
        for &(step, tgid, address, close) in &samples {
            clock += step;
            let time = clock.saturating_sub(step * 3 % 700).max(start) * MS;
            late += u64::from(time < closed_to);
            put(&mut aggregator, time, &owner(tgid), &stack(address));
            *expected.entry((tgid, address)).or_default() += 1;
            if close {
                windows.extend(aggregator.advance((clock * MS).saturating_sub(100 * MS), at(clock * MS)));
                closed_to = windows.last().map_or(0, |w: &Window| w.span.to_mono_ns);
            }
        }
        prop_assert_eq!(aggregator.late(), late);
        windows.extend(aggregator.finish(at(clock * MS)));
        check_abut(&windows);
        prop_assert_eq!(windows[0].span.from_mono_ns, start * MS);
        let mut found: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for window in &windows {
            for entry in &window.entries {
                let Frame::Object { address, .. } = &entry.stack[1] else { panic!() };
                *found.entry((window.owners[entry.owner as usize].process.tgid, address.0)).or_default() += entry.count;
            }
        }
        prop_assert_eq!(found, expected);
    }
}

proptest! {
    /// Counting a stack again by what is known of it is the same as counting its frames, in whatever window it falls.
    #[test]
    fn counting_again_is_counting(samples in proptest::collection::vec((0u64..40, 0u64..4, 0u32..3, any::<bool>()), 0..200)) {
        let (mut by_frames, mut again) = (Aggregator::new(config(), at(0)), Aggregator::new(config(), at(0)));
        let owners = [owner(0), owner(1), owner(2)];
        let mut known: FxHashMap<(u64, u32), Known> = FxHashMap::default();
        let mut windows = (Vec::new(), Vec::new());
        for (i, (jitter, address, who, advance)) in (0u64..).zip(samples) {
            let time = i * SECOND / 4 + jitter * SECOND / 20;
            let (owner, frames) = (&owners[who as usize], stack(address));
            by_frames.insert(time, owner, &frames, |_| None);
            match known.get_mut(&(address, who)) {
                Some(known) => again.insert_again(time, owner, known, |_| None),
                None => {
                    known.insert((address, who), again.insert(time, owner, &frames, |_| None).unwrap());
                }
            }
            if advance {
                windows.0.extend(by_frames.advance(i * SECOND / 4, at(i * SECOND / 4)));
                windows.1.extend(again.advance(i * SECOND / 4, at(i * SECOND / 4)));
            }
        }
        prop_assert_eq!(by_frames.late(), again.late());
        windows.0.extend(by_frames.finish(at(100 * SECOND)));
        windows.1.extend(again.finish(at(100 * SECOND)));
        prop_assert_eq!(format!("{:?}", windows.0), format!("{:?}", windows.1));
    }
}
