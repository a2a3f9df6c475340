//! The room with a real worker process. This executable is both: with the argument `worker` it is the worker (which
//! must start with one thread, hence no test harness), otherwise it runs the tests.
//!
//! What the tests ask of the system (capabilities, /proc/PID/map_files) needs root.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "all of this is tests, but without a harness clippy does not see that"
)]

mod cache;
mod containers;
mod cost;
mod debug;
mod fake;
mod files;
mod fuse;
mod hostile;
mod real;
mod sandbox;
mod shared;
mod support;
mod tools;
mod worker;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("worker"), None) => match objects::worker::serve(tools::TestTools::default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        (Some("real-worker"), None) => match objects::worker::serve(real::RealTools::default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        (Some("agent"), Some(file)) => {
            sandbox::agent(file.as_ref());
            ExitCode::SUCCESS
        }
        (Some("fake-worker"), Some(kind)) => {
            fake::run(&kind);
            ExitCode::SUCCESS
        }
        _ => {
            let tests = [
                cache::tests(),
                containers::tests(),
                debug::tests(),
                files::tests(),
                hostile::tests(),
                sandbox::tests(),
                worker::tests(),
                fake::tests(),
                real::tests(),
                shared::tests(),
                fuse::tests(),
            ];
            let trial = |(name, test): support::Test| {
                Trial::test(name, move || {
                    test();
                    Ok(())
                })
            };
            let costs = cost::tests().into_iter().map(|cost| trial(cost).with_ignored_flag(true));
            let trials = tests.into_iter().flatten().map(trial).chain(costs).collect();
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
    }
}
