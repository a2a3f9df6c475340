//! The receivers tell back what they got: a message made by hand, whose stacks are known, goes the whole way. What the
//! other tests conclude from the receivers rests on this.
#![cfg(feature = "live")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use e2e::agent::PERIOD_NS;
use e2e::collector::Collector;
use e2e::otlp::merged;
use e2e::process::wait_for;
use e2e::pyroscope::Pyroscope;
use e2e::stacks::{Row, Stacks, differences};
use e2e::{figure, paths};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, Profile, ProfilesDictionary, ResourceProfiles, Sample,
    ScopeProfiles, Stack, ValueType,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

/// Leaf first, as OTLP has them.
const STACKS: &[(&[&str], u64)] =
    &[(&["leaf", "middle", "main"], 30), (&["other", "main"], 12), (&["main"], 1), (&["leaf", "leaf", "main"], 7)];

fn message() -> Result<ExportProfilesServiceRequest> {
    let names = ["", "samples", "count", "cpu", "nanoseconds", "leaf", "middle", "main", "other", "profile.frame.type"];
    let index = |name: &str| names.iter().position(|n| *n == name).map_or(0, |i| i32::try_from(i).unwrap_or(0));
    let functions = ["leaf", "middle", "main", "other"];
    let location =
        |name: &str| functions.iter().position(|f| *f == name).map_or(0, |i| i32::try_from(i + 1).unwrap_or(0));
    let mut dictionary = ProfilesDictionary {
        mapping_table: vec![Mapping::default()],
        location_table: vec![Location::default()],
        function_table: vec![Function::default()],
        link_table: vec![Link::default()],
        string_table: names.map(str::to_owned).to_vec(),
        attribute_table: vec![KeyValueAndUnit::default()],
        stack_table: vec![Stack::default()],
    };
    let native = Some(AnyValue { value: Some(Value::StringValue("native".to_owned())) });
    let frame_type = KeyValueAndUnit { key_strindex: index("profile.frame.type"), value: native, unit_strindex: 0 };
    dictionary.attribute_table.push(frame_type);
    for name in functions {
        let function_index = i32::try_from(dictionary.function_table.len())?;
        dictionary.function_table.push(Function { name_strindex: index(name), ..Function::default() });
        let lines = vec![Line { function_index, ..Line::default() }];
        dictionary.location_table.push(Location {
            lines,
            address: 16,
            attribute_indices: vec![1],
            ..Location::default()
        });
    }
    let mut samples = Vec::new();
    for (frames, count) in STACKS {
        let stack_index = i32::try_from(dictionary.stack_table.len())?;
        dictionary.stack_table.push(Stack { location_indices: frames.iter().map(|f| location(f)).collect() });
        samples.push(Sample { stack_index, values: vec![i64::try_from(*count)?], ..Sample::default() });
    }
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let kind = |kind: &str, unit: &str| Some(ValueType { type_strindex: index(kind), unit_strindex: index(unit) });
    let profile = Profile {
        sample_type: kind("samples", "count"),
        period_type: kind("cpu", "nanoseconds"),
        period: i64::try_from(PERIOD_NS)?,
        samples,
        time_unix_nano: now - 5_000_000_000,
        duration_nano: 5_000_000_000,
        profile_id: (1..=16).collect(),
        ..Profile::default()
    };
    let value = Some(AnyValue { value: Some(Value::StringValue("known".to_owned())) });
    let attributes = vec![KeyValue { key: "service.name".to_owned(), value, ..KeyValue::default() }];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let scope_profiles = vec![ScopeProfiles { profiles: vec![profile], ..ScopeProfiles::default() }];
    let resource_profiles = vec![ResourceProfiles { resource, scope_profiles, ..ResourceProfiles::default() }];
    Ok(ExportProfilesServiceRequest { resource_profiles, dictionary: Some(dictionary) })
}

#[test]
fn receivers_tell_back_what_they_got() -> Result<()> {
    let folder = paths::scratch("peers")?;
    let pyroscope = Pyroscope::start(&folder)?;
    let mut collector = Collector::start(&folder)?;
    let message = message()?;
    let report = profcheck::check_request(&message);
    ensure!(report.conforms(), "the message itself: {report}");
    let client = e2e::http::client(Duration::from_secs(30))?;
    for server in [format!("http://127.0.0.1:{}", collector.ports.http), pyroscope.url()] {
        let url = format!("{server}/v1development/profiles");
        let post = client.post(url).header("content-type", "application/x-protobuf").body(message.encode_to_vec());
        let answer = post.send()?;
        ensure!(answer.status().is_success(), "{}: {}", answer.status(), answer.text()?);
    }
    let rows = STACKS.iter().map(|(frames, count)| Row {
        process: "known".to_owned(),
        frames: frames.iter().map(|&f| f.to_owned()).collect(),
        count: *count,
        ..Row::default()
    });
    let known = Stacks { rows: rows.collect(), ..Stacks::default() };
    let collected = wait_for("the Collector's file", Duration::from_secs(30), || {
        let all = collector.profiles("http")?;
        Ok((!all.is_empty()).then(|| merged(&all)))
    })?;
    ensure!(differences(&known, &collected).is_empty(), "Collector: {:#?}", differences(&known, &collected));
    let services = pyroscope.label_values("service_name")?;
    ensure!(services == ["known"], "Pyroscope's services: {services:?}; {:?}", pyroscope.types()?);
    let found = pyroscope.samples("known", "{service_name=\"known\"}", None)?;
    ensure!(differences(&known, &found).is_empty(), "Pyroscope: {:#?}", differences(&known, &found));
    figure(format!("{} samples, {} stacks, the same everywhere", found.total(), found.rows.len()));
    // Stopped and started again, the Collector still has them.
    collector.stop()?;
    collector.run()?;
    ensure!(collector.profiles("http")?.len() == 1, "the Collector forgot");
    Ok(())
}
