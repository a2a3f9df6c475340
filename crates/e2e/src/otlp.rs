//! OTLP profiles brought to [`Stacks`].

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::profiles::v1development::{Profile, ProfilesData, ProfilesDictionary, Sample};

use crate::pprof::is_kernel;
use crate::roots::Roots;
use crate::stacks::{MARKER, Row, Stacks};

/// One profile of one resource.
#[derive(Clone, Debug)]
pub struct Received {
    /// The resource's attributes, as text.
    pub resource: BTreeMap<String, String>,
    /// The profile as it came.
    pub profile: Profile,
    /// Its stacks.
    pub stacks: Stacks,
}

/// A request as the same message that the Collector's files hold.
#[must_use]
pub fn data(request: ExportProfilesServiceRequest) -> ProfilesData {
    ProfilesData { resource_profiles: request.resource_profiles, dictionary: request.dictionary }
}

/// All profiles of a message.
///
/// # Errors
/// When an index leads nowhere.
pub fn profiles(data: &ProfilesData) -> Result<Vec<Received>> {
    let none = ProfilesDictionary::default();
    let dictionary = data.dictionary.as_ref().unwrap_or(&none);
    let mut all = Vec::new();
    for resource_profiles in &data.resource_profiles {
        let attributes = resource_profiles.resource.iter().flat_map(|r| &r.attributes);
        let resource = attributes.map(|a| attribute(dictionary, a)).collect::<Result<BTreeMap<_, _>>>()?;
        for profile in resource_profiles.scope_profiles.iter().flat_map(|s| &s.profiles) {
            let stacks = stacks(dictionary, &resource, profile)?;
            all.push(Received { resource: resource.clone(), profile: profile.clone(), stacks });
        }
    }
    Ok(all)
}

/// All stacks of many messages as one answer, from the earliest beginning to the latest end.
///
/// # Errors
/// When an index leads nowhere.
pub fn merged(all: &[Received]) -> Stacks {
    let mut merged = Stacks { from_unix_ns: u64::MAX, ..Stacks::default() };
    for one in all {
        merged.from_unix_ns = merged.from_unix_ns.min(one.stacks.from_unix_ns);
        merged.to_unix_ns = merged.to_unix_ns.max(one.stacks.to_unix_ns);
        merged.rows.extend(one.stacks.rows.iter().cloned());
    }
    merged
}

fn string(dictionary: &ProfilesDictionary, index: i32) -> Result<&str> {
    let text = usize::try_from(index).ok().and_then(|i| dictionary.string_table.get(i));
    text.map(String::as_str).with_context(|| format!("no string {index}"))
}

fn value(dictionary: &ProfilesDictionary, value: Option<&AnyValue>) -> Result<String> {
    Ok(match value.and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::StringValueStrindex(index)) => string(dictionary, *index)?.to_owned(),
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::BoolValue(b)) => b.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    })
}

fn attribute(dictionary: &ProfilesDictionary, attribute: &KeyValue) -> Result<(String, String)> {
    let key = &attribute.key;
    let key = if key.is_empty() { string(dictionary, attribute.key_strindex)? } else { key };
    Ok((key.to_owned(), value(dictionary, attribute.value.as_ref())?))
}

/// The attributes that a sample, mapping or location refers to.
///
/// # Errors
/// When an index leads nowhere.
pub fn referred(dictionary: &ProfilesDictionary, indices: &[i32]) -> Result<BTreeMap<String, String>> {
    let one = |&index: &i32| {
        let found = usize::try_from(index).ok().and_then(|i| dictionary.attribute_table.get(i));
        let found = found.with_context(|| format!("no attribute {index}"))?;
        Ok((string(dictionary, found.key_strindex)?.to_owned(), value(dictionary, found.value.as_ref())?))
    };
    indices.iter().map(one).collect()
}

fn stacks(dictionary: &ProfilesDictionary, resource: &BTreeMap<String, String>, profile: &Profile) -> Result<Stacks> {
    let kind = profile.sample_type.context("no sample type")?;
    let (kind, unit) = (string(dictionary, kind.type_strindex)?, string(dictionary, kind.unit_strindex)?);
    ensure!((kind, unit) == ("samples", "count"), "sample type {kind}/{unit}");
    let text = |key: &str| resource.get(key).cloned();
    let service = text("service.name").map(|s| s.trim_start_matches("unknown_service:").to_owned());
    let process = text("process.executable.name").or(service).unwrap_or_default();
    let pid = text("process.pid").and_then(|p| p.parse().ok());
    let mut roots = Roots::default();
    let mut row = |sample: &Sample| {
        let count: i64 = sample.values.iter().sum();
        let times = sample.timestamps_unix_nano.len() as u64;
        let frames = frames(dictionary, sample.stack_index)?;
        let is_user = |f: &Frame<'_>| !is_kernel(f.file) && !f.name.starts_with(MARKER);
        Ok(Row {
            process: process.clone(),
            pid,
            comm: None,
            labels: resource.clone(),
            kernel: frames.first().is_some_and(|f| is_kernel(f.file)),
            user: frames.iter().any(is_user),
            root: frames.last().is_some_and(|f| roots.begins(f.file, f.address, f.name)),
            frames: frames.iter().map(|f| f.name.to_owned()).collect(),
            count: if sample.values.is_empty() { times } else { u64::try_from(count)? },
        })
    };
    let rows = profile.samples.iter().map(&mut row).collect::<Result<_>>()?;
    let from = profile.time_unix_nano;
    Ok(Stacks { from_unix_ns: from, to_unix_ns: from + profile.duration_nano, rows })
}

/// A frame, as far as it is looked at here.
struct Frame<'a> {
    name: &'a str,
    file: &'a str,
    address: u64,
}

fn frames(dictionary: &ProfilesDictionary, stack: i32) -> Result<Vec<Frame<'_>>> {
    let index = |i: i32| usize::try_from(i).unwrap_or(usize::MAX);
    let stack = dictionary.stack_table.get(index(stack)).with_context(|| format!("no stack {stack}"))?;
    let mut frames = Vec::with_capacity(stack.location_indices.len());
    for &location in &stack.location_indices {
        let location =
            dictionary.location_table.get(index(location)).with_context(|| format!("no location {location}"))?;
        let mapping = dictionary.mapping_table.get(index(location.mapping_index));
        let file = mapping.map_or(Ok(""), |m| string(dictionary, m.filename_strindex))?;
        for line in &location.lines {
            let function = dictionary.function_table.get(index(line.function_index));
            let function = function.with_context(|| format!("no function {}", line.function_index))?;
            let name = string(dictionary, function.name_strindex)?;
            frames.push(Frame { name, file, address: location.address });
        }
    }
    Ok(frames)
}
