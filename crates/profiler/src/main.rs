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
mod costs;
mod filter;
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

use anyhow::Context;
use cli::Command;

fn main() -> ExitCode {
    limits::keep_memory_small();
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
    let text = chain(error);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    eprintln!("profiler: {first}");
    if !rest.is_empty() {
        tracing::debug!(details = rest, "the whole error");
    }
}

/// An error's text with those of its sources, none of them twice.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Writes to standard output what the user asked for. A reader that has gone away is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::chain;

    #[test]
    fn a_chain_of_errors_says_nothing_twice() {
        let error = anyhow!("permission denied").context("map X: permission denied").context("not permitted");
        assert_eq!(chain(&error), "not permitted: map X: permission denied");
        let error = Err::<(), _>(anyhow!("no space")).context("cannot write x").unwrap_err();
        assert_eq!(chain(&error), "cannot write x: no space");
    }
}
