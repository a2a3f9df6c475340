//! `profiler record`: samples for a while, or as long as a command runs, writes one file, prints the table.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use exporter::pprof::{self, PprofOptions};
use exporter::{flamegraph, folded, table};
use identity::{Identities, IdentitySettings};
use nix::sys::signal::Signal;
use profile::{Ledger, Profile};
use tokio::runtime::Runtime;

use crate::cli::RecordArgs;
use crate::command::{self, Held};
use crate::config::settings::Settings;
use crate::config::{self, ConfigError, Environment, Override};
use crate::output::{Format, Output};
use crate::pipeline::{Pipeline, log_ledger};
use crate::progress::Progress;
use crate::{host, logging, signals, target};

/// How long without a command and without `--duration`.
const USUAL_DURATION: Duration = Duration::from_secs(10);
/// How often it is looked whether the end has come.
const STEP: Duration = Duration::from_millis(50);
/// A recording that holds more than this in memory is ended.
const MAX_BYTES: usize = 1 << 30;
/// The rate unless another is asked for: a recording is short and looked at closely.
const USUAL_FREQUENCY: &str = "99";

/// Runs the command to its end.
///
/// # Errors
/// What keeps it from recording or from writing.
pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let (notify, signals) = channel();
    signals::watch(notify).context("cannot watch signals")?;
    let settings = settings(args)?;
    logging::start(&settings.log);
    let duration = args.duration.as_deref().map(config::duration).transpose()?;
    // Everything that can be refused is refused before anything starts.
    let output = Output::prepare(&args.output)?;
    target::check_pid_namespace()?;
    target::check_capabilities()?;
    target::check_processes(&settings.sampling.pids)?;
    let plan = Plan { length: duration.or(args.command.is_empty().then_some(USUAL_DURATION)), rows: args.top };
    if args.command.is_empty() {
        let what = match settings.sampling.pids.as_slice() {
            [] => "all processes".to_owned(),
            pids => format!("process {}", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
        };
        return record(&settings, &plan, output, &what, None, &signals);
    }
    let held = Held::start(&args.command)?;
    let mut settings = settings;
    settings.sampling.pids = vec![held.tgid()];
    settings.sampling.children = true;
    let what = args.command.first().map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
    record(&settings, &plan, output, &what, Some(held), &signals)
}

/// Defaults of a recording, then the sources of every setting.
fn settings(args: &RecordArgs) -> Result<Settings, ConfigError> {
    let usual: [Override; 2] = [("sampling.frequency", USUAL_FREQUENCY.to_owned()), ("log.level", "warn".to_owned())];
    let loaded =
        config::load_over(&usual, args.common.config.as_deref(), &Environment::of_this_process(), &args.overrides())?;
    Ok(loaded.settings)
}

struct Plan {
    length: Option<Duration>,
    rows: usize,
}

/// Why a recording ended.
enum End {
    Signal,
    Time,
    TargetGone,
    TooLarge,
    Command(std::process::ExitStatus),
}

fn record(
    settings: &Settings,
    plan: &Plan,
    output: Output,
    what: &str,
    held: Option<Held>,
    signals: &Receiver<Signal>,
) -> anyhow::Result<ExitCode> {
    let ledger = Arc::new(Ledger::default());
    let whole = Arc::new(Whole::default());
    let into = Arc::clone(&whole);
    let started = names(settings).and_then(|(identities, runtime)| {
        let pipeline = Pipeline::start(settings, identities, Arc::clone(&ledger), move |profile| into.add(&profile))?;
        Ok((pipeline, runtime))
    });
    let (pipeline, runtime) = match started {
        Ok(started) => started,
        Err(error) => {
            if let Some(held) = held {
                held.give_up();
            }
            return Err(error);
        }
    };
    let mut command = match held.map(Held::run).transpose() {
        Ok(command) => command,
        Err(error) => {
            pipeline.stop();
            return Err(error);
        }
    };
    let rooms = pipeline.rooms();
    let progress = Progress::start(what, plan.length);
    let start = Instant::now();
    let targeted = !settings.sampling.pids.is_empty();
    let end = loop {
        match signals.recv_timeout(STEP) {
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break End::Signal,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = command.as_mut().and_then(command::Running::ended) {
            break End::Command(status);
        }
        if plan.length.is_some_and(|length| start.elapsed() >= length) {
            break End::Time;
        }
        if command.is_none() && targeted && pipeline.target_exited() {
            break End::TargetGone;
        }
        if whole.weight.load(Ordering::Relaxed) > MAX_BYTES {
            break End::TooLarge;
        }
        progress.update(start.elapsed(), rooms.taken());
    };
    progress.finishing();
    pipeline.stop();
    // Whoever is being asked for a name need not answer any more.
    runtime.shutdown_background();
    progress.end();
    let whole = whole.take();
    let path = output.path().to_owned();
    let bytes = encode(&whole, output.format(), what)?;
    output.write(&bytes)?;
    ledger.exported(whole.samples());
    log_ledger(&exporter::metrics::Statistics::snapshot(rooms.as_ref()));
    let code = tell(&end, command.as_ref());
    eprintln!("profiler: {} samples in {:.1} s -> {}", whole.samples(), start.elapsed().as_secs_f64(), path.display());
    crate::print(&table::render(&table::top(&whole, plan.rows)))?;
    Ok(code)
}

/// Who is asked for the names of pods and containers, and the thread that does it.
fn names(settings: &Settings) -> anyhow::Result<(Arc<Identities>, Runtime)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(2)
        .thread_name("names")
        .enable_all()
        .build()
        .context("cannot start the thread for network traffic")?;
    let host_root = host::root(&settings.identity.host_root);
    let identities = Identities::start(IdentitySettings { host_root, ..settings.identity.clone() }, runtime.handle())?;
    Ok((identities, runtime))
}

/// The profile of the whole recording, as it grows window by window.
#[derive(Default)]
struct Whole {
    profile: Mutex<Profile>,
    weight: AtomicUsize,
}

impl Whole {
    fn add(&self, more: &Profile) {
        let mut whole = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        let merged = if whole.strings.is_empty() { more.clone() } else { profile::merge([&*whole, more]) };
        self.weight.store(merged.weight(), Ordering::Relaxed);
        *whole = merged;
    }

    fn take(&self) -> Profile {
        std::mem::take(&mut *self.profile.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn encode(profile: &Profile, format: Format, what: &str) -> anyhow::Result<Vec<u8>> {
    let title = format!("profiler record: {what}");
    Ok(match format {
        Format::Pprof => pprof::encode(profile, &PprofOptions { comments: vec![title] }),
        Format::Folded => {
            let mut bytes = Vec::new();
            folded::write(profile, &mut bytes).context("cannot encode the stacks")?;
            bytes
        }
        Format::Svg => flamegraph::svg(profile, &title).map_err(|e| anyhow!("cannot draw the flame graph: {e}"))?,
        Format::Html => flamegraph::html(profile, &title).map_err(|e| anyhow!("cannot draw the flame graph: {e}"))?,
    })
}

/// Says why it ended where that is not plain, and gives the exit code: the command's own, if it ended.
fn tell(end: &End, command: Option<&command::Running>) -> ExitCode {
    match end {
        End::Command(status) => {
            let (code, words) = command::describe(*status);
            if let Some(command) = command {
                eprintln!("profiler: {} {words}", command.name());
            }
            return ExitCode::from(code);
        }
        End::TargetGone => eprintln!("profiler: every process that was asked for has ended"),
        End::TooLarge => eprintln!("profiler: ended early: the recording holds more than {} MiB", MAX_BYTES >> 20),
        End::Signal | End::Time => {
            if let Some(command) = command {
                eprintln!("profiler: {} (process {}) was still running", command.name(), command.tgid());
            }
        }
    }
    ExitCode::SUCCESS
}
