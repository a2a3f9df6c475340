//! Rows of the dictionary that nothing refers to.

use opentelemetry_proto::tonic::profiles::v1development::{ProfilesDictionary, ResourceProfiles};

use crate::Report;

/// Which rows of a table are referred to; the zero value always is.
struct Marks(Vec<bool>);

impl Marks {
    fn new(len: usize) -> Self {
        let mut marks = vec![false; len];
        if let Some(zero) = marks.first_mut() {
            *zero = true;
        }
        Self(marks)
    }

    fn mark(&mut self, index: i32) {
        if let Some(m) = usize::try_from(index).ok().and_then(|i| self.0.get_mut(i)) {
            *m = true;
        }
    }

    fn warn(&self, report: &mut Report, table: &str) {
        for (i, _) in self.0.iter().enumerate().filter(|(_, marked)| !**marked) {
            report.warn(format_args!("dictionary.{table}[{i}]"), "nothing refers to it");
        }
    }
}

pub(crate) fn check(report: &mut Report, resources: &[ResourceProfiles], d: &ProfilesDictionary) {
    let mut strings = Marks::new(d.string_table.len());
    let mut attributes = Marks::new(d.attribute_table.len());
    let mut mappings = Marks::new(d.mapping_table.len());
    let mut functions = Marks::new(d.function_table.len());
    let mut locations = Marks::new(d.location_table.len());
    let mut stacks = Marks::new(d.stack_table.len());
    let mut links = Marks::new(d.link_table.len());
    for r in resources {
        for a in r.resource.iter().flat_map(|r| &r.attributes) {
            strings.mark(a.key_strindex);
            string_value(&mut strings, a.value.as_ref());
        }
        for p in r.scope_profiles.iter().flat_map(|s| &s.profiles) {
            for t in p.sample_type.iter().chain(&p.period_type) {
                strings.mark(t.type_strindex);
                strings.mark(t.unit_strindex);
            }
            p.attribute_indices.iter().for_each(|&a| attributes.mark(a));
            for s in &p.samples {
                stacks.mark(s.stack_index);
                links.mark(s.link_index);
                s.attribute_indices.iter().for_each(|&a| attributes.mark(a));
            }
        }
    }
    d.stack_table.iter().flat_map(|s| &s.location_indices).for_each(|&l| locations.mark(l));
    for l in &d.location_table {
        mappings.mark(l.mapping_index);
        l.attribute_indices.iter().for_each(|&a| attributes.mark(a));
        l.lines.iter().for_each(|x| functions.mark(x.function_index));
    }
    for m in &d.mapping_table {
        strings.mark(m.filename_strindex);
        m.attribute_indices.iter().for_each(|&a| attributes.mark(a));
    }
    for f in &d.function_table {
        [f.name_strindex, f.system_name_strindex, f.filename_strindex].into_iter().for_each(|s| strings.mark(s));
    }
    for a in &d.attribute_table {
        strings.mark(a.key_strindex);
        strings.mark(a.unit_strindex);
        string_value(&mut strings, a.value.as_ref());
    }
    strings.warn(report, "string_table");
    attributes.warn(report, "attribute_table");
    mappings.warn(report, "mapping_table");
    functions.warn(report, "function_table");
    locations.warn(report, "location_table");
    stacks.warn(report, "stack_table");
    links.warn(report, "link_table");
}

/// A value may be a string of the dictionary (Collectors write resources that way).
fn string_value(strings: &mut Marks, value: Option<&opentelemetry_proto::tonic::common::v1::AnyValue>) {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    if let Some(Value::StringValueStrindex(i)) = value.and_then(|v| v.value.as_ref()) {
        strings.mark(*i);
    }
}
