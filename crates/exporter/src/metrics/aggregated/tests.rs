use std::collections::BTreeMap;

use proptest::prelude::*;

use super::pool::EVICTIONS;
use super::pool::{CANDIDATES_PER_SERIES, QUIET_NS, TURN_NS};
use super::*;
use crate::fixture::{Builder, WINDOW_NS};

/// Label values joined, `self` last; `-` where a label is empty, the number of departures where there is one.
fn told(a: &Aggregated) -> BTreeMap<String, u64> {
    let rows = a.told().series;
    let count = rows.len();
    let text = |t: &Told| {
        let values: Vec<String> = t.labels.iter().map(|l| l.value.to_string()).collect();
        values.iter().map(|v| if v.is_empty() { "-" } else { v }).collect::<Vec<_>>().join(" ")
    };
    let out: BTreeMap<String, u64> = rows.iter().map(|t| (text(t), t.samples)).collect();
    assert_eq!(out.len(), count, "two series have the same labels");
    out
}

fn sum(a: &Aggregated, own: &str) -> u64 {
    let is = |t: &&Told| t.labels.iter().any(|l| l.key.as_str() == "self" && l.value.as_str() == own);
    a.told().series.iter().filter(is).map(|t| t.samples).sum()
}

fn new(series: usize, labels: &str) -> Aggregated {
    let labels = labels.split(' ').map(|l| l.parse().unwrap()).collect();
    Aggregated::new(AggregatedSettings { series, labels })
}

fn rows<const N: usize>(rows: [(&str, u64); N]) -> BTreeMap<String, u64> {
    rows.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

#[test]
fn a_function_counts_as_leaf_or_once_as_caller() {
    let a = new(99, "pid bin symbol self");
    let profile = Builder::window(0)
        .row(10, "/app", &["work", "main"], 60)
        .row(10, "/app", &["main"], 1)
        // A recursion: as leaf, and not as its own caller.
        .row(10, "/app", &["walk", "walk", "main", "walk", "main"], 7)
        .row(10, "/app", &["k:read", "/libc!read", "main"], 5)
        .row(11, "/app", &["app+0x12", "app+0x34", "main"], 3)
        .row(11, "/app", &["work", "cut:[cut: no_table]"], 2)
        .row(11, "/app", &["cut:[cut: no_table]"], 4)
        .row(12, "", &["[anon]+0x7f12", "[anon]+0x7f99"], 6)
        .build();
    a.add(&profile);
    let want = rows([
        ("10 /app work true", 60),
        ("10 /app main false", 60 + 7 + 5),
        ("10 /app main true", 1),
        ("10 /app walk true", 7),
        ("10 [kernel] read true", 5),
        ("10 /libc read false", 5),
        ("11 /app (unnamed) true", 3),
        ("11 /app main false", 3),
        ("11 /app work true", 2),
        ("11 - [cut: no_table] true", 4),
        ("12 [anon] (unnamed) true", 6),
        ("- - (other) true", 0),
        ("- - (other) false", 0),
    ]);
    assert_eq!(told(&a), want);
    assert_eq!(sum(&a, "true"), profile.samples());
}

#[test]
fn labels_are_chosen() {
    let mut owner = Builder::owner(10, "/app", "app");
    let pod = [("k8s.container.name", "web"), ("k8s.namespace.name", "shop"), ("k8s.pod.name", "cart-0")];
    owner.identity = Builder::identity("cart", &pod);
    let other = profile::Owner { process: profile::ProcessKey { tgid: 11, ..owner.process }, ..owner.clone() };
    let profile = Builder::window(0).owned(owner, &["f", "g"], 2).owned(other, &["g", "g"], 3).build();
    for (labels, want) in [
        (
            "service pod namespace container self symbol",
            vec![
                ("f true shop cart-0 web cart", 2),
                ("g false shop cart-0 web cart", 2),
                ("g true shop cart-0 web cart", 3),
            ],
        ),
        // Without `self`, sums are samples all the same.
        ("namespace symbol", vec![("f shop", 2), ("g shop", 3)]),
        ("namespace", vec![("shop", 5)]),
        ("pid self", vec![("10 true", 2), ("11 true", 3)]),
    ] {
        let a = new(99, labels);
        a.add(&profile);
        // The order of labels is not what is tested here.
        let sorted = |text: &str| {
            let mut words: Vec<&str> = text.split(' ').collect();
            words.sort_unstable();
            words.join(" ")
        };
        let found: BTreeMap<_, _> =
            told(&a).iter().filter(|(k, _)| !k.contains(OTHER)).map(|(k, v)| (sorted(k), *v)).collect();
        assert_eq!(found, want.into_iter().map(|(k, v)| (sorted(k), v)).collect(), "{labels}");
    }
    assert_eq!("selfish".parse::<AggregatedLabel>().unwrap_err(), UnknownLabel("selfish".into()));
    for label in AggregatedLabel::ALL {
        assert_eq!(label.label().parse(), Ok(label));
    }
}

#[test]
fn nothing_is_told_when_it_is_off() {
    let a = new(0, "symbol self");
    a.add(&Builder::window(0).row(1, "/a", &["f"], 2).build());
    assert!(a.told().series.is_empty());
}

#[test]
fn the_hottest_have_series_and_the_rest_is_one() {
    let a = new(4, "symbol self");
    a.add(&Builder::window(0).row(1, "/a", &["a"], 5).row(1, "/a", &["b", "main"], 9).row(1, "/a", &["c"], 1).build());
    let want = [("a true", 5), ("b true", 9), ("main false", 9), ("(other) true", 1), ("(other) false", 0)];
    assert_eq!(told(&a), rows(want));
    // Without `self` all series are for what ran.
    let a = new(2, "symbol");
    a.add(&leaves(0, &[("a", 5), ("b", 9), ("c", 1)]));
    assert_eq!(told(&a), rows([("a", 5), ("b", 9), ("(other)", 1)]));
}

/// A window at some second, of functions that are leaves.
fn leaves(second: u64, functions: &[(&str, u64)]) -> Profile {
    let mut profile =
        functions.iter().fold(Builder::window(0), |b, (name, count)| b.row(1, "/a", &[name], *count)).build();
    profile.span.to_mono_ns = 1_000_000_000 * second;
    profile
}

#[test]
fn a_series_leaves_in_its_turn_and_comes_back_at_zero() {
    let a = new(4, "symbol self");
    let turn = TURN_NS / 1_000_000_000;
    a.add(&leaves(0, &[("a", 100), ("b", 10)]));
    a.add(&leaves(5, &[("a", 100), ("c", 40)]));
    assert_eq!(told(&a)["b true"], 10, "not its turn yet");
    a.add(&leaves(turn, &[("a", 100), ("c", 40)]));
    let want = [("a true", 300), ("c true", 40), ("(other) true", 40), ("(other) false", 0)];
    let departed = [("(other) true 1", 10)];
    assert_eq!(told(&a), rows(want).into_iter().chain(rows(departed)).collect());
    // It is not hot enough to come back: no coming and going among equals.
    a.add(&leaves(2 * turn, &[("b", 60)]));
    assert_eq!(told(&a)["(other) true"], 100);
    a.add(&leaves(3 * turn, &[("b", 100)]));
    let found = told(&a);
    assert_eq!((found["b true"], found["(other) true"], found["(other) true 2"]), (100, 100, 50));
    assert!(!found.contains_key("(other) true 1") && !found.contains_key("c true"));
    assert_eq!(sum(&a, "true"), 300 + 10 + 80 + 160);
}

#[test]
fn what_has_ended_goes_first() {
    let a = new(4, "symbol self");
    let quiet = QUIET_NS / 1_000_000_000;
    a.add(&leaves(0, &[("hot_once", 1_000_000), ("lukewarm", 10)]));
    a.add(&leaves(quiet - 15, &[("lukewarm", 10), ("new", 1)]));
    a.add(&leaves(quiet, &[("lukewarm", 10), ("new", 1), ("newer", 99)]));
    let found = told(&a);
    // What came a moment ago, however hot, waits for a turn of its own.
    assert_eq!((found["lukewarm true"], found["new true"], found["(other) true"]), (30, 1, 100));
    assert_eq!(found["(other) true 1"], 1_000_000);
}

#[test]
fn hostile_names_are_bounded_and_kept_apart() {
    let a = new(99, "symbol self");
    let long = "é".repeat(MAX_VALUE_BYTES);
    a.add(&leaves(0, &[(&format!("{long}1"), 1), (&format!("{long}2"), 2), ("(other)", 4), ("a\"b\\c\nd", 8)]));
    let found = told(&a);
    assert_eq!((found["[(other)] true"], found["(other) true"], found["a\"b\\c\nd true"]), (4, 0, 8));
    let cut = found.iter().find(|(k, _)| k.starts_with('é')).unwrap();
    assert!(cut.0.len() <= MAX_VALUE_BYTES + " true".len() && cut.0.contains('…'), "{}", cut.0.len());
    assert_eq!(*cut.1, 3, "what looks the same is the same series");
}

#[test]
fn candidates_are_bounded() {
    let a = new(4, "pid symbol self");
    for window in 0..40_u64 {
        let mut profile = (0..50)
            .fold(Builder::window(0), |b, i| b.row(u32::try_from(window * 50 + i).unwrap(), "/a", &["f", "g"], 1 + i));
        profile = profile.row(1, "/a", &["f"], 5);
        let mut profile = profile.build();
        profile.span.to_mono_ns = window * WINDOW_NS;
        a.add(&profile);
        let told = a.told();
        assert!(told.series.len() <= 4 + 4, "{told:?}");
        assert!(told.candidates <= 4 * CANDIDATES_PER_SERIES as u64, "{}", told.candidates);
    }
}

proptest! {
    /// Whatever comes, in whatever order: sums are exact, the number of series is bounded, none falls while it is
    /// there, and what rate() would add up never counts a sample twice.
    #[test]
    fn sums_are_exact_and_series_never_fall(
        series in 1usize..12,
        windows in prop::collection::vec(
            (0u64..200, prop::collection::vec((1u32..6, prop::collection::vec(0u8..12, 1..5), 1u64..50), 0..12)), 1..40),
    ) {
        let a = new(series, "pid symbol self");
        let (mut second, mut samples, mut callers) = (0, 0, 0);
        let mut before: BTreeMap<String, u64> = BTreeMap::new();
        // As Prometheus' increase() over everything: what each series grew by, a fall being a restart.
        let mut increase = 0;
        for (after, stacks) in windows {
            second += after;
            let mut builder = Builder::window(0);
            for (pid, stack, count) in &stacks {
                let names: Vec<String> = stack.iter().map(|f| format!("f{f}")).collect();
                builder = builder.row(*pid, "/a", &names.iter().map(String::as_str).collect::<Vec<_>>(), *count);
                let distinct: std::collections::BTreeSet<_> = names.iter().filter(|n| **n != names[0]).collect();
                samples += count;
                callers += count * distinct.len() as u64;
            }
            let mut profile = builder.build();
            profile.span.to_mono_ns = second * 1_000_000_000;
            a.add(&profile);
            let now = told(&a);
            prop_assert!(now.len() <= series + 4);
            prop_assert_eq!((sum(&a, "true"), sum(&a, "false")), (samples, callers));
            for (name, value) in &now {
                let Some(known) = before.get(name) else { continue };
                prop_assert!(value >= known, "{} fell from {} to {}", name, known, value);
                increase += value - known;
                let holder = name.starts_with("- (other)") && name.split(' ').count() == 4;
                prop_assert!(!holder || value == known, "{}", name);
            }
            prop_assert!(increase <= samples + callers);
            before = now;
        }
        let holders = a.told().series.iter().filter(|t| t.labels.iter().any(|l| l.key.as_str() == EVICTIONS)).count();
        prop_assert!(holders <= 2);
    }
}
