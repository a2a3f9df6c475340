//! Verdicts about cgroups and processes, and what the ids of cgroups stand for.

use std::{
    fs,
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

const HOST_ROOT: &str = "/proc/1/root";

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

/// The paths of a process in version 2 and in a controller of version 1, as /proc has them.
fn paths(tgid: u32, controller: Option<&str>) -> (PathBuf, PathBuf) {
    let text = fs::read_to_string(format!("/proc/{tgid}/cgroup")).unwrap();
    let of = |wanted: &str| {
        let path = text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|one| one == wanted).then(|| PathBuf::from(path))
        });
        path.unwrap_or_else(|| PathBuf::from("/"))
    };
    (of(""), controller.map_or_else(|| PathBuf::from("/"), of))
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
fn each_hierarchy(each: impl Fn(&Path)) {
    let mounts = KernelSide::load(&config(19, 0, &[])).unwrap().cgroup_ids().mounts(Path::new(HOST_ROOT));
    assert!(mounts.v2.is_some() || mounts.v1.is_some(), "no cgroups on this machine: {mounts:?}");
    [mounts.v2, mounts.v1].iter().flatten().for_each(|root| each(root));
}

#[test]
fn a_cgroup_is_filtered_and_a_process_of_it_is_not() {
    let Some(_turn) = turn() else { return };
    each_hierarchy(|root| {
        let (inside, other) = (Process::burning(), Process::burning());
        let before = inside.cgroup_id();
        let _cgroup = Cgroup::of(root, &inside);
        let id = inside.cgroup_id();
        assert_ne!(id, before, "its cgroup is another");
        assert_eq!(before, other.cgroup_id());

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
    assert!(verdicts.set(VerdictKey::cgroup(process.cgroup_id()), TickVerdict::Filter).unwrap());
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
    each_hierarchy(|root| {
        let process = Process::burning();
        let _cgroup = Cgroup::of(root, &process);
        let mut side = attached(&watching(&[process.tgid()]));
        let controller = side.cgroup_ids().v1_controller();
        let ids = std::cell::RefCell::new(Vec::new());
        drain_until(&mut side, |sample| ids.borrow_mut().push(sample.head.cgroup_id), || ids.borrow().len() >= 20);
        let expected = process.cgroup_id();
        assert!(ids.borrow().iter().all(|id| *id == expected), "{expected:x}: {:x?}", ids.borrow());
        assert_eq!(CgroupIdParts::of(expected).v1.is_some(), controller.is_some());
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

impl Process {
    /// The id that its samples have, from its paths.
    fn cgroup_id(&self) -> u64 {
        let side = KernelSide::load(&config(19, 0, &[])).unwrap();
        let ids = side.cgroup_ids();
        let (v2, v1) = paths(self.tgid(), ids.v1_controller());
        ids.mounts(Path::new(HOST_ROOT)).id(&v2, &v1).unwrap()
    }
}
