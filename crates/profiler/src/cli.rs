//! The command line. Values stay text here: [`crate::config`] checks them, so that flags, variables and files obey the
//! same rules and say the same things.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::args::normalise;
use crate::config::Override;

/// Shows which functions of which processes use the CPU, on the whole machine, without touching any of them.
///
/// Without a command it runs as an agent: it samples every CPU, shows a flame graph on http://localhost:2112/ and
/// pushes profiles where OTEL_EXPORTER_OTLP_ENDPOINT points. It needs root, or the capabilities that `profiler check`
/// lists.
#[derive(Debug, Parser)]
#[command(name = "profiler", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do instead of running the agent.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Records for a while, or as long as a command runs, into a file
    Record(Box<RecordArgs>),
    /// Tells what would not work on this machine, and how to mend it
    Check(CheckArgs),
    /// Checks the configuration and shows the settings that follow from it
    Config(ConfigArgs),
    /// Reads the bytes of other programs' files, apart from everything else (started by the profiler itself)
    #[command(hide = true)]
    Worker,
}

/// Groups of flags in the help.
mod group {
    pub(super) const WHO: &str = "Who is profiled";
    pub(super) const HOW: &str = "How samples are taken";
    pub(super) const PORT: &str = "The port";
    pub(super) const REST: &str = "Everything else";
}

/// Flags of the agent.
#[derive(Debug, Default, Args)]
pub(crate) struct AgentArgs {
    /// Profile only these processes, with commas between them; 0: every process
    #[arg(long, value_name = "PID", help_heading = group::WHO)]
    pub(crate) pid: Option<String>,
    /// Their descendants too
    #[arg(long, help_heading = group::WHO)]
    pub(crate) children: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// The length of one base window [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = group::HOW)]
    pub(crate) window: Option<String>,
    /// Where to listen [default: 0.0.0.0:2112, and [::]:2112]
    #[arg(long, value_name = "ADDR:PORT", help_heading = group::PORT)]
    pub(crate) listen: Option<String>,
    /// Who may see profiles on that port: loopback or any [default: loopback]
    #[arg(long, value_name = "WHO", help_heading = group::PORT)]
    pub(crate) profiles_from: Option<String>,
    /// Print the table of functions at the end
    #[arg(long, help_heading = group::REST)]
    pub(crate) print: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Flags about whose samples are wanted.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = group::WHO)]
pub(crate) struct FilterArgs {
    /// Profile only what a rule means; can be given again. namespace=, pod=, pod_label=KEY=, container= (name or id),
    /// cgroup=/path, executable=/path, comm=, service=, unit=, each with a value in which * is anything; kernel_threads
    #[arg(long, value_name = "RULE")]
    pub(crate) include: Vec<String>,
    /// Leave out what a rule means; can be given again, and wins over --include
    #[arg(long, value_name = "RULE")]
    pub(crate) exclude: Vec<String>,
    /// Profile the profiler too
    #[arg(long)]
    pub(crate) include_self: bool,
    /// Leave kernel threads out
    #[arg(long)]
    pub(crate) no_kernel_threads: bool,
}

/// Flags about how samples are taken.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = group::HOW)]
pub(crate) struct SamplingArgs {
    /// Samples per second and CPU, 1 to 1000 [default: 19; record: 99]
    #[arg(short = 'F', long, value_name = "HZ", allow_hyphen_values = true)]
    pub(crate) frequency: Option<String>,
    /// How much is copied of user stacks that the kernel does not unwind, at most 64KiB [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) snapshot_bytes: Option<String>,
    /// The ring buffer between kernel and user space, a power of two [default: auto, 1MiB for each CPU, from 2MiB to 8MiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) ring_bytes: Option<String>,
    /// What unwind tables may hold in the kernel [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) unwind_memory: Option<String>,
    /// Keep threads apart
    #[arg(long)]
    pub(crate) threads: bool,
    /// Keep the time of every sample
    #[arg(long)]
    pub(crate) timestamps: bool,
}

/// Flags of every command that has settings.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = group::REST)]
pub(crate) struct CommonArgs {
    /// A configuration file [env: OTEL_CONFIG_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// off, error, warn, info, debug, trace, or TARGET=LEVEL,... [default: info; record: warn]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
}

/// Flags of `record`.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Where to write: .pb.gz (pprof), .folded, .svg or .html
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// How long [default: 10s; with a command: until it ends]
    #[arg(short, long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) duration: Option<String>,
    /// Lines of the table printed at the end
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) top: usize,
    /// Record only these processes, with commas between them; 0: every process
    #[arg(long, value_name = "PID", conflicts_with = "command", help_heading = group::WHO)]
    pub(crate) pid: Option<String>,
    /// Their descendants too
    #[arg(long, conflicts_with = "command", help_heading = group::WHO)]
    pub(crate) children: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Run this and record it and everything that it starts
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// A configuration file [env: OTEL_CONFIG_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The address that must be free [default: as configured, 0.0.0.0:2112]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
}

/// Flags of `config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// A configuration file [env: OTEL_CONFIG_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl SamplingArgs {
    fn overrides(&self) -> Vec<Override> {
        let mut out = Overrides::default();
        out.text("sampling.frequency", &self.frequency);
        out.text("sampling.snapshot_bytes", &self.snapshot_bytes);
        out.text("sampling.ring_bytes", &self.ring_bytes);
        out.text("unwind.memory", &self.unwind_memory);
        out.flag("sampling.threads", self.threads, "true");
        out.flag("sampling.timestamps", self.timestamps, "true");
        out.0
    }
}

impl FilterArgs {
    fn overrides(&self) -> Vec<Override> {
        let mut out = Overrides::default();
        for (path, rules) in [("filter.include", &self.include), ("filter.exclude", &self.exclude)] {
            if !rules.is_empty() {
                out.0.push((path, rules.join(",")));
            }
        }
        out.flag("sampling.include_self", self.include_self, "true");
        out.flag("sampling.kernel_threads", self.no_kernel_threads, "false");
        out.0
    }
}

impl CommonArgs {
    fn overrides(&self) -> Vec<Override> {
        let mut out = Overrides::default();
        out.text("log.level", &self.log_level);
        out.text("log.format", &self.log_format);
        out.0
    }
}

impl AgentArgs {
    /// The settings that the flags give.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let mut out = Overrides(self.sampling.overrides());
        out.0.extend(self.filter.overrides());
        out.0.extend(self.common.overrides());
        out.text("sampling.pid", &self.pid);
        out.flag("sampling.children", self.children, "true");
        out.text("sampling.window", &self.window);
        out.text("web.listen", &self.listen);
        out.text("web.profiles_from", &self.profiles_from);
        out.flag("print", self.print, "true");
        out.0
    }
}

impl CheckArgs {
    /// The settings that the flags give.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let mut out = Overrides::default();
        out.text("web.listen", &self.listen);
        out.0
    }
}

impl RecordArgs {
    /// The settings that the flags give.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let mut out = Overrides(self.sampling.overrides());
        out.0.extend(self.filter.overrides());
        out.0.extend(self.common.overrides());
        out.text("sampling.pid", &self.pid);
        out.flag("sampling.children", self.children, "true");
        out.0
    }
}

#[derive(Default)]
struct Overrides(Vec<Override>);

impl Overrides {
    fn text(&mut self, path: &'static str, value: &Option<String>) {
        self.0.extend(value.iter().map(|v| (path, v.clone())));
    }

    fn flag(&mut self, path: &'static str, given: bool, value: &str) {
        if given {
            self.0.push((path, value.to_owned()));
        }
    }
}

/// Reads the process's arguments.
///
/// # Errors
/// Clap's: also for `--help` and `--version`.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(normalise(args, &long_flags(&Cli::command())))
}

fn long_flags(command: &clap::Command) -> Vec<String> {
    let mut out: Vec<String> = command.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect();
    out.extend(command.get_subcommands().flat_map(long_flags));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Cli, clap::Error> {
        parse(["profiler"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn three_ways_to_name_a_process() {
        for args in [&["-pid=7"][..], &["-pid", "7"], &["--pid", "7"], &["--pid=7"]] {
            let cli = read(args).unwrap();
            assert_eq!(cli.agent.overrides(), [("sampling.pid", "7".to_owned())], "{args:?}");
        }
    }

    #[test]
    fn rules_add_up() {
        let cli = read(&["--exclude", "comm=a", "-exclude=unit=b", "--include", "namespace=c,pod=d"]).unwrap();
        let want = [("filter.include", "namespace=c,pod=d".to_owned()), ("filter.exclude", "comm=a,unit=b".to_owned())];
        assert_eq!(cli.agent.overrides(), want);
    }

    #[test]
    fn record_takes_a_command_or_a_process() {
        let cli = read(&["record", "-o", "x.svg", "-F", "99", "--", "prog", "-pid=3", "--", "x"]).unwrap();
        let Some(Command::Record(record)) = cli.command else { panic!("record") };
        assert_eq!(record.command, ["prog", "-pid=3", "--", "x"]);
        assert_eq!(record.overrides(), [("sampling.frequency", "99".to_owned())]);
        assert!(read(&["record", "-o", "x.svg", "--pid", "3", "--", "prog"]).is_err());
        assert!(read(&["record", "-pid=3"]).is_err(), "-o is needed");
        assert!(read(&["--print", "record", "-o", "x.svg"]).is_err(), "agent flags do not mix with commands");
    }
}
