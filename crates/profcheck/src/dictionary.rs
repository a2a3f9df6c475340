//! The tables: a zero value first, indices in range, no row twice.

use std::collections::HashMap;
use std::hash::Hash;

use opentelemetry_proto::tonic::profiles::v1development::{KeyValueAndUnit, ProfilesDictionary};

use crate::Report;

/// The key of a location's kind in the semantic conventions.
const FRAME_TYPE: &str = "profile.frame.type";

pub(crate) fn check(report: &mut Report, d: &ProfilesDictionary) {
    strings(report, d);
    zero_attribute(report, d);
    zero(report, "mapping_table", &d.mapping_table);
    zero(report, "function_table", &d.function_table);
    zero(report, "location_table", &d.location_table);
    zero(report, "stack_table", &d.stack_table);
    zero(report, "link_table", &d.link_table);
    attributes(report, d);
    mappings(report, d);
    functions(report, d);
    locations(report, d);
    stacks(report, d);
    links(report, d);
}

fn zero<T: Default + PartialEq>(report: &mut Report, table: &str, rows: &[T]) {
    match rows.first() {
        None => report.error(format_args!("dictionary.{table}"), "empty; the zero value must be its first row"),
        Some(first) if *first != T::default() => {
            report.error(format_args!("dictionary.{table}[0]"), "is not the zero value");
        }
        Some(_) => {}
    }
}

/// An empty value is as good as none: the Collector writes one.
fn zero_attribute(report: &mut Report, d: &ProfilesDictionary) {
    match d.attribute_table.first() {
        Some(a)
            if (a.key_strindex, a.unit_strindex) == (0, 0) && a.value.as_ref().is_none_or(|v| v.value.is_none()) => {}
        _ => zero(report, "attribute_table", &d.attribute_table),
    }
}

/// Warns of rows that stand twice.
fn twice<K: Eq + Hash>(report: &mut Report, table: &str, keys: impl Iterator<Item = K>) {
    let mut seen = HashMap::new();
    for (i, key) in keys.enumerate() {
        if let Some(first) = seen.insert(key, i) {
            report.warn(format_args!("dictionary.{table}[{i}]"), format_args!("the same as [{first}]"));
        }
    }
}

fn strings(report: &mut Report, d: &ProfilesDictionary) {
    match d.string_table.first() {
        None => report.error("dictionary.string_table", "empty; the empty string must be its first row"),
        Some(first) if !first.is_empty() => report.error("dictionary.string_table[0]", "is not the empty string"),
        Some(_) => {}
    }
    twice(report, "string_table", d.string_table.iter());
}

/// Checks a set of attributes: indices in range, none of them zero, no key twice.
pub(crate) fn attribute_set(report: &mut Report, place: &str, indices: &[i32], d: &ProfilesDictionary) {
    let mut seen = HashMap::new();
    for (i, &index) in indices.iter().enumerate() {
        let place = format!("{place}.attribute_indices[{i}]");
        if !report.index(&place, index, d.attribute_table.len()) {
            continue;
        }
        if index == 0 {
            report.error(&place, "points to the zero value");
        }
        let key = usize::try_from(index).ok().and_then(|i| d.attribute_table.get(i)).map_or("", |a| key(a, d));
        if let Some(first) = seen.insert(key, i) {
            report.error(&place, format_args!("key {key:?} stands at [{first}] too"));
        }
    }
}

fn key<'a>(attribute: &KeyValueAndUnit, d: &'a ProfilesDictionary) -> &'a str {
    usize::try_from(attribute.key_strindex).ok().and_then(|i| d.string_table.get(i)).map_or("", |s| s)
}

fn attributes(report: &mut Report, d: &ProfilesDictionary) {
    for (i, a) in d.attribute_table.iter().enumerate() {
        let place = format!("dictionary.attribute_table[{i}]");
        let known = report.index(format_args!("{place}.key_strindex"), a.key_strindex, d.string_table.len());
        report.index(format_args!("{place}.unit_strindex"), a.unit_strindex, d.string_table.len());
        if i > 0 && known && a.key_strindex == 0 {
            report.error(&place, "has no key");
        }
        if i > 0 && a.value.as_ref().is_none_or(|v| v.value.is_none()) {
            report.error(&place, "has no value");
        }
    }
    // Values may be floats, which do not hash: their text tells them apart as well.
    twice(
        report,
        "attribute_table",
        d.attribute_table.iter().map(|a| (a.key_strindex, a.unit_strindex, format!("{:?}", a.value))),
    );
}

fn mappings(report: &mut Report, d: &ProfilesDictionary) {
    for (i, m) in d.mapping_table.iter().enumerate() {
        let place = format!("dictionary.mapping_table[{i}]");
        report.index(format_args!("{place}.filename_strindex"), m.filename_strindex, d.string_table.len());
        attribute_set(report, &place, &m.attribute_indices, d);
        if (m.memory_start, m.memory_limit) != (0, 0) && m.memory_start >= m.memory_limit {
            report.error(
                &place,
                format_args!("memory range {:#x}..{:#x} is empty or reversed", m.memory_start, m.memory_limit),
            );
        }
    }
    twice(
        report,
        "mapping_table",
        d.mapping_table.iter().map(|m| {
            let mut attributes = m.attribute_indices.clone();
            attributes.sort_unstable();
            (m.memory_start, m.memory_limit, m.file_offset, m.filename_strindex, attributes)
        }),
    );
}

fn functions(report: &mut Report, d: &ProfilesDictionary) {
    for (i, f) in d.function_table.iter().enumerate() {
        let place = format!("dictionary.function_table[{i}]");
        for (name, index) in [
            ("name_strindex", f.name_strindex),
            ("system_name_strindex", f.system_name_strindex),
            ("filename_strindex", f.filename_strindex),
        ] {
            report.index(format_args!("{place}.{name}"), index, d.string_table.len());
        }
        if f.start_line < 0 {
            report.error(&place, "start_line is negative");
        }
    }
    twice(report, "function_table", d.function_table.iter());
}

fn locations(report: &mut Report, d: &ProfilesDictionary) {
    for (i, l) in d.location_table.iter().enumerate() {
        let place = format!("dictionary.location_table[{i}]");
        report.index(format_args!("{place}.mapping_index"), l.mapping_index, d.mapping_table.len());
        attribute_set(report, &place, &l.attribute_indices, d);
        for (j, line) in l.lines.iter().enumerate() {
            let place = format!("{place}.lines[{j}]");
            let known =
                report.index(format_args!("{place}.function_index"), line.function_index, d.function_table.len());
            if known && line.function_index == 0 {
                report.error(&place, "points to the zero function");
            }
            if line.line < 0 || line.column < 0 {
                report.error(&place, "line or column is negative");
            }
        }
        let typed = l.attribute_indices.iter().any(|&a| {
            usize::try_from(a).ok().and_then(|a| d.attribute_table.get(a)).is_some_and(|a| key(a, d) == FRAME_TYPE)
        });
        if i > 0 && !typed {
            report.error(&place, format_args!("has no {FRAME_TYPE}"));
        }
    }
    twice(
        report,
        "location_table",
        d.location_table.iter().map(|l| {
            let mut attributes = l.attribute_indices.clone();
            attributes.sort_unstable();
            (l.mapping_index, l.address, &l.lines, attributes)
        }),
    );
}

fn stacks(report: &mut Report, d: &ProfilesDictionary) {
    for (i, s) in d.stack_table.iter().enumerate() {
        for (j, &l) in s.location_indices.iter().enumerate() {
            let place = format!("dictionary.stack_table[{i}].location_indices[{j}]");
            if report.index(&place, l, d.location_table.len()) && l == 0 {
                report.error(&place, "points to the zero location");
            }
        }
    }
    twice(report, "stack_table", d.stack_table.iter().map(|s| &s.location_indices));
}

fn links(report: &mut Report, d: &ProfilesDictionary) {
    for (i, l) in d.link_table.iter().enumerate().skip(1) {
        let place = format!("dictionary.link_table[{i}]");
        if l.trace_id.len() != 16 {
            report.error(&place, format_args!("trace_id has {} bytes, not 16", l.trace_id.len()));
        }
        if l.span_id.len() != 8 {
            report.error(&place, format_args!("span_id has {} bytes, not 8", l.span_id.len()));
        }
    }
    twice(report, "link_table", d.link_table.iter());
}
