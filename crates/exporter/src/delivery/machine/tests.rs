use proptest::prelude::*;

use super::*;
use crate::fixture::Builder;
use crate::otlp::{Encoder, ResourceSettings};

const SECOND_NS: u64 = 1_000_000_000;

fn machine(queue_bytes: usize) -> Machine {
    Machine::new(DeliverySettings { queue_bytes, ..DeliverySettings::default() })
}

fn window(n: u64, count: u64) -> Arc<Profile> {
    let b = Builder::window(n);
    Arc::new(if count == 0 { b.build() } else { b.row(1, "/bin/a", &["f", "main"], count).build() })
}

fn retry() -> Outcome {
    Outcome::Retry { after: None, message: String::new() }
}

fn accepted(rejected_profiles: u64) -> Outcome {
    Outcome::Accepted { rejected_profiles, message: String::new() }
}

fn encode(windows: &[Arc<Profile>]) -> Encoded {
    let merged = profile::merge(windows.iter().map(AsRef::as_ref));
    Encoder::new(ResourceSettings::default()).encode(&merged, 1 << 20)
}

/// Pushes windows until an interval is full, and encodes it.
fn fill(m: &mut Machine, from: u64, now: u64) {
    for n in from..from + 3 {
        assert_eq!(m.push(window(n, 10)), []);
    }
    let windows = m.take_interval().unwrap();
    assert_eq!(m.encoded(encode(&windows), now), []);
}

#[test]
fn three_windows_are_an_interval() {
    let mut m = machine(1 << 20);
    for n in 0..2 {
        m.push(window(n, 1));
        assert!(m.take_interval().is_none());
    }
    // A window that came out a little short does not make it four.
    let mut short = (*window(2, 1)).clone();
    short.span.to_mono_ns -= SECOND_NS / 10;
    m.push(Arc::new(short));
    assert_eq!(m.take_interval().map(|w| w.len()), Some(3));
}

#[test]
fn a_gap_or_another_rate_ends_an_interval() {
    let mut m = machine(1 << 20);
    m.push(window(0, 1));
    m.push(window(9, 1));
    assert_eq!(m.take_interval().map(|w| w.len()), Some(1));
    m.encoded(Encoded::default(), 0);
    let mut faster = (*window(10, 1)).clone();
    faster.period_ns /= 2;
    m.push(Arc::new(faster));
    assert_eq!(m.take_interval().map(|w| w.len()), Some(1));
}

#[test]
fn an_idle_interval_is_not_sent() {
    let mut m = machine(1 << 20);
    for n in 0..9 {
        m.push(window(n, 0));
    }
    assert!(m.take_interval().is_none());
    assert_eq!(m.gauges(), Gauges::default());
}

#[test]
fn what_fails_is_sent_again_first_and_then_expires() {
    let mut m = machine(1 << 20);
    fill(&mut m, 0, 0);
    fill(&mut m, 3, 0);
    let Next::Send { bytes, again: false } = m.next(0) else { panic!() };
    assert_eq!(m.next(0), Next::Idle, "one at a time");
    assert_eq!(m.answered(&retry(), 0, 0.5), []);
    assert_eq!(m.next(1), Next::WaitUntil(SECOND_NS));
    assert_eq!(m.next(SECOND_NS), Next::Send { bytes, again: true });
    assert_eq!(m.answered(&retry(), 1800 * SECOND_NS, 0.5), [Settled::Dropped(DropReason::Expired, 30)]);
    // The next one is tried once at least, after the wait.
    let Next::WaitUntil(at) = m.next(1800 * SECOND_NS) else { panic!() };
    assert!(matches!(m.next(at), Next::Send { again: false, .. }));
    assert_eq!(m.answered(&accepted(0), at, 0.5), [Settled::Exported(30)]);
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let mut m = machine(1 << 20);
    fill(&mut m, 0, 0);
    m.next(0);
    m.answered(&Outcome::Retry { after: Some(Duration::from_secs(90)), message: String::new() }, 0, 0.5);
    assert_eq!(m.next(0), Next::WaitUntil(90 * SECOND_NS));
}

#[test]
fn partial_success_never_counts_too_much_as_exported() {
    let p = Builder::window(0)
        .row(1, "/bin/a", &["f"], 50)
        .row(2, "/bin/b", &["f"], 30)
        .row(3, "/bin/c", &["f"], 20)
        .build();
    for (rejected, want) in [(0, 0), (1, 50), (2, 80), (3, 100), (99, 100)] {
        let mut m = Machine::new(DeliverySettings { interval: Duration::from_secs(5), ..DeliverySettings::default() });
        m.push(Arc::new(p.clone()));
        let windows = m.take_interval().unwrap();
        m.encoded(encode(&windows), 0);
        m.next(0);
        let mut wanted = settled(DropReason::Rejected, want);
        wanted.push(Settled::Exported(100 - want));
        assert_eq!(m.answered(&accepted(rejected), 0, 0.0), wanted);
    }
}

#[test]
fn the_oldest_goes_first_and_what_is_out_stays() {
    let mut m = machine(1 << 20);
    fill(&mut m, 0, 0);
    let one = m.gauges().bytes;
    m.settings.queue_bytes = 3 * one + one / 2 + 3 * window(0, 10).weight();
    fill(&mut m, 3, 0);
    fill(&mut m, 6, 0);
    assert!(matches!(m.next(0), Next::Send { .. }));
    m.settings.queue_bytes = 2 * one + one / 2;
    let dropped = m.push(window(20, 10));
    let total: u64 =
        dropped.iter().map(|s| if let Settled::Dropped(DropReason::QueueFull, n) = s { *n } else { 0 }).sum();
    assert!(total >= 30, "the second interval goes: {dropped:?}");
    assert!(m.gauges().bytes <= m.settings.queue_bytes);
    assert_eq!(m.answered(&accepted(0), 0, 0.0), [Settled::Exported(30)], "the first was out");
}

#[test]
fn closing_sends_the_partial_interval_at_once() {
    let mut m = machine(1 << 20);
    fill(&mut m, 0, 0);
    m.next(0);
    m.answered(&retry(), 0, 0.5);
    m.push(window(3, 5));
    m.close();
    assert!(!m.is_done());
    assert!(matches!(m.next(1), Next::Send { .. }), "no waiting");
    assert_eq!(m.answered(&accepted(0), 1, 0.0), [Settled::Exported(30)]);
    let windows = m.take_interval().unwrap();
    m.encoded(encode(&windows), 1);
    assert_eq!(m.push(window(4, 7)), [Settled::Dropped(DropReason::Shutdown, 7)]);
    assert_eq!(m.abandon(), [Settled::Dropped(DropReason::Shutdown, 5)]);
    assert!(m.is_done());
}

#[test]
fn an_encoder_that_fails_is_counted() {
    let mut m = machine(1 << 20);
    for n in 0..3 {
        m.push(window(n, 10));
    }
    m.take_interval().unwrap();
    assert_eq!(m.encoded(Encoded::default(), 0), [Settled::Dropped(DropReason::Refused, 30)]);
}

#[derive(Clone, Debug)]
enum Event {
    Push { samples: u64, stacks: u8 },
    Encode { lose: bool },
    Next { later_ns: u64 },
    Answer(Outcome),
    Close,
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        3 => (0u64..3).prop_map(accepted),
        4 => proptest::option::of(0u64..20)
            .prop_map(|s| Outcome::Retry { after: s.map(Duration::from_secs), message: String::new() }),
        1 => Just(Outcome::Refused { message: String::new() }),
    ];
    prop_oneof![
        10 => (0u64..50, 1u8..20).prop_map(|(samples, stacks)| Event::Push { samples, stacks }),
        5 => proptest::bool::weighted(0.1).prop_map(|lose| Event::Encode { lose }),
        5 => (0..400 * SECOND_NS).prop_map(|later_ns| Event::Next { later_ns }),
        5 => outcome.prop_map(Event::Answer),
        1 => Just(Event::Close),
    ]
}

proptest! {
    /// Whatever happens in whatever order: the bound on bytes holds, and each sample is held or settled, once.
    #[test]
    fn every_sample_ends_once(
        events in proptest::collection::vec(event(), 0..120),
        queue_bytes in 500usize..20_000,
        jitter in 0.0f64..1.0,
    ) {
        let mut m = machine(queue_bytes);
        let (mut pushed, mut ended, mut now, mut out, mut n) = (0, 0, 0, None, 0);
        for event in events {
            let settled = match event {
                Event::Push { samples, stacks } => {
                    n += 1;
                    let mut b = Builder::window(n);
                    for s in 0..if samples == 0 { 0 } else { stacks } {
                        b = b.row(u32::from(s), "/bin/a", &[&format!("f{s}"), "main"], samples);
                        pushed += samples;
                    }
                    m.push(Arc::new(b.build()))
                }
                Event::Encode { lose } => match out.take().or_else(|| m.take_interval()) {
                    Some(_) if lose => m.encoded(Encoded::default(), now),
                    Some(windows) => m.encoded(encode(&windows), now),
                    None => vec![],
                },
                Event::Next { later_ns } => {
                    now += later_ns;
                    m.next(now);
                    if out.is_none() {
                        out = m.take_interval();
                    }
                    vec![]
                }
                Event::Answer(outcome) => m.answered(&outcome, now, jitter),
                Event::Close => {
                    if now % 3 == 0 {
                        m.close();
                    }
                    vec![]
                }
            };
            for s in settled {
                ended += match s {
                    Settled::Exported(n) | Settled::Dropped(_, n) => n,
                };
            }
            prop_assert_eq!(pushed, ended + m.gauges().samples);
            prop_assert!(m.gauges().bytes <= queue_bytes);
        }
        let left = m.gauges().samples;
        prop_assert_eq!(m.abandon(), settled(DropReason::Shutdown, left));
        prop_assert!(m.is_done());
    }
}
