//! How the values of the settings are read, checked and shown; one pair of functions for each kind.
//!
//! **In**: text from flags, variables and files. **Out**: values, or what is wrong, to stand behind the value's origin.
//! **Limits**: [`MAX_RULES`] and [`MAX_SELECTED`] items in a list.

use std::path::{Path, PathBuf};
use std::time::Duration;

use exporter::metrics::{AggregatedLabel, MAX_AGGREGATED_SERIES, UnknownLabel};
use identity::{OPTIONAL_ATTRIBUTES, Source};
use sampler::Check;

use super::settings::{LogFormat, ProfilesFrom};
use super::value::{between, bytes, duration, list, show_bytes, show_duration};
use crate::filter::{MAX_PATTERN_BYTES, MAX_RULES, Rule};

/// The highest rate.
const MAX_FREQUENCY_HZ: u32 = 1000;
/// The longest base window.
const MAX_WINDOW: Duration = Duration::from_secs(60);
/// The longest user stack that the kernel unwinds.
const MAX_WALK_FRAMES: u32 = 1024;
/// The rarest comparison of tables with snapshots.
const MAX_CHECK_EVERY: u32 = 1_000_000;
/// The most keys of labels or annotations: a receiver has few labels to give.
const MAX_SELECTED: usize = 32;

pub(super) fn text(value: &impl ToString) -> String {
    value.to_string()
}

pub(super) fn frequency(text: &str) -> Result<u32, String> {
    between(text, "a rate in samples per second and CPU", 1, MAX_FREQUENCY_HZ)
}

pub(super) fn show_pids(pids: &[u32]) -> String {
    if pids.is_empty() { "0".to_owned() } else { pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",") }
}

pub(super) fn range(text: &str, low: Duration, high: Duration) -> Result<Duration, String> {
    let value = duration(text, Duration::from_secs(1))?;
    if value < low || value > high {
        return Err(format!("is out of range: {} to {}", show_duration(low), show_duration(high)));
    }
    Ok(value)
}

pub(super) fn window(text: &str) -> Result<Duration, String> {
    range(text, Duration::from_secs(1), MAX_WINDOW)
}

pub(super) fn keep(text: &str) -> Result<Duration, String> {
    range(text, Duration::from_secs(10), Duration::from_secs(24 * 3600))
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    range(text, Duration::from_secs(1), Duration::from_secs(600))
}

pub(super) fn shutdown_timeout(text: &str) -> Result<Duration, String> {
    range(text, Duration::ZERO, Duration::from_secs(300))
}

pub(super) fn show_duration_ref(d: &Duration) -> String {
    show_duration(*d)
}

pub(super) fn bytes_between(text: &str, low: u64, high: u64) -> Result<u64, String> {
    let value = bytes(text)?;
    if value < low || value > high {
        return Err(format!("is out of range: {} to {}", show_bytes(low), show_bytes(high)));
    }
    Ok(value)
}

pub(super) fn snapshot_bytes(text: &str) -> Result<u32, String> {
    let value = bytes_between(text, 512, 64 << 10)?;
    Ok(u32::try_from(value).unwrap_or(64 << 10) & !7)
}

pub(super) fn ring_bytes(text: &str) -> Result<Option<u32>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let value = bytes_between(text, 256 << 10, 256 << 20)?;
    if !value.is_power_of_two() {
        return Err("is not a power of two, as a ring buffer must be: for example 8MiB".to_owned());
    }
    Ok(u32::try_from(value).ok())
}

pub(super) fn show_ring_bytes(n: &Option<u32>) -> String {
    n.map_or_else(|| "auto".to_owned(), |n| show_bytes(u64::from(n)))
}

pub(super) fn budget(text: &str) -> Result<u64, String> {
    bytes_between(text, 1 << 20, 4 << 30)
}

pub(super) fn request_bytes(text: &str) -> Result<u64, String> {
    bytes_between(text, 64 << 10, (4 << 20) - 1024)
}

pub(super) fn show_bytes_32(n: &u32) -> String {
    show_bytes(u64::from(*n))
}

pub(super) fn show_bytes_64(n: &u64) -> String {
    show_bytes(*n)
}

pub(super) fn tables(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("is neither auto nor off".to_owned()),
    }
}

pub(super) fn show_tables(tables: &bool) -> String {
    if *tables { "auto" } else { "off" }.to_owned()
}

pub(super) fn max_frames(text: &str) -> Result<u32, String> {
    between(text, "a number of frames", 1, MAX_WALK_FRAMES)
}

/// How many stacks are unwound twice and compared.
pub(super) fn check(text: &str) -> Result<Check, String> {
    let one_in = || {
        let (one, every) = text.split_once('/')?;
        let every = every.trim().parse().ok().filter(|every| (1..=MAX_CHECK_EVERY).contains(every))?;
        (one.trim() == "1").then_some(Check::OneIn(every))
    };
    match text {
        "off" => Ok(Check::Off),
        "adaptive" => Ok(Check::Adaptive),
        _ => one_in().ok_or_else(|| format!("is none of off, adaptive, 1/N with N from 1 to {MAX_CHECK_EVERY}")),
    }
}

pub(super) fn show_check(check: &Check) -> String {
    match check {
        Check::Off => "off".to_owned(),
        Check::Adaptive => "adaptive".to_owned(),
        Check::OneIn(every) => format!("1/{every}"),
    }
}

/// A directory, or none.
pub(super) fn cache(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "off" => Ok(None),
        _ => path(text).map(Some).map_err(|_| "is neither off nor a path that begins with /".to_owned()),
    }
}

pub(super) fn show_cache(cache: &Option<PathBuf>) -> String {
    cache.as_deref().map_or_else(|| "off".to_owned(), show_path)
}

pub(super) fn profiles_from(text: &str) -> Result<ProfilesFrom, String> {
    match text {
        "loopback" => Ok(ProfilesFrom::Loopback),
        "any" => Ok(ProfilesFrom::Any),
        _ => Err("is neither loopback nor any".to_owned()),
    }
}

pub(super) fn show_profiles_from(from: &ProfilesFrom) -> String {
    match from {
        ProfilesFrom::Loopback => "loopback",
        ProfilesFrom::Any => "any",
    }
    .to_owned()
}

/// The levels of the log; OpenTelemetry's own words are taken too.
pub(super) fn log_level(text: &str) -> Result<String, String> {
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

/// A text; empty: none.
pub(super) fn optional_text(text: &str) -> Result<Option<String>, String> {
    Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty()))
}

pub(super) fn show_text(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

/// A path from the root; empty: none.
pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() { Ok(None) } else { path(text).map(Some) }
}

pub(super) fn show_optional_path(path: &Option<PathBuf>) -> String {
    path.as_deref().map(show_path).unwrap_or_default()
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') { Ok(PathBuf::from(text)) } else { Err("is not a path that begins with /".to_owned()) }
}

pub(super) fn show_path(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn rules(text: &str) -> Result<Vec<Rule>, String> {
    let items = list(text);
    if items.len() > MAX_RULES {
        return Err(format!("has more than {MAX_RULES} rules"));
    }
    let alone = items.len() == 1;
    let read = |item: &String| {
        Rule::parse(item).map_err(|problem| if alone { problem } else { format!("holds `{item}`, which {problem}") })
    };
    items.iter().map(read).collect()
}

pub(super) fn kubernetes(text: &str) -> Result<Source, String> {
    Ok(match text {
        "auto" => Source::Auto,
        "kubelet" => Source::Kubelet,
        "api" => Source::Api,
        "cri" => Source::Cri,
        "off" => Source::Off,
        _ => return Err("is none of auto, kubelet, api, cri, off".to_owned()),
    })
}

pub(super) fn show_kubernetes(from: &Source) -> String {
    match from {
        Source::Auto => "auto",
        Source::Kubelet => "kubelet",
        Source::Api => "api",
        Source::Cri => "cri",
        Source::Off => "off",
    }
    .to_owned()
}

/// Where the kubelet answers: scheme, host and port; also a path, where a proxy stands before it.
pub(super) fn kubelet_url(text: &str) -> Result<Option<String>, String> {
    const GOOD: &str = "write for example https://127.0.0.1:10250";
    let text = text.trim().trim_end_matches('/');
    if text.is_empty() {
        return Ok(None);
    }
    let url: http::Uri = text.parse().map_err(|_| format!("is not a URL: {GOOD}"))?;
    if !matches!(url.scheme_str(), Some("https" | "http")) {
        return Err(format!("has neither https:// nor http:// in front: {GOOD}"));
    }
    if url.query().is_some() || url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(format!("holds a user or a query: {GOOD}"));
    }
    Ok(Some(text.to_owned()))
}

/// Keys of labels or annotations, or patterns of them.
pub(super) fn selected(text: &str) -> Result<Vec<String>, String> {
    let items = list(text);
    if items.len() > MAX_SELECTED {
        return Err(format!("has more than {MAX_SELECTED} keys"));
    }
    // What Kubernetes lets a key be made of, and stars.
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '*');
    match items.iter().find(|i| i.len() > MAX_PATTERN_BYTES || !i.chars().all(good)) {
        Some(item) => {
            Err(format!("holds `{item}`, which is no key of a label or annotation: letters, digits, . _ - / and *"))
        }
        None => Ok(items),
    }
}

/// Attributes that are left out unless asked for.
pub(super) fn optional_attributes(text: &str) -> Result<Vec<String>, String> {
    let items = list(text);
    match items.iter().find(|i| !OPTIONAL_ATTRIBUTES.contains(&i.as_str())) {
        Some(item) => Err(format!("holds `{item}`, which is none of {}", OPTIONAL_ATTRIBUTES.join(", "))),
        None => Ok(items),
    }
}

pub(super) fn keep_names(text: &str) -> Result<Duration, String> {
    range(text, Duration::from_secs(60), Duration::from_secs(24 * 3600))
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither text nor json".to_owned()),
    }
}

pub(super) fn show_log_format(format: &LogFormat) -> String {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
    .to_owned()
}

/// With `service.name`, and never more than anybody reads.
pub(super) fn max_attributes(text: &str) -> Result<usize, String> {
    between(text, "a number of attributes", 1, 128)
}

pub(super) fn aggregated_series(text: &str) -> Result<usize, String> {
    between(text, "a number of series", 0, MAX_AGGREGATED_SERIES)
}

pub(super) fn aggregated_labels(text: &str) -> Result<Vec<AggregatedLabel>, String> {
    list(text)
        .iter()
        .map(|item| item.parse().map_err(|error: UnknownLabel| format!("holds what is none: {error}")))
        .collect()
}

pub(super) fn show_aggregated_labels(labels: &[AggregatedLabel]) -> String {
    labels.iter().map(|l| l.label()).collect::<Vec<_>>().join(",")
}
