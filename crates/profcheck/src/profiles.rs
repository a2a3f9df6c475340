//! Resources, scopes, profiles and samples.

use std::collections::{HashMap, HashSet};

use opentelemetry_proto::tonic::profiles::v1development::{
    Profile, ProfilesDictionary, ResourceProfiles, Sample, ValueType,
};

use crate::Report;
use crate::dictionary::attribute_set;

/// How a sample says how much: all samples of a profile should say it in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Values,
    Timestamps,
    Both,
}

pub(crate) fn check(report: &mut Report, resources: &[ResourceProfiles], d: &ProfilesDictionary) {
    if resources.is_empty() {
        report.error("resource_profiles", "empty");
    }
    let mut ids = HashMap::new();
    for (i, r) in resources.iter().enumerate() {
        let place = format!("resource_profiles[{i}]");
        let mut keys = HashSet::new();
        for a in r.resource.iter().flat_map(|r| &r.attributes) {
            let by_index = usize::try_from(a.key_strindex).ok().and_then(|i| d.string_table.get(i)).map_or("", |s| s);
            if !a.key.is_empty() && a.key_strindex != 0 {
                report.error(&place, format_args!("attribute {:?} has a key and a key_strindex", a.key));
            }
            report.index(
                format_args!("{place}.resource.attributes.key_strindex"),
                a.key_strindex,
                d.string_table.len(),
            );
            let key = if a.key.is_empty() { by_index } else { &a.key };
            if key.is_empty() {
                report.error(&place, "an attribute of the resource has no key");
            } else if !keys.insert(key) {
                report.error(&place, format_args!("attribute {key:?} of the resource stands twice"));
            }
        }
        if r.scope_profiles.is_empty() {
            report.error(&place, "has no scope_profiles");
        }
        for (j, s) in r.scope_profiles.iter().enumerate() {
            let place = format!("{place}.scope_profiles[{j}]");
            if s.profiles.is_empty() {
                report.error(&place, "has no profiles");
            }
            for (k, p) in s.profiles.iter().enumerate() {
                let place = format!("{place}.profiles[{k}]");
                profile(report, &place, p, d);
                if !p.profile_id.is_empty()
                    && let Some(first) = ids.insert(&p.profile_id, place.clone())
                {
                    report.error(&place, format_args!("profile_id is that of {first} too"));
                }
            }
        }
    }
}

fn profile(report: &mut Report, place: &str, p: &Profile, d: &ProfilesDictionary) {
    report.profiles += 1;
    attribute_set(report, place, &p.attribute_indices, d);
    value_type(report, &format!("{place}.sample_type"), p.sample_type.as_ref(), d);
    value_type(report, &format!("{place}.period_type"), p.period_type.as_ref(), d);
    if p.period < 0 {
        report.error(place, "period is negative");
    }
    if p.time_unix_nano == 0 {
        report.error(place, "time_unix_nano is not set");
    }
    let empty_id = p.profile_id.iter().all(|&b| b == 0);
    if !p.profile_id.is_empty() && (p.profile_id.len() != 16 || empty_id) {
        report.error(place, "profile_id is not 16 bytes, or all of them are zero");
    }
    if p.original_payload_format.is_empty() != p.original_payload.is_empty() {
        report.error(place, "original_payload and its format are not set together");
    }
    if p.samples.is_empty() {
        report.warn(place, "has no samples");
    }
    let mut shape = None;
    let mut identities = HashMap::new();
    for (i, s) in p.samples.iter().enumerate() {
        let place = format!("{place}.samples[{i}]");
        sample(report, &place, s, p, d);
        if let Some(own) = sample_shape(report, &place, s) {
            let first = *shape.get_or_insert(own);
            if own != first {
                report.error(&place, format_args!("is of shape {own:?}, the first is of shape {first:?}"));
            }
        }
        let mut attributes = s.attribute_indices.clone();
        attributes.sort_unstable();
        if let Some(first) = identities.insert((s.stack_index, s.link_index, attributes), i) {
            report.warn(&place, format_args!("has stack, link and attributes of samples[{first}]"));
        }
    }
}

fn value_type(report: &mut Report, place: &str, t: Option<&ValueType>, d: &ProfilesDictionary) {
    let Some(t) = t else {
        report.error(place, "missing");
        return;
    };
    for (name, index) in [("type_strindex", t.type_strindex), ("unit_strindex", t.unit_strindex)] {
        let place = format!("{place}.{name}");
        if report.index(&place, index, d.string_table.len()) && index == 0 {
            report.error(&place, "is the empty string");
        }
    }
}

fn sample(report: &mut Report, place: &str, s: &Sample, p: &Profile, d: &ProfilesDictionary) {
    report.index(format_args!("{place}.stack_index"), s.stack_index, d.stack_table.len());
    report.index(format_args!("{place}.link_index"), s.link_index, d.link_table.len());
    attribute_set(report, place, &s.attribute_indices, d);
    let end = p.time_unix_nano.saturating_add(p.duration_nano);
    for (i, &t) in s.timestamps_unix_nano.iter().enumerate() {
        if t < p.time_unix_nano || t >= end {
            report.error(
                format_args!("{place}.timestamps_unix_nano[{i}]"),
                format_args!("{t} is outside of [{}, {end})", p.time_unix_nano),
            );
        }
    }
    let count = if s.values.is_empty() {
        u64::try_from(s.timestamps_unix_nano.len()).unwrap_or(u64::MAX)
    } else {
        s.values.iter().fold(0, |sum: u64, &v| sum.saturating_add(u64::try_from(v).unwrap_or(0)))
    };
    report.samples = report.samples.saturating_add(count);
}

fn sample_shape(report: &mut Report, place: &str, s: &Sample) -> Option<Shape> {
    match (s.values.len(), s.timestamps_unix_nano.len()) {
        (0, 0) => {
            report.error(place, "has neither values nor timestamps");
            None
        }
        (values, 0) => {
            if values != 1 {
                report.error(place, format_args!("has {values} values and no timestamps"));
            }
            Some(Shape::Values)
        }
        (0, _) => Some(Shape::Timestamps),
        (values, times) => {
            if values != times {
                report.error(place, format_args!("has {values} values and {times} timestamps"));
            }
            Some(Shape::Both)
        }
    }
}
