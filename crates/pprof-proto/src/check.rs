//! The rules of pprof's `CheckValid`: what it refuses when it opens a file.

use std::collections::HashSet;

use crate::Profile;

/// The first rule that a profile breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table}[{index}]: {what}")]
pub struct CheckError {
    /// The table.
    pub table: &'static str,
    /// The row.
    pub index: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Checks that pprof would take the profile.
///
/// # Errors
/// The first broken rule.
pub fn check(profile: &Profile) -> Result<(), CheckError> {
    let err = |table, index, what| Err(CheckError { table, index, what });
    if profile.string_table.first().is_none_or(|s| !s.is_empty()) {
        return err("string_table", 0, "is not the empty string");
    }
    let text = |i: i64| usize::try_from(i).is_ok_and(|i| i < profile.string_table.len());
    if profile.sample_type.is_empty() && !profile.sample.is_empty() {
        return err("sample_type", 0, "missing");
    }
    for (i, t) in profile.sample_type.iter().chain(&profile.period_type).enumerate() {
        if !text(t.r#type) || !text(t.unit) {
            return err("sample_type", i, "text out of range");
        }
    }
    let texts = [profile.drop_frames, profile.keep_frames, profile.default_sample_type, profile.doc_url];
    for (i, &t) in profile.comment.iter().chain(&texts).enumerate() {
        if !text(t) {
            return err("comment", i, "text out of range");
        }
    }
    let mut mappings = HashSet::new();
    for (i, m) in profile.mapping.iter().enumerate() {
        if m.id == 0 || !mappings.insert(m.id) {
            return err("mapping", i, "id is zero or stands twice");
        }
        if !text(m.filename) || !text(m.build_id) {
            return err("mapping", i, "text out of range");
        }
    }
    let mut functions = HashSet::new();
    for (i, f) in profile.function.iter().enumerate() {
        if f.id == 0 || !functions.insert(f.id) {
            return err("function", i, "id is zero or stands twice");
        }
        if !text(f.name) || !text(f.system_name) || !text(f.filename) {
            return err("function", i, "text out of range");
        }
    }
    let mut locations = HashSet::new();
    for (i, l) in profile.location.iter().enumerate() {
        if l.id == 0 || !locations.insert(l.id) {
            return err("location", i, "id is zero or stands twice");
        }
        if l.mapping_id != 0 && !mappings.contains(&l.mapping_id) {
            return err("location", i, "unknown mapping");
        }
        if l.line.iter().any(|x| !functions.contains(&x.function_id)) {
            return err("location", i, "unknown function");
        }
    }
    for (i, s) in profile.sample.iter().enumerate() {
        if s.value.len() != profile.sample_type.len() {
            return err("sample", i, "not one value for each type");
        }
        if s.location_id.iter().any(|l| !locations.contains(l)) {
            return err("sample", i, "unknown location");
        }
        for l in &s.label {
            if l.key == 0 || !text(l.key) || !text(l.str) || !text(l.num_unit) {
                return err("sample", i, "label text out of range");
            }
            if l.str != 0 && l.num != 0 {
                return err("sample", i, "label with a text and a number");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Function, Label, Line, Location, Mapping, Sample, ValueType};

    fn valid() -> Profile {
        Profile {
            string_table: ["", "cpu", "nanoseconds", "main", "/bin/x"].map(Into::into).to_vec(),
            sample_type: vec![ValueType { r#type: 1, unit: 2 }],
            sample: vec![Sample {
                location_id: vec![1],
                value: vec![7],
                label: vec![Label { key: 1, str: 3, ..Label::default() }],
            }],
            mapping: vec![Mapping { id: 1, filename: 4, ..Mapping::default() }],
            location: vec![Location {
                id: 1,
                mapping_id: 1,
                address: 1,
                line: vec![Line { function_id: 1, ..Line::default() }],
                is_folded: false,
            }],
            function: vec![Function { id: 1, name: 3, ..Function::default() }],
            ..Profile::default()
        }
    }

    #[test]
    fn a_valid_profile_passes() {
        assert_eq!(check(&valid()), Ok(()));
        assert_eq!(check(&Profile { string_table: vec![String::new()], ..Profile::default() }), Ok(()));
    }

    #[test]
    fn every_rule_fires() {
        type Spoil = fn(&mut Profile);
        let cases: [(&str, Spoil); 19] = [
            ("string_table", |p| p.string_table.clear()),
            ("string_table", |p| p.string_table[0] = "x".into()),
            ("sample_type", |p| p.sample_type.clear()),
            ("sample_type", |p| p.sample_type[0].unit = 99),
            ("sample_type", |p| p.period_type = Some(ValueType { r#type: -1, unit: 0 })),
            ("comment", |p| p.comment.push(99)),
            ("comment", |p| p.default_sample_type = 99),
            ("mapping", |p| p.mapping[0].id = 0),
            ("mapping", |p| p.mapping.push(p.mapping[0])),
            ("mapping", |p| p.mapping[0].build_id = 99),
            ("function", |p| p.function[0].id = 0),
            ("function", |p| p.function[0].name = -1),
            ("location", |p| p.location[0].id = 0),
            ("location", |p| p.location[0].mapping_id = 9),
            ("location", |p| p.location[0].line[0].function_id = 9),
            ("sample", |p| p.sample[0].value.push(1)),
            ("sample", |p| p.sample[0].location_id.push(9)),
            ("sample", |p| p.sample[0].label[0].key = 0),
            ("sample", |p| p.sample[0].label[0].num = 1),
        ];
        for (i, (table, spoil)) in cases.into_iter().enumerate() {
            let mut p = valid();
            spoil(&mut p);
            assert_eq!(check(&p).map_err(|e| e.table), Err(table), "case {i}");
        }
    }
}
