use profile::{BuildId, ElfAddress};

use super::*;

fn frame(file: u64, address: u64) -> Frame {
    Frame::Object { object: ObjectId(file), address: ElfAddress(address) }
}

/// In the kernel, then in three files.
fn stack() -> Vec<Frame> {
    vec![Frame::Kernel(1), frame(1, 10), frame(1, 20), frame(2, 30), frame(3, 40)]
}

fn check(flags: u32) -> Check {
    Check { stack: stack().into(), end: StackEnd::Root, is_stale: false, flags }
}

fn info(id: ObjectId) -> Option<&'static Arc<ObjectInfo>> {
    static INFO: std::sync::OnceLock<Arc<ObjectInfo>> = std::sync::OnceLock::new();
    let info = || {
        Arc::new(ObjectInfo {
            id: ObjectId(1),
            path: "/x".into(),
            build_id: BuildId::default(),
            segments: vec![],
            readable: true,
        })
    };
    (id.0 < 10).then(|| INFO.get_or_init(info))
}

#[test]
fn what_is_compared_and_what_is_not() {
    let root = StackEnd::Root;
    assert_eq!(check(0).compare(&stack(), root), Verdict::Agree);
    let mut other = stack();
    other[3] = frame(2, 31);
    assert_eq!(check(0).compare(&other, root), Verdict::Differ(3));
    assert_eq!(check(0).compare(&stack()[..4], root), Verdict::Differ(4));
    let longer: Vec<_> = stack().into_iter().chain([frame(3, 50)]).collect();
    assert_eq!(check(0).compare(&longer, root), Verdict::Differ(5));
    for flag in [FLAG_WALK_GUESSED, FLAG_WALK_SIGNAL] {
        assert_eq!(check(flag).compare(&other, root), Verdict::Inconclusive);
    }
    for end in StackEnd::ALL.into_iter().filter(|end| *end != root) {
        assert_eq!(check(0).compare(&other, end), Verdict::Inconclusive, "{end:?}");
        assert_eq!(Check { end, ..check(0) }.compare(&other, root), Verdict::Inconclusive, "{end:?}");
    }
    assert_eq!(Check { is_stale: true, ..check(0) }.compare(&stack(), root), Verdict::Inconclusive);
}

#[test]
fn the_file_whose_table_led_on_is_blamed() {
    assert_eq!(blamed(&stack(), 3), Some(ObjectId(1)));
    assert_eq!(blamed(&stack(), 4), Some(ObjectId(2)));
    assert_eq!(blamed(&stack(), 5), Some(ObjectId(3)), "it did not end there");
    assert_eq!(blamed(&stack(), 1), Some(ObjectId(1)), "the leaf");
    let unmapped = Frame::Unmapped { mapping: "".into(), address: profile::UserAddress(1) };
    assert_eq!(blamed(&[unmapped, frame(1, 2)], 1), None, "no table led on");
}

#[test]
fn a_file_that_differs_often_is_taken_off_once() {
    let mut checks = Checks::default();
    let differ = |checks: &mut Checks| checks.count(&check(0), &stack()[..3], Verdict::Differ(3), info);
    assert_eq!(differ(&mut checks), None);
    assert_eq!(differ(&mut checks), None);
    assert_eq!(differ(&mut checks), Some(ObjectId(1)));
    assert_eq!(differ(&mut checks), None);
}

#[test]
fn a_file_that_differs_seldom_stays() {
    let mut checks = Checks::default();
    for _ in 0..10 {
        for _ in 0..60 {
            assert_eq!(checks.count(&check(0), &stack(), Verdict::Agree, info), None);
        }
        assert_eq!(checks.count(&check(0), &[], Verdict::Differ(3), info), None);
        assert_eq!(checks.count(&check(0), &[], Verdict::Inconclusive, info), None);
    }
    assert_eq!(checks.tallies[&ObjectId(1)].agreed, 600, "once for each stack");
}

#[test]
fn files_are_bounded() {
    let mut checks = Checks::default();
    checks.tally(ObjectId(7)).differed = 1;
    for id in 0..3 * MAX_FILES as u64 {
        checks.tally(ObjectId(1000 + id)).agreed += 1;
        assert!(checks.tallies.len() <= MAX_FILES);
    }
    assert!(checks.tallies.contains_key(&ObjectId(7)));
}

#[test]
fn about_one_a_second_and_never_more_than_one_in_200() {
    let mut rate = CheckRate::new(Wanted::Adaptive, 0);
    assert_eq!(rate.every(), 200);
    assert_eq!(rate.adjust(50, SECOND_NS / 2), None, "once a second");
    assert_eq!(rate.adjust(50, SECOND_NS), None, "few samples");
    assert_eq!(rate.adjust(8000, 3 * SECOND_NS), Some(4000), "in two seconds");
    assert_eq!(rate.adjust(4100, 4 * SECOND_NS), None, "about the same");
    assert_eq!(rate.adjust(0, 5 * SECOND_NS), Some(200));
    for (config, every) in [(Wanted::Off, 0), (Wanted::OneIn(3), 3)] {
        let mut rate = CheckRate::new(config, 0);
        assert_eq!((rate.every(), rate.adjust(1_000_000, 2 * SECOND_NS)), (every, None));
    }
}
