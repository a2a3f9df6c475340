//! Settings from a file in OpenTelemetry's declarative configuration model; our own stand under
//! `distribution.profiler`.
//!
//! **In**: the file's text. **Out**: changed [`Settings`]. Parts of the model that a profiler has no use for (traces,
//! logs, propagators) are skipped, so that one file can serve several programs; what is read is read strictly.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use super::env::{Environment, disable, put_attributes};
use super::error::{ConfigError, nearest};
use super::fields;
use super::headers;
use super::keys::{self, KEYS};
use super::otlp::{RawOtlp, Signal, Sourced, resolve};
use super::section::{Section, syntax};
use super::settings::Settings;
use super::value::{between, boolean, listen};
use super::yaml::{Node, parse};

/// Far more than any configuration; a device or a wrong file ends here and not with the machine's memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What stands at the top of the model. Only some of it is read.
const TOP: &[&str] = &[
    "file_format",
    "stability",
    "disabled",
    "log_level",
    "resource",
    "meter_provider",
    "distribution",
    "attribute_limits",
    "propagator",
    "tracer_provider",
    "logger_provider",
    "instrumentation",
    "instrumentation/development",
];

/// Reads a file.
///
/// # Errors
/// It can not be read, or the first thing in it that is wrong.
pub(crate) fn apply(file: &Path, env: &Environment, settings: &mut Settings) -> Result<(), ConfigError> {
    let text = read_file(file).map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
    apply_text(&text, file, env, settings)
}

fn read_file(file: &Path) -> Result<String, Error> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {} KiB", MAX_FILE_BYTES / 1024)));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not text in UTF-8"))
}

fn apply_text(text: &str, file: &Path, env: &Environment, settings: &mut Settings) -> Result<(), ConfigError> {
    let root = parse(text, file, &|name| env.lookup(name))?;
    let top = Section::of(file, "", &root)?;
    top.only(TOP)?;
    format(&top, &root)?;
    if let Some(level) = top.text("log_level")? {
        settings.log.level = fields::log_level(&level.value).map_err(|p| bad(&level, p))?;
    }
    if let Some(resource) = top.section("resource")? {
        read_resource(&resource, settings)?;
    }
    if let Some(distribution) = top.section("distribution")? {
        if let Some((near, _)) = distribution
            .iter()
            .find(|(k, _)| *k != "profiler" && nearest(k, ["profiler"]).is_some_and(|_| k.len() < 12))
        {
            return Err(distribution.unknown(near, ["profiler"]));
        }
        if let Some(ours) = distribution.section("profiler")? {
            read_ours(&ours, settings)?;
        }
    }
    if let Some(meters) = top.section("meter_provider")? {
        read_meters(&meters, settings)?;
    }
    if let Some(disabled) = top.text("disabled")?
        && boolean(&disabled.value).map_err(|p| bad(&disabled, p))?
    {
        disable(settings);
    }
    Ok(())
}

fn bad(s: &Sourced, problem: String) -> ConfigError {
    ConfigError::Value { origin: s.origin.clone(), value: s.value.clone(), problem }
}

fn format(top: &Section<'_>, root: &Node) -> Result<(), ConfigError> {
    match top.text("file_format")? {
        Some(format) if format.value == "1" || format.value.starts_with("1.") => Ok(()),
        Some(format) => Err(bad(&format, "is a file format that is not known here: write \"1.0\"".to_owned())),
        None => Err(syntax(top.file(), root, "`file_format` is missing: write file_format: \"1.0\"".to_owned())),
    }
}

fn read_resource(section: &Section<'_>, settings: &mut Settings) -> Result<(), ConfigError> {
    section.only(&["attributes", "attributes_list", "schema_url", "detection/development"])?;
    if let Some(list) = section.text("attributes_list")? {
        put_attributes(settings, headers::pairs(&list.value).map_err(|p| bad(&list, p))?);
    }
    for node in section.list("attributes")? {
        let item = Section::of(section.file(), &section.join("attributes[]"), node)?;
        item.only(&["name", "value", "type"])?;
        let Some(name) = item.text("name")? else {
            return Err(syntax(section.file(), node, "an attribute needs a `name`".to_owned()));
        };
        if let Some(value) = item.text("value")? {
            put_attributes(settings, vec![(name.value, value.value)]);
        }
    }
    Ok(())
}

fn read_ours(section: &Section<'_>, settings: &mut Settings) -> Result<(), ConfigError> {
    for (name, node) in section.iter() {
        if name == "otlp" {
            if let Some(otlp) = section.section("otlp")? {
                settings.otlp = read_otlp(&otlp)?;
            }
        } else {
            read_key(section, "", name, node, settings)?;
        }
    }
    // Keys without a value do nothing, but must exist all the same.
    let known: Vec<&str> = children("").chain(["otlp"]).collect();
    section.only(&known)
}

/// The names directly under a path of [`KEYS`].
fn children(prefix: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(move |k| k.path.strip_prefix(prefix)).map(|rest| rest.split('.').next().unwrap_or(rest))
}

fn read_key(
    section: &Section<'_>,
    prefix: &str,
    name: &str,
    node: &Node,
    settings: &mut Settings,
) -> Result<(), ConfigError> {
    let path = format!("{prefix}{name}");
    if let Some(key) = keys::by_path(&path) {
        let value = section.scalar(name, node)?;
        return (key.set)(settings, &value.value).map_err(|p| bad(&value, p));
    }
    let deeper = format!("{path}.");
    if !KEYS.iter().any(|k| k.path.starts_with(&deeper)) {
        let known: Vec<&str> = children(prefix).chain(prefix.is_empty().then_some("otlp")).collect();
        return Err(section.unknown(name, known));
    }
    let Some(inner) = section.section(name)? else { return Ok(()) };
    for (name, node) in inner.iter() {
        read_key(&inner, &deeper, name, node, settings)?;
    }
    inner.only(&children(&deeper).collect::<Vec<_>>())
}

fn read_otlp(section: &Section<'_>) -> Result<Option<super::settings::Otlp>, ConfigError> {
    section.only(&[
        "endpoint",
        "profiles_endpoint",
        "protocol",
        "headers",
        "headers_list",
        "timeout",
        "compression",
        "tls",
    ])?;
    let mut raw = transport(section)?;
    raw.base = section.text("endpoint")?;
    raw.own = section.text("profiles_endpoint")?;
    raw.protocol = section.text("protocol")?;
    resolve(&raw, Signal::Profiles)
}

/// What every exporter of the model has: TLS, headers, compression, timeout.
fn transport(section: &Section<'_>) -> Result<RawOtlp, ConfigError> {
    let mut raw = RawOtlp {
        header_list: section.text("headers_list")?,
        timeout: section.text("timeout")?,
        compression: section.text("compression")?,
        ..RawOtlp::default()
    };
    if let Some(tls) = section.section("tls")? {
        tls.only(&["ca_file", "cert_file", "key_file", "insecure"])?;
        raw.ca = tls.text("ca_file")?;
        raw.client_certificate = tls.text("cert_file")?;
        raw.client_key = tls.text("key_file")?;
        raw.insecure = tls.text("insecure")?;
    }
    for node in section.list("headers")? {
        let item = Section::of(section.file(), &section.join("headers[]"), node)?;
        item.only(&["name", "value"])?;
        if let (Some(name), Some(value)) = (item.text("name")?, item.text("value")?) {
            raw.headers.push((name.value, value));
        }
    }
    Ok(raw)
}

fn read_meters(section: &Section<'_>, settings: &mut Settings) -> Result<(), ConfigError> {
    section.only(&["readers", "views", "exemplar_filter", "meter_configurator/development"])?;
    settings.metrics.prometheus = false;
    for node in section.list("readers")? {
        let reader = Section::of(section.file(), &section.join("readers[]"), node)?;
        reader.only(&["pull", "periodic"])?;
        if let Some(pull) = reader.section("pull")? {
            pull.only(&["exporter", "producers", "cardinality_limits"])?;
            read_pull(&pull, settings)?;
        }
        if let Some(periodic) = reader.section("periodic")? {
            periodic.only(&["interval", "timeout", "exporter", "producers", "cardinality_limits"])?;
            read_periodic(&periodic, node, settings)?;
        }
    }
    Ok(())
}

fn read_pull(pull: &Section<'_>, settings: &mut Settings) -> Result<(), ConfigError> {
    let Some(exporter) = pull.section("exporter")? else { return Ok(()) };
    exporter.only(&["prometheus/development"])?;
    let Some(prometheus) = exporter.section("prometheus/development")? else { return Ok(()) };
    prometheus.only(&[
        "host",
        "port",
        "without_scope_info",
        "without_target_info",
        "without_target_info/development",
        "scope_info_enabled",
        "target_info_enabled/development",
        "with_resource_constant_labels",
        "resource_constant_labels",
        "translation_strategy",
    ])?;
    settings.metrics.prometheus = true;
    let (host, port) = (prometheus.text("host")?, prometheus.text("port")?);
    if let Some(origin) = host.as_ref().or(port.as_ref()) {
        let old = settings.web.listen;
        let host = host.as_ref().map_or_else(|| old.ip().to_string(), |h| h.value.clone());
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let port = port.as_ref().map_or_else(|| old.port().to_string(), |p| p.value.clone());
        settings.web.listen = listen(&format!("{host}:{port}")).map_err(|p| bad(origin, p))?;
    }
    Ok(())
}

fn read_periodic(periodic: &Section<'_>, node: &Node, settings: &mut Settings) -> Result<(), ConfigError> {
    if let Some(text) = periodic.text("interval")? {
        let ms = between(&text.value, "a number of milliseconds", 1000, 3_600_000).map_err(|p| bad(&text, p))?;
        settings.metrics.interval = Duration::from_millis(ms);
    }
    let Some(exporter) = periodic.section("exporter")? else { return Ok(()) };
    exporter.only(&["otlp_http", "otlp_grpc"])?;
    for (name, protocol, default) in [
        ("otlp_http", "http/protobuf", "http://localhost:4318/v1/metrics"),
        ("otlp_grpc", "grpc", "http://localhost:4317"),
    ] {
        let Some(otlp) = exporter.section(name)? else { continue };
        if settings.metrics.otlp.is_some() {
            return Err(syntax(
                periodic.file(),
                node,
                "a second OTLP exporter of metrics; only one is supported".to_owned(),
            ));
        }
        otlp.only(&[
            "endpoint",
            "headers",
            "headers_list",
            "timeout",
            "compression",
            "tls",
            "encoding",
            "temporality_preference",
            "default_histogram_aggregation",
        ])?;
        let mut raw = transport(&otlp)?;
        let here = |value: &str| Sourced { value: value.to_owned(), origin: otlp.join("endpoint") };
        raw.own = Some(otlp.text("endpoint")?.unwrap_or_else(|| here(default)));
        raw.protocol = Some(here(protocol));
        if let Some(encoding) = otlp.text("encoding")?
            && encoding.value != "protobuf"
        {
            return Err(bad(&encoding, "is not supported: use protobuf".to_owned()));
        }
        settings.metrics.otlp = resolve(&raw, Signal::Metrics)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
