use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{self as otel, ProfilesDictionary, ResourceProfiles};
use profile::Profile;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::fixture::{Builder, NOON_NS, WINDOW_NS, sample};

const PLENTY: usize = 4 << 20;

fn message(request: &Request) -> ExportProfilesServiceRequest {
    let message = ExportProfilesServiceRequest::decode(request.bytes.as_slice()).unwrap();
    let report = profcheck::check_request(&message);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.samples, request.samples());
    assert_eq!(report.profiles, request.profiles.len());
    message
}

fn one(profile: &Profile, settings: ResourceSettings) -> ExportProfilesServiceRequest {
    let encoded = Encoder::new(settings).encode(profile, PLENTY);
    assert_eq!((encoded.requests.len(), encoded.too_large), (1, 0));
    message(&encoded.requests[0])
}

fn at<T>(table: &[T], i: i32) -> &T {
    &table[usize::try_from(i).unwrap()]
}

fn profile_of(r: &ResourceProfiles) -> &otel::Profile {
    &r.scope_profiles[0].profiles[0]
}

fn resource_text<'a>(r: &'a ResourceProfiles, key: &str) -> &'a str {
    let attribute = r.resource.as_ref().unwrap().attributes.iter().find(|a| a.key == key);
    match attribute.and_then(|a| a.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(s)) => s,
        _ => "",
    }
}

/// A sample's frames as `type:name`, leaf first.
fn frames(d: &ProfilesDictionary, sample: &otel::Sample) -> Vec<String> {
    at(&d.stack_table, sample.stack_index)
        .location_indices
        .iter()
        .map(|&l| {
            let l = at(&d.location_table, l);
            let kind = at(&d.attribute_table, l.attribute_indices[0]).value.as_ref().unwrap().value.as_ref().unwrap();
            let Value::StringValue(kind) = kind else { panic!("{kind:?}") };
            format!("{kind}:{}", at(&d.string_table, at(&d.function_table, l.lines[0].function_index).name_strindex))
        })
        .collect()
}

#[test]
fn a_resource_is_an_executable_and_its_samples_carry_nothing() {
    let m = one(&sample(0), ResourceSettings::default());
    let d = m.dictionary.as_ref().unwrap();
    let rows: Vec<_> = m
        .resource_profiles
        .iter()
        .map(|r| {
            let values: Vec<_> = profile_of(r).samples.iter().map(|s| s.values[0]).collect();
            (resource_text(r, "service.name"), resource_text(r, "process.executable.path"), values)
        })
        .collect();
    assert_eq!(
        rows,
        [
            // Two processes with one stack: one sample.
            ("unknown_service:app", "/usr/bin/app", vec![80, 10]),
            ("unknown_service:gosrv", "/usr/bin/gosrv", vec![7]),
            ("unknown_service:[kernel]", "", vec![3]),
        ]
    );
    let app = profile_of(&m.resource_profiles[0]);
    assert_eq!(frames(d, &app.samples[0]), ["native:work", "native:main", "native:_start"]);
    assert_eq!(frames(d, &app.samples[1])[..3], ["kernel:read", "kernel:entry", "native:read"]);
    assert!(app.samples.iter().all(|s| s.attribute_indices.is_empty() && s.timestamps_unix_nano.is_empty()));
    let scope = m.resource_profiles[0].scope_profiles[0].scope.as_ref().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("profiler", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_type_is_the_one_that_consumers_know() {
    let m = one(&sample(0), ResourceSettings::default());
    let d = m.dictionary.as_ref().unwrap();
    let text = |i| at(&d.string_table, i).as_str();
    for r in &m.resource_profiles {
        let p = profile_of(r);
        let (sample, period) = (p.sample_type.unwrap(), p.period_type.unwrap());
        assert_eq!((text(sample.type_strindex), text(sample.unit_strindex)), ("samples", "count"));
        assert_eq!((text(period.type_strindex), text(period.unit_strindex)), ("cpu", "nanoseconds"));
        assert_eq!((p.period, p.time_unix_nano, p.duration_nano), (10_000_000, NOON_NS, WINDOW_NS));
        assert!(p.original_payload.is_empty());
    }
    let ids: std::collections::HashSet<_> =
        m.resource_profiles.iter().map(|r| profile_of(r).profile_id.clone()).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn mappings_carry_every_build_id() {
    let m = one(&sample(0), ResourceSettings::default());
    let d = m.dictionary.as_ref().unwrap();
    let ids: Vec<_> = d
        .mapping_table
        .iter()
        .map(|m| {
            let keys: Vec<_> = m
                .attribute_indices
                .iter()
                .map(|&a| at(&d.string_table, at(&d.attribute_table, a).key_strindex).rsplit('.').next().unwrap())
                .collect();
            (at(&d.string_table, m.filename_strindex).as_str(), m.memory_start, m.memory_limit, m.file_offset, keys)
        })
        .collect();
    assert!(ids.contains(&("/usr/bin/app", 0x1000, 0x9000, 0x1000, vec!["gnu", "htlhash"])), "{ids:?}");
    assert!(ids.contains(&("/usr/bin/gosrv", 0x1000, 0x9000, 0x1000, vec!["go", "htlhash"])), "{ids:?}");
    assert!(ids.contains(&("[kernel]", 0, 0, 0, vec![])), "{ids:?}");
}

#[test]
fn what_is_asked_for_is_there() {
    let mut owner = Builder::owner(10, "/usr/bin/app", "worker-1");
    owner.tid = Some(17);
    owner.place = Builder::place("c0ffee");
    let p = Builder::window(0).owned(owner, &["f"], 2).row(10, "/usr/bin/app", &["f"], 3).timed().build();
    let settings = ResourceSettings {
        per_sample_attributes: true,
        include_pid: true,
        original_payload: true,
        ..ResourceSettings::default()
    };
    let m = one(&p, settings);
    let d = m.dictionary.as_ref().unwrap();
    assert_eq!(m.resource_profiles.len(), 2, "one in a container, one not");
    assert_eq!(resource_text(&m.resource_profiles[1], "container.id"), "c0ffee");
    let sample = &profile_of(&m.resource_profiles[1]).samples[0];
    let keys: Vec<_> = sample
        .attribute_indices
        .iter()
        .map(|&a| at(&d.string_table, at(&d.attribute_table, a).key_strindex).as_str())
        .collect();
    assert_eq!(keys, ["thread.name", "thread.id"]);
    assert_eq!((sample.timestamps_unix_nano.clone(), sample.values.len()), (vec![NOON_NS, NOON_NS + WINDOW_NS / 2], 0));
    let payload = profile_of(&m.resource_profiles[0]);
    assert_eq!(payload.original_payload_format, "pprof");
    let pprof = pprof_proto::decode(&payload.original_payload, PLENTY).unwrap();
    pprof_proto::check(&pprof).unwrap();
    assert_eq!(pprof.sample.iter().map(|s| s.value[0]).collect::<Vec<_>>(), [3]);
}

#[test]
fn no_two_profiles_of_a_resource_begin_in_one_millisecond() {
    let mut encoder = Encoder::new(ResourceSettings::default());
    let mut starts = std::collections::HashSet::new();
    // The same window twice, split small: as after a clock that was set back.
    for timed in [false, true, false] {
        let mut builder = Builder::window(0);
        for i in 0..200u32 {
            builder = builder.row(i % 3, "/usr/bin/app", &[&format!("function_{i}"), "main"], 2);
        }
        let p = if timed { builder.timed().build() } else { builder.build() };
        let encoded = encoder.encode(&p, 2000);
        assert!(encoded.requests.len() > 5);
        for request in &encoded.requests {
            for r in &message(request).resource_profiles {
                let p = profile_of(r);
                assert!(starts.insert(p.time_unix_nano / 1_000_000), "{} was given before", p.time_unix_nano);
                let end = p.time_unix_nano + p.duration_nano;
                assert_eq!(end, NOON_NS + WINDOW_NS, "the end stays");
            }
        }
    }
}

#[test]
fn resources_that_are_told_alike_share_no_millisecond() {
    let p = Builder::window(0).row(1, "/a/app", &["f"], 3).row(2, "/b/app", &["f"], 2).build();
    let m = one(&p, ResourceSettings { max_attributes: 2, ..ResourceSettings::default() });
    let [a, b] = m.resource_profiles.as_slice() else { panic!("{m:?}") };
    assert_eq!(a.resource, b.resource);
    assert_eq!(profile_of(b).time_unix_nano - profile_of(a).time_unix_nano, 1_000_000);
}

#[test]
fn a_stack_too_large_alone_is_counted() {
    let long = "x".repeat(10_000);
    let p = Builder::window(0)
        .row(1, "/usr/bin/app", &["f", "main"], 5)
        .row(2, "/usr/bin/app", &[&long, "main"], 3)
        .row(2, "/usr/bin/other", &["g"], 1)
        .build();
    let encoded = Encoder::new(ResourceSettings::default()).encode(&p, 5000);
    assert_eq!(encoded.too_large, 3);
    assert_eq!(encoded.requests.iter().map(Request::samples).sum::<u64>(), 6);
    encoded.requests.iter().for_each(|r| {
        message(r);
    });
    // Timestamps are let go before samples are.
    let p = Builder::window(0).row(1, "/usr/bin/app", &["f"], 2000).timed().build();
    let encoded = Encoder::new(ResourceSettings::default()).encode(&p, 2000);
    assert_eq!((encoded.too_large, encoded.requests.len()), (0, 1));
    let m = message(&encoded.requests[0]);
    assert_eq!(profile_of(&m.resource_profiles[0]).samples[0].values, [2000]);
}

#[test]
fn nothing_makes_no_request() {
    assert_eq!(Encoder::new(ResourceSettings::default()).encode(&Profile::default(), PLENTY), Encoded::default());
}

proptest! {
    /// However small requests must be: each is below the size and conforms, and no sample is lost or sent twice.
    #[test]
    fn splitting_keeps_every_sample(
        rows in proptest::collection::vec((0u32..4, 0usize..3, proptest::collection::vec(0u8..30, 1..6), 1u64..50), 1..60),
        max in 900usize..6000,
        timed: bool, payload: bool, pid: bool, per_sample: bool,
    ) {
        let mut builder = Builder::window(0);
        for (tgid, executable, stack, count) in &rows {
            let names: Vec<_> = stack.iter().map(|f| format!("some_function_name_{f}")).collect();
            let stack: Vec<_> = names.iter().map(String::as_str).collect();
            builder = builder.row(*tgid, ["/bin/a", "/bin/b", ""][*executable], &stack, *count);
        }
        let p = if timed { builder.timed().build() } else { builder.build() };
        let settings = ResourceSettings {
            include_pid: pid,
            original_payload: payload,
            per_sample_attributes: per_sample,
            ..ResourceSettings::default()
        };
        let encoded = Encoder::new(settings).encode(&p, max);
        let mut sent = 0;
        for request in &encoded.requests {
            prop_assert!(request.bytes.len() <= max);
            let m = message(request);
            prop_assert!(m.resource_profiles.iter().all(|r| !profile_of(r).samples.is_empty()));
            sent += request.samples();
        }
        prop_assert_eq!(sent + encoded.too_large, p.samples());
    }
}
