//! `profiler`: the command line, the configuration and the wiring of the rooms; nothing else.
//!
//! ```text
//! sampler -> (unnamed window) -> symbolizer -> (Profile) -> exporter
//! ```

mod agent;
mod args;
mod check;
mod cli;
mod command;
mod config;
mod host;
mod limits;
mod listen;
mod logging;
mod naming;
mod output;
mod pipeline;
mod progress;
mod receivers;
mod record;
mod signals;
mod target;
mod totals;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match &cli.command {
        None => agent::run(&cli.agent),
        Some(Command::Record(args)) => record::run(args),
        Some(Command::Check(args)) => check::run(args),
        Some(Command::Config(args)) => config::show(args.config.as_deref()),
        Some(Command::Worker) => worker::run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

/// One line says what is wrong; what comes after it (a verifier's log) is for the log.
fn complain(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    eprintln!("profiler: {first}");
    if !rest.is_empty() {
        tracing::debug!(details = rest, "the whole error");
    }
}

/// Writes to standard output what the user asked for. A reader that has gone away is not an error.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
