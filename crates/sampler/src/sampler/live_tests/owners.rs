//! Whose samples they are: cgroups, environments, filters. Containers are played: a cgroup of a runtime's form is enough.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;

use profile::{Owner, Place, ProcessKey};

use super::*;
use crate::judge::{Ruling, Scope, Subject, Verdict};

/// A container's cgroup in every hierarchy that samples' ids may stand for; removed when the value goes.
struct Cgroup {
    id: String,
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// None where this machine lets nobody make cgroups.
    fn make(number: u64) -> Option<Self> {
        let id = format!("{number:064x}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let roots = mounts.lines().filter_map(|line| {
            let (place, kind) = (line.split(' ').nth(4)?, line.split(" - ").nth(1)?);
            let is_one = kind.starts_with("cgroup2 ")
                || kind.starts_with("cgroup ") && kind.split([' ', ',']).any(|word| word == "memory");
            is_one.then(|| PathBuf::from(place))
        });
        let directories: Vec<PathBuf> = roots.map(|root| root.join("docker").join(&id)).collect();
        let cgroup = Self { id, directories };
        let made = cgroup.directories.iter().all(|at| fs::create_dir_all(at).is_ok());
        let is_usable = made && !cgroup.directories.is_empty();
        if !is_usable {
            eprintln!("skipped: cgroups cannot be made here");
        }
        is_usable.then_some(cgroup)
    }

    /// Moves a process into it.
    fn take(&self, tgid: u32) {
        for directory in &self.directories {
            fs::write(directory.join("cgroup.procs"), tgid.to_string()).unwrap();
        }
    }

    /// What a shell does to move itself into it.
    fn entering(&self) -> String {
        self.directories.iter().map(|at| format!("echo $$ > {}/cgroup.procs; ", at.display())).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // A process that has just ended may be in it still.
            let is_gone = || {
                thread::sleep(Duration::from_millis(1));
                fs::remove_dir(directory).is_ok() || !directory.exists()
            };
            (0..1000).any(|_| is_gone());
            // The others' below it stay.
            let _ = directory.parent().map(fs::remove_dir);
        }
    }
}

/// The owners of all samples, with their numbers.
fn owners(windows: &[Window]) -> Vec<(Arc<Owner>, u64)> {
    let row = |w: &Window, e: &profile::window::WindowEntry| (Arc::clone(&w.owners[e.owner as usize]), e.count);
    windows.iter().flat_map(|w| w.entries.iter().map(move |e| row(w, e))).collect()
}

fn samples(owners: &[(Arc<Owner>, u64)], of: impl Fn(&Owner) -> bool) -> u64 {
    owners.iter().filter(|(owner, _)| of(owner)).map(|(_, count)| count).sum()
}

#[test]
fn a_process_that_is_moved_belongs_to_its_container_from_then_on() {
    let Some(alone) = alone() else { return };
    let Some(cgroup) = Cgroup::make(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "moved");
    let mut live = start(config(), alone);
    let mut child = spawn(&mut script(&program, &count_for(200_000)));
    let (tgid, id) = (child.id(), cgroup.id.clone());
    let inside =
        |windows: &[Window]| samples(&owners(windows), |o| o.process.tgid == tgid && o.container_id() == Some(&id));
    let outside = |windows: &[Window]| {
        let is_outside = |o: &Owner| o.place.as_ref().is_some_and(|p| p.container.is_none());
        samples(&owners(windows), |o| o.process.tgid == tgid && is_outside(o))
    };
    live.until("samples before it is moved", |w| outside(w) >= 10);
    cgroup.take(child.id());
    let moved_mono_ns = clock::now().mono_ns;
    live.until("samples after", |w| inside(w) >= 10);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(cgroup);
    let stats = live.stats.stats();
    let (_, windows) = live.stop();
    assert_eq!(samples(&owners(&windows), |o| o.process.tgid == tgid), inside(&windows) + outside(&windows));
    let before: Vec<Window> =
        windows.iter().filter(|w| w.span.to_mono_ns < moved_mono_ns - 50_000_000).cloned().collect();
    let after: Vec<Window> = windows.iter().filter(|w| w.span.from_mono_ns > moved_mono_ns).cloned().collect();
    assert_eq!((inside(&before), outside(&after)), (0, 0));
    assert!(stats.places > 1 && stats.place_readings > 0);
    assert_eq!(stats.unknown_place_samples, 0);
}

#[test]
fn containers_that_come_and_go_ten_times_a_second() {
    let Some(alone) = alone() else { return };
    if Cgroup::make(2).is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "shortlived");
    let text = count_for(40);
    let live = start(SamplerConfig { rate_hz: 199, ..config() }, alone);
    let mut expected = BTreeMap::new();
    for number in 100..140 {
        let cgroup = Cgroup::make(number).unwrap();
        // As a runtime does it: the child moves, then it executes.
        let tgid = run(&mut script(
            Path::new("/bin/sh"),
            &format!("{}exec {} -c '{text}'", cgroup.entering(), program.display()),
        ));
        expected.insert(tgid, cgroup.id.clone());
    }
    let stats = live.stats.stats();
    let (_, windows) = live.stop();
    let owners = owners(&windows);
    let mut seen = BTreeSet::new();
    for (owner, _) in owners.iter().filter(|(o, _)| &*o.process_name == "shortlived") {
        if let Some(id) = owner.container_id() {
            assert_eq!(Some(id), expected.get(&owner.process.tgid).map(String::as_str), "{owner:?}");
            seen.insert(owner.process.tgid);
        }
        assert!(owner.place.as_ref().is_none_or(|p| p.container.is_some()), "in no other place: {owner:?}");
    }
    let unknown = samples(&owners, |o| &*o.process_name == "shortlived" && o.place.is_none());
    let all = samples(&owners, |o| &*o.process_name == "shortlived");
    eprintln!("{} of {} containers, {unknown} of {all} samples of no known place", seen.len(), expected.len());
    assert!(seen.len() >= 30, "{}", seen.len());
    assert!(unknown * 20 <= all, "{unknown} of {all}");
    assert!(stats.place_readings < 2000 && stats.places < 200, "{stats:?}");
}

#[test]
fn what_an_environment_declares() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "declares");
    let text = count_for(200_000);
    let mut live = start(config(), alone);
    let huge = "x".repeat(100_000);
    let with = |name: &str, is_early: bool| {
        let mut command = script(&program, &text);
        // The order of an environment is that of its names.
        command.env_clear().envs((0..12).map(|i| (format!("P{i}"), huge.clone())));
        let suffix = if is_early { "" } else { "S" };
        command.env(format!("OTEL_SERVICE_NAME{suffix}"), name);
        spawn(command.env("OTEL_RESOURCE_ATTRIBUTES", "a=b%2Cc,deployment.environment.name=x"))
    };
    let mut children = [with("cart", true), with("shop", true), with("none", false)];
    let tgids = children.each_ref().map(Child::id);
    let named = |windows: &[Window], tgid: u32, name: Option<&str>| {
        let declared = |o: &Owner| o.declared.as_ref().map(|d| d.service_name.as_deref()) == Some(name);
        samples(&owners(windows), |o| o.process.tgid == tgid && declared(o))
    };
    let names = [Some("cart"), Some("shop"), None];
    live.until("all names", |w| tgids.iter().zip(names).all(|(&tgid, name)| named(w, tgid, name) >= 10));
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (_, windows) = live.stop();
    let of_ours = |(o, _): &(Arc<Owner>, u64)| o.declared.clone().filter(|_| tgids.contains(&o.process.tgid));
    let declared = owners(&windows).iter().find_map(of_ours).unwrap();
    assert_eq!(declared.attributes[0], ("a".into(), "b,c".into()));
    for (tgid, name) in tgids.iter().zip(names) {
        let others = samples(&owners(&windows), |o| {
            o.process.tgid == *tgid && o.declared.as_ref().is_some_and(|d| d.service_name.as_deref() != name)
        });
        assert_eq!(others, 0, "{name:?}");
    }
}

#[test]
fn a_process_that_renames_itself_all_the_time() {
    let Some(alone) = alone() else { return };
    let mut live = start(config(), alone);
    let stop = Arc::new(AtomicBool::new(false));
    let renamed = Arc::new(AtomicU64::new(0));
    let thread = {
        let (stop, renamed) = (Arc::clone(&stop), Arc::clone(&renamed));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number = renamed.fetch_add(1, Ordering::Relaxed);
                let name = std::ffi::CString::new([b"\n\xff\"".as_slice(), format!("{number:x}").as_bytes()].concat())
                    .unwrap();
                nix::sys::prctl::set_name(&name).unwrap();
                // Of the leader too: its name is the process's.
                fs::write("/proc/self/comm", name.as_bytes()).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        })
    };
    let mut long = spawn(&mut script(Path::new("/bin/sh"), &count_for(200_000)));
    live.until("samples of another process", |w| {
        renamed.load(Ordering::Relaxed) >= 2000
            && samples(&owners(w), |o| o.process.tgid == long.id() && !o.process_name.is_empty()) >= 20
    });
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    fs::write("/proc/self/comm", "sampler-tests").unwrap();
    long.kill().unwrap();
    long.wait().unwrap();
    let stats = live.stats.stats();
    let (_, windows) = live.stop();
    let owners = owners(&windows);
    assert_eq!(stats.unknown_place_samples, 0);
    let me: BTreeSet<ProcessKey> =
        owners.iter().filter(|(o, _)| o.process.tgid == std::process::id()).map(|(o, _)| o.process).collect();
    assert!(me.len() <= 1, "one process all the time: {me:?}");
}

/// Refuses what is in a container, and what has one name.
#[derive(Debug)]
struct Refuses {
    comm: &'static str,
    container: String,
    seen: Mutex<Vec<String>>,
}

impl Judge for Refuses {
    fn filters(&self) -> bool {
        true
    }

    fn judge(&self, subject: &Subject<'_>) -> Verdict {
        let is_inside = subject.place.and_then(|p| p.container.as_ref()).is_some_and(|c| *c.id == *self.container);
        if is_inside {
            Verdict { ruling: Ruling::Drop, scope: Scope::Cgroup }
        } else if subject.comm == self.comm {
            Verdict { ruling: Ruling::Drop, scope: Scope::Process }
        } else {
            Verdict::default()
        }
    }

    fn generation(&self) -> u64 {
        0
    }

    fn seen(&self, place: &Place, _: u32) {
        self.seen.lock().unwrap().extend(place.container.as_ref().map(|c| c.id.to_string()));
    }
}

#[test]
fn what_is_refused_stays_in_the_kernel() {
    let Some(alone) = alone() else { return };
    let Some(cgroup) = Cgroup::make(3) else { return };
    let directory = tempfile::tempdir().unwrap();
    let names = ["refused", "inside", "wanted"].map(|name| shell(directory.path(), name));
    let text = count_for(200_000);
    let judge = Arc::new(Refuses { comm: "refused", container: cgroup.id.clone(), seen: Mutex::default() });
    let mut live = start_judged(config(), Paths::default(), 1024, Arc::clone(&judge) as Arc<dyn Judge>, alone);
    let mut refused = spawn(&mut script(&names[0], &text));
    let mut inside = spawn(&mut script(&names[1], &text));
    cgroup.take(inside.id());
    let mut wanted = spawn(&mut script(&names[2], &text));
    let of = |windows: &[Window], tgid: u32, name: &str| {
        samples(&owners(windows), |o| o.process.tgid == tgid && &*o.process_name == name)
    };
    let (stats, ledger) = (live.stats.clone(), Arc::clone(&live.ledger));
    live.until("both verdicts", |_| stats.stats().verdicts >= 2);
    let counted = || {
        let ledger = ledger.snapshot(|| stats.kernel_counts());
        (ledger.kernel.filtered, ledger.dropped(DropReason::Filtered))
    };
    // What was taken before they were told is dropped here.
    thread::sleep(Duration::from_secs(1));
    let (filtered, dropped) = counted();
    live.until("ticks filtered in the kernel", |w| counted().0 >= filtered + 30 && of(w, wanted.id(), "wanted") >= 10);
    assert_eq!(counted().1, dropped, "none of them came here");
    assert_eq!(stats.stats().verdicts_refused, 0);
    assert!(judge.seen.lock().unwrap().contains(&cgroup.id));
    for child in [&mut refused, &mut inside, &mut wanted] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(cgroup);
    live.until("all verdicts to be taken back", |_| stats.stats().verdicts == 0);
    // A new program in the same process is another matter.
    let program = shell(directory.path(), "another");
    let mut renamed =
        spawn(&mut script(&names[0], &format!("{}; exec {} -c '{text}'", count_for(500), program.display())));
    live.until("samples of another name", |w| of(w, renamed.id(), "another") >= 10);
    renamed.kill().unwrap();
    renamed.wait().unwrap();
    let (_, windows) = live.stop();
    assert_eq!(of(&windows, refused.id(), "refused") + of(&windows, renamed.id(), "refused"), 0);
    assert_eq!(samples(&owners(&windows), |o| o.container_id() == Some(&judge.container)), 0);
}

/// One path, another file behind it in each mount namespace; the layers' first files have the same inode number.
#[test]
fn files_of_containers_are_told_apart_by_the_records() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let merged = directory.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let program = shell(&merged, "layered");
    let text = count_for(200_000);
    let mut live = start(config(), alone);
    let contained = |name: &str| {
        let layers = directory.path().join(name);
        fs::create_dir(&layers).unwrap();
        let (layers, merged) = (layers.display(), merged.display());
        let script = format!(
            "mount -t tmpfs none {layers} && mkdir {layers}/l {layers}/u {layers}/w && cp /bin/sh {layers}/l/layered && \
             mount -t overlay overlay -o lowerdir={layers}/l,upperdir={layers}/u,workdir={layers}/w {merged} && \
             exec {program} -c '{text}'",
            program = program.display()
        );
        spawn(Command::new("unshare").args(["-m", "sh", "-c", &script]))
    };
    let mut children = [contained("one"), contained("two"), spawn(&mut script(&program, &text))];
    let tgids = children.each_ref().map(Child::id);
    let is_seen =
        |w: &[Window], tgid: u32| samples(&owners(w), |o| o.process.tgid == tgid && &*o.process_name == "layered") >= 5;
    live.until("samples of all three", |w| tgids.iter().all(|&tgid| is_seen(w, tgid)));
    let asked = live.objects.asked.lock().unwrap().clone();
    let told = tgids.map(|tgid| {
        let of = |(file, of): &&(MappedFile, u32)| *of == tgid && file.path == program.as_os_str().as_bytes();
        let (file, _) = asked.iter().find(of).unwrap();
        let found = fs::metadata(format!("/proc/{tgid}/exe")).unwrap();
        assert_eq!(found.ino(), file.inode, "{file:?}");
        let is_same = (nix::sys::stat::major(found.dev()), nix::sys::stat::minor(found.dev()))
            == (u64::from(file.major), u64::from(file.minor));
        eprintln!("{file:?}: the device that stat tells: {is_same}");
        (file.major, file.minor, file.inode)
    });
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), 3, "{told:?}");
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    live.stop();
}
