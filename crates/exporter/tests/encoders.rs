//! All encoders on profiles that break their own rules: never a panic, never a message that breaks its rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use exporter::metrics::{Aggregated, AggregatedSettings, BuildInfo, Metrics, Sources, Statistics};
use exporter::otlp::{Encoder, ResourceSettings};
use exporter::pprof::{self, PprofOptions};
use exporter::{flamegraph, folded, table};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use profile::named::{Entry, Function, Line, Location, LocationKind, Mapping};
use profile::stats::Snapshot;
use profile::{BuildId, Container, Identity, Owner, Place, ProcessKey, Profile, Runtime, Span};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;

/// Mostly a small index, now and then one that is far out of range.
fn index() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0u32..6, 1 => any::<u32>()]
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "\\PC{0,12}|[;\n\r\t <>&\"'\u{0}]{0,5}".prop_map(Arc::from)
}

fn mapping() -> impl Strategy<Value = Mapping> {
    (index(), "[0-9a-f]{0,8}", any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
        |(path, id, memory_start, memory_limit, kernel)| Mapping {
            path,
            build_id: BuildId { gnu: id.clone(), go: String::new(), htlhash: id },
            memory_start,
            memory_limit,
            file_offset: memory_start / 2,
            kernel,
        },
    )
}

fn location() -> impl Strategy<Value = Location> {
    let kind = prop_oneof![Just(LocationKind::Native), Just(LocationKind::Kernel), Just(LocationKind::Cut)];
    (option::of(index()), any::<u64>(), vec((index(), any::<u32>()), 0..3), kind, any::<bool>()).prop_map(
        |(mapping, address, lines, kind, named)| Location {
            mapping,
            address,
            lines: lines.into_iter().map(|(function, line)| Line { function, line }).collect(),
            kind,
            named,
        },
    )
}

fn owner() -> impl Strategy<Value = Arc<Owner>> {
    let names = (text(), text(), text(), vec((text(), text()), 0..4));
    let keys = ["k8s.container.name", "k8s.namespace.name", "k8s.pod.name"].map(Arc::<str>::from);
    let identity = names.prop_map(move |(service_name, pod, container, mut attributes)| {
        attributes.extend(keys.iter().cloned().zip([container, pod.clone(), pod]));
        attributes.sort();
        attributes.dedup_by(|a, b| a.0 == b.0);
        Arc::new(Identity { service_name, attributes })
    });
    let about = (option::of(text()), option::of(identity));
    (0u32..3, option::of(any::<u32>()), text(), text(), text(), about, any::<bool>()).prop_map(
        |(tgid, tid, comm, process_name, executable_path, (container_id, identity), kernel_thread)| {
            Arc::new(Owner {
                process: ProcessKey { tgid, leader_start_mono_ns: 1 },
                tid,
                comm,
                process_name,
                executable_path,
                place: container_id.map(|id| {
                    let container = Container { id, runtime: Runtime::Unknown, pod: None };
                    Arc::new(Place { container: Some(container), ..Place::default() })
                }),
                kernel_thread,
                identity,
                ..Owner::default()
            })
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    (index(), index(), prop_oneof![9 => 0u64..9, 1 => 0u64..1 << 40], vec(any::<u64>(), 0..3))
        .prop_map(|(owner, stack, count, times_unix_ns)| Entry { owner, stack, count, times_unix_ns })
}

fn profile() -> impl Strategy<Value = Profile> {
    let tables = (
        vec(text(), 0..6),
        vec(mapping(), 0..4),
        vec((index(), index(), index()), 0..6),
        vec(location(), 0..6),
        vec(vec(index(), 0..5), 0..6),
        vec(owner(), 0..5),
        vec(option::of(index()), 0..5),
        vec(entry(), 0..12),
    );
    (tables, any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |((texts, mappings, functions, locations, stacks, owners, owner_mappings, entries), from, to, period_ns)| {
            let mut strings: Vec<Arc<str>> = vec!["".into()];
            strings.extend(texts);
            Profile {
                span: Span { from_mono_ns: from, to_mono_ns: to, from_unix_ns: to, to_unix_ns: from },
                period_ns,
                strings,
                mappings,
                functions: functions
                    .into_iter()
                    .map(|(name, system_name, file)| Function { name, system_name, file })
                    .collect(),
                locations,
                stacks: stacks.into_iter().map(Into::into).collect(),
                owners,
                owner_mappings,
                entries,
            }
        },
    )
}

struct Nothing;

impl Statistics for Nothing {
    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}

/// What a scrape tells of samples by function: the sum of what ran itself.
fn aggregated(p: &Profile, series: usize) -> u64 {
    let aggregated = Arc::new(Aggregated::new(AggregatedSettings { series, ..AggregatedSettings::default() }));
    aggregated.add(p);
    let (statistics, build) = (Arc::new(Nothing), BuildInfo::default());
    let sources =
        Sources { statistics, delivery: None, store: None, aggregated: Some(aggregated), processes: None, build };
    let text = Metrics::new(sources).unwrap().render().unwrap();
    let rows = text.lines().filter(|l| l.starts_with("profiler_aggregated_total{") && l.contains("self=\"true\""));
    rows.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

proptest! {
    #[test]
    fn broken_profiles_make_valid_messages(
        p in profile(),
        max in 300usize..3000,
        include_pid: bool, original_payload: bool, per_sample_attributes: bool,
    ) {
        prop_assert_eq!(pprof_proto::check(&pprof::message(&p, &PprofOptions::default())), Ok(()));
        let mut text = Vec::new();
        folded::write(&p, &mut text).unwrap();
        prop_assert!(!String::from_utf8(text).unwrap().contains("\n\n"));
        let _ = table::render(&table::top(&p, 5));
        let _ = flamegraph::html(&p, "title");
        let settings =
            ResourceSettings { include_pid, original_payload, per_sample_attributes, ..ResourceSettings::default() };
        let encoded = Encoder::new(settings).encode(&p, max);
        for request in &encoded.requests {
            prop_assert!(request.bytes.len() <= max);
            let report = profcheck::check_request(&ExportProfilesServiceRequest::decode(request.bytes.as_slice()).unwrap());
            prop_assert!(report.conforms(), "{}", report);
        }
        // What has an owner is sent or too large; the rest is left out, and the machine counts it.
        let owned: u64 = p.entries.iter().filter(|e| (e.owner as usize) < p.owners.len()).map(|e| e.count).sum();
        let sent: u64 = encoded.requests.iter().map(exporter::otlp::Request::samples).sum();
        prop_assert_eq!(sent + encoded.too_large, owned);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn broken_profiles_are_counted_to_the_sample(p in profile(), series in 1_usize..8) {
        prop_assert_eq!(aggregated(&p, series), p.samples());
    }
}
