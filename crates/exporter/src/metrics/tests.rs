use std::sync::atomic::{AtomicU64, Ordering};

use profile::ledger::{KernelCounts, Ledger};
use profile::stats::{CpuTicks, ObjectStats, SamplerStats, UnwindStats};
use profile::{DropReason, StackEnd};

use super::*;

/// Counts its own readings; every number it gives is derived from that count, so that a mixture of two shows.
struct Counting {
    readings: AtomicU64,
    ledger: Ledger,
}

impl Statistics for Counting {
    fn snapshot(&self) -> Snapshot {
        let n = self.readings.fetch_add(1, Ordering::SeqCst) + 1;
        self.ledger.read(10);
        self.ledger.dropped(DropReason::MergeFull, 1);
        self.ledger.windowed(7);
        self.ledger.ended(StackEnd::BadFrame, 2);
        let kernel = KernelCounts { idle: n, filtered: 0, taken: 11 * n, lost_ring: 1, lost_scratch: 0 };
        Snapshot {
            ledger: self.ledger.snapshot(|| kernel),
            sampler: SamplerStats {
                cpus: vec![CpuTicks { cpu: 0, kernel, expected: 12 * n + 3 }],
                bpf_run_ns: 1_500_000_000,
                ..SamplerStats::default()
            },
            objects: ObjectStats { worker_pid: 77, ..ObjectStats::default() },
            unwind: UnwindStats {
                checks_agree: 990,
                checks_differ: 3,
                checks_inconclusive: 7,
                bridged_unknown: 5,
                bridged_pending: 6,
                bridged_bad_frame: 7,
                walk_ns: 500_000_000,
                snapshot_ns: 250_000_000,
                filtered_ns: 125_000_000,
                ..UnwindStats::default()
            },
            ..Snapshot::default()
        }
    }
}

/// The agent has three threads of one name; the worker, whose pid the snapshot tells, has what the pid says.
struct OneThread;

impl Processes for OneThread {
    fn read(&self, worker_pid: u32) -> ProcessReading {
        let cpu = CpuTime { user_ns: 1_250_000_000, system_ns: 0 };
        ProcessReading {
            threads: vec![ThreadReading { name: "web".to_owned(), threads: 3, cpu }],
            agent: cpu,
            agent_rss_bytes: 5 << 20,
            worker_rss_bytes: u64::from(worker_pid),
            ..ProcessReading::default()
        }
    }
}

fn metrics() -> Metrics {
    let statistics = Arc::new(Counting { readings: AtomicU64::new(0), ledger: Ledger::default() });
    let build = BuildInfo { version: "1.2.3".to_owned(), revision: "abc".to_owned() };
    let processes = Some(Arc::new(OneThread) as _);
    Metrics::new(Sources { statistics, delivery: None, store: None, aggregated: None, processes, build }).unwrap()
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

fn sum(text: &str, name: &str) -> f64 {
    let of_name = |l: &&str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(of_name).map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn both_lines_of_the_ledger_hold_in_every_scrape() {
    let metrics = metrics();
    for _ in 0..20 {
        let text = metrics.render().unwrap();
        assert_eq!(sum(&text, "profiler_ticks_total"), sum(&text, "profiler_ticks_expected_total"), "{text}");
        let taken = value(&text, "profiler_samples_taken_total");
        let rest = sum(&text, "profiler_samples_exported_total")
            + sum(&text, "profiler_samples_held")
            + sum(&text, "profiler_samples_dropped_total");
        assert_eq!(taken, rest, "{text}");
    }
}

#[test]
fn every_reason_and_stage_is_there_from_the_start() {
    let text = metrics().render().unwrap();
    for reason in DropReason::ALL {
        value(&text, &format!("profiler_samples_dropped_total{{reason=\"{}\"}}", reason.label()));
    }
    for stage in profile::Stage::ALL {
        value(&text, &format!("profiler_samples_held{{stage=\"{}\"}}", stage.label()));
    }
    for end in StackEnd::ALL {
        let name = if end.is_whole() { "whole" } else { "truncated" };
        value(&text, &format!("profiler_samples_{name}_total{{reason=\"{}\"}}", end.label()));
    }
    for result in ["accepted", "failed"] {
        value(&text, &format!("profiler_export_requests_total{{result=\"{result}\"}}"));
    }
    assert_eq!(value(&text, "profiler_samples_truncated_total{reason=\"bad_frame\"}"), 2.0);
    assert_eq!(value(&text, "profiler_bpf_run_seconds_total"), 1.5);
    assert!(text.contains("profiler_build_info{arch=\""), "{text}");
}

#[test]
fn what_the_agent_and_its_worker_cost() {
    let text = metrics().render().unwrap();
    assert_eq!(value(&text, "profiler_self_resident_memory_bytes{process=\"agent\"}"), 5_242_880.0);
    assert_eq!(value(&text, "profiler_self_resident_memory_bytes{process=\"worker\"}"), 77.0);
    assert_eq!(value(&text, "profiler_self_threads{process=\"agent\",thread=\"web\"}"), 3.0);
    let user = "profiler_self_cpu_seconds_total{mode=\"user\",process=\"agent\",thread=\"web\"}";
    assert_eq!(value(&text, user), 1.25);
    assert_eq!(value(&text, "process_cpu_seconds_total"), 1.25);
}

#[test]
fn unwinding_in_the_kernel() {
    let text = metrics().render().unwrap();
    for (result, checks) in [("agree", 990.0), ("differ", 3.0), ("inconclusive", 7.0)] {
        assert_eq!(value(&text, &format!("profiler_unwind_agreement_total{{result=\"{result}\"}}")), checks);
    }
    for (reason, samples) in [("unknown", 5.0), ("pending", 6.0), ("bad_frame", 7.0)] {
        assert_eq!(value(&text, &format!("profiler_unwind_bridged_total{{reason=\"{reason}\"}}")), samples);
    }
    for state in ["loaded", "pending", "without_table"] {
        value(&text, &format!("profiler_unwind_files{{state=\"{state}\"}}"));
    }
    // The stages are parts of the whole.
    assert_eq!(value(&text, "profiler_self_bpf_seconds_total{stage=\"walk\"}"), 0.5);
    assert_eq!(sum(&text, "profiler_self_bpf_seconds_total"), value(&text, "profiler_bpf_run_seconds_total"));
}

#[test]
fn every_family_has_a_help_and_one_type_and_no_scope_labels() {
    let text = metrics().render().unwrap();
    let mut names = std::collections::BTreeSet::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        names.insert(line.split(['{', ' ']).next().unwrap());
    }
    assert!(names.len() > 40);
    for name in names {
        for head in ["HELP", "TYPE"] {
            let lines = text.lines().filter(|l| l.starts_with(&format!("# {head} {name} "))).count();
            assert_eq!(lines, 1, "# {head} {name}\n{text}");
        }
    }
    assert!(!text.contains("otel_scope") && !text.contains("target_info"));
}

#[test]
fn more_cpus_than_the_sdk_expects_are_told_one_by_one() {
    struct Many;
    impl Statistics for Many {
        fn snapshot(&self) -> Snapshot {
            let cpus = (0..1024).map(|cpu| CpuTicks { cpu, ..CpuTicks::default() }).collect();
            Snapshot { sampler: SamplerStats { cpus, ..SamplerStats::default() }, ..Snapshot::default() }
        }
    }
    let sources = Sources {
        statistics: Arc::new(Many),
        delivery: None,
        store: None,
        aggregated: None,
        processes: None,
        build: BuildInfo::default(),
    };
    let text = Metrics::new(sources).unwrap().render().unwrap();
    assert_eq!(text.lines().filter(|l| l.starts_with("profiler_ticks_total{")).count(), 4096);
}

#[test]
fn samples_by_function_come_and_go() {
    let settings = AggregatedSettings { series: 1, labels: vec![AggregatedLabel::Symbol, AggregatedLabel::SelfTime] };
    let aggregated = Arc::new(Aggregated::new(settings));
    let sources = Sources {
        statistics: Arc::new(Counting { readings: AtomicU64::new(0), ledger: Ledger::default() }),
        delivery: None,
        store: None,
        aggregated: Some(Arc::clone(&aggregated)),
        processes: None,
        build: BuildInfo::default(),
    };
    let metrics = Metrics::new(sources).unwrap();
    // The SDK must forget what is not told any more, or it would soon know too many.
    let mut samples = 0;
    for round in 0..200_u64 {
        let name = format!("quote\"line\nback\\slash {round}");
        let mut profile = crate::fixture::Builder::window(0).row(1, "/a", &[&name], 2).build();
        for second in [0, 60] {
            profile.span.to_mono_ns = (round * 600 + second) * 1_000_000_000;
            aggregated.add(&profile);
            samples += 2;
        }
        let text = metrics.render().unwrap();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("profiler_aggregated_total{")).collect();
        assert!(lines.len() <= 1 + 4, "{lines:#?}");
        assert_eq!(sum(&text, "profiler_aggregated_total"), f64::from(samples), "{text}");
        let escaped = format!(r#"{{self="true",symbol="quote\"line\nback\\slash {round}"}}"#);
        assert!(lines.iter().any(|l| l.contains(&escaped)), "{escaped}: {lines:#?}");
        assert!(!text.contains("overflow"));
    }
}
