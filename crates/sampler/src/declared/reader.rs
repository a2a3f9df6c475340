//! Reading environments without waiting for them for long.
//!
//! `/proc/PID/environ` is the process's memory: where that lies in a file system that does not answer, reading it does not
//! end. The thread that reads is then left behind, and another takes its place.
//!
//! **In**: host pids. **Out**: what their environments declare. **Units**: wall time. **Limits**: the caller waits for
//! [`PATIENCE`], and not at all while an answer is late; after [`LONG_PATIENCE`] its thread is given up; [`MAX_STUCK`]
//! threads left behind, then nothing is read until one of them comes back; [`READS_PER_SECOND`],
//! [`WAITING_PER_SECOND`].

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use profile::Declared;

use super::environ;

/// How long an answer is waited for; mostly it takes some ten microseconds.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long it may take, while nothing waits for it.
const LONG_PATIENCE: Duration = Duration::from_secs(1);
/// Threads that never came back.
const MAX_STUCK: usize = 4;
/// What all of a second's waiting may take together: the samples wait too.
const WAITING_PER_SECOND: Duration = Duration::from_millis(100);
/// Environments read in a second.
const READS_PER_SECOND: u64 = 100;
const SECOND_NS: u64 = 1_000_000_000;

/// What was read of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Environment {
    /// Nothing yet.
    #[default]
    NotRead,
    /// What it declares.
    Read(Option<Arc<Declared>>),
}

impl Environment {
    /// What it declares, as far as that is known.
    pub(crate) fn declared(&self) -> Option<&Arc<Declared>> {
        match self {
            Self::NotRead => None,
            Self::Read(declared) => declared.as_ref(),
        }
    }
}

/// A thread that reads.
#[derive(Debug)]
struct Reader {
    ask: SyncSender<PathBuf>,
    answers: Receiver<Option<Declared>>,
    /// Whose answer is not there yet, and since when it was waited for.
    late: Option<(u64, Instant)>,
}

/// The door to the threads that read.
#[derive(Debug)]
pub(crate) struct Environments {
    proc: PathBuf,
    reader: Option<Reader>,
    stuck: Arc<AtomicUsize>,
    second: u64,
    reads: u64,
    waited: Duration,
    total: u64,
}

impl Environments {
    /// Nothing runs before the first reading.
    pub(crate) fn new(proc: PathBuf) -> Self {
        Self { proc, reader: None, stuck: Arc::default(), second: 0, reads: 0, waited: Duration::ZERO, total: 0 }
    }

    /// Reads the environment of a process's program; `generation` tells programs apart. `NotRead` where that may not be
    /// tried now, or takes long: then it is to be asked for again.
    pub(crate) fn read(&mut self, tgid: u32, generation: u64, now_mono_ns: u64) -> Environment {
        if let Some(late) = self.late(generation) {
            return late;
        }
        let second = now_mono_ns / SECOND_NS;
        if second != self.second {
            (self.second, self.reads, self.waited) = (second, 0, Duration::ZERO);
        }
        if self.reads >= READS_PER_SECOND
            || self.waited >= WAITING_PER_SECOND
            || self.stuck.load(Ordering::Acquire) >= MAX_STUCK
        {
            return Environment::NotRead;
        }
        self.reads += 1;
        self.total += 1;
        self.ask(self.proc.join(tgid.to_string()).join("environ"), generation)
    }

    /// Readings so far.
    pub(crate) fn readings(&self) -> u64 {
        self.total
    }

    /// What to say while an answer is late; none where nothing is.
    fn late(&mut self, generation: u64) -> Option<Environment> {
        let reader = self.reader.as_mut()?;
        let (whose, since) = reader.late?;
        match reader.answers.try_recv() {
            Ok(answer) => {
                reader.late = None;
                (whose == generation).then(|| Environment::Read(answer.map(Arc::new)))
            }
            Err(TryRecvError::Empty) if since.elapsed() < LONG_PATIENCE => Some(Environment::NotRead),
            Err(_) => {
                self.reader = None;
                // Its process is not asked again, or it would take all threads.
                (whose == generation).then_some(Environment::Read(None))
            }
        }
    }

    fn ask(&mut self, path: PathBuf, generation: u64) -> Environment {
        if self.reader.is_none() {
            self.reader = Reader::start(&self.stuck).ok();
        }
        let Some(reader) = self.reader.as_mut() else { return Environment::NotRead };
        // Counted as stuck until it has answered; it counts itself out, however late.
        self.stuck.fetch_add(1, Ordering::AcqRel);
        if reader.ask.send(path).is_err() {
            self.stuck.fetch_sub(1, Ordering::AcqRel);
            self.reader = None;
            return Environment::NotRead;
        }
        let began = Instant::now();
        let answer = reader.answers.recv_timeout(PATIENCE);
        self.waited += began.elapsed();
        match answer {
            Ok(answer) => Environment::Read(answer.map(Arc::new)),
            Err(_) => {
                reader.late = Some((generation, Instant::now()));
                Environment::NotRead
            }
        }
    }
}

impl Reader {
    fn start(stuck: &Arc<AtomicUsize>) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel::<PathBuf>(1);
        let (answer, answers) = sync_channel(1);
        let stuck = Arc::clone(stuck);
        thread::Builder::new().name("environ".to_owned()).spawn(move || {
            while let Ok(path) = asked.recv() {
                let declared = File::open(path).ok().and_then(environ::declared);
                stuck.fetch_sub(1, Ordering::AcqRel);
                if answer.send(declared).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { ask, answers, late: None })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;

    /// Asks until there is an answer.
    fn patiently(environments: &mut Environments, tgid: u32, generation: u64) -> Option<Arc<Declared>> {
        for second in 0..500 {
            if let Environment::Read(declared) = environments.read(tgid, generation, second * SECOND_NS) {
                return declared;
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    #[test]
    fn a_running_process_declares_itself() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .env("OTEL_SERVICE_NAME", "cart")
            .env("OTEL_RESOURCE_ATTRIBUTES", "service.version=3")
            .env("BIG", "x".repeat(100_000))
            .spawn()
            .unwrap();
        let mut environments = Environments::new("/proc".into());
        let named = |d: Option<Arc<Declared>>| d.is_some_and(|d| d.service_name.as_deref() == Some("cart"));
        // It may not have executed yet.
        assert!((0..100).any(|i| {
            thread::sleep(Duration::from_millis(10));
            named(patiently(&mut environments, child.id(), i))
        }));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(patiently(&mut environments, child.id(), 200), None);
    }

    #[test]
    fn there_are_only_so_many_in_a_second() {
        let mut environments = Environments::new("/proc".into());
        for generation in 0..1000 {
            environments.read(u32::MAX, generation, 5);
        }
        assert!(environments.readings() <= READS_PER_SECOND);
    }

    /// Memory that does not answer, played by a pipe that nobody writes to.
    #[test]
    fn a_process_whose_memory_does_not_answer_costs_little() {
        let folder = tempfile::tempdir().unwrap();
        let at = |tgid: u32| folder.path().join(tgid.to_string()).join("environ");
        for tgid in 1..=20 {
            fs::create_dir(folder.path().join(tgid.to_string())).unwrap();
            if tgid <= 10 {
                nix::unistd::mkfifo(&at(tgid), nix::sys::stat::Mode::S_IRWXU).unwrap();
            } else {
                fs::write(at(tgid), "OTEL_SERVICE_NAME=a\0").unwrap();
            }
        }
        let mut environments = Environments::new(folder.path().to_owned());
        assert!(patiently(&mut environments, 11, 11).is_some());
        let mut waited = Duration::ZERO;
        let began = Instant::now();
        // Samples of all of them, for as long as it takes until nobody is asked any more.
        while environments.stuck.load(Ordering::Acquire) < MAX_STUCK && began.elapsed() < LONG_PATIENCE * 20 {
            for tgid in 1..=10 {
                let before = Instant::now();
                environments.read(tgid, u64::from(tgid), 0);
                waited += before.elapsed();
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert!(waited < began.elapsed() / 4, "{waited:?} of {:?}", began.elapsed());
        assert_eq!(environments.stuck.load(Ordering::Acquire), MAX_STUCK);
        assert_eq!(environments.read(12, 12, 0), Environment::NotRead, "until one comes back");
        for tgid in 1..=10 {
            // Opened for both, so that it never waits for a reader.
            drop(File::options().read(true).write(true).open(at(tgid)).unwrap());
        }
        assert!(patiently(&mut environments, 13, 13).is_some());
    }
}
