//! The command that `record` runs: started but held back before its first instruction, so that the filter knows it
//! before it does anything.
//!
//! The child writes its pid into one pipe and reads from another before `exec`; when the agent lets go, it runs.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, bail};

/// A command between fork and exec.
pub(crate) struct Held {
    name: String,
    tgid: u32,
    go: PipeWriter,
    /// `spawn` returns once the exec has happened: it waits on a thread of its own.
    spawning: JoinHandle<io::Result<Child>>,
}

/// A command that runs.
pub(crate) struct Running {
    name: String,
    child: Child,
}

impl Held {
    /// Forks.
    ///
    /// # Errors
    /// No process could be made.
    pub(crate) fn start(command: &[OsString]) -> anyhow::Result<Self> {
        let Some((program, args)) = command.split_first() else { bail!("no command is given") };
        let name = program.to_string_lossy().into_owned();
        let (pid_reader, pid_writer) = io::pipe().context("cannot make a pipe")?;
        let (go_reader, go) = io::pipe().context("cannot make a pipe")?;
        let mut command = Command::new(program);
        command.args(args);
        let (write_to, read_from) = (pid_writer.as_raw_fd(), go_reader.as_raw_fd());
        let unwanted = [pid_reader.as_raw_fd(), go.as_raw_fd()];
        // SAFETY: between fork and exec the closure calls getpid, close, write, read and sigprocmask only, all async-signal-safe;
        // the descriptors are open in the child, which got copies of them by fork.
        unsafe {
            command.pre_exec(move || hold(write_to, read_from, unwanted));
        }
        let spawning = std::thread::Builder::new()
            .name("command".to_owned())
            .spawn(move || {
                let child = command.spawn();
                drop((pid_writer, go_reader));
                child
            })
            .context("cannot start a thread")?;
        let tgid = match read_pid(pid_reader) {
            Ok(tgid) => tgid,
            Err(e) => {
                let source = spawning.join().ok().and_then(Result::err).unwrap_or(e);
                return Err(anyhow!("cannot run {name}: {source}"));
            }
        };
        Ok(Self { name, tgid, go, spawning })
    }

    /// The process.
    pub(crate) fn tgid(&self) -> u32 {
        self.tgid
    }

    /// Lets it run.
    ///
    /// # Errors
    /// There is no such program, or it can not be run.
    pub(crate) fn run(mut self) -> anyhow::Result<Running> {
        self.go.write_all(b"g").with_context(|| format!("cannot run {}", self.name))?;
        match self.spawning.join() {
            Ok(Ok(child)) => Ok(Running { name: self.name, child }),
            Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => {
                bail!("cannot run {}: there is no such program", self.name)
            }
            Ok(Err(e)) => bail!("cannot run {}: {e}", self.name),
            Err(_) => bail!("cannot run {}: its thread died", self.name),
        }
    }

    /// Gives it up: the child ends without having run anything.
    pub(crate) fn give_up(self) {
        drop(self.go);
        let _ = self.spawning.join();
    }
}

impl Running {
    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The command's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub(crate) fn tgid(&self) -> u32 {
        self.child.id()
    }
}

/// The exit code that a shell would give, and words for it.
pub(crate) fn describe(status: ExitStatus) -> (u8, String) {
    match (status.code(), status.signal()) {
        (Some(code), _) => (u8::try_from(code).unwrap_or(1), format!("exited with code {code}")),
        (None, Some(signal)) => (u8::try_from(128 + signal).unwrap_or(1), format!("was ended by signal {signal}")),
        (None, None) => (1, "ended".to_owned()),
    }
}

/// In the child: tells the pid, waits for one byte. No byte: the agent gave up, or is gone.
fn hold(write_to: RawFd, read_from: RawFd, unwanted: [RawFd; 2]) -> io::Result<()> {
    for fd in unwanted {
        // SAFETY: closes the child's own copies, so that the end of the agent's ends is seen.
        unsafe { libc::close(fd) };
    }
    // SAFETY: no preconditions.
    let pid = unsafe { libc::getpid() }.to_ne_bytes();
    // SAFETY: four bytes that live on this stack.
    let written = unsafe { libc::write(write_to, pid.as_ptr().cast(), pid.len()) };
    if written != 4 {
        return Err(io::Error::from_raw_os_error(libc::EPIPE));
    }
    let mut byte = 0u8;
    loop {
        // SAFETY: one byte that lives on this stack.
        match unsafe { libc::read(read_from, (&raw mut byte).cast(), 1) } {
            1 => return unblock(),
            0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

/// In the child: the agent waits for its signals with all of them blocked, and the command would inherit that. It could not
/// be ended by Ctrl-C or `kill`.
fn unblock() -> io::Result<()> {
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set lives on this stack and is initialised by the first call; both are async-signal-safe.
    let done = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn read_pid(mut reader: PipeReader) -> io::Result<u32> {
    let mut pid = [0; 4];
    reader.read_exact(&mut pid)?;
    Ok(u32::from_ne_bytes(pid))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn wait(mut running: Running) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = running.ended() {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn nothing_runs_before_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let script = format!("echo $$ > {}; exit 7", mark.display());
        let held = Held::start(&words(&["sh", "-c", &script])).unwrap();
        let tgid = held.tgid();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!mark.exists());
        let running = held.run().unwrap();
        assert_eq!(running.tgid(), tgid);
        assert_eq!(describe(wait(running)), (7, "exited with code 7".to_owned()));
        assert_eq!(
            std::fs::read_to_string(mark).unwrap().trim(),
            tgid.to_string(),
            "the listed process is the one that ran"
        );
    }

    #[test]
    fn it_can_be_ended_by_a_signal_that_the_agent_waits_for() {
        use nix::sys::signal::{SigSet, Signal};
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.thread_block().unwrap();
        let held = Held::start(&words(&["sh", "-c", "kill -TERM $$; exit 7"])).unwrap();
        let status = wait(held.run().unwrap());
        set.thread_unblock().unwrap();
        assert_eq!(describe(status), (143, "was ended by signal 15".to_owned()));
    }

    #[test]
    fn given_up_it_leaves_no_process() {
        let held = Held::start(&words(&["sleep", "100"])).unwrap();
        let tgid = held.tgid();
        held.give_up();
        assert!(!std::path::Path::new(&format!("/proc/{tgid}")).exists());
    }

    #[test]
    fn what_is_not_there_can_not_run() {
        let text = match Held::start(&words(&["/no/such/program"])).and_then(Held::run) {
            Ok(_) => panic!("ran"),
            Err(e) => format!("{e:#}"),
        };
        assert_eq!(text, "cannot run /no/such/program: there is no such program");
        let text = match Held::start(&words(&["/etc/passwd"])).and_then(Held::run) {
            Ok(_) => panic!("ran"),
            Err(e) => format!("{e:#}"),
        };
        assert!(text.starts_with("cannot run /etc/passwd: Permission denied"), "{text}");
    }

    #[test]
    fn a_signal_is_told_as_one() {
        let running = Held::start(&words(&["sh", "-c", "kill -9 $$"])).unwrap().run().unwrap();
        assert_eq!(describe(wait(running)), (137, "was ended by signal 9".to_owned()));
    }
}
