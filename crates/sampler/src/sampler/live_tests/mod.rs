//! The whole room on this kernel, as root, with files and unwinding played by a stand-in: the leaf's file is its path,
//! and every stack has one user frame.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use objects::{MappedFile, UnwindRequest};
use profile::{BuildId, Frame, ObjectId, ObjectInfo, StackEnd, Stage, UserFrame, UserStack};

use super::*;
use crate::config::UnwindConfig;
use crate::judge::TakeAll;

mod owners;
mod processes;
mod published;
mod whole;

/// Numbers files by their path.
#[derive(Clone, Debug, Default)]
struct Paths {
    all: Arc<Mutex<Vec<Arc<ObjectInfo>>>>,
    /// What was asked for, and of whom.
    asked: Arc<Mutex<Vec<(MappedFile, u32)>>>,
    delay: Duration,
    /// The table of every file; none: these files are only names.
    table: Option<Arc<Vec<u8>>>,
}

impl ObjectSource for Paths {
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        let path = String::from_utf8_lossy(&file.path);
        self.all.lock().unwrap().iter().find(|o| *o.path == *path).cloned()
    }

    fn object(&self, file: &MappedFile, tgid: u32, _: std::ops::Range<u64>) -> Arc<ObjectInfo> {
        self.asked.lock().unwrap().push((file.clone(), tgid));
        ObjectSource::known(self, file).unwrap_or_else(|| {
            let mut all = self.all.lock().unwrap();
            let info = Arc::new(ObjectInfo {
                id: ObjectId(all.len() as u64 + 1),
                path: String::from_utf8_lossy(&file.path).into(),
                build_id: BuildId::default(),
                segments: Vec::new(),
                readable: true,
            });
            all.push(Arc::clone(&info));
            info
        })
    }

    fn vdso(&self) -> Option<Arc<ObjectInfo>> {
        Some(ObjectSource::object(self, &MappedFile { path: b"[vdso]".to_vec(), ..MappedFile::default() }, 0, 0..0))
    }

    fn worker_tgid(&self) -> u32 {
        0
    }

    fn unwind(&self, request: &UnwindRequest) -> Vec<UserStack> {
        let one = |s: &objects::UserSample| {
            let pc = s.registers.pc;
            let maps = &request.processes[s.process as usize];
            let object = maps.iter().find(|m| m.start <= pc && pc < m.end).and_then(|m| m.object);
            let frame =
                object.map_or(UserFrame::Unmapped { address: pc }, |object| UserFrame::Object { object, address: pc });
            UserStack { frames: vec![frame], end: if object.is_some() { StackEnd::Root } else { StackEnd::BadFrame } }
        };
        thread::sleep(self.delay);
        request.samples.iter().map(one).collect()
    }
}

impl TableSource for Paths {
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        ObjectSource::known(self, file)
    }

    fn object(&self, file: &MappedFile, tgid: u32, range: std::ops::Range<u64>) -> Arc<ObjectInfo> {
        ObjectSource::object(self, file, tgid, range)
    }

    fn content(&self, _: ObjectId) -> Option<[u8; 32]> {
        None
    }

    fn walk_table(&self, _: ObjectId) -> Option<Vec<u8>> {
        self.table.as_ref().map(|table| table.to_vec())
    }
}

struct Live {
    sampler: Sampler,
    stats: StatsHandle,
    ledger: Arc<Ledger>,
    objects: Paths,
    windows: Receiver<Window>,
    /// Those that a test has looked at already.
    looked_at: Vec<Window>,
    _alone: MutexGuard<'static, ()>,
}

/// The right to load the machine. None where this is not root: nothing can be attached then.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root");
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn start(config: SamplerConfig, alone: MutexGuard<'static, ()>) -> Live {
    start_with(config, Paths::default(), 1024, alone)
}

fn start_with(config: SamplerConfig, objects: Paths, channel: usize, alone: MutexGuard<'static, ()>) -> Live {
    start_judged(config, objects, channel, Arc::new(TakeAll), alone)
}

fn start_judged(
    config: SamplerConfig,
    objects: Paths,
    channel: usize,
    judge: Arc<dyn Judge>,
    alone: MutexGuard<'static, ()>,
) -> Live {
    let (send, windows) = sync_channel(channel);
    let ledger = Arc::new(Ledger::default());
    let sampler = Sampler::start_with(config, objects.clone(), Arc::clone(&ledger), send, judge).unwrap();
    let stats = sampler.stats();
    Live { sampler, stats, ledger, objects, windows, looked_at: Vec::new(), _alone: alone }
}

/// Stacks are unwound by the stand-in.
fn config() -> SamplerConfig {
    let unwind = UnwindConfig { tables: false, ..UnwindConfig::default() };
    SamplerConfig { rate_hz: 99, window: Duration::from_secs(1), unwind, ..SamplerConfig::default() }
}

/// One entry of a window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    tgid: u32,
    start: u64,
    /// The process's name.
    name: String,
    comm: String,
    /// The path of the file of the user frame; the mapping's name where it has none.
    file: String,
    count: u64,
    end: Option<StackEnd>,
}

impl Live {
    /// Waits until the windows so far are as they should be: on a busy machine that may take a while.
    fn until(&mut self, what: &str, is_so: impl Fn(&[Window]) -> bool) {
        let began = Instant::now();
        while !is_so(&self.looked_at) {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}");
            self.looked_at.extend(self.windows.recv_timeout(Duration::from_secs(2)));
        }
    }

    /// Stops, checks that every sample is where it should be, and gives the windows.
    fn stop(self) -> (Vec<Row>, Vec<Window>) {
        self.sampler.stop();
        let windows: Vec<Window> = self.looked_at.into_iter().chain(self.windows.try_iter()).collect();
        let snapshot = self.ledger.snapshot(|| self.stats.kernel_counts());
        eprintln!("{:?}\n{snapshot:?}", self.stats.stats());
        assert!(snapshot.balances(), "{snapshot:?}");
        let counted: u64 = windows.iter().map(|w| w.samples).sum();
        for stage in Stage::ALL {
            let expected = if stage == Stage::Naming { counted } else { 0 };
            assert_eq!(snapshot.held(stage), i64::try_from(expected).unwrap(), "{stage:?} of {snapshot:?}");
        }
        let dropped: u64 = snapshot.dropped.iter().sum();
        assert_eq!(snapshot.kernel.taken, counted + dropped, "{snapshot:?}");
        for window in &windows {
            assert_eq!(window.samples, window.entries.iter().map(|e| e.count).sum::<u64>());
            for frame in window.entries.iter().flat_map(|e| e.stack.iter()) {
                if let Frame::Object { object, .. } = frame {
                    assert!(window.objects.contains_key(object));
                }
            }
        }
        for pair in windows.windows(2) {
            assert!(pair[0].span.to_mono_ns <= pair[1].span.from_mono_ns);
            assert!(pair[0].span.to_unix_ns <= pair[1].span.from_unix_ns);
        }
        (rows(&windows, &self.objects), windows)
    }
}

fn rows(windows: &[Window], objects: &Paths) -> Vec<Row> {
    let infos = objects.all.lock().unwrap();
    let row = |window: &Window, entry: &profile::window::WindowEntry| {
        let owner = &window.owners[entry.owner as usize];
        let file = entry.stack.iter().find_map(|f| match f {
            Frame::Object { object, .. } => infos.iter().find(|o| o.id == *object).map(|o| o.path.to_string()),
            Frame::Unmapped { mapping, .. } => Some(format!("unmapped {mapping}")),
            _ => None,
        });
        let end = entry.stack.iter().find_map(|f| if let Frame::Cut(end) = f { Some(*end) } else { None });
        Row {
            tgid: owner.process.tgid,
            start: owner.process.leader_start_mono_ns,
            name: owner.process_name.to_string(),
            comm: owner.comm.to_string(),
            file: file.unwrap_or_default(),
            count: entry.count,
            end,
        }
    };
    windows.iter().flat_map(|w| w.entries.iter().map(move |e| (w, e))).map(|(w, e)| row(w, e)).collect()
}

/// A shell of another name, so that samples tell which program they are from.
fn shell(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    copy_program("/bin/sh", &path);
    path
}

/// Copies a program. Not by this process: another thread that starts something has for a moment what is open here, and what is open
/// for writing cannot be executed.
fn copy_program(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// Counts, in the shell itself, for about so much CPU time.
fn count_for(ms: u64) -> String {
    static PER_MS: OnceLock<u64> = OnceLock::new();
    let steps_per_ms = *PER_MS.get_or_init(|| {
        let used = || getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().user_time().num_microseconds();
        let before = used();
        run(Command::new("/bin/sh").args(["-c", &counting(200_000)]));
        200_000_000 / u64::try_from(used() - before).unwrap().max(1)
    });
    counting(ms * steps_per_ms)
}

fn counting(steps: u64) -> String {
    format!("i=0; while [ $i -lt {steps} ]; do i=$((i+1)); done")
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).spawn().unwrap()
}

fn run(command: &mut Command) -> u32 {
    let mut child = spawn(command);
    assert!(child.wait().unwrap().success());
    child.id()
}

fn script(shell: &Path, text: &str) -> Command {
    let mut command = Command::new(shell);
    command.args(["-c", text]);
    command
}
