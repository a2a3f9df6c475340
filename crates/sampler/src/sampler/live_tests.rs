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

/// Numbers files by their path.
#[derive(Clone, Debug, Default)]
struct Paths {
    all: Arc<Mutex<Vec<Arc<ObjectInfo>>>>,
    delay: Duration,
}

impl ObjectSource for Paths {
    fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        let path = String::from_utf8_lossy(&file.path);
        self.all.lock().unwrap().iter().find(|o| *o.path == *path).cloned()
    }

    fn object(&self, file: &MappedFile, _: u32, _: std::ops::Range<u64>) -> Arc<ObjectInfo> {
        self.known(file).unwrap_or_else(|| {
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
        Some(self.object(&MappedFile { path: b"[vdso]".to_vec(), ..MappedFile::default() }, 0, 0..0))
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

struct Live {
    sampler: Sampler,
    stats: StatsHandle,
    ledger: Arc<Ledger>,
    objects: Paths,
    windows: Receiver<Window>,
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
    let (send, windows) = sync_channel(channel);
    let ledger = Arc::new(Ledger::default());
    let sampler = Sampler::start_with(config, objects.clone(), Arc::clone(&ledger), send).unwrap();
    let stats = sampler.stats();
    Live { sampler, stats, ledger, objects, windows, _alone: alone }
}

fn config() -> SamplerConfig {
    SamplerConfig { rate_hz: 99, window: Duration::from_secs(1), ..SamplerConfig::default() }
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
    /// Stops, checks that every sample is where it should be, and gives the windows.
    fn stop(self) -> (Vec<Row>, Vec<Window>) {
        self.sampler.stop();
        let windows: Vec<Window> = self.windows.try_iter().collect();
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
    fs::copy("/bin/sh", &path).unwrap();
    path
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

#[test]
fn the_ledger_is_exact_and_windows_abut() {
    let Some(alone) = alone() else { return };
    let live = start(config(), alone);
    assert!(live.stats.attached_everywhere());
    thread::sleep(Duration::from_millis(2500));
    let (_, windows) = live.stop();
    assert!(windows.len() >= 3, "{}", windows.len());
    for pair in windows.windows(2) {
        assert_eq!(pair[0].span.to_mono_ns, pair[1].span.from_mono_ns);
        assert_eq!(pair[0].span.to_unix_ns, pair[1].span.from_unix_ns);
        assert_eq!(pair[1].span.from_mono_ns % 1_000_000_000, 0);
    }
}

#[test]
fn processes_of_50_ms_have_their_names() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "burn50");
    let text = count_for(50);
    let live = start(config(), alone);
    let started: BTreeSet<u32> = (0..100).map(|_| run(&mut script(&program, &text))).collect();
    let (rows, _) = live.stop();
    let named: BTreeSet<u32> = rows.iter().filter(|r| r.name == "burn50").map(|r| r.tgid).collect();
    assert!(named.len() >= 95, "{} of 100 were seen", named.len());
    assert!(named.is_subset(&started));
    for row in rows.iter().filter(|r| started.contains(&r.tgid) && r.comm == "burn50") {
        assert_eq!(row.name, "burn50", "{row:?}");
        assert_ne!(row.end, Some(StackEnd::UnknownProcess), "{row:?}");
    }
}

#[test]
fn a_fork_without_exec_has_its_parents_program() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "forker");
    let text = count_for(400);
    let live = start(config(), alone);
    let parent = run(&mut script(&program, &format!("({text}) & ({text}) & wait")));
    let (rows, _) = live.stop();
    let children: BTreeSet<u32> =
        rows.iter().filter(|r| r.name == "forker" && r.tgid != parent).map(|r| r.tgid).collect();
    assert_eq!(children.len(), 2);
    let own = program.to_str().unwrap();
    for tgid in children {
        let of = |r: &&Row| r.tgid == tgid;
        let all: u64 = rows.iter().filter(of).map(|r| r.count).sum();
        let in_program: u64 = rows.iter().filter(of).filter(|r| r.file == own).map(|r| r.count).sum();
        let in_libc: u64 = rows.iter().filter(of).filter(|r| r.file.contains("libc")).map(|r| r.count).sum();
        assert!(in_program >= 3 && (in_program + in_libc) * 10 >= all * 9, "{in_program} + {in_libc} of {all}");
    }
}

#[test]
fn an_exec_replaces_the_program_of_the_same_process() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (shell(directory.path(), "first"), shell(directory.path(), "second"));
    let text = count_for(300);
    let live = start(config(), alone);
    let tgid = run(&mut script(&first, &format!("{text}; exec {} -c '{text}'", second.display())));
    let (rows, _) = live.stop();
    for (name, path, other) in [("first", &first, &second), ("second", &second, &first)] {
        let mine = || rows.iter().filter(|r| r.tgid == tgid && r.name == name);
        assert!(mine().filter(|r| r.file == path.to_str().unwrap()).map(|r| r.count).sum::<u64>() >= 3, "{name}");
        assert!(mine().all(|r| r.file != other.to_str().unwrap()), "{name} has code of the other");
    }
    let starts: BTreeSet<u64> = rows.iter().filter(|r| r.tgid == tgid).map(|r| r.start).collect();
    assert_eq!(starts.len(), 1, "one process all the time");
}

#[test]
fn a_process_that_ran_before_is_known() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "before");
    let mut child = spawn(&mut script(&program, &count_for(1500)));
    thread::sleep(Duration::from_millis(100));
    let live = start(config(), alone);
    thread::sleep(Duration::from_millis(800));
    let (rows, _) = live.stop();
    child.kill().unwrap();
    child.wait().unwrap();
    let own = program.to_str().unwrap();
    let all: u64 = rows.iter().filter(|r| r.tgid == child.id()).map(|r| r.count).sum();
    let right: u64 = rows
        .iter()
        .filter(|r| r.tgid == child.id() && r.name == "before" && (r.file == own || r.file.contains("libc")))
        .map(|r| r.count)
        .sum();
    assert!(all >= 20 && right * 10 > all * 8, "{right} of {all}");
}

#[test]
fn only_the_named_process_and_its_descendants() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "named");
    let text = count_for(500);
    let mut other = spawn(&mut script(&program, &count_for(5000)));
    let mut named = spawn(&mut script(&program, &format!("sleep 0.3; ({text}) & {text}; wait")));
    thread::sleep(Duration::from_millis(50));
    let target = Target::Processes { tgids: vec![named.id()], children: true };
    let live = start(SamplerConfig { target, ..config() }, alone);
    assert!(!live.sampler.target_exited());
    named.wait().unwrap();
    assert!(live.sampler.target_exited());
    let (rows, _) = live.stop();
    other.kill().unwrap();
    other.wait().unwrap();
    let tgids: BTreeSet<u32> = rows.iter().map(|r| r.tgid).collect();
    assert!(tgids.contains(&named.id()) && tgids.len() >= 2, "{tgids:?}");
    assert!(!tgids.contains(&other.id()) && !tgids.contains(&std::process::id()));
    assert!(rows.iter().all(|r| r.name == "named" || r.name == "sleep"));
}

#[test]
fn an_unknown_pid_is_told_before_anything_is_attached() {
    let target = Target::Processes { tgids: vec![4_000_000_000], children: false };
    let (send, _windows) = sync_channel(1);
    let config = SamplerConfig { target, ..config() };
    let error = Sampler::start_with(config, Paths::default(), Arc::default(), send).unwrap_err();
    assert_eq!(error.to_string(), "no process with pid 4000000000");
}

#[test]
fn a_flood_of_records_loses_some_and_heals() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "flooded");
    let text = count_for(50);
    let live = start(config(), alone);
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                nix::sys::prctl::set_name(c"flood").unwrap();
            }
        })
    };
    let started: BTreeSet<u32> = (0..20).map(|_| run(&mut script(&program, &text))).collect();
    let mut long = spawn(&mut script(&program, &count_for(4000)));
    thread::sleep(Duration::from_millis(1500));
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    thread::sleep(Duration::from_millis(1500));
    let stats = live.stats.stats();
    let (rows, _) = live.stop();
    long.kill().unwrap();
    long.wait().unwrap();
    eprintln!("lost {} of {}", stats.sideband_lost, stats.sideband_records + stats.sideband_lost);
    for row in rows.iter().filter(|r| r.name == "flooded") {
        assert!(started.contains(&row.tgid) || row.tgid == long.id(), "{row:?}");
    }
    let of_long: u64 = rows.iter().filter(|r| r.tgid == long.id() && r.name == "flooded").map(|r| r.count).sum();
    assert!(of_long >= 50, "{of_long}");
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let Some(alone) = alone() else { return };
    let slow = Paths { delay: Duration::from_millis(300), ..Paths::default() };
    let config = SamplerConfig { merge_bytes: 128 << 10, rate_hz: 500, ..config() };
    let live = start_with(config, slow, 1, alone);
    run(&mut script(Path::new("/bin/sh"), &count_for(2500)));
    let (ledger, stats) = (Arc::clone(&live.ledger), live.stats.clone());
    let (_, windows) = live.stop();
    let snapshot = ledger.snapshot(|| stats.kernel_counts());
    assert!(snapshot.dropped(DropReason::MergeFull) > 0, "{snapshot:?}");
    assert!(snapshot.dropped(DropReason::NamingFull) > 0, "{snapshot:?}");
    assert_eq!(windows.len(), 1);
}

/// Takes a CPU away, and gives it back when the value goes.
struct Offline(&'static str);

impl Offline {
    /// None where this machine's last CPU cannot be taken away.
    fn take(path: &'static str) -> Option<Self> {
        fs::write(path, "0").ok().map(|()| Self(path))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        fs::write(self.0, "1").unwrap();
    }
}

#[test]
fn a_cpu_that_went_and_came_back_is_sampled_and_its_processes_are_known() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "onagain");
    let text = count_for(200);
    let live = start(config(), alone);
    let Some(offline) = Offline::take("/sys/devices/system/cpu/cpu1/online") else { return };
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(live.stats.stats().cpus_attached, live.stats.stats().cpus_online);
    drop(offline);
    let back =
        || live.stats.attached_everywhere() && live.stats.stats().cpus_online == online_cpus().unwrap().len() as u64;
    assert!((0..30).any(|_| {
        thread::sleep(Duration::from_millis(100));
        back()
    }));
    // The side-band ring is opened in the same turn, after the timer.
    thread::sleep(Duration::from_millis(50));
    let on_cpu_1 = |path: &Path| {
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(path).args(["-c", &text]);
        run(&mut command)
    };
    let tgid = on_cpu_1(&program);
    let (rows, _) = live.stop();
    let own: Vec<&Row> = rows.iter().filter(|r| r.tgid == tgid && r.comm == "onagain").collect();
    assert!(own.iter().map(|r| r.count).sum::<u64>() >= 5);
    assert!(own.iter().all(|r| r.name == "onagain" && r.file.contains("onagain") || r.file.contains("lib")), "{own:?}");
}

#[test]
fn a_program_deleted_while_it_runs_keeps_its_name() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "deleted");
    let mut child = spawn(&mut script(&program, &count_for(4000)));
    thread::sleep(Duration::from_millis(100));
    fs::remove_file(&program).unwrap();
    let live = start(config(), alone);
    thread::sleep(Duration::from_millis(800));
    let (rows, _) = live.stop();
    child.kill().unwrap();
    child.wait().unwrap();
    let own: Vec<&Row> = rows.iter().filter(|r| r.tgid == child.id()).collect();
    assert!(own.iter().any(|r| r.file == format!("{} (deleted)", program.display())));
    assert!(own.iter().all(|r| r.name == "deleted"), "{own:?}");
}
