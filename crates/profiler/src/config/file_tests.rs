//! Files that work, files that do not, and the one that is shipped.

use std::path::Path;
use std::time::Duration;

use sampler::{Check, UnwindConfig};

use super::*;
use crate::config::settings::{LogFormat, ProfilesFrom, Protocol, Unwind};

fn read_with(text: &str, env: &[(&str, &str)]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    apply_text(text, Path::new("c.yaml"), &Environment::of(env), &mut settings).map_err(|e| e.to_string())?;
    Ok(settings)
}

fn read(text: &str) -> Result<Settings, String> {
    read_with(&format!("file_format: \"1.0\"\n{text}"), &[])
}

#[test]
fn the_shipped_file_is_the_defaults_and_names_every_setting() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/otel.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(read_with(&text, &[]).unwrap(), Settings::default(), "nothing set: the defaults");
    for key in KEYS {
        let last = key.path.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("{last}: ${{{}", key.variable)), "{} with {}", key.path, key.variable);
    }
}

#[test]
fn the_shipped_file_takes_the_usual_variables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/otel.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("PROFILER_FREQUENCY", "99"),
        ("PROFILER_PID", "5,6"),
        ("PROFILER_EXCLUDE", "namespace=kube-system,comm=a b"),
        ("PROFILER_KUBELET_URL", "https://10.0.0.5:10250"),
        ("PROFILER_POD_LABELS", "app,team.example.org/*"),
        ("PROFILER_AGGREGATED_LABELS", "service,symbol,self"),
        ("PROFILER_LOG_FORMAT", "json"),
    ];
    let mut from_env = Settings::default();
    super::super::env::apply(&Environment::of(&variables), &mut from_env).unwrap();
    let from_file = read_with(&text, &variables).unwrap();
    assert_eq!(from_file, from_env, "the file with variables says what the variables alone say");
    assert_eq!(from_file.otlp.map(|o| o.protocol), Some(Protocol::Grpc));
}

#[test]
fn our_settings() {
    let s = read(
        "distribution:\n  someone_else: {x: 1}\n  profiler:\n    sampling: {frequency: 99, pid: [7, 8], window: 10s, snapshot_bytes: 32KiB}\n    \
         unwind: {tables: off, check: 1/50, cache: off, memory: 8MiB}\n    web:\n      listen: 127.0.0.1:9\n      profiles_from: any\n    log:\n      format: json\n    print: true\n    \
         otlp: {endpoint: \"https://h\", headers_list: \"a=1,b=2\", headers: [{name: B, value: \"3\"}], timeout: 5}\n",
    )
    .unwrap();
    assert_eq!((s.sampling.frequency_hz, s.sampling.pids.as_slice()), (99, &[7, 8][..]));
    assert_eq!((s.sampling.window, s.sampling.snapshot_bytes), (Duration::from_secs(10), 32 << 10));
    assert_eq!((s.web.listen.port(), s.web.profiles_from), (9, ProfilesFrom::Any));
    assert_eq!((s.log.format, s.print), (LogFormat::Json, true));
    let kernel =
        UnwindConfig { tables: false, memory_bytes: 8 << 20, check: Check::OneIn(50), ..UnwindConfig::default() };
    assert_eq!(s.unwind, Unwind { kernel, cache: None });
    let otlp = s.otlp.unwrap();
    assert_eq!(otlp.endpoint, "https://h/v1development/profiles");
    assert_eq!(otlp.headers.0, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "3".to_owned())]);
    assert_eq!(otlp.timeout, Duration::from_millis(5));
}

#[test]
fn rules_and_keys_are_lists_or_one_text() {
    let list = read(
        "distribution: {profiler: {filter: {include: [namespace=shop, 'executable=/opt/a,b'], exclude: 'comm=x, unit=y'}, \
         identity: {labels: [app, 'team.example.org/*'], kubernetes: cri}}}\n",
    )
    .unwrap();
    let shown = |rules: &[crate::filter::Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&list.filter.include), ["namespace=shop", "executable=/opt/a,b"]);
    assert_eq!(shown(&list.filter.exclude), ["comm=x", "unit=y"]);
    assert_eq!(list.identity.labels, ["app", "team.example.org/*"]);
    assert_eq!(list.identity.kubernetes, identity::Source::Cri);
}

#[test]
fn the_models_own_parts() {
    let s = read(
        "disabled: false\nlog_level: debug\ntracer_provider: {processors: [{batch: {}}]}\n\
         resource:\n  attributes_list: a=1,b=2\n  attributes:\n    - {name: b, value: 3, type: int}\n    - {name: service.name, value: me}\n\
         meter_provider:\n  readers:\n    - pull:\n        exporter:\n          prometheus/development:\n            host: localhost\n            port: 2113\n    \
         - periodic:\n        interval: 5000\n        exporter:\n          otlp_http:\n            endpoint: http://h:1/v1/metrics\n",
    )
    .unwrap();
    assert_eq!(s.log.level, "debug");
    assert_eq!(s.resource.attributes, [("a".into(), "1".into()), ("b".into(), "3".into())]);
    assert_eq!(s.resource.service_name.as_deref(), Some("me"));
    assert_eq!(s.web.listen.to_string(), "127.0.0.1:2113");
    assert!(s.metrics.prometheus);
    assert_eq!(s.metrics.interval, Duration::from_secs(5));
    assert_eq!(s.metrics.otlp.map(|o| o.endpoint).as_deref(), Some("http://h:1/v1/metrics"));
    let s = read("meter_provider:\n  readers:\n    - pull: {exporter: {prometheus/development: }}\n").unwrap();
    assert!(s.metrics.prometheus);
    let s = read("disabled: true\ndistribution: {profiler: {otlp: {endpoint: 'http://h'}}}\n").unwrap();
    assert!(s.otlp.is_none());
}

#[test]
fn mistakes_have_a_place_and_a_guess() {
    for (text, want) in [
        (
            "distribution:\n  profiler:\n    sampling:\n      frequenzy: 99\n",
            "c.yaml:5:7: unknown key `frequenzy` in `distribution.profiler.sampling`; did you mean `frequency`?",
        ),
        (
            "distribution:\n  profiler:\n    samplin: {}\n",
            "c.yaml:4:5: unknown key `samplin` in `distribution.profiler`; did you mean `sampling`?",
        ),
        ("distribution:\n  profiler:\n    nonsense:\n", "c.yaml:4:5: unknown key `nonsense`"),
        ("distribution:\n  profilr:\n    print: true\n", "did you mean `profiler`?"),
        ("resorce: {}\n", "c.yaml:2:1: unknown key `resorce`; did you mean `resource`?"),
        (
            "distribution: {profiler: {sampling: {frequency: 0}}}\n",
            "c.yaml:2:49: distribution.profiler.sampling.frequency: `0` is not a rate",
        ),
        ("distribution: {profiler: {sampling: 5}}\n", "must be a mapping"),
        ("distribution: {profiler: {sampling: {window: {}}}}\n", "must be a single value"),
        ("distribution: {profiler: {otlp: {endpoint: h}}}\n", "distribution.profiler.otlp.endpoint: `h` "),
        ("distribution: {profiler: {otlp: {endpont: h}}}\n", "did you mean `endpoint`?"),
        ("distribution: {profiler: {otlp: {headers: 5}}}\n", "must be a list"),
        ("meter_provider: {readers: [{push: {}}]}\n", "unknown key `push`"),
        (
            "distribution: {profiler: {filter: {exclude: [comm=x, namespce=y]}}}\n",
            "c.yaml:2:45: distribution.profiler.filter.exclude: `comm=x,namespce=y` holds `namespce=y`, which is no rule: there is \
             no `namespce`; did you mean `namespace`?",
        ),
        ("log_level: loud\n", "c.yaml:2:12: log_level: `loud`"),
        ("disabled: 1\n", "neither true nor false"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(want), "{text}\n got {error}\nwant {want}");
        assert!(!error.contains('\n'));
    }
    assert!(read_with("print: true\n", &[]).is_err());
    assert!(read_with("a", &[]).unwrap_err().contains("must be a mapping"));
    assert!(read_with("{}", &[]).unwrap_err().contains("file_format"));
    assert!(read_with("file_format: \"0.1\"", &[]).unwrap_err().contains("not known"));
}

#[test]
fn secrets_of_a_file_are_not_shown() {
    let error = read("distribution: {profiler: {otlp: {headers: [{name: 'a b', value: hunter2}]}}}\n").unwrap_err();
    assert!(error.contains("a b") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_file_without_an_end_or_without_text_is_refused() {
    let read = |file: &Path| {
        apply(file, &Environment::of(&[]), &mut Settings::default()).map_err(|e| e.to_string()).unwrap_err()
    };
    let text = read(Path::new("/dev/zero"));
    assert_eq!(text, "cannot read the configuration file /dev/zero: it is larger than 1024 KiB");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\xff\xfe").unwrap();
    let text = read(file.path());
    assert!(text.ends_with("it is not text in UTF-8"), "{text}");
}
