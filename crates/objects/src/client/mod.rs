//! The agent's end of the worker: one request at a time, each bounded in time, each reply checked.
//!
//! A worker that dies, hangs or talks nonsense is killed and replaced before the next request; what it held is loaded
//! again when it is needed. Whoever asked decides whether to ask again.
//!
//! **In**: descriptors of targets' files, tables, snapshots; the worker's replies (hostile: the worker reads bytes of
//! targets). **Out**: checked replies. **Units**: bytes, ELF addresses.
//! **Limits**: those of `protocol` and [`Timeouts`]; past them the worker is replaced (`worker_restarts`).

mod files;

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use profile::{ObjectId, SymbolName, UserStack};

use crate::births::Births;
use crate::checks;
use crate::counters::{Counters, count};
use crate::held::{Budgets, Held, Part, Room};
use crate::process::{CpuTimes, Nursery, Process, cpu_times};
use crate::protocol::{Batch, MAX_NAMES_REPLY_BYTES, MAX_REPLY_BYTES, Reply, Request, VERSION};
use crate::tables::StoredTables;
use crate::wire::{Message, Patience, Until, WireError};
use crate::{ObjectsConfig, ObjectsError, SandboxReport, Timeouts};

/// A worker that hardly got a CPU may take so many times as long.
const STARVED_FACTOR: u32 = 4;
/// How long to wait after a worker did not start, at first; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The worker died, hung or talked nonsense; it is gone now.
    #[error("the worker failed")]
    Worker(#[source] WireError),
    /// The worker had ended before the request could be sent: the request had no part in it, but what it needs is
    /// not loaded any more.
    #[error("the worker ended by itself")]
    Gone,
    /// No worker can be started at the moment.
    #[error("there is no worker")]
    NoWorker,
    /// The worker is well, but would not.
    #[error("refused: {0}")]
    Refused(String),
}

impl Fault {
    /// Whether the worker hung, rather than died at once.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Worker(WireError::TimedOut { .. }))
    }
}

/// The door to the worker.
#[derive(Debug)]
pub(crate) struct Client {
    nursery: Nursery,
    worker: Option<(Process, Held)>,
    sandbox: SandboxReport,
    budgets: Budgets,
    timeouts: Timeouts,
    counters: Arc<Counters>,
    /// No new worker before this moment, and the pause that led to it.
    paused: Option<(Instant, Duration)>,
    closed: bool,
    generation: u64,
    hung_asleep: bool,
    births: Births,
}

impl Client {
    /// Starts the first worker.
    pub(crate) fn start(config: &ObjectsConfig, counters: Arc<Counters>) -> Result<Self, ObjectsError> {
        let mut client = Self {
            nursery: Nursery::new(config.worker.clone()).map_err(ObjectsError::Worker)?,
            worker: None,
            sandbox: SandboxReport::default(),
            budgets: Budgets { unwind: config.worker_unwind_bytes, symbols: config.worker_symbol_bytes },
            timeouts: config.timeouts.clone(),
            counters,
            paused: None,
            closed: false,
            generation: 0,
            hung_asleep: false,
            births: Births::new(Instant::now()),
        };
        let process = client.nursery.start().map_err(ObjectsError::Worker)?;
        client.welcome(process).map_err(|error| ObjectsError::Hello(Box::new(error)))?;
        match client.sandbox.missing().as_slice() {
            [] => (),
            // Usual in a container: leaving the network needs CAP_SYS_ADMIN. Without system calls for it there is nothing to reach.
            missing @ ["own_network"] => tracing::info!(?missing, "the worker's sandbox is incomplete"),
            missing => tracing::warn!(?missing, "the worker's sandbox is incomplete"),
        }
        Ok(client)
    }

    /// What of the sandbox stands.
    pub(crate) fn sandbox(&self) -> SandboxReport {
        self.sandbox
    }

    /// Ends the worker; there will be no other.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        if let Some((process, _)) = self.worker.take() {
            self.counters.worker_pid.store(0, Ordering::Relaxed);
            self.nursery.dismiss(process);
        }
    }

    /// Whether the last worker that took too long had been waiting for something, rather than computing.
    pub(crate) fn hung_asleep(&self) -> bool {
        self.hung_asleep
    }

    /// A request begins whose tables must not make way for each other: makes sure that there is a worker.
    pub(crate) fn begin(&mut self) -> Result<(), Fault> {
        self.revive()?;
        if let Some((_, held)) = &mut self.worker {
            held.begin();
        }
        Ok(())
    }

    /// A number for the worker of the moment. Tables loaded under another number are gone.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the worker holds an object's tables; counts as use.
    pub(crate) fn holds(&mut self, object: ObjectId, part: Part) -> bool {
        self.worker.as_mut().is_some_and(|(_, held)| held.uses(object, part))
    }

    /// Whether the worker holds an object's tables. Not a use.
    pub(crate) fn would_hold(&self, object: ObjectId, part: Part) -> bool {
        self.worker.as_ref().is_some_and(|(_, held)| held.has(object, part))
    }

    /// Whether the worker holds any tables of an object.
    pub(crate) fn knows(&self, object: ObjectId) -> bool {
        [Part::Unwind, Part::Symbols].into_iter().any(|part| self.would_hold(object, part))
    }

    /// Has the worker forget what no request has used since this was called the last time.
    pub(crate) fn forget_unused(&mut self) {
        let limit = self.timeouts.load;
        let Some((_, held)) = &mut self.worker else { return };
        for object in held.unused() {
            let forgotten = self.request_of_loaded(|process, held| {
                held.forgotten(object);
                call_loaded(process, &Request::Forget { object }, None, limit)
            });
            // Then there is no worker, or another one.
            if matches!(forgotten, Err(Fault::Worker(_) | Fault::Gone | Fault::NoWorker)) {
                return;
            }
        }
    }

    /// Has the worker load an object's tables, after it has forgotten others where its budget asks for that. False
    /// where the request at hand uses too much for that.
    pub(crate) fn load(&mut self, object: ObjectId, tables: &StoredTables, part: Part) -> Result<bool, Fault> {
        let bytes = match part {
            Part::Unwind => tables.sizes.unwind,
            Part::Symbols => tables.sizes.symbols,
        };
        let limit = self.timeouts.load;
        self.request(|process, held| {
            loop {
                match held.room(part, bytes) {
                    Room::Fits => break,
                    Room::Full => return Ok(Ok(false)),
                    Room::AfterForgetting(old) => {
                        held.forgotten(old);
                        call_loaded(process, &Request::Forget { object: old }, None, limit)?.ok();
                    }
                }
            }
            let request = Request::Load { object, unwind: part == Part::Unwind, symbols: part == Part::Symbols };
            let result = call_loaded(process, &request, Some(tables.memfd.as_fd()), limit)?;
            if result.is_ok() {
                held.loaded(object, part, bytes);
            }
            Ok(result.map(|()| true))
        })
    }

    /// Has the worker unwind a batch. Stacks are appended to `stacks` as they come, also when the worker then fails.
    pub(crate) fn unwind(
        &mut self,
        batch: &Batch<'_>,
        stacks_per_reply: u32,
        stacks: &mut Vec<UserStack>,
    ) -> Result<(), Fault> {
        let limit = self.timeouts.unwind;
        self.request_of_loaded(|process, _| {
            let request = Request::Unwind {
                stacks_per_reply,
                processes: batch.processes.iter().map(|maps| Cow::Borrowed(&**maps)).collect(),
                samples: batch.samples.clone(),
            };
            let before = process.cpu_times();
            process.channel().send(&request, &batch.stacks, None, &mut patience_since(process, before, limit))?;
            let mut rest = batch.samples.as_slice();
            while !rest.is_empty() {
                let reply = receive(process, MAX_REPLY_BYTES, &mut patience_since(process, before, limit))?;
                let Reply::Stacks(part) = reply else {
                    return Err(WireError::Malformed("another reply than asked for"));
                };
                let (samples, behind) = rest
                    .split_at_checked(part.len())
                    .filter(|(samples, _)| !samples.is_empty())
                    .ok_or(WireError::Malformed("number of stacks"))?;
                for (sample, stack) in samples.iter().zip(&part) {
                    checks::stack(stack, sample, batch)?;
                }
                stacks.extend(part);
                rest = behind;
            }
            Ok(Ok(()))
        })
    }

    /// Has the worker name addresses of an object that it holds.
    pub(crate) fn names(&mut self, object: ObjectId, addresses: &[u64]) -> Result<Vec<Option<SymbolName>>, Fault> {
        let limit = self.timeouts.names;
        self.request_of_loaded(|process, _| {
            let mut patience = patience(process, limit);
            let request = Request::Names { object, addresses: Cow::Borrowed(addresses) };
            process.channel().send(&request, &[], None, &mut patience)?;
            match receive(process, MAX_NAMES_REPLY_BYTES, &mut patience)? {
                Reply::Names(names) => {
                    checks::names(&names, addresses)?;
                    Ok(Ok(names))
                }
                Reply::Refused(reason) => Ok(Err(reason)),
                _ => Err(WireError::Malformed("another reply than asked for")),
            }
        })
    }

    /// Sends a request to a living worker; whatever goes wrong on the way ends that worker.
    fn request<T>(
        &mut self,
        run: impl FnOnce(&Process, &mut Held) -> Result<Result<T, String>, WireError>,
    ) -> Result<T, Fault> {
        self.revive()?;
        self.ask(run)
    }

    /// As [`Client::request`], for requests that need what was loaded before: not to a new worker.
    fn request_of_loaded<T>(
        &mut self,
        run: impl FnOnce(&Process, &mut Held) -> Result<Result<T, String>, WireError>,
    ) -> Result<T, Fault> {
        if !self.worker.as_ref().is_some_and(|(process, _)| process.channel().is_quiet()) {
            self.discard(&WireError::Closed);
            return Err(Fault::Gone);
        }
        self.ask(run)
    }

    fn ask<T>(
        &mut self,
        run: impl FnOnce(&Process, &mut Held) -> Result<Result<T, String>, WireError>,
    ) -> Result<T, Fault> {
        let Some((process, held)) = &mut self.worker else { return Err(Fault::NoWorker) };
        let before = process.cpu_times();
        match run(process, held) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(reason)) => Err(Fault::Refused(reason)),
            Err(error) => {
                if let WireError::TimedOut { waited } = error {
                    self.hung_asleep = process.cpu_times().ran.saturating_sub(before.ran) < waited / 4;
                }
                self.discard(&error);
                Err(Fault::Worker(error))
            }
        }
    }

    /// Makes sure that there is a worker. One that ended between two requests is replaced: the request at hand had no
    /// part in it.
    fn revive(&mut self) -> Result<(), Fault> {
        if self.worker.as_ref().is_some_and(|(process, _)| !process.channel().is_quiet()) {
            self.discard(&WireError::Closed);
        }
        if self.worker.is_some() {
            return Ok(());
        }
        if self.closed
            || !self.births.is_allowed(Instant::now())
            || self.paused.is_some_and(|(until, _)| Instant::now() < until)
        {
            return Err(Fault::NoWorker);
        }
        self.births.count();
        let started = self.nursery.start().map_err(WireError::Io).and_then(|process| self.welcome(process));
        if let Err(error) = started {
            let pause = self.paused.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
            tracing::warn!(%error, pause_ms = pause.as_millis(), "the worker did not start");
            self.paused = Some((Instant::now() + pause, pause));
            return Err(Fault::NoWorker);
        }
        self.paused = None;
        Ok(())
    }

    /// Takes a worker's hello.
    fn welcome(&mut self, process: Process) -> Result<(), WireError> {
        let mut patience = patience(&process, self.timeouts.hello);
        match receive(&process, MAX_REPLY_BYTES, &mut patience) {
            Ok(Reply::Hello { version: VERSION, sandbox }) => {
                self.sandbox = sandbox;
                self.generation += 1;
                self.counters.worker_pid.store(process.pid(), Ordering::Relaxed);
                self.worker = Some((process, Held::new(self.budgets)));
                Ok(())
            }
            Ok(Reply::Hello { .. }) => {
                self.nursery.kill(process);
                Err(WireError::Malformed("another version"))
            }
            Ok(_) => {
                self.nursery.kill(process);
                Err(WireError::Malformed("no hello"))
            }
            Err(error) => {
                self.nursery.kill(process);
                Err(error)
            }
        }
    }

    fn discard(&mut self, why: &WireError) {
        if let Some((process, _)) = self.worker.take() {
            tracing::debug!(pid = process.pid(), error = %why, "the worker is replaced");
            self.counters.worker_pid.store(0, Ordering::Relaxed);
            count(&self.counters.worker_restarts);
            self.nursery.kill(process);
        }
    }
}

/// Patience with a worker: until `limit`, and longer while it hardly gets a CPU.
fn patience(process: &Process, limit: Duration) -> impl Patience + use<> {
    patience_since(process, process.cpu_times(), limit)
}

/// As [`patience`], for the next of several replies; `before` is from the request's start.
fn patience_since(process: &Process, before: CpuTimes, limit: Duration) -> impl Patience + use<> {
    let pid = process.pid();
    Until::new(limit, move |waited| {
        let ready = cpu_times(pid).waited.saturating_sub(before.waited);
        waited < limit * STARVED_FACTOR && ready > waited / 2
    })
}

/// Receives a reply without a descriptor.
fn receive(process: &Process, max_bytes: usize, patience: &mut impl Patience) -> Result<Reply, WireError> {
    let message: Message<Reply> = process.channel().receive(max_bytes, 0, patience)?;
    if message.descriptor.is_some() { Err(WireError::Malformed("a descriptor")) } else { Ok(message.meta) }
}

fn call_loaded(
    process: &Process,
    request: &Request<'_>,
    memfd: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<Result<(), String>, WireError> {
    let mut patience = patience(process, limit);
    process.channel().send(request, &[], memfd, &mut patience)?;
    match receive(process, MAX_REPLY_BYTES, &mut patience)? {
        Reply::Loaded(result) => Ok(result),
        Reply::Refused(reason) => Ok(Err(reason)),
        _ => Err(WireError::Malformed("another reply than asked for")),
    }
}
