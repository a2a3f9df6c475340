//! The agent: samples until it is told to stop, shows what it sees on the port, pushes it where it is told to.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use exporter::delivery::Delivery;
use exporter::health::Health;
use exporter::metrics::{Aggregated, BuildInfo, Metrics, Push, Sources};
use exporter::store::{Store, StoreSettings};
use exporter::web::{self, AllowedFrom, WebSettings};
use identity::{Identities, IdentitySettings};
use nix::sys::signal::Signal;
use profile::{Ledger, Profile};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::cli::AgentArgs;
use crate::config::settings::{Otlp, ProfilesFrom, Settings};
use crate::config::{self, Environment};
use crate::costs::Costs;
use crate::host::{self, Host};
use crate::pipeline::{Pipeline, Rooms, log_ledger};
use crate::totals::Totals;
use crate::{listen, logging, receivers, signals, target};

/// How long requests under way may take when the agent stops.
const WEB_GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether everything still runs.
const STEP: Duration = Duration::from_secs(1);
/// Rows of the table at the end.
const TABLE_ROWS: usize = 50;

/// Runs the agent to its end.
///
/// # Errors
/// What keeps it from starting.
pub(crate) fn run(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let (notify, signals) = channel();
    // First of all: every thread that is started later inherits the blocked signals.
    signals::watch(notify).context("cannot watch signals")?;
    let environment = Environment::of_this_process();
    let loaded = config::load(args.common.config.as_deref(), &environment, &args.overrides())?;
    let settings = loaded.settings;
    logging::start(&settings.log);
    for (variable, meant) in environment.slips() {
        tracing::warn!(variable, meant, "this variable means nothing here");
    }
    if !loaded.ignored.is_empty() {
        let variables = loaded.ignored.join(" ");
        tracing::info!(variables, "a configuration file is used: these variables count only where it refers to them");
    }
    target::check_pid_namespace()?;
    target::check_capabilities()?;
    target::check_processes(&settings.sampling.pids)?;
    let listener = listen::bind(settings.web.listen)?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    let running = Running::start(&settings, listener)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        frequency_hz = settings.sampling.frequency_hz,
        page = page(address),
        otlp = settings.otlp.as_ref().map(Otlp::shown_endpoint),
        "profiling"
    );
    let end = running.until_stopped(&signals, &settings);
    running.finish(&settings);
    match end {
        End::Signal => Ok(ExitCode::SUCCESS),
        End::Broken => anyhow::bail!("a part of the profiler has failed (see the log): start it again"),
    }
}

/// Where a person on this machine finds the page.
fn page(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("http://localhost:{}/", address.port())
    } else {
        format!("http://{address}/")
    }
}

/// Why the agent ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Signal,
    /// A thread has ended that must not: better no agent than one that samples nothing and looks well.
    Broken,
}

/// All rooms, wired.
struct Running {
    pipeline: Pipeline,
    rooms: Arc<Rooms>,
    delivery: Option<Arc<Delivery>>,
    push: Option<Push>,
    totals: Option<Arc<Mutex<Totals>>>,
    web: tokio::task::JoinHandle<()>,
    stop_web: oneshot::Sender<()>,
    runtime: Runtime,
}

impl Running {
    fn start(settings: &Settings, listener: TcpListener) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .thread_name("web")
            .enable_all()
            .build()
            .context("cannot start the threads for network traffic")?;
        let root = host::root(&settings.identity.host_root);
        let host = Host::describe(&root);
        let ledger = Arc::new(Ledger::default());
        let store = Arc::new(Store::new(StoreSettings {
            max_age: settings.web.keep,
            max_bytes: usize::try_from(settings.web.keep_bytes).unwrap_or(usize::MAX),
        }));
        let delivery = settings
            .otlp
            .as_ref()
            .map(|otlp| receivers::profiles(otlp, settings, &host, Arc::clone(&ledger), runtime.handle()))
            .transpose()?
            .map(Arc::new);
        let totals = settings.print.then(|| Arc::new(Mutex::new(Totals::default())));
        let aggregated = &settings.metrics.aggregated;
        let aggregated = (aggregated.series > 0).then(|| Arc::new(Aggregated::new(aggregated.clone())));
        let sinks = Sinks {
            store: Arc::clone(&store),
            aggregated: aggregated.clone(),
            delivery: delivery.clone(),
            totals: totals.clone(),
            ledger: Arc::clone(&ledger),
        };
        let identity = IdentitySettings { host_root: root, ..settings.identity.clone() };
        let identities = Identities::start(identity, runtime.handle())?;
        let pipeline = Pipeline::start(settings, identities, ledger, move |profile| sinks.take(profile))?;
        let rooms = pipeline.rooms();
        let metrics = Arc::new(Metrics::new(Sources {
            statistics: Arc::clone(&rooms) as _,
            delivery: delivery.as_ref().map(|d| d.stats_handle()),
            store: Some(Arc::clone(&store)),
            aggregated,
            processes: Some(Arc::new(Costs::default())),
            build: BuildInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: option_env!("PROFILER_REVISION").unwrap_or_default().to_owned(),
            },
        })?);
        let push = settings
            .metrics
            .otlp
            .as_ref()
            .map(|otlp| receivers::metrics(otlp, settings, &host, &metrics, runtime.handle()))
            .transpose()?;
        let health = Arc::new(Condition { rooms: Arc::clone(&rooms), window: settings.sampling.window });
        let web_settings = WebSettings {
            profiles_allowed_from: match settings.web.profiles_from {
                ProfilesFrom::Loopback => AllowedFrom::Loopback,
                ProfilesFrom::Any => AllowedFrom::Any,
            },
            how_to_allow: "start the profiler with --profiles-from any (or PROFILER_PROFILES_FROM=any)".to_owned(),
            metrics: settings.metrics.prometheus,
            pprof_comment: concat!("profiler ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let (stop_web, stopped) = oneshot::channel();
        let web = runtime.spawn(async move {
            let shutdown = async move {
                let _ = stopped.await;
            };
            if let Err(error) = web::serve(listener, web_settings, store, metrics, health, shutdown).await {
                tracing::error!(%error, "the page and the metrics are gone");
            }
        });
        Ok(Self { pipeline, rooms, delivery, push, totals, web, stop_web, runtime })
    }

    /// Waits for a signal, or for a thread to fail. That the processes asked for are gone is told once: their profile can still be looked at.
    fn until_stopped(&self, signals: &Receiver<Signal>, settings: &Settings) -> End {
        let mut told = settings.sampling.pids.is_empty();
        // The naming thread also ends when the sampler's threads do.
        watch(
            signals,
            STEP,
            || self.rooms.progress().running(),
            || {
                logging::tell_repeats(false);
                if !told && self.pipeline.target_exited() {
                    told = true;
                    tracing::warn!("every process that was asked for has ended; the page still shows what was seen");
                }
            },
        )
    }

    /// Flushes everything in the order of the way, and tells what became of every sample.
    fn finish(self, settings: &Settings) {
        self.pipeline.stop();
        self.runtime.block_on(async {
            if let Some(delivery) = &self.delivery {
                delivery.flush(settings.export.shutdown_timeout).await;
            }
        });
        logging::tell_repeats(true);
        log_ledger(&exporter::metrics::Statistics::snapshot(self.rooms.as_ref()));
        if let Some(push) = self.push {
            self.runtime.block_on(push.shutdown(settings.export.shutdown_timeout));
        }
        let _ = self.stop_web.send(());
        let _ = self.runtime.block_on(async { tokio::time::timeout(WEB_GRACE, self.web).await });
        if let Some(totals) = &self.totals {
            let totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = crate::print(&totals.render(TABLE_ROWS)) {
                tracing::error!(error = format!("{error:#}"), "the table is lost");
            }
        }
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// Waits for the end; `each` runs at every step.
fn watch(signals: &Receiver<Signal>, step: Duration, running: impl Fn() -> bool, mut each: impl FnMut()) -> End {
    loop {
        match signals.recv_timeout(step) {
            Ok(signal) => {
                tracing::info!(signal = signal.as_str(), "stopping; a second signal stops at once");
                return End::Signal;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return End::Signal,
        }
        if !running() {
            tracing::error!("windows are not named any more: stopping");
            return End::Broken;
        }
        each();
    }
}

/// What becomes of a named window. The primary sink is delivery where there is one, else publishing.
struct Sinks {
    store: Arc<Store>,
    aggregated: Option<Arc<Aggregated>>,
    delivery: Option<Arc<Delivery>>,
    totals: Option<Arc<Mutex<Totals>>>,
    ledger: Arc<Ledger>,
}

impl Sinks {
    fn take(&self, profile: Arc<Profile>) {
        if let Some(totals) = &self.totals {
            totals.lock().unwrap_or_else(PoisonError::into_inner).add(&profile);
        }
        if let Some(aggregated) = &self.aggregated {
            aggregated.add(&profile);
        }
        self.store.publish(Arc::clone(&profile));
        match &self.delivery {
            Some(delivery) => delivery.push(profile),
            None => self.ledger.exported(profile.samples()),
        }
    }
}

/// What the health endpoints answer.
struct Condition {
    rooms: Arc<Rooms>,
    window: Duration,
}

impl Health for Condition {
    fn ready(&self) -> Result<(), String> {
        self.live()?;
        if !self.rooms.attached_everywhere() {
            return Err("not every CPU that is online is sampled".to_owned());
        }
        Ok(())
    }

    fn live(&self) -> Result<(), String> {
        let progress = self.rooms.progress();
        if !progress.running() {
            return Err("the naming thread has ended".to_owned());
        }
        let longest = self.window * 6 + Duration::from_secs(60);
        let idle = Duration::from_millis(progress.idle_ms());
        if idle > longest {
            return Err(format!("no window was named for {} s", idle.as_secs()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_dies_ends_the_agent_and_a_signal_does() {
        let step = Duration::from_millis(1);
        let (notify, signals) = channel();
        let mut steps = 0;
        assert_eq!(watch(&signals, step, || false, || steps += 1), End::Broken);
        assert_eq!(steps, 0, "nothing else is done once it is broken");
        notify.send(Signal::SIGTERM).unwrap();
        assert_eq!(watch(&signals, step, || true, || ()), End::Signal);
        let (late, signals) = channel();
        let mut steps = 0;
        let end = watch(
            &signals,
            step,
            || true,
            || {
                steps += 1;
                if steps == 3 {
                    late.send(Signal::SIGINT).unwrap();
                }
            },
        );
        assert_eq!((end, steps), (End::Signal, 3));
    }
}
