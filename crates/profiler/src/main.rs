//! `profiler`: the command line, the configuration and the wiring of the rooms; nothing else.
//!
//! ```text
//! sampler -> (unnamed window) -> symbolizer -> (Profile) -> exporter
//! ```

mod args;
mod cli;
mod command;
mod config;
mod host;
mod listen;
mod logging;
mod output;
mod progress;
mod signals;
mod target;

fn main() -> std::process::ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(_) => std::process::ExitCode::SUCCESS,
        Err(e) => e.exit(),
    }
}
