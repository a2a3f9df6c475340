//! The reference of `docs/metrics.md` is what the instruments say of themselves.
//!
//! `UPDATE_DOCS=1 cargo test -p exporter reference` rewrites it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use opentelemetry::KeyValue;
use profile::stats::{CpuTicks, Snapshot};

use super::{GROUPS, Instrument, Read, Reading};
use crate::delivery::DeliveryStats;
use crate::fixture::Builder;
use crate::metrics::{
    Aggregated, AggregatedSettings, BuildInfo, Metrics, ProcessReading, Processes, Sources, Statistics, ThreadReading,
};

const BEGIN: &str = "<!-- What follows is made by `UPDATE_DOCS=1 cargo test -p exporter reference` -->\n";
const END: &str = "<!-- End of what is made -->\n";

/// A reading in which nothing is empty, so that every instrument shows its labels.
fn reading() -> Reading {
    let mut snapshot = Snapshot::default();
    snapshot.sampler.cpus.push(CpuTicks::default());
    let aggregated = Aggregated::new(AggregatedSettings::default());
    aggregated.add(&Builder::window(0).row(1, "/a", &["f"], 1).build());
    Reading {
        snapshot,
        missed: vec![0],
        delivery: DeliveryStats { requests: BTreeMap::from([(Arc::from("OK"), 1)]), ..DeliveryStats::default() },
        aggregated: aggregated.told(),
        process: process(),
        build: BuildInfo { version: "1".into(), revision: "a".into() },
        ..Reading::default()
    }
}

fn process() -> ProcessReading {
    let web = ThreadReading { name: "web".to_owned(), threads: 1, ..ThreadReading::default() };
    ProcessReading { threads: vec![web], ..ProcessReading::default() }
}

fn labels(instrument: &Instrument, reading: &Reading) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut note = |labels: &[KeyValue]| out.extend(labels.iter().map(|l| l.key.to_string()));
    match instrument.read {
        Read::Count(read) | Read::Gauge(read) => read(reading, &mut |_, labels| note(labels)),
        Read::CountSeconds(read) => read(reading, &mut |_, labels| note(labels)),
        Read::UpDown(read) => read(reading, &mut |_, labels| note(labels)),
    }
    out
}

/// The name on `/metrics`, and its type.
fn prometheus(instrument: &Instrument) -> (String, &'static str) {
    let unit = match instrument.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let (suffix, kind) = match instrument.read {
        Read::Count(_) | Read::CountSeconds(_) => ("_total", "counter"),
        Read::UpDown(_) | Read::Gauge(_) => ("", "gauge"),
    };
    (format!("{}{unit}{suffix}", instrument.name.replace('.', "_")), kind)
}

fn reference() -> String {
    let reading = reading();
    let mut out = String::new();
    for (title, instruments) in GROUPS {
        let _ = write!(out, "\n### {title}\n\n| metric | type | labels | |\n| --- | --- | --- | --- |\n");
        for instrument in *instruments {
            let (name, kind) = prometheus(instrument);
            let labels: Vec<String> = labels(instrument, &reading).iter().map(|l| format!("`{l}`")).collect();
            let _ = writeln!(out, "| `{name}` | {kind} | {} | {} |", labels.join(" "), instrument.help);
        }
    }
    out.push('\n');
    out
}

#[test]
fn the_reference_is_what_the_instruments_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let wanted = format!("{head}{BEGIN}{}{END}{tail}", reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    } else {
        assert!(text == wanted, "docs/metrics.md is old: UPDATE_DOCS=1 cargo test -p exporter reference");
    }
}

#[test]
fn every_family_that_is_told_is_in_the_reference() {
    struct OneCpu;
    impl Statistics for OneCpu {
        fn snapshot(&self) -> Snapshot {
            reading().snapshot
        }
    }
    struct OneThread;
    impl Processes for OneThread {
        fn read(&self, _worker_pid: u32) -> ProcessReading {
            process()
        }
    }
    let aggregated = Some(Arc::new(Aggregated::new(AggregatedSettings::default())));
    let build = BuildInfo::default();
    let processes = Some(Arc::new(OneThread) as _);
    let sources = Sources { statistics: Arc::new(OneCpu), delivery: None, store: None, aggregated, processes, build };
    let text = Metrics::new(sources).unwrap().render().unwrap();
    let told: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let all = GROUPS.iter().flat_map(|(_, instruments)| *instruments).map(prometheus);
    let mut documented: BTreeSet<(String, String)> = all.map(|(name, kind)| (name, kind.to_owned())).collect();
    // Without an endpoint nobody answers.
    documented.remove(&("profiler_export_responses_total".to_owned(), "counter".to_owned()));
    assert_eq!(told, documented);
}
