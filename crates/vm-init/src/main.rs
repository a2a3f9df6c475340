//! The first process of a virtual machine that tries the kernel side on another kernel.
//!
//! **In**: nothing; it makes its own workload. **Out**: on the console, one line for each thing that was tried
//! (`ok NAME: ...` or `FAILED NAME: ...`), and at the end one that begins with `RESULT`. Then the machine switches itself off.
//! **Limits**: each trial takes seconds; whoever starts the machine bounds the whole.
#![expect(clippy::print_stdout, reason = "the console is the only way out of the machine")]

mod cgroups;
mod machine;
mod tables;
mod trials;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(kind) = std::env::args().nth(1).and_then(|name| workload::Kind::from_name(&name)) {
        return match workload::run(kind) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let as_init = std::process::id() == 1;
    if as_init && let Err(error) = machine::set_up() {
        println!("FAILED set up: {error}");
    }
    let failed = trials::run_all(as_init);
    println!("RESULT {}", if failed == 0 { "ok".to_owned() } else { format!("{failed} failed") });
    if as_init {
        machine::power_off();
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
