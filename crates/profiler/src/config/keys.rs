//! The profiler's own settings: one table for the flag, the variable, the key of the file, the value's check and how
//! it is shown. Everything else about configuration follows from it.

use std::time::Duration;

use super::settings::{LogFormat, ProfilesFrom, Settings};
use super::value::{between, boolean, bytes, duration, listen, pids, show_bytes, show_duration};

/// The highest rate.
pub(crate) const MAX_FREQUENCY_HZ: u32 = 1000;
const MAX_WINDOW: Duration = Duration::from_secs(60);

/// One setting.
pub(crate) struct Key {
    /// Its path under `distribution.profiler` in the file.
    pub(crate) path: &'static str,
    /// Its environment variable.
    pub(crate) variable: &'static str,
    /// Its flag; empty where it has none.
    pub(crate) flag: &'static str,
    /// Reads and checks a value.
    pub(crate) set: fn(&mut Settings, &str) -> Result<(), String>,
    /// Shows the value as `set` reads it.
    pub(crate) get: fn(&Settings) -> String,
}

/// Makes a key from where its value lives, how it is read and how it is shown.
macro_rules! key {
    ($path:literal, $variable:literal, $flag:literal, $($field:ident).+, $read:expr, $show:expr) => {
        Key {
            path: $path,
            variable: $variable,
            flag: $flag,
            set: |s, text| {
                s.$($field).+ = $read(text)?;
                Ok(())
            },
            get: |s| $show(&s.$($field).+),
        }
    };
}

/// Every setting of our own, in the order in which it is shown.
pub(crate) const KEYS: &[Key] = &[
    key!("sampling.frequency", "PROFILER_FREQUENCY", "--frequency", sampling.frequency_hz, frequency, text),
    key!("sampling.pid", "PROFILER_PID", "--pid", sampling.pids, pids, show_pids),
    key!("sampling.children", "PROFILER_CHILDREN", "--children", sampling.children, boolean, text),
    key!("sampling.window", "PROFILER_WINDOW", "--window", sampling.window, window, show_duration_ref),
    key!(
        "sampling.snapshot_bytes",
        "PROFILER_SNAPSHOT_BYTES",
        "--snapshot-bytes",
        sampling.snapshot_bytes,
        snapshot_bytes,
        show_bytes_32
    ),
    key!("sampling.ring_bytes", "PROFILER_RING_BYTES", "--ring-bytes", sampling.ring_bytes, ring_bytes, show_bytes_32),
    key!("sampling.merge_bytes", "PROFILER_MERGE_BYTES", "", sampling.merge_bytes, budget, show_bytes_64),
    key!("sampling.threads", "PROFILER_THREADS", "--threads", sampling.threads, boolean, text),
    key!("sampling.timestamps", "PROFILER_TIMESTAMPS", "--timestamps", sampling.timestamps, boolean, text),
    key!("sampling.include_self", "PROFILER_INCLUDE_SELF", "--include-self", sampling.include_self, boolean, text),
    key!(
        "sampling.kernel_threads",
        "PROFILER_KERNEL_THREADS",
        "--no-kernel-threads",
        sampling.kernel_threads,
        boolean,
        text
    ),
    key!("web.listen", "PROFILER_LISTEN", "--listen", web.listen, listen, text),
    key!(
        "web.profiles_from",
        "PROFILER_PROFILES_FROM",
        "--profiles-from",
        web.profiles_from,
        profiles_from,
        show_profiles_from
    ),
    key!("web.keep", "PROFILER_KEEP", "", web.keep, keep, show_duration_ref),
    key!("web.keep_bytes", "PROFILER_KEEP_BYTES", "", web.keep_bytes, budget, show_bytes_64),
    key!("export.interval", "PROFILER_EXPORT_INTERVAL", "", export.interval, interval, show_duration_ref),
    key!("export.queue_bytes", "PROFILER_EXPORT_QUEUE_BYTES", "", export.queue_bytes, budget, show_bytes_64),
    key!(
        "export.max_request_bytes",
        "PROFILER_EXPORT_MAX_REQUEST_BYTES",
        "",
        export.max_request_bytes,
        request_bytes,
        show_bytes_64
    ),
    key!(
        "export.service_name",
        "PROFILER_EXPORT_SERVICE_NAME",
        "",
        export.service_name,
        service_name,
        show_service_name
    ),
    key!("export.pid", "PROFILER_EXPORT_PID", "", export.pid, boolean, text),
    key!("export.payload", "PROFILER_EXPORT_PAYLOAD", "", export.payload, boolean, text),
    key!("export.sample_attributes", "PROFILER_EXPORT_SAMPLE_ATTRIBUTES", "", export.sample_attributes, boolean, text),
    key!(
        "export.shutdown_timeout",
        "PROFILER_EXPORT_SHUTDOWN_TIMEOUT",
        "",
        export.shutdown_timeout,
        shutdown_timeout,
        show_duration_ref
    ),
    key!("log.level", "PROFILER_LOG_LEVEL", "--log-level", log.level, log_level, text),
    key!("log.format", "PROFILER_LOG_FORMAT", "--log-format", log.format, log_format, show_log_format),
    key!("print", "PROFILER_PRINT", "--print", print, boolean, text),
];

/// The key with this path.
pub(crate) fn by_path(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

fn text(value: &impl ToString) -> String {
    value.to_string()
}

fn frequency(text: &str) -> Result<u32, String> {
    between(text, "a rate in samples per second and CPU", 1, MAX_FREQUENCY_HZ)
}

fn show_pids(pids: &[u32]) -> String {
    if pids.is_empty() { "0".to_owned() } else { pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",") }
}

fn range(text: &str, low: Duration, high: Duration) -> Result<Duration, String> {
    let value = duration(text, Duration::from_secs(1))?;
    if value < low || value > high {
        return Err(format!("is out of range: {} to {}", show_duration(low), show_duration(high)));
    }
    Ok(value)
}

fn window(text: &str) -> Result<Duration, String> {
    range(text, Duration::from_secs(1), MAX_WINDOW)
}

fn keep(text: &str) -> Result<Duration, String> {
    range(text, Duration::from_secs(10), Duration::from_secs(24 * 3600))
}

fn interval(text: &str) -> Result<Duration, String> {
    range(text, Duration::from_secs(1), Duration::from_secs(600))
}

fn shutdown_timeout(text: &str) -> Result<Duration, String> {
    range(text, Duration::ZERO, Duration::from_secs(300))
}

fn show_duration_ref(d: &Duration) -> String {
    show_duration(*d)
}

fn bytes_between(text: &str, low: u64, high: u64) -> Result<u64, String> {
    let value = bytes(text)?;
    if value < low || value > high {
        return Err(format!("is out of range: {} to {}", show_bytes(low), show_bytes(high)));
    }
    Ok(value)
}

fn snapshot_bytes(text: &str) -> Result<u32, String> {
    let value = bytes_between(text, 512, 64 << 10)?;
    Ok(u32::try_from(value).unwrap_or(64 << 10) & !7)
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let value = bytes_between(text, 256 << 10, 256 << 20)?;
    if !value.is_power_of_two() {
        return Err("is not a power of two, as a ring buffer must be: for example 8MiB".to_owned());
    }
    Ok(u32::try_from(value).unwrap_or(8 << 20))
}

fn budget(text: &str) -> Result<u64, String> {
    bytes_between(text, 1 << 20, 4 << 30)
}

fn request_bytes(text: &str) -> Result<u64, String> {
    bytes_between(text, 64 << 10, (4 << 20) - 1024)
}

fn show_bytes_32(n: &u32) -> String {
    show_bytes(u64::from(*n))
}

fn show_bytes_64(n: &u64) -> String {
    show_bytes(*n)
}

fn profiles_from(text: &str) -> Result<ProfilesFrom, String> {
    match text {
        "loopback" => Ok(ProfilesFrom::Loopback),
        "any" => Ok(ProfilesFrom::Any),
        _ => Err("is neither loopback nor any".to_owned()),
    }
}

fn show_profiles_from(from: &ProfilesFrom) -> String {
    match from {
        ProfilesFrom::Loopback => "loopback",
        ProfilesFrom::Any => "any",
    }
    .to_owned()
}

/// The levels of the log; OpenTelemetry's own words are taken too.
pub(crate) fn log_level(text: &str) -> Result<String, String> {
    let word = text.trim().to_ascii_lowercase();
    let level = match word.as_str() {
        "none" => "off",
        "fatal" | "fatal2" | "fatal3" | "fatal4" => "error",
        "warning" => "warn",
        "verbose" | "all" => "trace",
        other => other.trim_end_matches(['2', '3', '4']),
    };
    if matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace") {
        return Ok(level.to_owned());
    }
    let directives = text.contains('=') && text.parse::<tracing_subscriber::filter::Targets>().is_ok();
    if directives {
        return Ok(text.trim().to_owned());
    }
    Err("is not a level: off, error, warn, info, debug, trace, or TARGET=LEVEL,...".to_owned())
}

fn service_name(text: &str) -> Result<Option<String>, String> {
    Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty()))
}

fn show_service_name(name: &Option<String>) -> String {
    name.clone().unwrap_or_default()
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither text nor json".to_owned()),
    }
}

fn show_log_format(format: &LogFormat) -> String {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_good_value_and_reads_back() {
        let defaults = Settings::default();
        for key in KEYS {
            let shown = (key.get)(&defaults);
            let mut settings = defaults.clone();
            (key.set)(&mut settings, &shown).unwrap_or_else(|e| panic!("{}: `{shown}` {e}", key.path));
            assert_eq!(settings, defaults, "{}", key.path);
        }
    }

    #[test]
    fn names_follow_one_rule_and_stand_once() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(key.variable.starts_with("PROFILER_"), "{}", key.variable);
            assert!(KEYS[..i].iter().all(|k| k.path != key.path && k.variable != key.variable), "{}", key.path);
        }
    }

    #[test]
    fn the_documentation_names_every_setting_with_its_default() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        for key in KEYS {
            let row = text.lines().find(|l| l.starts_with(&format!("| `{}` |", key.path)));
            let row = row.unwrap_or_else(|| panic!("{} has no row", key.path));
            assert!(row.contains(&format!("`{}`", key.variable)), "{row}");
            assert!(row.contains(key.flag), "{row}");
            let default = (key.get)(&Settings::default());
            assert!(default.is_empty() || row.contains(&format!("| `{default}` |")), "{row}: {default}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for (path, bad) in [
            ("sampling.frequency", "0"),
            ("sampling.frequency", "1001"),
            ("sampling.frequency", "fast"),
            ("sampling.window", "0s"),
            ("sampling.window", "61s"),
            ("sampling.snapshot_bytes", "64MiB"),
            ("sampling.ring_bytes", "3MiB"),
            ("export.max_request_bytes", "4MiB"),
            ("log.level", "loud"),
            ("log.format", "xml"),
            ("web.profiles_from", "world"),
        ] {
            let key = by_path(path).unwrap();
            assert!((key.set)(&mut Settings::default(), bad).is_err(), "{path} {bad}");
        }
        assert_eq!(log_level("WARN2").as_deref(), Ok("warn"));
        assert_eq!(log_level("sampler=debug,info").as_deref(), Ok("sampler=debug,info"));
    }
}
