//! Processes from their first moment: their first samples are whole, it takes no time until the kernel walks their stacks, and a
//! stack is the same entry whichever way it was unwound.
#![cfg(feature = "live")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::agent::{Agent, Setup};
use e2e::otlp;
use e2e::process::Start;
use e2e::sink::Sink;
use e2e::stacks::{MARKER, Row, percent};
use e2e::walks::Walks;
use e2e::{figure, paths, pprof};
use pprof_proto::Profile;

/// The frames of the recursion in `deep`.
const DEPTH: usize = 60;
/// Short processes.
const PROCESSES: usize = 1000;

/// An agent that samples what this test starts and nothing else.
fn setup(name: &str, folder: &Path, hertz: u32) -> Result<Setup> {
    Ok(Setup::new(name, folder)?
        .env("PROFILER_FREQUENCY", hertz.to_string())
        .env("PROFILER_WINDOW", "1s")
        .env("PROFILER_PID", std::process::id().to_string())
        .env("PROFILER_CHILDREN", "true")
        .env("PROFILER_UNWIND_CACHE", "off"))
}

/// A copy of a program that no profiler has seen: its build id is another one.
fn unseen(program: &Path, folder: &Path, number: u64) -> Result<PathBuf> {
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let mut bytes = fs::read(program).with_context(|| program.display().to_string())?;
    let note = bytes.windows(NOTE.len()).position(|w| w == NOTE).context("a program without build id")? + NOTE.len();
    let id = bytes.get_mut(note..note + 8).context("a build id that ends early")?;
    id.copy_from_slice(&(u64::from(std::process::id()) << 32 | number).to_le_bytes());
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    let path = folder.join(format!("{name}-{number}"));
    fs::write(&path, &bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A sample of a process of its own number.
struct Moment {
    unix_ns: u64,
    row: Row,
}

/// All samples of processes of a name, by pid, with their times.
fn moments(sink: &Sink, process: &str) -> Result<BTreeMap<u64, Vec<Moment>>> {
    let mut found: BTreeMap<u64, Vec<Moment>> = BTreeMap::new();
    for request in sink.requests().iter().filter(|r| r.path == "/v1development/profiles") {
        for received in otlp::profiles(&otlp::data(request.profiles()?))? {
            for (row, sample) in received.stacks.rows.iter().zip(&received.profile.samples) {
                let Some(pid) = row.pid.filter(|_| row.process == process) else { continue };
                let moments = sample.timestamps_unix_nano.iter().map(|&unix_ns| Moment { unix_ns, row: row.clone() });
                found.entry(pid).or_default().extend(moments);
            }
        }
    }
    found.values_mut().for_each(|moments| moments.sort_by_key(|m| m.unix_ns));
    Ok(found)
}

/// Whether a stack of `deep` is whole: it reaches its root, through `main` where it is in the recursion.
fn whole(row: &Row) -> bool {
    let depth = row.frames_of("deep_frame");
    row.root && (depth == 0 || (depth <= DEPTH && row.frames_of("main") > 0))
}

#[test]
fn the_first_samples_of_a_thousand_short_processes_are_whole() -> Result<()> {
    let folder = paths::scratch("short")?;
    let sink = Sink::start([])?;
    let agent = setup("agent", &folder, 199)?.otlp("http/protobuf", &sink.url());
    let agent = agent.env("PROFILER_EXPORT_PID", "true").env("PROFILER_TIMESTAMPS", "true").start()?;
    let before = Walks::of(&agent.scrape()?)?;
    let deep = paths::workload("deep")?;
    let run = |n: usize| -> Result<Vec<u64>> {
        (0..n)
            .map(|_| {
                let mut child = Command::new(&deep).args(["0.02", "cpu"]).spawn()?;
                child.wait()?;
                Ok(u64::from(child.id()))
            })
            .collect()
    };
    let pids: BTreeSet<u64> = scope(|s| {
        let halves = [s.spawn(|| run(PROCESSES / 2)), s.spawn(|| run(PROCESSES - PROCESSES / 2))];
        let mut pids = BTreeSet::new();
        for half in halves {
            pids.extend(half.join().map_err(|_| anyhow!("a thread died"))??);
        }
        Ok::<_, anyhow::Error>(pids)
    })?;
    let scrape = agent.scrape()?;
    scrape.ledger()?.check()?;
    let walks = Walks::of(&scrape)? - &before;
    agent.stop()?.success()?;
    let found = moments(&sink, "deep")?;
    let seen: Vec<&Vec<Moment>> = found.iter().filter(|(pid, _)| pids.contains(pid)).map(|(_, m)| m).collect();
    // What has nothing of user space is exec's end or the process's: there is no user stack yet, or no more.
    let firsts: Vec<&Row> = seen.iter().filter_map(|m| Some(&m.iter().find(|m| m.row.user)?.row)).collect();
    let good = firsts.iter().filter(|r| whole(r)).count();
    let all: Vec<&Row> = seen.iter().flat_map(|m| m.iter().map(|m| &m.row)).collect();
    let all_good = all.iter().filter(|r| whole(r)).count();
    let kernel = all.iter().filter(|r| !r.user).count();
    figure(format!(
        "of {} processes {} were sampled; the first sample is whole in {good}; of all {} samples {all_good}, {kernel} have no user half; {walks:?}",
        pids.len(),
        firsts.len(),
        all.len()
    ));
    let deep_ones = all.iter().filter(|r| r.frames_of("deep_frame") > 0).count();
    let deepest = all.iter().filter(|r| r.frames_of("deep_frame") == DEPTH).count();
    let mut bad: BTreeMap<String, usize> = BTreeMap::new();
    for row in firsts.iter().filter(|r| !whole(r)) {
        *bad.entry(format!("{} frames: {}", row.frames.len(), row.frames.join(" < "))).or_default() += 1;
    }
    let mut worst: Vec<_> = bad.into_iter().collect();
    worst.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let told: Vec<String> = worst.iter().take(5).map(|(stack, n)| format!("{n} of {stack}")).collect();
    let unwhole = all.iter().filter(|r| r.user && !whole(r)).map(|r| format!("not whole: {}", r.frames.join(" < ")));
    unwhole.take(10).for_each(figure);
    ensure!(pids.len() * 100 >= PROCESSES * 99, "{} process ids", pids.len());
    ensure!(firsts.len() * 100 >= pids.len() * 97, "{} of {} were sampled", firsts.len(), pids.len());
    ensure!(good == firsts.len(), "{} first samples are not whole:\n{}", firsts.len() - good, told.join("\n"));
    ensure!((all_good + kernel) * 1000 >= all.len() * 999, "{all_good} of {} samples are whole", all.len());
    ensure!(deepest * 100 >= deep_ones * 97, "{deepest} of {deep_ones} have {DEPTH} frames");
    ensure!(walks.walked > 0, "none was walked: {walks:?}");
    Ok(())
}

/// The stacks of a process above their leaf, by what each frame is (file and address), and how many samples each has.
fn above_leaf(profile: &Profile, pid: u32) -> Result<BTreeMap<Vec<(String, u64)>, u64>> {
    let locations: BTreeMap<u64, (String, u64)> =
        profile.location.iter().map(|l| (l.id, (pprof::file_of(profile, l.id).to_owned(), l.address))).collect();
    let mut found = BTreeMap::new();
    let stacks = pprof::stacks(profile)?;
    for (row, sample) in stacks.rows.iter().zip(&profile.sample) {
        let recursion = row.pid == Some(pid.into()) && row.frames_of("deep_frame") == DEPTH && !row.kernel;
        if recursion {
            let above = sample.location_id.iter().skip(1).filter_map(|l| locations.get(l).cloned()).collect();
            *found.entry(above).or_default() += row.count;
        }
    }
    Ok(found)
}

/// Samples of a profile that are twice in it: the same stack, the same words beside it.
fn twice(profile: &Profile) -> usize {
    let key = |s: &pprof_proto::Sample| {
        let words = s.label.iter().map(|l| (l.key, l.str, l.num)).collect::<BTreeSet<_>>();
        (s.location_id.clone(), words)
    };
    profile.sample.len() - profile.sample.iter().map(key).collect::<BTreeSet<_>>().len()
}

#[test]
fn a_stack_is_one_entry_whichever_way_it_was_unwound() -> Result<()> {
    let folder = paths::scratch("oneentry")?;
    let walking = setup("walking", &folder, 997)?.start()?;
    let copying = setup("copying", &folder, 997)?.env("PROFILER_UNWIND_TABLES", "off").start()?;
    let before = Walks::of(&walking.scrape()?)?;
    let ask = |agent: &Agent| pprof::read(&agent.get("/debug/pprof/profile?seconds=8")?);
    let deep = unseen(&paths::workload("deep")?, &folder, 0)?;
    let (from_tables, from_snapshots, pid) = scope(|s| {
        let (a, b) = (s.spawn(|| ask(&walking)), s.spawn(|| ask(&copying)));
        sleep(Duration::from_secs(2));
        // From its first moment to its last: the kernel has no tables of it at first.
        let mut process = Start::new("process", &deep, &folder).args(["3"]).start()?;
        let pid = process.pid();
        process.wait(Duration::from_secs(30))?;
        let joined =
            |t: std::thread::ScopedJoinHandle<'_, Result<Profile>>| t.join().map_err(|_| anyhow!("a thread died"))?;
        Ok::<_, anyhow::Error>((joined(a)?, joined(b)?, pid))
    })?;
    let walks = Walks::of(&walking.scrape()?)? - &before;
    for agent in [walking, copying] {
        agent.scrape()?.ledger()?.check()?;
        agent.stop()?.success()?;
    }
    let (tables, snapshots) = (above_leaf(&from_tables, pid)?, above_leaf(&from_snapshots, pid)?);
    let (walked, copied) = (tables.values().sum::<u64>(), snapshots.values().sum::<u64>());
    figure(format!(
        "{walked} samples above {} stacks by tables, {copied} above {} by snapshots; {walks:?}",
        tables.len(),
        snapshots.len()
    ));
    ensure!(walked > 300 && copied > 300, "{walked} and {copied} samples");
    ensure!(walks.walked > 300, "the tables were not used: {walks:?}");
    ensure!(walks.all_bridged() > 0, "no sample was taken before the tables were there: {walks:?}");
    // All samples are in the same recursion under the same main: above the leaf there is one stack.
    ensure!(tables.len() == 1, "stacks of one process differ: {tables:#?}");
    ensure!(tables.keys().eq(snapshots.keys()), "{tables:#?}\n{snapshots:#?}");
    for (name, profile) in [("tables", &from_tables), ("snapshots", &from_snapshots)] {
        ensure!(twice(profile) == 0, "{name}: {} samples are there twice", twice(profile));
        let stacks = pprof::stacks(profile)?.of_pid(pid).only(|r| r.process.starts_with("deep") && r.user);
        let cut = stacks.count(|r| r.frames.last().is_some_and(|f| f.starts_with(MARKER)));
        ensure!(percent(cut, stacks.total()) < 0.5, "{name}: {}", stacks.only(|r| r.cut().is_some()).heaviest(3));
    }
    Ok(())
}

/// Runs programs one by one; for each, how many of its samples were not walked yet, in milliseconds of its time.
fn waits(agent: &Agent, hertz: u32, folder: &Path, programs: &[PathBuf], words: &[&str]) -> Result<Vec<u64>> {
    let mut waits = Vec::new();
    for (i, program) in programs.iter().enumerate() {
        let before = Walks::of(&agent.scrape()?)?;
        let mut process =
            Start::new(&format!("run{i}"), program, folder).env("PYTHONHOME", "/usr").args(words).start()?;
        process.wait(Duration::from_secs(30))?;
        let walks = Walks::of(&agent.scrape()?)? - &before;
        ensure!(walks.walked + walks.all_bridged() > 0, "{}: no samples: {}", program.display(), process.errors());
        waits.push(walks.all_bridged() * 1000 / u64::from(hertz));
    }
    waits.sort_unstable();
    Ok(waits)
}

#[test]
fn the_kernel_walks_a_process_soon_after_it_executes() -> Result<()> {
    const HERTZ: u32 = 997;
    /// Milliseconds of a process's own time.
    const SOON: u64 = 100;
    let folder = paths::scratch("readiness")?;
    let agent = setup("agent", &folder, HERTZ)?.start()?;
    let deep = paths::workload("deep")?;
    let copies = |program: &Path, n: u64| (0..n).map(|i| unseen(program, &folder, i)).collect::<Result<Vec<_>>>();
    let small = copies(&deep, 21)?;
    let python = fs::canonicalize("/usr/bin/python3")?;
    let large = copies(&python, 9)?;
    let spin = ["-c", "import time\nend = time.monotonic() + 0.4\nwhile time.monotonic() < end: sum(range(1000))"];
    let median = |waits: &[u64]| waits.get(waits.len() / 2).copied().unwrap_or(u64::MAX);
    let mut late = Vec::new();
    for (what, programs, words) in [
        ("a program that nobody has seen", &small, ["0.4"].as_slice()),
        ("the same programs again", &small, ["0.4"].as_slice()),
        ("python3 that nobody has seen", &large, spin.as_slice()),
        ("the same python3 again", &large, spin.as_slice()),
    ] {
        let waits = waits(&agent, HERTZ, &folder, programs, words)?;
        figure(format!("{what}: not walked for {} ms in the median, {waits:?}", median(&waits)));
        if median(&waits) > SOON {
            late.push(format!("{what}: {} ms", median(&waits)));
        }
    }
    agent.scrape()?.ledger()?.check()?;
    agent.stop()?.success()?;
    ensure!(late.is_empty(), "{late:?}");
    Ok(())
}
