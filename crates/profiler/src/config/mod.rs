//! What the profiler is told: defaults, then environment variables or a file, then flags.
//!
//! **In**: flags, a copy of the environment, a file. **Out**: [`Settings`], checked. Where a file is named, variables
//! count only where it substitutes them, as the OpenTelemetry specification says; flags win over both.

mod env;
mod error;
mod fields;
mod file;
mod headers;
mod keys;
mod node;
mod otlp;
mod section;
pub(crate) mod settings;
mod substitute;
mod value;
mod yaml;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub(crate) use env::Environment;
pub(crate) use error::{ConfigError, nearest};
pub(crate) use node::NODE_NAME;
pub(crate) use settings::Settings;

/// The shortest recording.
const MIN_DURATION: Duration = Duration::from_millis(100);
/// The longest.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// A setting from the command line: its path, its value.
pub(crate) type Override = (&'static str, String);

/// Settings, and what they were made from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The settings.
    pub(crate) settings: Settings,
    /// The file, if one was named.
    pub(crate) file: Option<PathBuf>,
    /// Variables that are set but do not count, because a file was named.
    pub(crate) ignored: Vec<String>,
}

/// Puts all sources together.
///
/// # Errors
/// The first thing that is wrong, with its origin.
pub(crate) fn load(file: Option<&Path>, env: &Environment, flags: &[Override]) -> Result<Loaded, ConfigError> {
    load_over(&[], file, env, flags)
}

/// The same over other defaults.
///
/// # Errors
/// The first thing that is wrong, with its origin.
pub(crate) fn load_over(
    usual: &[Override],
    file: Option<&Path>,
    env: &Environment,
    flags: &[Override],
) -> Result<Loaded, ConfigError> {
    let mut settings = Settings::default();
    put(&mut settings, usual)?;
    let file = match file {
        Some(file) => Some(file.to_owned()),
        None => env.get("OTEL_CONFIG_FILE")?.map(PathBuf::from),
    };
    let mut ignored = Vec::new();
    if let Some(file) = &file {
        file::apply(file, env, &mut settings)?;
        ignored = env.ours().into_iter().map(str::to_owned).collect();
    } else {
        env::apply(env, &mut settings)?;
    }
    put(&mut settings, flags)?;
    settings.find_node(env);
    if settings.sampling.children && settings.sampling.pids.is_empty() {
        return Err(ConfigError::Secret {
            origin: "--children".to_owned(),
            problem: "needs the process whose children are meant: add --pid N".to_owned(),
        });
    }
    if settings.identity.kubernetes == identity::Source::Off
        && !settings.identity.runtimes
        && let Some(rule) =
            settings.filter.include.iter().chain(&settings.filter.exclude).find(|rule| rule.needs_names())
    {
        return Err(ConfigError::Value {
            origin: "filter".to_owned(),
            value: rule.to_string(),
            problem: "needs the names of containers, and nobody is asked for them: set identity.kubernetes or \
                      identity.runtimes, or write the rule by cgroup, unit, executable or comm"
                .to_owned(),
        });
    }
    // A profile is made of whole base windows.
    settings.export.interval = settings.export.interval.max(settings.sampling.window);
    Ok(Loaded { settings, file, ignored })
}

fn put(settings: &mut Settings, overrides: &[Override]) -> Result<(), ConfigError> {
    for (path, value) in overrides {
        if let Some(key) = keys::by_path(path) {
            (key.set)(settings, value).map_err(|problem| ConfigError::Value {
                origin: key.flag.to_owned(),
                value: value.clone(),
                problem,
            })?;
        }
    }
    Ok(())
}

/// The value of `--duration`.
///
/// # Errors
/// It is no duration, or none at all.
pub(crate) fn duration(text: &str) -> Result<Duration, ConfigError> {
    let bad = |problem: String| ConfigError::Value { origin: "--duration".to_owned(), value: text.to_owned(), problem };
    match value::duration(text, Duration::from_secs(1)) {
        Ok(d) if d < MIN_DURATION || d > MAX_DURATION => Err(bad("is out of range: 100ms to 24h".to_owned())),
        other => other.map_err(bad),
    }
}

/// `profiler config`: checks the sources and shows the settings.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn show(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let loaded = load(file, &Environment::of_this_process(), &[])?;
    let s = &loaded.settings;
    let mut out = String::new();
    let mut line = |key: &str, value: String| out.push_str(&format!("{key}: {value}\n"));
    line("file", loaded.file.map_or_else(|| "none".to_owned(), |f| f.display().to_string()));
    for key in keys::KEYS {
        line(key.path, (key.get)(s));
    }
    line("otlp", s.otlp.as_ref().map_or_else(|| "none".to_owned(), |o| format!("{o:?}")));
    line("metrics", format!("{:?}", s.metrics));
    line("resource", format!("{:?}", s.resource));
    crate::print(&out)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_and_name_themselves() {
        let env = Environment::of(&[("PROFILER_FREQUENCY", "50"), ("PROFILER_PRINT", "true")]);
        let loaded = load(None, &env, &[("sampling.frequency", "99".into())]).unwrap();
        assert_eq!(loaded.settings.sampling.frequency_hz, 99);
        assert!(loaded.settings.print && loaded.ignored.is_empty());
        let error = load(None, &env, &[("sampling.frequency", "x".into())]).unwrap_err().to_string();
        assert!(error.starts_with("--frequency: `x` is not a rate"), "{error}");
    }

    #[test]
    fn with_a_file_variables_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, "file_format: '1.0'\ndistribution: {profiler: {sampling: {frequency: 7}}}\n").unwrap();
        let env = Environment::of(&[
            ("OTEL_CONFIG_FILE", path.to_str().unwrap()),
            ("PROFILER_FREQUENCY", "50"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"),
        ]);
        let loaded = load(None, &env, &[]).unwrap();
        assert_eq!((loaded.settings.sampling.frequency_hz, loaded.settings.otlp), (7, None));
        assert_eq!(loaded.ignored, ["OTEL_EXPORTER_OTLP_ENDPOINT", "PROFILER_FREQUENCY"]);
        let loaded = load(None, &env, &[("sampling.frequency", "8".into())]).unwrap();
        assert_eq!(loaded.settings.sampling.frequency_hz, 8);
        assert!(load(Some(Path::new("/does/not/exist.yaml")), &env, &[]).is_err());
    }

    #[test]
    fn rules_need_somebody_who_knows_names() {
        let off = [("PROFILER_KUBERNETES", "off"), ("PROFILER_RUNTIMES", "false")];
        let with = |rule: &str| load(None, &Environment::of(&off), &[("filter.exclude", rule.into())]);
        assert!(with("comm=a,cgroup=/b").is_ok());
        let error = with("comm=a,namespace=b").unwrap_err().to_string();
        assert!(error.starts_with("filter: `namespace=b` needs the names of containers"), "{error}");
        assert!(load(None, &Environment::of(&off[1..]), &[("filter.exclude", "pod=b".into())]).is_ok());
    }

    #[test]
    fn children_need_a_parent_and_intervals_hold_whole_windows() {
        let env = Environment::of(&[]);
        assert!(load(None, &env, &[("sampling.children", "true".into())]).is_err());
        let s = load(None, &env, &[("sampling.window", "30s".into())]).unwrap().settings;
        assert_eq!(s.export.interval, s.sampling.window);
    }
}
