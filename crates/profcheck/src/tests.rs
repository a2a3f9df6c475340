use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, Profile, Sample, ScopeProfiles, Stack, ValueType,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::*;

fn text(s: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(s.into())) })
}

/// A message that keeps every rule, with a row in every table.
fn good() -> ProfilesData {
    let strings = ["", "samples", "count", "cpu", "nanoseconds", "/bin/x", "main", FRAME, "thread.name"];
    let dictionary = ProfilesDictionary {
        string_table: strings.map(Into::into).to_vec(),
        attribute_table: vec![
            KeyValueAndUnit::default(),
            KeyValueAndUnit { key_strindex: 7, value: text("native"), unit_strindex: 0 },
            KeyValueAndUnit { key_strindex: 8, value: text("worker"), unit_strindex: 0 },
            KeyValueAndUnit { key_strindex: 8, value: text("main"), unit_strindex: 0 },
        ],
        mapping_table: vec![
            Mapping::default(),
            Mapping { memory_start: 1, memory_limit: 2, filename_strindex: 5, ..Mapping::default() },
        ],
        function_table: vec![Function::default(), Function { name_strindex: 6, ..Function::default() }],
        location_table: vec![
            Location::default(),
            Location {
                mapping_index: 1,
                address: 1,
                lines: vec![Line { function_index: 1, ..Line::default() }],
                attribute_indices: vec![1],
            },
        ],
        stack_table: vec![Stack::default(), Stack { location_indices: vec![1, 1] }],
        link_table: vec![Link::default(), Link { trace_id: vec![1; 16], span_id: vec![1; 8] }],
    };
    let profile = Profile {
        sample_type: Some(ValueType { type_strindex: 1, unit_strindex: 2 }),
        period_type: Some(ValueType { type_strindex: 3, unit_strindex: 4 }),
        period: 1,
        time_unix_nano: 100,
        duration_nano: 10,
        profile_id: vec![1; 16],
        samples: vec![
            Sample { stack_index: 1, values: vec![3], link_index: 1, attribute_indices: vec![2], ..Sample::default() },
            Sample { stack_index: 1, values: vec![4], attribute_indices: vec![3], ..Sample::default() },
        ],
        ..Profile::default()
    };
    let resource = Resource {
        attributes: vec![KeyValue { key: "service.name".into(), value: text("x"), ..KeyValue::default() }],
        ..Resource::default()
    };
    ProfilesData {
        resource_profiles: vec![ResourceProfiles {
            resource: Some(resource),
            scope_profiles: vec![ScopeProfiles { profiles: vec![profile], ..ScopeProfiles::default() }],
            ..ResourceProfiles::default()
        }],
        dictionary: Some(dictionary),
    }
}

const FRAME: &str = "profile.frame.type";

type Spoil = fn(&mut ProfilesDictionary, &mut Profile, &mut Resource);

fn spoilt(spoil: Spoil) -> Report {
    let mut data = good();
    let d = data.dictionary.as_mut().unwrap();
    let r = &mut data.resource_profiles[0];
    spoil(d, &mut r.scope_profiles[0].profiles[0], r.resource.as_mut().unwrap());
    check_data(&data)
}

#[test]
fn a_good_message_is_clean() {
    let report = check_data(&good());
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.profiles, report.samples), (1, 7));
    assert_eq!(report.to_string(), "1 profiles, 7 samples");
    let report = spoilt(|d, _, _| d.attribute_table[0].value = Some(AnyValue::default()));
    assert!(report.is_clean(), "as the Collector writes it: {report}");
    let ProfilesData { resource_profiles, dictionary } = good();
    assert!(check_request(&ExportProfilesServiceRequest { resource_profiles, dictionary }).is_clean());
}

#[test]
fn timestamps_may_stand_for_values_or_beside_them() {
    let report = spoilt(|_, p, _| {
        for s in &mut p.samples {
            s.values.clear();
            s.timestamps_unix_nano = vec![100, 109];
        }
    });
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.samples, 4);
    let report = spoilt(|_, p, _| {
        for s in &mut p.samples {
            s.values = vec![2, 3];
            s.timestamps_unix_nano = vec![100, 109];
        }
    });
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.samples, 10);
}

#[test]
fn every_rule_fires() {
    let cases: &[(&str, Spoil)] = &[
        ("string_table: empty", |d, _, _| d.string_table.clear()),
        ("string_table[0]: is not the empty string", |d, _, _| d.string_table[0] = "x".into()),
        ("attribute_table: empty", |d, _, _| d.attribute_table.clear()),
        ("attribute_table[0]: is not the zero", |d, _, _| d.attribute_table[0].value = text("x")),
        ("mapping_table: empty", |d, _, _| d.mapping_table.clear()),
        ("mapping_table[0]: is not the zero", |d, _, _| d.mapping_table[0].file_offset = 1),
        ("function_table: empty", |d, _, _| d.function_table.clear()),
        ("function_table[0]: is not the zero", |d, _, _| d.function_table[0].start_line = 1),
        ("location_table: empty", |d, _, _| d.location_table.clear()),
        ("location_table[0]: is not the zero", |d, _, _| d.location_table[0].address = 1),
        ("stack_table: empty", |d, _, _| d.stack_table.clear()),
        ("stack_table[0]: is not the zero", |d, _, _| d.stack_table[0].location_indices.push(1)),
        ("link_table: empty", |d, _, _| d.link_table.clear()),
        ("link_table[0]: is not the zero", |d, _, _| d.link_table[0].span_id.push(1)),
        ("attribute_table[1].key_strindex: index 99", |d, _, _| d.attribute_table[1].key_strindex = 99),
        ("attribute_table[1].unit_strindex: index -1", |d, _, _| d.attribute_table[1].unit_strindex = -1),
        ("attribute_table[1]: has no key", |d, _, _| d.attribute_table[1].key_strindex = 0),
        ("attribute_table[1]: has no value", |d, _, _| d.attribute_table[1].value = None),
        ("mapping_table[1].filename_strindex: index 99", |d, _, _| d.mapping_table[1].filename_strindex = 99),
        ("mapping_table[1].attribute_indices[0]: index 99", |d, _, _| d.mapping_table[1].attribute_indices.push(99)),
        ("mapping_table[1]: memory range", |d, _, _| d.mapping_table[1].memory_limit = 1),
        ("function_table[1].name_strindex", |d, _, _| d.function_table[1].name_strindex = 99),
        ("function_table[1].system_name_strindex", |d, _, _| d.function_table[1].system_name_strindex = 99),
        ("function_table[1].filename_strindex", |d, _, _| d.function_table[1].filename_strindex = 99),
        ("function_table[1]: start_line", |d, _, _| d.function_table[1].start_line = -1),
        ("location_table[1].mapping_index", |d, _, _| d.location_table[1].mapping_index = 99),
        ("location_table[1].lines[0].function_index: index", |d, _, _| d.location_table[1].lines[0].function_index = 9),
        ("location_table[1].lines[0]: points to the zero", |d, _, _| d.location_table[1].lines[0].function_index = 0),
        ("location_table[1].lines[0]: line or column", |d, _, _| d.location_table[1].lines[0].column = -1),
        ("location_table[1]: has no profile.frame.type", |d, _, _| d.location_table[1].attribute_indices = vec![2]),
        ("stack_table[1].location_indices[2]: index 9", |d, _, _| d.stack_table[1].location_indices.push(9)),
        ("stack_table[1].location_indices[2]: points", |d, _, _| d.stack_table[1].location_indices.push(0)),
        ("link_table[1]: trace_id", |d, _, _| d.link_table[1].trace_id.push(1)),
        ("link_table[1]: span_id", |d, _, _| d.link_table[1].span_id.clear()),
        ("profiles[0].attribute_indices[0]: index 99", |_, p, _| p.attribute_indices.push(99)),
        ("profiles[0].attribute_indices[0]: points to the zero", |_, p, _| p.attribute_indices.push(0)),
        ("profiles[0].attribute_indices[1]: key", |_, p, _| p.attribute_indices = vec![2, 3]),
        ("profiles[0].sample_type: missing", |_, p, _| p.sample_type = None),
        ("profiles[0].period_type: missing", |_, p, _| p.period_type = None),
        ("sample_type.type_strindex: index 99", |_, p, _| p.sample_type.as_mut().unwrap().type_strindex = 99),
        ("period_type.unit_strindex: is the empty", |_, p, _| p.period_type.as_mut().unwrap().unit_strindex = 0),
        ("profiles[0]: period is negative", |_, p, _| p.period = -1),
        ("profiles[0]: time_unix_nano", |_, p, _| p.time_unix_nano = 0),
        ("profiles[0]: profile_id", |_, p, _| p.profile_id = vec![0; 16]),
        ("profiles[0]: profile_id", |_, p, _| p.profile_id = vec![1; 15]),
        ("profiles[0]: original_payload", |_, p, _| p.original_payload_format = "pprof".into()),
        ("samples[0].stack_index: index 9", |_, p, _| p.samples[0].stack_index = 9),
        ("samples[0].link_index: index 9", |_, p, _| p.samples[0].link_index = 9),
        ("samples[0].attribute_indices[1]: index 9", |_, p, _| p.samples[0].attribute_indices.push(9)),
        ("samples[0].attribute_indices[1]: key", |_, p, _| p.samples[0].attribute_indices.push(3)),
        ("samples[0]: has neither", |_, p, _| p.samples[0].values.clear()),
        ("samples[0]: has 2 values and no", |_, p, _| p.samples[0].values.push(1)),
        ("samples[0]: has 1 values and 2", |_, p, _| p.samples[0].timestamps_unix_nano = vec![100, 101]),
        ("samples[1]: is of shape", |_, p, _| p.samples[1].timestamps_unix_nano = vec![100]),
        ("timestamps_unix_nano[0]: 99 is outside", |_, p, _| p.samples[0].timestamps_unix_nano = vec![99]),
        ("timestamps_unix_nano[0]: 110 is outside", |_, p, _| p.samples[0].timestamps_unix_nano = vec![110]),
        ("an attribute of the resource has no key", |_, _, r| r.attributes[0].key.clear()),
        ("has a key and a key_strindex", |_, _, r| r.attributes[0].key_strindex = 1),
        ("\"service.name\" of the resource stands twice", |_, _, r| r.attributes.push(r.attributes[0].clone())),
    ];
    for (want, spoil) in cases {
        let report = spoilt(*spoil);
        assert!(report.errors.iter().any(|e| e.contains(want)), "{want:?} did not fire:\n{report}");
    }
}

#[test]
fn what_should_not_be_is_a_warning() {
    let cases: &[(&str, Spoil)] = &[
        ("string_table[9]: the same as [1]", |d, _, _| d.string_table.push("samples".into())),
        ("attribute_table[4]: the same as [2]", |d, _, _| d.attribute_table.push(d.attribute_table[2].clone())),
        ("mapping_table[2]: the same as [1]", |d, _, _| d.mapping_table.push(d.mapping_table[1].clone())),
        ("function_table[2]: the same as [1]", |d, _, _| d.function_table.push(d.function_table[1])),
        ("location_table[2]: the same as [1]", |d, _, _| d.location_table.push(d.location_table[1].clone())),
        ("stack_table[2]: the same as [1]", |d, _, _| d.stack_table.push(d.stack_table[1].clone())),
        ("link_table[2]: the same as [1]", |d, _, _| d.link_table.push(d.link_table[1].clone())),
        ("string_table[9]: nothing", |d, _, _| d.string_table.push("y".into())),
        ("attribute_table[3]: nothing", |_, p, _| p.samples[1].attribute_indices.clear()),
        ("mapping_table[1]: nothing", |d, _, _| d.location_table[1].mapping_index = 0),
        ("function_table[1]: nothing", |d, _, _| d.location_table[1].lines.clear()),
        ("location_table[1]: nothing", |d, _, _| d.stack_table[1].location_indices.clear()),
        ("stack_table[1]: nothing", |_, p, _| p.samples.clear()),
        ("link_table[1]: nothing", |_, p, _| p.samples[0].link_index = 0),
        ("profiles[0]: has no samples", |_, p, _| p.samples.clear()),
        ("samples[1]: has stack, link", |_, p, _| p.samples[1] = p.samples[0].clone()),
    ];
    for (want, spoil) in cases {
        let report = spoilt(*spoil);
        assert!(report.warnings.iter().any(|e| e.contains(want)), "{want:?} did not fire:\n{report}");
        assert!(report.conforms(), "{want}: {report}");
    }
}

#[test]
fn the_frame_of_a_message_is_checked() {
    let error = |data: &ProfilesData| check_data(data).errors.join("\n");
    assert_eq!(error(&ProfilesData::default()), "dictionary: missing");
    let mut data = good();
    data.resource_profiles[0].scope_profiles[0].profiles.clear();
    assert!(error(&data).contains("has no profiles"));
    data.resource_profiles[0].scope_profiles.clear();
    assert!(error(&data).contains("has no scope_profiles"));
    data.resource_profiles.clear();
    assert!(error(&data).contains("resource_profiles: empty"));
    let mut data = good();
    data.resource_profiles.push(data.resource_profiles[0].clone());
    assert!(error(&data).contains("profile_id is that of"));
}

#[test]
fn findings_are_bounded() {
    let report = spoilt(|d, _, _| d.stack_table[1].location_indices = vec![-1; 1000]);
    assert_eq!(report.errors.len(), MAX_FINDINGS);
    assert!(report.more >= 900);
}
