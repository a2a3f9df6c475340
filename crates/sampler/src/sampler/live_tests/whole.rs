//! Start, stop, limits, CPUs.

use super::*;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

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
    let error = Sampler::start_with(config, Paths::default(), Arc::default(), send, Arc::new(TakeAll)).unwrap_err();
    assert_eq!(error.to_string(), "no process with pid 4000000000");
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
fn what_was_executed_on_a_cpu_before_its_records_are_read_is_told_by_proc() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "early");
    let text = count_for(2500);
    let live = start(config(), alone);
    let Some(offline) = Offline::take("/sys/devices/system/cpu/cpu1/online") else { return };
    // The next look at the CPUs is then almost a second away.
    let is_seen = || {
        thread::sleep(Duration::from_millis(10));
        live.stats.stats().cpus_online == online_cpus().unwrap().len() as u64
    };
    assert!((0..300).any(|_| is_seen()));
    // Forked on a CPU whose records are read, executed on the other.
    let mut first = CpuSet::new();
    first.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &first).unwrap();
    let before = live.stats.stats().proc_rereads;
    drop(offline);
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(&program).args(["-c", &text]);
    let tgid = run(&mut command);
    assert!(live.stats.stats().proc_rereads > before, "all of /proc is read again");
    let (rows, _) = live.stop();
    let of = |name: &str| rows.iter().filter(|r| r.tgid == tgid && r.name == name).map(|r| r.count).sum::<u64>();
    let all: u64 = rows.iter().filter(|r| r.tgid == tgid).map(|r| r.count).sum();
    assert!(all > 20 && of("early") * 10 >= all * 8, "{} of {all}: {rows:?}", of("early"));
}
