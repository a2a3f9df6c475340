//! pprof files brought to [`Stacks`].

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use pprof_proto::{Label, Location, Profile};

use crate::roots::Roots;
use crate::stacks::{MARKER, Row, Stacks};

/// The largest file that a test reads, unpacked.
const MAX_BYTES: usize = 512 << 20;

/// Unpacks a file and checks it by pprof's own rules.
///
/// # Errors
/// When it is no pprof file, or breaks a rule.
pub fn read(bytes: &[u8]) -> Result<Profile> {
    let profile = pprof_proto::decode(bytes, MAX_BYTES)?;
    pprof_proto::check(&profile)?;
    Ok(profile)
}

/// The text at an index.
#[must_use]
pub fn text(profile: &Profile, index: i64) -> &str {
    usize::try_from(index).ok().and_then(|i| profile.string_table.get(i)).map_or("", |s| s)
}

/// The first label with a key.
#[must_use]
pub fn label<'a>(profile: &Profile, labels: &'a [Label], key: &str) -> Option<&'a Label> {
    labels.iter().find(|l| text(profile, l.key) == key)
}

/// All labels that are words, by their keys.
fn words(profile: &Profile, labels: &[Label]) -> std::collections::BTreeMap<String, String> {
    let words = labels.iter().filter(|l| l.str != 0);
    words.map(|l| (text(profile, l.key).to_owned(), text(profile, l.str).to_owned())).collect()
}

/// The file that a location belongs to; empty for none.
#[must_use]
pub fn file_of(profile: &Profile, location: u64) -> &str {
    let location = profile.location.iter().find(|l| l.id == location);
    let mapping = location.and_then(|l| profile.mapping.iter().find(|m| m.id == l.mapping_id));
    mapping.map_or("", |m| text(profile, m.filename))
}

/// Names in brackets that are of user space.
const USER: &[&str] = &["[vdso]", "[anon]", "[unknown]", "[heap]", "[stack]", "[vsyscall]"];

/// Whether a mapping's name is the kernel's: `[kernel]`, or a module's name in brackets.
pub(crate) fn is_kernel(name: &str) -> bool {
    name.starts_with('[') && !USER.iter().any(|user| name.starts_with(user))
}

/// The stacks of a profile whose first value is samples/count.
///
/// # Errors
/// When its values or references are not as ours are.
pub fn stacks(profile: &Profile) -> Result<Stacks> {
    let first = profile.sample_type.first().context("no sample type")?;
    ensure!(text(profile, first.r#type) == "samples" && text(profile, first.unit) == "count", "first value: {first:?}");
    let functions: HashMap<u64, &str> = profile.function.iter().map(|f| (f.id, text(profile, f.name))).collect();
    let locations: HashMap<u64, Vec<String>> = profile
        .location
        .iter()
        .map(|l| {
            let name = |id: &u64| functions.get(id).map_or_else(|| "?".to_owned(), |&f| f.to_owned());
            (l.id, l.line.iter().map(|line| name(&line.function_id)).collect())
        })
        .collect();
    let kernel: HashSet<u64> = {
        let mappings = profile.mapping.iter().filter(|m| is_kernel(text(profile, m.filename)));
        let mappings: HashSet<u64> = mappings.map(|m| m.id).collect();
        profile.location.iter().filter(|l| mappings.contains(&l.mapping_id)).map(|l| l.id).collect()
    };
    let is_marker = |names: &Vec<String>| names.iter().any(|n| n.starts_with(MARKER));
    let markers: HashSet<u64> = locations.iter().filter(|(_, n)| is_marker(n)).map(|(&id, _)| id).collect();
    let files: HashMap<u64, &str> = profile.mapping.iter().map(|m| (m.id, text(profile, m.filename))).collect();
    let mut known = Roots::default();
    let mut begins = |l: &Location| {
        let name = l.line.last().and_then(|line| functions.get(&line.function_id)).copied().unwrap_or("");
        known.begins(files.get(&l.mapping_id).copied().unwrap_or(""), l.address, name)
    };
    let roots: HashSet<u64> = profile.location.iter().filter(|l| begins(l)).map(|l| l.id).collect();
    let mut rows = Vec::with_capacity(profile.sample.len());
    for sample in &profile.sample {
        let word = |key: &str| label(profile, &sample.label, key).map(|l| text(profile, l.str).to_owned());
        let frames = sample.location_id.iter().flat_map(|id| locations.get(id).cloned().unwrap_or_default()).collect();
        rows.push(Row {
            process: word("process").unwrap_or_default(),
            pid: label(profile, &sample.label, "pid").and_then(|l| u64::try_from(l.num).ok()),
            comm: word("comm"),
            labels: words(profile, &sample.label),
            kernel: sample.location_id.first().is_some_and(|l| kernel.contains(l)),
            user: sample.location_id.iter().any(|l| !kernel.contains(l) && !markers.contains(l)),
            root: sample.location_id.last().is_some_and(|l| roots.contains(l)),
            frames,
            count: sample.value.first().copied().unwrap_or(0).try_into()?,
        });
    }
    let from = u64::try_from(profile.time_nanos)?;
    Ok(Stacks { from_unix_ns: from, to_unix_ns: from + u64::try_from(profile.duration_nanos)?, rows })
}
