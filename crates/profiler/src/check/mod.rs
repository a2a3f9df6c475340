//! `profiler check`: what would not work on this machine, and how to mend it.
//!
//! **In**: /proc, /sys, and tries. **Out**: a list for people or as JSON; exit code 1 where sampling would not work.

mod cache;
mod cgroups;
mod host;
mod kernel;
mod names;
mod privileges;

use std::fmt::Write as _;
use std::process::ExitCode;

use identity::IdentitySettings;
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::config::{self, Environment};

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Works.
    Ok,
    /// Works with less.
    Limited,
    /// The profiler does not work because of this.
    Fails,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    /// What, in a few words.
    name: String,
    /// How it stands.
    state: State,
    /// What was seen.
    seen: String,
    /// What would mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Item {
    fn ok(name: &str, seen: impl ToString) -> Self {
        Self { name: name.to_owned(), state: State::Ok, seen: seen.to_string(), remedy: None }
    }

    fn limited(name: &str, seen: impl ToString, remedy: impl ToString) -> Self {
        Self { name: name.to_owned(), state: State::Limited, seen: seen.to_string(), remedy: Some(remedy.to_string()) }
    }

    fn fails(name: &str, seen: impl ToString, remedy: impl ToString) -> Self {
        Self { state: State::Fails, ..Self::limited(name, seen, remedy) }
    }
}

/// All that was looked at.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether the profiler would work.
    works: bool,
    /// In the order of looking.
    items: Vec<Item>,
}

/// Runs the command.
///
/// # Errors
/// The configuration is wrong.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let loaded = config::load(args.config.as_deref(), &Environment::of_this_process(), &args.overrides())?;
    let settings = loaded.settings;
    let mut items = kernel::look(settings.unwind.kernel.tables);
    items.push(cache::look(settings.unwind.cache.as_deref()));
    items.extend(privileges::look());
    let host_root = crate::host::root(&settings.identity.host_root);
    items.extend(host::look(settings.web.listen, &host_root));
    items.extend(names::look(&IdentitySettings { host_root, ..settings.identity }));
    let report = Report { works: items.iter().all(|i| i.state != State::Fails), items };
    if args.json {
        crate::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        crate::print(&text(&report))?;
    }
    Ok(if report.works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let width = report.items.iter().map(|i| i.name.chars().count()).max().unwrap_or_default();
    let mut out = String::new();
    for item in &report.items {
        let mark = match item.state {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Fails => "FAILS",
        };
        let _ = writeln!(out, "{mark:<8} {:<width$}  {}", item.name, item.seen);
        if let Some(remedy) = &item.remedy {
            let _ = writeln!(out, "{:<8} {:<width$}  -> {remedy}", "", "");
        }
    }
    let fails = report.items.iter().filter(|i| i.state == State::Fails).count();
    let limited = report.items.iter().filter(|i| i.state == State::Limited).count();
    let _ = match (fails, limited) {
        (0, 0) => writeln!(out, "\nEverything works here."),
        (0, n) => writeln!(out, "\nThe profiler works here; {n} of these would make it see more."),
        (n, _) => writeln!(out, "\nThe profiler does not work here: mend what FAILS ({n})."),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_to_do() {
        let items = vec![Item::ok("a", "fine"), Item::limited("bb", "less", "do x"), Item::fails("c", "gone", "do y")];
        let text = text(&Report { works: false, items });
        assert!(text.contains("ok       a   fine\n"), "{text}");
        assert!(text.contains("limited  bb  less\n             -> do x\n"), "{text}");
        assert!(text.ends_with("does not work here: mend what FAILS (1).\n"), "{text}");
    }
}
