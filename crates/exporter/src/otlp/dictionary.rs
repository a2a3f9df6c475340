//! The tables that one request shares, filled as samples need them.
//!
//! **In**: indices of a profile. **Out**: indices of the dictionary; each row stands once, and row 0 of every table
//! is the zero value. **Limits**: an index out of range becomes 0.

use std::hash::Hash;

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, ProfilesDictionary, Stack,
};
use profile::Profile;
use profile::named::LocationKind;
use rustc_hash::FxHashMap;

/// A table whose rows are unique, in order of appearance, behind its zero value.
struct Table<T> {
    rows: Vec<T>,
    index: FxHashMap<T, i32>,
}

impl<T: Clone + Default + Eq + Hash> Table<T> {
    fn new() -> Self {
        Self { rows: vec![T::default()], index: std::iter::once((T::default(), 0)).collect() }
    }

    fn put(&mut self, row: T) -> i32 {
        if let Some(&i) = self.index.get(&row) {
            return i;
        }
        let i = i32::try_from(self.rows.len()).unwrap_or(i32::MAX);
        self.rows.push(row.clone());
        self.index.insert(row, i);
        i
    }
}

/// A location as something that hashes: mapping, address, lines, frame type.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Place(i32, u64, Vec<Line>, i32);

/// An attribute as something that hashes: key and value.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Attribute(i32, AttributeValue);

#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) enum AttributeValue {
    #[default]
    None,
    Text(String),
    Number(i64),
}

/// A dictionary that grows with the samples of one request.
pub(crate) struct Dictionary<'a> {
    profile: &'a Profile,
    strings: FxHashMap<&'a str, i32>,
    string_table: Vec<String>,
    attributes: Table<Attribute>,
    mappings: Table<Mapping>,
    functions: Table<Function>,
    locations: Table<Place>,
    stacks: Table<Stack>,
    /// By the profile's index; none: not yet put.
    known_locations: Vec<Option<i32>>,
    known_mappings: Vec<Option<i32>>,
    known_stacks: FxHashMap<u32, i32>,
}

impl<'a> Dictionary<'a> {
    pub(crate) fn new(profile: &'a Profile) -> Self {
        Self {
            profile,
            strings: std::iter::once(("", 0)).collect(),
            string_table: vec![String::new()],
            attributes: Table::new(),
            mappings: Table::new(),
            functions: Table::new(),
            locations: Table::new(),
            stacks: Table::new(),
            known_locations: vec![None; profile.locations.len()],
            known_mappings: vec![None; profile.mappings.len()],
            known_stacks: FxHashMap::default(),
        }
    }

    pub(crate) fn string(&mut self, text: &'a str) -> i32 {
        *self.strings.entry(text).or_insert_with(|| {
            self.string_table.push(text.to_owned());
            i32::try_from(self.string_table.len() - 1).unwrap_or(i32::MAX)
        })
    }

    pub(crate) fn attribute(&mut self, key: &'static str, value: AttributeValue) -> i32 {
        let key = self.string(key);
        self.attributes.put(Attribute(key, value))
    }

    fn mapping(&mut self, index: u32) -> i32 {
        let profile = self.profile;
        let Some(m) = profile.mappings.get(index as usize) else { return 0 };
        if let Some(known) = self.known_mappings.get(index as usize).copied().flatten() {
            return known;
        }
        let mut attribute_indices = Vec::new();
        for (key, id) in [
            ("process.executable.build_id.gnu", &m.build_id.gnu),
            ("process.executable.build_id.go", &m.build_id.go),
            ("process.executable.build_id.htlhash", &m.build_id.htlhash),
        ] {
            if !id.is_empty() {
                attribute_indices.push(self.attribute(key, AttributeValue::Text(id.clone())));
            }
        }
        let filename_strindex = self.string(profile.text(m.path));
        // An unknown range is zero on both sides.
        let (memory_start, memory_limit) =
            if m.memory_start < m.memory_limit { (m.memory_start, m.memory_limit) } else { (0, 0) };
        let row =
            Mapping { memory_start, memory_limit, file_offset: m.file_offset, filename_strindex, attribute_indices };
        let put = self.mappings.put(row);
        self.known_mappings[index as usize] = Some(put);
        put
    }

    fn function(&mut self, index: u32) -> i32 {
        let profile = self.profile;
        let Some(f) = profile.functions.get(index as usize) else { return 0 };
        let row = Function {
            name_strindex: self.string(profile.text(f.name)),
            system_name_strindex: self.string(profile.text(f.system_name)),
            filename_strindex: self.string(profile.text(f.file)),
            start_line: 0,
        };
        self.functions.put(row)
    }

    fn location(&mut self, index: u32) -> i32 {
        let profile = self.profile;
        let Some(l) = profile.locations.get(index as usize) else { return 0 };
        if let Some(known) = self.known_locations.get(index as usize).copied().flatten() {
            return known;
        }
        let frame_type = match l.kind {
            LocationKind::Kernel => "kernel",
            LocationKind::Native | LocationKind::Cut => "native",
        };
        let lines = l
            .lines
            .iter()
            .map(|x| Line { function_index: self.function(x.function), line: i64::from(x.line), column: 0 })
            .filter(|x| x.function_index != 0)
            .collect();
        let mapping = l.mapping.map_or(0, |m| self.mapping(m));
        let frame_type = self.attribute("profile.frame.type", AttributeValue::Text(frame_type.into()));
        let put = self.locations.put(Place(mapping, l.address, lines, frame_type));
        self.known_locations[index as usize] = Some(put);
        put
    }

    pub(crate) fn stack(&mut self, index: u32) -> i32 {
        if let Some(&known) = self.known_stacks.get(&index) {
            return known;
        }
        let profile = self.profile;
        let Some(stack) = profile.stacks.get(index as usize) else { return 0 };
        let location_indices = stack.iter().map(|&l| self.location(l)).filter(|&l| l != 0).collect();
        let put = self.stacks.put(Stack { location_indices });
        self.known_stacks.insert(index, put);
        put
    }

    pub(crate) fn finish(self) -> ProfilesDictionary {
        let attribute = |a: Attribute| KeyValueAndUnit {
            key_strindex: a.0,
            value: match a.1 {
                AttributeValue::None => None,
                AttributeValue::Text(text) => Some(Value::StringValue(text)),
                AttributeValue::Number(n) => Some(Value::IntValue(n)),
            }
            .map(|value| AnyValue { value: Some(value) }),
            unit_strindex: 0,
        };
        let location = |l: Place| Location {
            mapping_index: l.0,
            address: l.1,
            lines: l.2,
            attribute_indices: if l.3 == 0 { Vec::new() } else { vec![l.3] },
        };
        ProfilesDictionary {
            mapping_table: self.mappings.rows,
            location_table: self.locations.rows.into_iter().map(location).collect(),
            function_table: self.functions.rows,
            link_table: vec![Link::default()],
            string_table: self.string_table,
            attribute_table: self.attributes.rows.into_iter().map(attribute).collect(),
            stack_table: self.stacks.rows,
        }
    }
}
