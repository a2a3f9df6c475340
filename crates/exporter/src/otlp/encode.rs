//! One profile into as few requests as fit.
//!
//! **Limits**: a request is at most as large as the caller says, uncompressed. What does not fit is halved, by
//! resource first, then by stack; a single stack that does not fit goes without its original payload and its
//! timestamps, and where that does not help it is not sent but counted.

use std::hash::{BuildHasher, Hasher, RandomState};

use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::profiles::v1development::{self as otel, ResourceProfiles, Sample, ScopeProfiles};
use opentelemetry_proto::tonic::resource::v1::Resource;
use profile::{Owner, Profile};
use prost::Message;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::clock::Starts;
use super::dictionary::{AttributeValue, Dictionary};
use super::groups::{Group, Groups, count, groups, halve};
use super::resource::SAMPLE_ATTRIBUTES;
use super::settings::ResourceSettings;
use crate::pprof::{self, PprofOptions};

/// The name of the instrumentation scope.
pub const SCOPE_NAME: &str = "profiler";

/// What the start and the duration of a profile may grow by once a free start is chosen.
const SLACK_BYTES_PER_PROFILE: usize = 24;

/// An encoded export request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `ExportProfilesServiceRequest`, uncompressed.
    pub bytes: Vec<u8>,
    /// The samples of each profile in it.
    pub profiles: Vec<u64>,
}

impl Request {
    /// The samples that the request carries.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.profiles.iter().sum()
    }
}

/// What became of a profile: its samples are those of the requests and those too large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The requests.
    pub requests: Vec<Request>,
    /// Samples whose stack alone is larger than a request may be.
    pub too_large: u64,
    /// Samples of a resource that found no room: they are in one that says nothing of their process.
    pub unattributed: u64,
    /// Attributes that were left out, in all requests.
    pub left_out_attributes: u64,
}

/// Turns profiles into requests; remembers which start times were given.
#[derive(Debug)]
pub struct Encoder {
    settings: ResourceSettings,
    starts: Starts,
    /// Hashed by the operating system's randomness: a source of identifiers.
    random: RandomState,
    made: u64,
}

/// What may be left out of a request to make it fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extras {
    With,
    Without,
}

impl Encoder {
    /// An encoder that has not given any start time yet.
    #[must_use]
    pub fn new(settings: ResourceSettings) -> Self {
        Self { settings, starts: Starts::default(), random: RandomState::new(), made: 0 }
    }

    /// Encodes a profile into requests of at most `max_bytes` each. A profile without samples makes none.
    pub fn encode(&mut self, profile: &Profile, max_bytes: usize) -> Encoded {
        let Groups { groups, unattributed } = groups(profile, &self.settings);
        let mut out = Encoded { unattributed, ..Encoded::default() };
        // Last in, first out: the hottest resource goes first.
        let mut waiting = vec![groups];
        while let Some(groups) = waiting.pop() {
            if groups.is_empty() {
                continue;
            }
            match self.request(profile, &groups, Extras::With, max_bytes, &mut out) {
                Some(request) => out.requests.push(request),
                None => match halve(&groups) {
                    Some((first, second)) => waiting.extend([second, first]),
                    None => match self.request(profile, &groups, Extras::Without, max_bytes, &mut out) {
                        Some(request) => out.requests.push(request),
                        None => out.too_large += count(&groups),
                    },
                },
            }
        }
        out
    }

    /// The request for some groups, if it fits.
    fn request(
        &mut self,
        profile: &Profile,
        groups: &[Group<'_>],
        extras: Extras,
        max_bytes: usize,
        encoded: &mut Encoded,
    ) -> Option<Request> {
        let mut dictionary = Dictionary::new(profile);
        let mut left_out = 0;
        let resource_profiles: Vec<_> = groups
            .iter()
            .map(|g| {
                let (resource, n) = g.key.resource(&self.settings);
                left_out += n;
                resource_profiles(&mut dictionary, profile, g, resource, &self.settings, extras)
            })
            .collect();
        let mut message = ExportProfilesServiceRequest { resource_profiles, dictionary: Some(dictionary.finish()) };
        if message.encoded_len().saturating_add(groups.len() * SLACK_BYTES_PER_PROFILE) > max_bytes {
            return None;
        }
        encoded.left_out_attributes += left_out;
        for resource in &mut message.resource_profiles {
            // By what is told: keys that differ only in what was left out are one resource to whoever receives them.
            let told = FxBuildHasher.hash_one(resource.resource.as_ref().map(Message::encode_to_vec));
            for p in resource.scope_profiles.iter_mut().flat_map(|s| &mut s.profiles) {
                let end = p.time_unix_nano.saturating_add(p.duration_nano);
                let timed = p.samples.iter().any(|s| !s.timestamps_unix_nano.is_empty());
                p.time_unix_nano = self.starts.take(told, p.time_unix_nano, timed);
                p.duration_nano = end.saturating_sub(p.time_unix_nano).max(1);
                p.profile_id = self.identifier().to_vec();
            }
        }
        let profiles = groups.iter().map(|g| g.entries.iter().map(|e| e.count).sum()).collect();
        Some(Request { bytes: message.encode_to_vec(), profiles })
    }

    /// 16 random bytes, never all zero.
    fn identifier(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        for half in id.chunks_exact_mut(8) {
            self.made = self.made.wrapping_add(1);
            let mut hasher = self.random.build_hasher();
            hasher.write_u64(self.made);
            half.copy_from_slice(&hasher.finish().to_le_bytes());
        }
        id[0] |= 1;
        id
    }
}

fn resource_profiles<'a>(
    dictionary: &mut Dictionary<'a>,
    profile: &'a Profile,
    group: &Group<'a>,
    resource: Resource,
    settings: &ResourceSettings,
    extras: Extras,
) -> ResourceProfiles {
    let scope = InstrumentationScope {
        name: SCOPE_NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let mut out = one_profile(dictionary, profile, group, settings, extras);
    if settings.original_payload && extras == Extras::With {
        out.original_payload_format = "pprof".into();
        out.original_payload =
            pprof_proto::encode(&pprof::message_of(profile, &group.entries, &PprofOptions::default()));
    }
    ResourceProfiles {
        resource: Some(resource),
        scope_profiles: vec![ScopeProfiles { scope: Some(scope), profiles: vec![out], ..ScopeProfiles::default() }],
        schema_url: String::new(),
    }
}

fn one_profile<'a>(
    dictionary: &mut Dictionary<'a>,
    profile: &'a Profile,
    group: &Group<'a>,
    settings: &ResourceSettings,
    extras: Extras,
) -> otel::Profile {
    let span = profile.span;
    let (samples, count) = (dictionary.string("samples"), dictionary.string("count"));
    let (cpu, nanoseconds) = (dictionary.string("cpu"), dictionary.string("nanoseconds"));
    // All samples of a profile are of one shape.
    let timed = extras == Extras::With && group.entries.iter().all(|e| e.times_unix_ns.len() as u64 == e.count);
    let end = if timed {
        span.from_unix_ns.saturating_add(span.duration_ns()).max(span.to_unix_ns)
    } else {
        span.from_unix_ns.saturating_add(span.duration_ns())
    }
    .max(span.from_unix_ns.saturating_add(1));
    let mut out: Vec<Sample> = Vec::with_capacity(group.entries.len());
    let mut known: FxHashMap<(i32, Vec<i32>), usize> = FxHashMap::default();
    for e in &group.entries {
        let stack_index = dictionary.stack(e.stack);
        let attribute_indices = match profile.owners.get(e.owner as usize) {
            Some(owner) if settings.per_sample_attributes => sample_attributes(dictionary, owner, settings),
            _ => Vec::new(),
        };
        let next = out.len();
        let at = *known.entry((stack_index, attribute_indices.clone())).or_insert(next);
        if at == next {
            out.push(Sample { stack_index, attribute_indices, ..Sample::default() });
        }
        let Some(sample) = out.get_mut(at) else { continue };
        if timed {
            let last = end.saturating_sub(1);
            let times = e.times_unix_ns.iter().map(|t| (*t).clamp(span.from_unix_ns, last));
            sample.timestamps_unix_nano.extend(times);
        } else {
            let count = i64::try_from(e.count).unwrap_or(i64::MAX);
            match sample.values.first_mut() {
                Some(value) => *value = value.saturating_add(count),
                None => sample.values.push(count),
            }
        }
    }
    out.iter_mut().for_each(|s| s.timestamps_unix_nano.sort_unstable());
    otel::Profile {
        sample_type: Some(otel::ValueType { type_strindex: samples, unit_strindex: count }),
        samples: out,
        time_unix_nano: span.from_unix_ns.max(1),
        duration_nano: end.saturating_sub(span.from_unix_ns),
        period_type: Some(otel::ValueType { type_strindex: cpu, unit_strindex: nanoseconds }),
        // Consumers refuse a CPU profile without a period.
        period: i64::try_from(profile.period_ns).unwrap_or(i64::MAX).max(1),
        ..otel::Profile::default()
    }
}

/// What tells samples of one stack apart, where asked for.
fn sample_attributes(dictionary: &mut Dictionary<'_>, owner: &Owner, settings: &ResourceSettings) -> Vec<i32> {
    let mut out = Vec::with_capacity(SAMPLE_ATTRIBUTES);
    if !owner.comm.is_empty() {
        out.push(dictionary.attribute("thread.name", AttributeValue::Text(owner.comm.to_string())));
    }
    if let Some(tid) = owner.tid {
        out.push(dictionary.attribute("thread.id", AttributeValue::Number(i64::from(tid))));
    }
    if !settings.include_pid {
        out.push(dictionary.attribute("process.pid", AttributeValue::Number(i64::from(owner.process.tgid))));
    }
    out
}
