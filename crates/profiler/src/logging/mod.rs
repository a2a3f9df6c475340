//! The log: structured, to standard error, as text or JSON.

mod repeats;

use std::io::IsTerminal;
use std::sync::LazyLock;

use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use self::repeats::Repeats;
use crate::config::settings::{Log, LogFormat};

/// One for the process, as the log is.
static REPEATS: LazyLock<Repeats> = LazyLock::new(Repeats::default);

/// Libraries whose own chatter starts one level lower than ours.
const LOUD: [&str; 8] = ["h2", "hyper", "hyper_util", "tower", "tonic", "reqwest", "rustls", "aya"];

/// Starts logging. A second call changes nothing.
pub(crate) fn start(log: &Log) {
    let layer = match log.format {
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter(&log.level).and(&*REPEATS))).try_init();
}

/// Tells how often messages were left out because they repeat; `all`: also those of the last minute.
pub(crate) fn tell_repeats(all: bool) {
    REPEATS.tell(all);
}

fn filter(level: &str) -> Targets {
    if let Ok(level) = level.parse::<LevelFilter>() {
        let lower = level.min(LevelFilter::WARN).min(level);
        let libraries = if level >= LevelFilter::TRACE { LevelFilter::DEBUG } else { lower };
        return LOUD.iter().fold(Targets::new().with_default(level), |t, name| t.with_target(*name, libraries));
    }
    level.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_quieter_than_we_are() {
        let f = filter("info");
        assert!(f.would_enable("profiler::agent", &Level::INFO) && !f.would_enable("h2::codec", &Level::INFO));
        assert!(filter("trace").would_enable("h2::codec", &Level::DEBUG));
        assert!(!filter("off").would_enable("profiler", &Level::ERROR));
        let f = filter("sampler=debug,warn");
        assert!(f.would_enable("sampler", &Level::DEBUG) && !f.would_enable("profiler", &Level::INFO));
    }
}
