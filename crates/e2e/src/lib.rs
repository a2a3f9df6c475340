//! What end-to-end tests are made of: the agent, workloads that know their own truth, real receivers, and readers that
//! bring what each sink got to one shape. The tests are in `tests/`, built with the feature `live`; `cargo xtask test`
//! installs what they need and runs them one at a time.
//!
//! **In**: programs (see [`paths`]). **Out**: errors that say what was expected and what was there. **Limits**: all
//! traffic stays on 127.0.0.1; every process is stopped by its pid ([`process::Running`]); every wait ends.

pub mod agent;
pub mod bpf;
pub mod browser;
pub mod cluster;
pub mod collector;
pub mod cost;
pub mod hostile;
pub mod http;
pub mod otlp;
pub mod page;
pub mod paths;
pub mod pprof;
pub mod process;
pub mod pyroscope;
pub mod roots;
pub mod scrape;
pub mod sink;
pub mod stacks;
pub mod stock;
pub mod truth;
pub mod walks;

/// Says a figure that a test measured, for whoever reads the log.
#[expect(clippy::print_stdout, reason = "the tests' figures are for people; the test runner shows standard output")]
pub fn figure(line: impl AsRef<str>) {
    println!("    | {}", line.as_ref());
}
