//! The worker as a process: starting it, watching it, ending it.
//!
//! **In**: the operator's command. **Out**: a process and the socket to it. **Units**: wall-clock durations.
//! **Limits**: at most [`MAX_UNREAPED`] processes that were killed but do not end (stuck in a dead file system) are
//! remembered; past that no new worker is started until one of them is gone.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::WorkerCommand;
use crate::wire::Channel;

/// Killed processes that have not ended yet.
const MAX_UNREAPED: usize = 8;
/// How long the end of a killed process is waited for.
const REAP_WAIT: Duration = Duration::from_millis(500);
/// How long a worker may take to end once its socket is closed.
const FAREWELL: Duration = Duration::from_millis(200);
const REAP_STEP: Duration = Duration::from_millis(2);

/// A running worker.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    channel: Channel,
}

/// Time that a process ran on a CPU and waited for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTimes {
    /// Running.
    pub(crate) ran: Duration,
    /// Ready to run, but another one did.
    pub(crate) waited: Duration,
}

impl Process {
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the scheduler gave it so far.
    pub(crate) fn cpu_times(&self) -> CpuTimes {
        cpu_times(self.pid())
    }
}

/// What the scheduler gave a process's main thread so far; nothing where that is not known.
pub(crate) fn cpu_times(pid: u32) -> CpuTimes {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|number| number.parse().map(Duration::from_nanos));
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
    CpuTimes { ran: next(), waited: next() }
}

/// Starts and ends workers.
#[derive(Debug)]
pub(crate) struct Nursery {
    /// Workers are started by a thread that lives as long as this value: the kernel ends a worker with the *thread*
    /// that started it, not with the process.
    births: Mutex<Sender<SyncSender<io::Result<Process>>>>,
    unreaped: Vec<Child>,
}

impl Nursery {
    pub(crate) fn new(command: WorkerCommand) -> io::Result<Self> {
        let (births, requests) = channel::<SyncSender<io::Result<Process>>>();
        thread::Builder::new().name("worker-parent".into()).spawn(move || {
            for reply in requests {
                // The asker waits; were it gone, the process would be dropped with its socket, and end.
                let _ = reply.send(spawn(&command));
            }
        })?;
        Ok(Self { births: Mutex::new(births), unreaped: Vec::new() })
    }

    /// Starts a worker.
    pub(crate) fn start(&mut self) -> io::Result<Process> {
        self.unreaped.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if self.unreaped.len() >= MAX_UNREAPED {
            return Err(io::Error::other("too many killed workers have not ended"));
        }
        let gone = || io::Error::other("the thread that starts workers is gone");
        let (reply, answer) = sync_channel(1);
        self.births.lock().map_err(|_| gone())?.send(reply).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// Kills a worker.
    pub(crate) fn kill(&mut self, process: Process) {
        let Process { mut child, channel } = process;
        drop(channel);
        let _ = child.kill(); // has ended already, or ends now
        self.reap(child, REAP_WAIT);
    }

    /// Lets a worker end by itself, then kills it.
    pub(crate) fn dismiss(&mut self, process: Process) {
        let Process { mut child, channel } = process;
        drop(channel);
        if !ended_within(&mut child, FAREWELL) {
            let _ = child.kill();
            self.reap(child, REAP_WAIT);
        }
    }

    fn reap(&mut self, mut child: Child, wait: Duration) {
        if !ended_within(&mut child, wait) {
            tracing::warn!(pid = child.id(), "a killed worker does not end yet");
            self.unreaped.push(child);
        }
    }
}

fn ended_within(child: &mut Child, wait: Duration) -> bool {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if start.elapsed() < wait => thread::sleep(REAP_STEP),
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}

fn spawn(command: &WorkerCommand) -> io::Result<Process> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut process = Command::new(&command.program);
    process
        .arg0("profiler-worker")
        .args(&command.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(if command.inherit_stderr { Stdio::inherit() } else { Stdio::null() });
    let child = process.spawn()?;
    // `process` holds our copy of the worker's end until here: only the worker has it now, so its end is seen.
    drop(process);
    Ok(Process { child, channel: Channel::new(ours) })
}
