//! How soon processes are walked over tables: looked at in the kernel's own map, which other profilers on this machine may have too.

use std::io::{BufRead as _, BufReader};
use std::time::Instant;

use aya::maps::{HashMap, Map, MapData, loaded_maps};
use unwind_table::{Builder, Rule};

use super::*;

const PROCESSES: &str = "PROCESSES";
/// `sampler_abi::ProcessEntry`.
type Entry = [u64; 3];

fn ids() -> BTreeSet<u32> {
    let all = loaded_maps().filter_map(Result::ok);
    all.filter(|map| map.name_as_str() == Some(PROCESSES)).map(|map| map.id()).collect()
}

/// The maps that are there since.
fn maps_since(before: &BTreeSet<u32>) -> Vec<HashMap<MapData, u32, Entry>> {
    let new = ids().into_iter().filter(|id| !before.contains(id));
    new.filter_map(|id| HashMap::try_from(Map::HashMap(MapData::from_id(id).ok()?)).ok()).collect()
}

fn walking() -> SamplerConfig {
    SamplerConfig { rate_hz: 19, unwind: UnwindConfig::default(), ..config() }
}

fn entry(maps: &[HashMap<MapData, u32, Entry>], tgid: u32) -> Option<Entry> {
    maps.iter().find_map(|map| map.get(&tgid, 0).ok())
}

/// Until then, in milliseconds.
fn milliseconds(until: impl Fn() -> bool) -> u128 {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < Duration::from_secs(20), "it never came");
        thread::sleep(Duration::from_millis(1));
    }
    began.elapsed().as_millis()
}

#[test]
fn who_executes_is_published_soon_and_withdrawn_when_it_ends() {
    let Some(alone) = alone() else { return };
    let before = ids();
    let live = start(walking(), alone);
    let maps = maps_since(&before);
    assert!(!maps.is_empty());
    let (mut published, mut withdrawn) = (Vec::new(), Vec::new());
    for _ in 0..21 {
        // It does nothing: no sample of it helps.
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let tgid = child.id();
        // The executable, the loader, libc, the vDSO: all that it maps.
        published.push(milliseconds(|| entry(&maps, tgid).is_some_and(|[_, _, place]| place >> 32 >= 4)));
        child.kill().unwrap();
        child.wait().unwrap();
        withdrawn.push(milliseconds(|| entry(&maps, tgid).is_none()));
    }
    published.sort_unstable();
    withdrawn.sort_unstable();
    eprintln!("published after {published:?} ms, withdrawn after {withdrawn:?} ms");
    assert!(published[10] <= 100, "{published:?}");
    assert!(live.stats.unwind().processes_published < 10_000);
    live.sampler.stop();
}

#[test]
fn files_that_were_never_seen_are_ready_soon_after_they_are_executed() {
    let Some(alone) = alone() else { return };
    let mut code = Builder::new(62, 0..0x1_0000);
    code.push(0, Rule::END);
    let table = Some(Arc::new(code.finish().0.to_bytes()));
    let live = start_with(walking(), Paths { table, ..Paths::default() }, 1024, alone);
    let stats = || live.stats.unwind();
    let folder = tempfile::tempdir().unwrap();
    let mut took = Vec::new();
    for number in 0..11 {
        let path = folder.path().join(format!("program-{number}"));
        copy_program("/bin/sleep", &path);
        let name = path.to_str().unwrap().to_owned();
        let mut child = Command::new(&path).arg("60").spawn().unwrap();
        let is_opened = || live.objects.all.lock().unwrap().iter().any(|object| *object.path == *name);
        took.push(milliseconds(|| is_opened() && stats().files_pending == 0 && stats().files_loaded > 0));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    took.sort_unstable();
    eprintln!("ready after {took:?} ms");
    assert!(took[5] <= 100, "{took:?}");
    milliseconds(|| stats().files_loaded >= 11);
    live.sampler.stop();
}

#[test]
fn who_ran_before_is_published_with_its_first_sample() {
    let Some(alone) = alone() else { return };
    let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let before = ids();
    let live = start(SamplerConfig { rate_hz: 99, ..walking() }, alone);
    let maps = maps_since(&before);
    let took = milliseconds(|| entry(&maps, child.id()).is_some());
    milliseconds(|| live.stats.unwind().processes_published > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    milliseconds(|| entry(&maps, child.id()).is_none());
    assert!(took < 5000, "{took} ms");
    let stats = live.stats.unwind();
    assert!(stats.shards > 0 && stats.kernel_bytes > 0 && stats.table_limit_bytes == 64 << 20, "{stats:?}");
    live.sampler.stop();
}

#[test]
fn who_is_not_listed_is_not_published() {
    let Some(alone) = alone() else { return };
    let mut listed = Command::new("sh")
        .args(["-c", "read x; sleep 60 & echo $!; wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let before = ids();
    let target = Target::Processes { tgids: vec![listed.id()], children: true };
    let live = start(SamplerConfig { target, ..walking() }, alone);
    let maps = maps_since(&before);
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    drop(listed.stdin.take());
    let mut child = String::new();
    BufReader::new(listed.stdout.take().unwrap()).read_line(&mut child).unwrap();
    let child: u32 = child.trim().parse().unwrap();
    milliseconds(|| entry(&maps, child).is_some());
    // It executed before the other did.
    assert!(entry(&maps, stranger.id()).is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
    listed.wait().unwrap();
    milliseconds(|| entry(&maps, child).is_none());
    live.sampler.stop();
}
