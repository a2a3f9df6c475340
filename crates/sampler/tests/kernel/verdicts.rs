//! Verdicts about cgroups and processes, and what the ids of cgroups stand for.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use sampler::kernel::{KernelConfig, KernelError, KernelSide, TickVerdict, VerdictsHandle};
use sampler_abi::{
    CONTROL_NO_SELF, CONTROL_ONLY_LISTED, CONTROL_VERDICTS, CgroupIdParts, MAX_OWN_TGIDS, MAX_VERDICTS, VerdictKey,
};

use crate::support::{Process, Spinning, attached, config, drain_until, every_cpu_busy, turn};

/// Where this machine has version 2 and the controller of version 1 that ids are of.
struct Mounts {
    v2: Option<PathBuf>,
    v1: Option<PathBuf>,
    controller: Option<&'static str>,
}

impl Mounts {
    fn here() -> Self {
        let controller = KernelSide::load(&config(19, 0, &[])).unwrap().cgroup_ids().v1_controller();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = |kind: &str, option: Option<&str>| {
            table.lines().find_map(|line| {
                let (mount, of) = line.split_once(" - ")?;
                let is_it = of.split(' ').next() == Some(kind)
                    && option.is_none_or(|option| of.rsplit([' ', ',']).any(|word| word == option));
                is_it.then(|| PathBuf::from(mount.split(' ').nth(4).unwrap()))
            })
        };
        let v1 = controller.map(|controller| mounted("cgroup", Some(controller)).unwrap());
        Self { v2: mounted("cgroup2", None), v1, controller }
    }

    /// The id that samples of a process have, from its paths.
    fn id_of(&self, process: &Process) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", process.tgid())).unwrap();
        let number = |root: &Option<PathBuf>, wanted: &str| {
            let Some(root) = root else { return 1 };
            let path = text.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|one| one == wanted).then(|| path.trim_start_matches('/'))
            });
            fs::metadata(root.join(path.unwrap())).unwrap().ino()
        };
        let v1 = self.controller.map(|controller| number(&self.v1, controller));
        CgroupIdParts { v2: number(&self.v2, ""), v1 }.id()
    }
}

/// A cgroup that ends with the test, and what is in it too.
struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one below the root of a hierarchy, with one process.
    fn of(root: &Path, process: &Process) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = Self(root.join(format!("profiler-test-{}-{number}", std::process::id())));
        fs::create_dir(&cgroup.0).unwrap();
        fs::write(cgroup.0.join("cgroup.procs"), process.tgid().to_string()).unwrap();
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for tgid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let Ok(tgid) = tgid.parse() else { continue };
            // SAFETY: ends a process that this test has put here.
            unsafe { libc::kill(tgid, libc::SIGKILL) };
        }
        let mut tries = 0..100;
        while fs::remove_dir(&self.0).is_err() && tries.next().is_some() {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn watching(tgids: &[u32]) -> KernelConfig {
    config(499, CONTROL_ONLY_LISTED | CONTROL_VERDICTS, tgids)
}

/// Lets what was taken before a change go by.
fn settle(side: &mut KernelSide) {
    thread::sleep(Duration::from_millis(20));
    while side.drain(|_| {}) > 0 {}
}

/// Whose samples come, in the next `ticks` busy ticks; `taken` and `filtered` must agree with that.
fn who_comes(side: &mut KernelSide, ticks: u64) -> Vec<u32> {
    settle(side);
    let handle = side.counters();
    let before = handle.read().unwrap().total();
    let came = std::cell::RefCell::new(Vec::new());
    drain_until(
        side,
        |sample| came.borrow_mut().push(sample.head.tgid),
        || {
            let now = handle.read().unwrap().total();
            // The other processes of the machine are filtered too.
            now.taken + now.filtered >= before.taken + before.filtered + ticks
        },
    );
    let mut came = came.into_inner();
    came.sort_unstable();
    came.dedup();
    came
}

/// A cgroup in version 2, then one in the controller of version 1, whichever this machine has.
fn each_hierarchy(each: impl Fn(&Mounts, &Path)) {
    let mounts = Mounts::here();
    assert!(mounts.v2.is_some() || mounts.v1.is_some(), "no cgroups on this machine");
    [&mounts.v2, &mounts.v1].into_iter().flatten().for_each(|root| each(&mounts, root));
}

#[test]
fn a_cgroup_is_filtered_and_a_process_of_it_is_not() {
    let Some(_turn) = turn() else { return };
    each_hierarchy(|mounts, root| {
        let (inside, other) = (Process::burning(), Process::burning());
        let before = mounts.id_of(&inside);
        let _cgroup = Cgroup::of(root, &inside);
        let id = mounts.id_of(&inside);
        assert_ne!(id, before, "its cgroup is another");
        assert_eq!(before, mounts.id_of(&other));

        let (mut both, mut one) = (vec![inside.tgid(), other.tgid()], vec![other.tgid()]);
        both.sort_unstable();
        one.sort_unstable();
        let mut side = attached(&watching(&both));
        let verdicts = side.verdicts();
        assert_eq!(who_comes(&mut side, 200), both, "nothing is said yet");

        assert!(verdicts.set(VerdictKey::cgroup(id), TickVerdict::Filter).unwrap());
        assert_eq!(who_comes(&mut side, 200), one, "its cgroup is filtered");
        assert!(verdicts.set(VerdictKey::process(id, inside.tgid()), TickVerdict::Take).unwrap());
        assert_eq!(who_comes(&mut side, 200), both, "its own verdict is before its cgroup's");
        assert!(verdicts.remove(VerdictKey::process(id, inside.tgid())).unwrap());
        assert_eq!(who_comes(&mut side, 200), one, "its cgroup's again");

        // The same the other way round.
        assert!(verdicts.set(VerdictKey::cgroup(id), TickVerdict::Take).unwrap());
        assert!(verdicts.set(VerdictKey::process(id, inside.tgid()), TickVerdict::Filter).unwrap());
        assert_eq!(who_comes(&mut side, 200), one, "the process is filtered");
        // A verdict is about a process in a cgroup, not wherever it goes.
        assert!(verdicts.remove(VerdictKey::process(id, inside.tgid())).unwrap());
        assert!(verdicts.set(VerdictKey::process(before, inside.tgid()), TickVerdict::Filter).unwrap());
        assert_eq!(who_comes(&mut side, 200), both);

        // Without the flag nothing is looked up.
        assert!(verdicts.set(VerdictKey::cgroup(id), TickVerdict::Filter).unwrap());
        assert_eq!(who_comes(&mut side, 200), one);
        let mut control = watching(&[]).control;
        control.flags = CONTROL_ONLY_LISTED;
        side.set_control(control).unwrap();
        assert_eq!(who_comes(&mut side, 200), both);
    });
}

/// What is filtered leaves nothing but a number, whatever it does.
#[test]
fn a_filtered_cgroup_puts_nothing_into_the_ring() {
    let Some(_turn) = turn() else { return };
    let process = Process::burning();
    let mut side = attached(&watching(&[process.tgid()]));
    let verdicts = side.verdicts();
    assert!(verdicts.set(VerdictKey::cgroup(Mounts::here().id_of(&process)), TickVerdict::Filter).unwrap());
    settle(&mut side);
    let handle = side.counters();
    let before = handle.read().unwrap().total();
    drain_until(
        &mut side,
        |sample| assert_ne!(sample.head.tgid, process.tgid()),
        || handle.read().unwrap().total().filtered >= before.filtered + 300,
    );
    let after = handle.read().unwrap().total();
    assert_eq!(after.taken, before.taken);
    assert_eq!(after.ring_bytes, before.ring_bytes);
    assert_eq!(after.snapshot_ns, before.snapshot_ns);
    assert!(after.filtered_ns > before.filtered_ns);
    assert!(after.filtered_ns <= after.run_ns && before.filtered_ns + before.snapshot_ns <= before.run_ns);
}

/// What a sample carries is what its process's paths give.
#[test]
fn ids_are_those_of_the_paths() {
    let Some(_turn) = turn() else { return };
    each_hierarchy(|mounts, root| {
        let process = Process::burning();
        let _cgroup = Cgroup::of(root, &process);
        let mut side = attached(&watching(&[process.tgid()]));
        let ids = std::cell::RefCell::new(Vec::new());
        drain_until(&mut side, |sample| ids.borrow_mut().push(sample.head.cgroup_id), || ids.borrow().len() >= 20);
        let expected = mounts.id_of(&process);
        assert!(ids.borrow().iter().all(|id| *id == expected), "{expected:x}: {:x?}", ids.borrow());
        assert_eq!(CgroupIdParts::of(expected).v1.is_some(), mounts.controller.is_some());
    });
}

#[test]
fn what_has_no_room_is_said() {
    let Some(_turn) = turn() else { return };
    let mut asked = config(19, 0, &[]);
    asked.max_verdicts = 3;
    let side = KernelSide::load(&asked).unwrap();
    let verdicts = side.verdicts();
    let set =
        |verdicts: &VerdictsHandle, cgroup: u64| verdicts.set(VerdictKey::cgroup(cgroup), TickVerdict::Filter).unwrap();
    assert!(verdicts.is_empty());
    assert!((1..=3).all(|cgroup| set(&verdicts, cgroup)));
    assert_eq!((verdicts.len(), verdicts.capacity()), (3, 3));
    assert!(!set(&verdicts, 4), "full");
    assert!(set(&verdicts, 3), "a change needs no room");
    assert_eq!(verdicts.len(), 3);
    assert!(verdicts.remove(VerdictKey::cgroup(2)).unwrap());
    assert!(!verdicts.remove(VerdictKey::cgroup(2)).unwrap());
    assert_eq!(verdicts.len(), 2);
    // From another thread, and after the kernel side is gone.
    let of_other = verdicts.clone();
    drop(side);
    assert!(thread::spawn(move || set(&of_other, 4)).join().unwrap());
    assert_eq!(verdicts.len(), 3);

    asked.max_verdicts = 0;
    let verdicts = KernelSide::load(&asked).unwrap().verdicts();
    assert!(!set(&verdicts, 1), "none were asked for");
    asked.max_verdicts = MAX_VERDICTS + 1;
    assert!(matches!(KernelSide::load(&asked), Err(KernelError::MaxVerdicts(_))));
    asked.max_verdicts = MAX_VERDICTS;
    let verdicts = KernelSide::load(&asked).unwrap().verdicts();
    assert!((1..=u64::from(MAX_VERDICTS)).all(|cgroup| set(&verdicts, cgroup)), "all of them have room");
    assert!(!set(&verdicts, u64::from(MAX_VERDICTS) + 1));
}

#[test]
fn own_processes_may_change_while_it_runs() {
    let Some(_turn) = turn() else { return };
    let (first, second) = (Process::burning(), Process::burning());
    let _spinning = Spinning::start();
    let _busy = every_cpu_busy();
    let own = std::process::id();
    let mut asked = config(499, CONTROL_ONLY_LISTED | CONTROL_NO_SELF, &[own, first.tgid(), second.tgid()]);
    asked.own_tgids = vec![own, first.tgid()];
    let mut side = attached(&asked);
    let handle = side.own_tgids();
    assert_eq!(who_comes(&mut side, 300), [second.tgid()]);
    // The first worker ended, the second took its place.
    handle.set(&[own, second.tgid()]).unwrap();
    assert_eq!(who_comes(&mut side, 300), [first.tgid()]);
    handle.set(&[]).unwrap();
    assert_eq!(who_comes(&mut side, 600).len(), 3);
    let most: Vec<u32> = (1..).take(MAX_OWN_TGIDS - 3).chain([own, first.tgid(), second.tgid()]).collect();
    handle.set(&most).unwrap();
    assert_eq!(who_comes(&mut side, 300), [0u32; 0]);
    assert!(matches!(handle.set(&[1; MAX_OWN_TGIDS + 1]), Err(KernelError::TooManyOwn(9))));
    assert_eq!(who_comes(&mut side, 300), [0u32; 0], "those before stay");
}
