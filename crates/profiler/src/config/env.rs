//! Settings from environment variables: OpenTelemetry's own and `PROFILER_*`.
//!
//! **In**: a copy of the environment. **Out**: changed [`Settings`]. An empty variable counts as not set.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::error::{ConfigError, nearest};
use super::fields;
use super::headers;
use super::keys::KEYS;
use super::otlp::{RawOtlp, Signal, Sourced, resolve};
use super::settings::Settings;
use super::value::{between, boolean};

/// The environment's variables at start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The process's own.
    pub(crate) fn of_this_process() -> Self {
        Self(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v))).collect())
    }

    /// A given one.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(v))).collect())
    }

    /// A variable that is set, not empty, and text.
    ///
    /// # Errors
    /// It is set but not UTF-8.
    pub(crate) fn get(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some("") => Ok(None),
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(ConfigError::Secret { origin: name.to_owned(), problem: "is not UTF-8".to_owned() }),
            },
        }
    }

    /// A variable's value for substitution in a file: lossily decoded.
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|v| v.to_string_lossy().into_owned())
    }

    /// Names of set variables that would configure this program.
    pub(crate) fn ours(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(k, v)| (k.starts_with("OTEL_") || k.starts_with("PROFILER_")) && !v.is_empty())
            .map(|(k, _)| k.as_str())
            .filter(|k| *k != "OTEL_CONFIG_FILE")
            .collect()
    }

    /// Variables that are most likely slips, with what was most likely meant.
    ///
    /// Kubernetes sets `PROFILER_PORT` and the like where a service has our name: those are nobody's slip.
    pub(crate) fn slips(&self) -> Vec<(&str, String)> {
        const PREFIX: &str = "PROFILER_";
        let known = || KEYS.iter().filter_map(|k| k.variable.strip_prefix(PREFIX));
        self.0
            .keys()
            .filter_map(|name| Some((name.as_str(), name.strip_prefix(PREFIX)?)))
            .filter(|(_, rest)| !rest.starts_with("PORT") && !rest.contains("SERVICE") && known().all(|k| k != *rest))
            .filter_map(|(name, rest)| Some((name, format!("{PREFIX}{}", nearest(rest, known())?))))
            .collect()
    }
}

/// Applies every variable that is set.
///
/// # Errors
/// The first one that is wrong.
pub(crate) fn apply(env: &Environment, settings: &mut Settings) -> Result<(), ConfigError> {
    let bad =
        |name: &str, value: String, problem: String| ConfigError::Value { origin: name.to_owned(), value, problem };
    if let Some(level) = env.get("OTEL_LOG_LEVEL")? {
        settings.log.level = fields::log_level(&level).map_err(|p| bad("OTEL_LOG_LEVEL", level, p))?;
    }
    for key in KEYS {
        if let Some(value) = env.get(key.variable)? {
            (key.set)(settings, &value).map_err(|p| bad(key.variable, value, p))?;
        }
    }
    if let Some(text) = env.get("OTEL_RESOURCE_ATTRIBUTES")? {
        let pairs = headers::pairs(&text).map_err(|p| bad("OTEL_RESOURCE_ATTRIBUTES", text, p))?;
        put_attributes(settings, pairs);
    }
    if let Some(name) = env.get("OTEL_SERVICE_NAME")? {
        settings.resource.service_name = Some(name);
    }
    settings.otlp = resolve(&raw(env, "PROFILES")?, Signal::Profiles)?;
    metrics(env, settings)?;
    if let Some(disabled) = env.get("OTEL_SDK_DISABLED")?
        && boolean(&disabled).map_err(|p| bad("OTEL_SDK_DISABLED", disabled, p))?
    {
        disable(settings);
    }
    Ok(())
}

/// Attributes of the resource; `service.name` among them is the profiler's own.
pub(crate) fn put_attributes(settings: &mut Settings, pairs: Vec<(String, String)>) {
    for (name, value) in pairs {
        if name == "service.name" {
            settings.resource.service_name = Some(value);
        } else {
            settings.resource.attributes.retain(|(n, _)| *n != name);
            settings.resource.attributes.push((name, value));
        }
    }
}

/// What "SDK disabled" means here: nothing is pushed. The port still answers.
pub(crate) fn disable(settings: &mut Settings) {
    settings.otlp = None;
    settings.metrics.otlp = None;
}

fn metrics(env: &Environment, settings: &mut Settings) -> Result<(), ConfigError> {
    const INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";
    const EXPORTER: &str = "OTEL_METRICS_EXPORTER";
    let bad = |name: &str, value: &str, problem: String| ConfigError::Value {
        origin: name.to_owned(),
        value: value.to_owned(),
        problem,
    };
    if let Some(text) = env.get(INTERVAL)? {
        let ms = between(&text, "a number of milliseconds", 1000, 3_600_000).map_err(|p| bad(INTERVAL, &text, p))?;
        settings.metrics.interval = Duration::from_millis(ms);
    }
    let Some(list) = env.get(EXPORTER)? else { return Ok(()) };
    settings.metrics.prometheus = false;
    for name in list.split(',').map(str::trim) {
        match name {
            "prometheus" => settings.metrics.prometheus = true,
            "otlp" => {
                let mut raw = raw(env, "METRICS")?;
                if raw.base.is_none() && raw.own.is_none() {
                    let grpc = raw.protocol.as_ref().is_some_and(|p| p.value == "grpc");
                    let value = if grpc { "http://localhost:4317" } else { "http://localhost:4318" };
                    raw.base = Some(Sourced { value: value.to_owned(), origin: EXPORTER.to_owned() });
                }
                settings.metrics.otlp = resolve(&raw, Signal::Metrics)?;
            }
            "none" | "" => {}
            _ => return Err(bad(EXPORTER, &list, format!("names `{name}`, which is none of prometheus, otlp, none"))),
        }
    }
    Ok(())
}

/// The pieces of one signal's receiver: its own variable where set, else the general one.
fn raw(env: &Environment, signal: &str) -> Result<RawOtlp, ConfigError> {
    let own = |suffix: &str| -> Result<Option<Sourced>, ConfigError> {
        let name = format!("OTEL_EXPORTER_OTLP_{signal}_{suffix}");
        Ok(env.get(&name)?.map(|value| Sourced { value, origin: name }))
    };
    let general = |suffix: &str| -> Result<Option<Sourced>, ConfigError> {
        let name = format!("OTEL_EXPORTER_OTLP_{suffix}");
        Ok(env.get(&name)?.map(|value| Sourced { value, origin: name }))
    };
    let either = |suffix: &str| -> Result<Option<Sourced>, ConfigError> {
        Ok(match own(suffix)? {
            Some(found) => Some(found),
            None => general(suffix)?,
        })
    };
    Ok(RawOtlp {
        base: general("ENDPOINT")?,
        own: own("ENDPOINT")?,
        protocol: either("PROTOCOL")?,
        header_list: either("HEADERS")?,
        headers: Vec::new(),
        timeout: either("TIMEOUT")?,
        compression: either("COMPRESSION")?,
        ca: either("CERTIFICATE")?,
        client_certificate: either("CLIENT_CERTIFICATE")?,
        client_key: either("CLIENT_KEY")?,
        insecure: either("INSECURE")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Protocol;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let mut settings = Settings::default();
        apply(&Environment::of(pairs), &mut settings).map_err(|e| e.to_string())?;
        Ok(settings)
    }

    #[test]
    fn nothing_set_changes_nothing_and_empty_is_not_set() {
        assert_eq!(read(&[]), Ok(Settings::default()));
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("PROFILER_FREQUENCY", "")]), Ok(Settings::default()));
    }

    #[test]
    fn slips_are_noticed_and_other_peoples_variables_are_not() {
        let env = Environment::of(&[
            ("PROFILER_FREQENCY", "9"),
            ("PROFILER_FREQUENCY", "9"),
            ("PROFILER_PORT", "tcp://10.0.0.1:2112"),
            ("PROFILER_SERVICE_HOST", "10.0.0.1"),
            ("PROFILER_QQQ", "1"),
        ]);
        assert_eq!(env.slips(), [("PROFILER_FREQENCY", "PROFILER_FREQUENCY".to_owned())]);
    }

    #[test]
    fn the_specific_form_wins() {
        let s = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4318"),
            ("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", "http://own:4040/push"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_PROFILES_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_PROFILES_HEADERS", "b=2%20c"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_METRICS_EXPORTER", "otlp, prometheus"),
        ])
        .unwrap();
        let profiles = s.otlp.unwrap();
        assert_eq!(profiles.endpoint, "http://own:4040/push");
        assert_eq!(profiles.timeout, Duration::from_millis(2500));
        assert_eq!(profiles.headers.0, [("b".to_owned(), "2 c".to_owned())]);
        assert!(!profiles.gzip);
        let metrics = s.metrics.otlp.unwrap();
        assert_eq!(metrics.endpoint, "http://general:4318/v1/metrics");
        assert_eq!(metrics.timeout, Duration::from_secs(1));
        assert!(s.metrics.prometheus);
    }

    #[test]
    fn metrics_and_disabling() {
        let s = read(&[("OTEL_METRICS_EXPORTER", "none")]).unwrap();
        assert!(!s.metrics.prometheus && s.metrics.otlp.is_none());
        let s = read(&[("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap();
        assert_eq!(
            s.metrics.otlp.map(|o| (o.protocol, o.endpoint)),
            Some((Protocol::Grpc, "http://localhost:4317".into()))
        );
        let s = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318"), ("OTEL_SDK_DISABLED", "TRUE")]).unwrap();
        assert!(s.otlp.is_none());
    }

    #[test]
    fn resource_attributes() {
        let s =
            read(&[("OTEL_RESOURCE_ATTRIBUTES", "a=1,service.name=me,b=x%2Cy"), ("OTEL_LOG_LEVEL", "Debug")]).unwrap();
        assert_eq!(s.resource.attributes, [("a".into(), "1".into()), ("b".into(), "x,y".into())]);
        assert_eq!(s.resource.service_name.as_deref(), Some("me"));
        assert_eq!(s.log.level, "debug");
    }

    #[test]
    fn a_wrong_value_names_its_variable() {
        for (name, value) in [
            ("PROFILER_FREQUENCY", "0"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
            ("OTEL_EXPORTER_OTLP_PROFILES_TIMEOUT", "-1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x"),
            ("OTEL_METRICS_EXPORTER", "console"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "often"),
            ("OTEL_RESOURCE_ATTRIBUTES", "x"),
            ("OTEL_SDK_DISABLED", "perhaps"),
            ("OTEL_LOG_LEVEL", "loud"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
    }
}
