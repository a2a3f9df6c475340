//! How far a recording is: a bar on a terminal, one plain line elsewhere. Standard error only.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A running recording.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    length: Option<Duration>,
}

impl Progress {
    /// Says what is recorded, and for how long where that is known.
    pub(crate) fn start(what: &str, length: Option<Duration>) -> Self {
        if !std::io::stderr().is_terminal() {
            let how_long = length.map(|l| format!(" for {}", show(l))).unwrap_or_default();
            eprintln!("profiler: recording {what}{how_long}; Ctrl-C writes what there is");
            return Self { bar: None, length };
        }
        let bar = match length {
            Some(length) => {
                let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}");
                bar(ProgressBar::new(length.as_millis().try_into().unwrap_or(u64::MAX)), style)
            }
            None => bar(ProgressBar::new_spinner(), ProgressStyle::with_template("{spinner} {prefix} {msg}")),
        };
        bar.set_prefix(format!("recording {what}"));
        Self { bar: Some(bar), length }
    }

    /// Shows where it stands.
    pub(crate) fn update(&self, elapsed: Duration, samples: u64) {
        let Some(bar) = &self.bar else { return };
        let mut text = show(elapsed);
        if let Some(length) = self.length {
            let _ = write!(text, " of {}", show(length));
            bar.set_position(elapsed.min(length).as_millis().try_into().unwrap_or(u64::MAX));
        } else {
            bar.tick();
        }
        let _ = write!(text, ", {samples} samples");
        bar.set_message(text);
    }

    /// Says that sampling is over and the rest is being unwound and named.
    pub(crate) fn finishing(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("finishing");
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(bar: ProgressBar, style: Result<ProgressStyle, indicatif::style::TemplateError>) -> ProgressBar {
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(d: Duration) -> String {
    format!("{:.1} s", d.as_secs_f64())
}
