//! A profile as pprof's `profile.proto`, gzipped.
//!
//! **In**: a profile that passes [`Profile::check`]. **Out**: bytes that pass pprof's own check; only what samples
//! refer to is written. **Units**: addresses are the file's own (ELF addresses), and so are the mappings' starts and
//! limits, so that pprof finds lines in the file itself; values are samples and CPU nanoseconds.
//! **Limits**: an index out of range is left out, never a panic.

use pprof_proto as proto;
use profile::named::{Entry, LocationKind, Mapping};
use profile::{Owner, Profile};
use rustc_hash::FxHashMap;

use crate::names::Names;
use crate::rfc3339::utc_millis;

/// What a pprof file says beyond the profile.
#[derive(Clone, Debug, Default)]
pub struct PprofOptions {
    /// Further comment lines; from and to are always stated.
    pub comments: Vec<String>,
}

/// Encodes a profile.
#[must_use]
pub fn encode(profile: &Profile, options: &PprofOptions) -> Vec<u8> {
    proto::encode(&message(profile, options))
}

/// A profile as pprof's message.
#[must_use]
pub fn message(profile: &Profile, options: &PprofOptions) -> proto::Profile {
    message_of(profile, &profile.entries.iter().collect::<Vec<_>>(), options)
}

/// Some entries of a profile as pprof's message.
pub(crate) fn message_of(profile: &Profile, entries: &[&Entry], options: &PprofOptions) -> proto::Profile {
    let mut writer = Writer::new(profile);
    writer.main_mapping(entries);
    for entry in entries {
        writer.entry(entry);
    }
    writer.finish(options)
}

/// Texts by content, each once.
struct Strings<'a> {
    index: FxHashMap<&'a str, i64>,
    table: Vec<String>,
}

impl<'a> Strings<'a> {
    fn put(&mut self, text: &'a str) -> i64 {
        if let Some(&i) = self.index.get(text) {
            return i;
        }
        let i = self.add(text.to_owned());
        self.index.insert(text, i);
        i
    }

    fn add(&mut self, text: String) -> i64 {
        self.table.push(text);
        i64::try_from(self.table.len() - 1).unwrap_or(i64::MAX)
    }
}

/// What is true of all locations of a mapping so far.
#[derive(Clone, Copy)]
struct Flags {
    functions: bool,
    filenames: bool,
    lines: bool,
    inlines: bool,
}

struct Writer<'a> {
    profile: &'a Profile,
    strings: Strings<'a>,
    out: proto::Profile,
    /// Ids by the profile's index; 0: not yet written.
    mappings: Vec<u64>,
    functions: Vec<u64>,
    locations: Vec<u64>,
    /// By mapping id minus one; none: no location yet.
    flags: Vec<Option<Flags>>,
}

impl<'a> Writer<'a> {
    fn new(profile: &'a Profile) -> Self {
        Self {
            profile,
            strings: Strings { index: std::iter::once(("", 0)).collect(), table: vec![String::new()] },
            out: proto::Profile::default(),
            mappings: vec![0; profile.mappings.len()],
            functions: vec![0; profile.functions.len()],
            locations: vec![0; profile.locations.len()],
            flags: Vec::new(),
        }
    }

    /// pprof takes the first mapping for the main program: the executable of the process with the most samples.
    fn main_mapping(&mut self, entries: &[&Entry]) {
        let mut counts: FxHashMap<_, (u64, u32)> = FxHashMap::default();
        for e in entries {
            let Some(owner) = self.profile.owners.get(e.owner as usize) else { continue };
            if !owner.kernel_thread {
                counts.entry(owner.process).or_insert((0, e.owner)).0 += e.count;
            }
        }
        // The lowest key wins where counts are equal: the result must not depend on a hash map's order.
        let hottest = counts.into_iter().max_by_key(|&(key, (count, _))| (count, std::cmp::Reverse(key)));
        let Some((_, (_, owner))) = hottest else { return };
        if let Some(mapping) = self.profile.owner_mappings.get(owner as usize).copied().flatten() {
            self.mapping(mapping);
        } else if let Some(owner) = self.profile.owners.get(owner as usize)
            && !owner.executable_path.is_empty()
        {
            let filename = self.strings.put(&owner.executable_path);
            self.add_mapping(proto::Mapping { filename, ..proto::Mapping::default() });
        }
    }

    fn add_mapping(&mut self, mapping: proto::Mapping) -> u64 {
        let id = self.out.mapping.len() as u64 + 1;
        self.out.mapping.push(proto::Mapping { id, ..mapping });
        self.flags.push(None);
        id
    }

    fn mapping(&mut self, index: u32) -> u64 {
        let Some(m) = self.profile.mappings.get(index as usize) else { return 0 };
        match self.mappings.get(index as usize) {
            Some(0) => {}
            Some(&id) => return id,
            None => return 0,
        }
        let filename = self.strings.put(self.profile.text(m.path));
        let build_id = self.strings.put(best_build_id(m));
        let id = self.add_mapping(proto::Mapping {
            memory_start: m.memory_start,
            memory_limit: m.memory_limit,
            file_offset: m.file_offset,
            filename,
            build_id,
            ..proto::Mapping::default()
        });
        self.mappings[index as usize] = id;
        id
    }

    fn function(&mut self, index: u32) -> u64 {
        let Some(f) = self.profile.functions.get(index as usize) else { return 0 };
        match self.functions.get(index as usize) {
            Some(0) => {}
            Some(&id) => return id,
            None => return 0,
        }
        let id = self.out.function.len() as u64 + 1;
        self.out.function.push(proto::Function {
            id,
            name: self.strings.put(self.profile.text(f.name)),
            system_name: self.strings.put(self.profile.text(f.system_name)),
            filename: self.strings.put(self.profile.text(f.file)),
            start_line: 0,
        });
        self.functions[index as usize] = id;
        id
    }

    fn location(&mut self, index: u32) -> u64 {
        let profile = self.profile;
        let Some(l) = profile.locations.get(index as usize) else { return 0 };
        match self.locations.get(index as usize) {
            Some(0) => {}
            Some(&id) => return id,
            None => return 0,
        }
        let mapping_id = l.mapping.map_or(0, |m| self.mapping(m));
        let mut line = Vec::with_capacity(l.lines.len());
        let mut files = true;
        for x in &l.lines {
            let function_id = self.function(x.function);
            if function_id != 0 {
                line.push(proto::Line { function_id, line: i64::from(x.line), column: 0 });
                files &= profile.functions.get(x.function as usize).is_some_and(|f| f.file != 0);
            }
        }
        if l.kind != LocationKind::Cut
            && let Some(flags) = usize::try_from(mapping_id).ok().and_then(|id| self.flags.get_mut(id.wrapping_sub(1)))
        {
            let known = flags.unwrap_or(Flags { functions: true, filenames: true, lines: true, inlines: false });
            *flags = Some(Flags {
                functions: known.functions && l.named,
                filenames: known.filenames && l.named && files,
                lines: known.lines && l.named && l.lines.iter().all(|x| x.line != 0),
                inlines: known.inlines || l.lines.len() > 1,
            });
        }
        let id = self.out.location.len() as u64 + 1;
        self.out.location.push(proto::Location { id, mapping_id, address: l.address, line, is_folded: false });
        self.locations[index as usize] = id;
        id
    }

    fn entry(&mut self, entry: &Entry) {
        let profile = self.profile;
        let (Some(owner), Some(stack)) =
            (profile.owners.get(entry.owner as usize), profile.stacks.get(entry.stack as usize))
        else {
            return;
        };
        let location_id = stack.iter().map(|&l| self.location(l)).filter(|&id| id != 0).collect();
        let count = i64::try_from(entry.count).unwrap_or(i64::MAX);
        let value = vec![count, count.saturating_mul(signed(profile.period_ns))];
        let label = self.labels(owner);
        self.out.sample.push(proto::Sample { location_id, value, label });
    }

    /// The numbers and names that `-tagfocus`, `-tagroot` and Pyroscope select by; their list is in
    /// `docs/attributes.md`.
    fn labels(&mut self, owner: &'a Owner) -> Vec<proto::Label> {
        let names = Names::of(owner);
        let mut labels = Vec::with_capacity(10);
        let strings = &mut self.strings;
        labels.push(proto::Label {
            key: strings.put("pid"),
            num: i64::from(owner.process.tgid),
            ..proto::Label::default()
        });
        let mut text = |key, value: &'a str| {
            if !value.is_empty() {
                labels.push(proto::Label { key: strings.put(key), str: strings.put(value), ..proto::Label::default() });
            }
        };
        text("process", &owner.process_name);
        text("comm", &owner.comm);
        if owner.tid.is_some() {
            text("thread", &owner.comm);
        }
        text("service_name", names.service);
        text("namespace", names.namespace);
        text("pod", names.pod);
        text("container", names.container);
        text("container_id", owner.container_id().unwrap_or_default());
        if let Some(tid) = owner.tid {
            labels.push(proto::Label { key: strings.put("tid"), num: i64::from(tid), ..proto::Label::default() });
        }
        labels
    }

    fn finish(mut self, options: &PprofOptions) -> proto::Profile {
        let span = self.profile.span;
        let (samples, count) = (self.strings.put("samples"), self.strings.put("count"));
        let (cpu, nanoseconds) = (self.strings.put("cpu"), self.strings.put("nanoseconds"));
        let cpu_type = proto::ValueType { r#type: cpu, unit: nanoseconds };
        let mut out = self.out;
        out.sample_type = vec![proto::ValueType { r#type: samples, unit: count }, cpu_type];
        out.default_sample_type = cpu;
        out.period_type = Some(cpu_type);
        out.period = signed(self.profile.period_ns);
        out.time_nanos = signed(span.from_unix_ns);
        out.duration_nanos = signed(span.duration_ns());
        let states = [
            format!("from: {} ({})", utc_millis(span.from_unix_ns), span.from_unix_ns),
            format!("to: {} ({})", utc_millis(span.to_unix_ns), span.to_unix_ns),
        ];
        for comment in states.into_iter().chain(options.comments.iter().cloned()) {
            out.comment.push(self.strings.add(comment));
        }
        for (mapping, flags) in out.mapping.iter_mut().zip(&self.flags) {
            if let Some(flags) = flags {
                mapping.has_functions = flags.functions;
                mapping.has_filenames = flags.filenames;
                mapping.has_line_numbers = flags.lines;
                mapping.has_inline_frames = flags.inlines;
            }
        }
        out.string_table = self.strings.table;
        out
    }
}

/// What pprof matches files by: the linker's own id, else Go's, else the hash of the file.
fn best_build_id(m: &Mapping) -> &str {
    [&m.build_id.gnu, &m.build_id.go, &m.build_id.htlhash].into_iter().find(|s| !s.is_empty()).map_or("", |s| s)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
