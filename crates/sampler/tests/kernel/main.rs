//! The kernel side on this machine's kernel: loaded, attached and sampling for real. Skipped where it may not be.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

#[cfg(target_arch = "x86_64")]
mod deep;
mod support;
#[cfg(target_arch = "x86_64")]
mod tables;
mod verdicts;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use sampler::kernel::{Counters, KernelConfig, KernelError, KernelSide};
use sampler_abi::{
    CONTROL_FOLLOW_CHILDREN, CONTROL_NO_KERNEL_THREADS, CONTROL_NO_SELF, CONTROL_ONLY_LISTED, CONTROL_PAUSED,
    FLAG_KERNEL_THREAD, FLAG_SNAPSHOT_FAULT, FLAG_USER_MODE, FLAG_USER_REGS,
};

use support::{Process, Spinning, attached, config, drain_until, every_cpu_busy, mappings, samples_of, turn};

/// Ticks by which the sum of all that is counted may differ from time times rate.
const TOLERANCE: f64 = 2.0;

fn seen(counters: &Counters, index: usize) -> u64 {
    let row = &counters.cpus[index].counters;
    row.idle + row.filtered + row.taken
}

/// `elapsed x rate = idle + filtered + taken + missed`, for each CPU, and not all of it missed.
#[test]
fn every_tick_is_accounted_for() {
    let Some(_turn) = turn() else { return };
    let _busy = every_cpu_busy();
    for rate in [1, 19, 99, 997] {
        let mut side = attached(&config(rate, 0, &[]));
        let handle = side.counters();
        // Each reading lies between two looks at the clock.
        let reading = || {
            let before = Instant::now();
            let counters = handle.read().unwrap();
            (before, counters, Instant::now())
        };
        let (first_before, first, first_after) = reading();
        thread::sleep(Duration::from_millis(if rate == 1 { 4_000 } else { 2_000 }));
        while side.drain(|_| {}) > 0 {}
        let (last_before, last, last_after) = reading();
        let least = (last_before - first_after).as_secs_f64() * f64::from(rate) - TOLERANCE;
        let most = (last_after - first_before).as_secs_f64() * f64::from(rate) + TOLERANCE;
        assert_eq!(last.cpus_attached, last.cpus_online);
        assert_eq!(last.cpus.len() as u64, last.cpus_attached);
        for (index, row) in last.cpus.iter().enumerate() {
            let expected = row.expected - first.cpus[index].expected;
            assert!(
                (least..=most).contains(&(expected as f64)),
                "CPU {} at {rate} Hz: {least:.1} to {most:.1} ticks by the clock, {expected} expected",
                row.cpu
            );
            assert!(seen(&last, index) <= row.expected + 1, "CPU {} at {rate} Hz: more seen than expected", row.cpu);
            // A virtual machine may be held up, but not for most of the time.
            assert!(seen(&last, index) * 2 + 4 >= row.expected, "CPU {} at {rate} Hz: {:?}", row.cpu, row);
        }
        side.detach();
        let stopped = handle.read().unwrap();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(handle.read().unwrap(), stopped, "nothing ticks after detach");
        assert_eq!(stopped.cpus_attached, 0);
        assert!(stopped.total().run_ns > 0);
    }
}

#[test]
fn a_busy_loop_in_user_mode() {
    let Some(_turn) = turn() else { return };
    let process = Process::burning();
    let tgid = process.tgid();
    let maps = mappings(tgid);
    let stack = maps.iter().find(|mapping| mapping.name == "[stack]").unwrap().range.clone();
    let samples = samples_of(tgid, 499, 200);
    let user: Vec<_> = samples.iter().filter(|sample| sample.head.flags & FLAG_USER_MODE != 0).collect();
    assert!(user.len() * 10 >= samples.len() * 9, "{} of {} in user mode", user.len(), samples.len());
    for sample in &user {
        let head = &sample.head;
        assert_ne!(head.flags & FLAG_USER_REGS, 0);
        assert!(sample.kernel.is_empty(), "no kernel frames in user mode");
        assert_eq!(head.tid, tgid);
        assert!(maps.iter().any(|mapping| mapping.executable && mapping.range.contains(&head.user_pc)), "{head:x?}");
        assert!(stack.contains(&head.user_sp), "{head:x?} not in {stack:x?}");
        // The stack above its pointer is there: as much as was asked for, or up to a page that is not. (Below the
        // environment the kernel leaves a gap of random size that nobody has touched.)
        let asked = u64::from(sampler_abi::DEFAULT_SNAPSHOT_BYTES);
        let (bytes, end) = (sample.stack.len() as u64, head.user_sp + sample.stack.len() as u64);
        assert_eq!(head.flags & FLAG_SNAPSHOT_FAULT != 0, bytes < asked);
        assert!(bytes == asked || end % 4096 == 0 && bytes > 0 && end <= stack.end, "{head:x?} in {stack:x?}");
    }
    // In the order of time on each CPU, and no two at the same.
    let times: BTreeSet<_> = samples.iter().map(|sample| (sample.head.cpu, sample.head.time_mono_ns)).collect();
    assert_eq!(times.len(), samples.len());
}

#[test]
fn a_loop_of_system_calls() {
    let Some(_turn) = turn() else { return };
    let process = Process::copying();
    let tgid = process.tgid();
    let maps = mappings(tgid);
    let samples = samples_of(tgid, 499, 300);
    let kernel: Vec<_> = samples.iter().filter(|sample| sample.head.flags & FLAG_USER_MODE == 0).collect();
    assert!(kernel.len() * 2 >= samples.len(), "{} of {} in kernel mode", kernel.len(), samples.len());
    let whole = kernel.iter().filter(|sample| {
        let head = &sample.head;
        head.flags & FLAG_USER_REGS != 0
            && !sample.stack.is_empty()
            && maps.iter().any(|mapping| mapping.executable && mapping.range.contains(&head.user_pc))
    });
    let whole = whole.count();
    assert!(whole * 100 >= kernel.len() * 99, "{whole} of {} with the caller's registers and stack", kernel.len());
    for sample in &kernel {
        assert!(!sample.kernel.is_empty());
        assert!(sample.kernel.iter().all(|frame| *frame >= 1 << 63), "{:x?}", sample.kernel);
        assert_eq!(sample.head.flags & FLAG_KERNEL_THREAD, 0);
        assert_eq!(&sample.head.comm[..3], b"dd\0");
        assert_ne!(sample.head.cgroup_id, 0);
    }
    // The start time is the one that /proc tells, in ticks of 10 ms.
    let stat = fs::read_to_string(format!("/proc/{tgid}/stat")).unwrap();
    let start: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    let ours = samples[0].head.leader_start_mono_ns / 10_000_000;
    assert!(ours.abs_diff(start) <= 2, "{ours} against {start}");
}

#[test]
fn snapshots_have_the_size_that_is_asked_for() {
    let Some(_turn) = turn() else { return };
    let spinning = Spinning::start();
    let own = std::process::id();
    let mut asked = config(499, CONTROL_ONLY_LISTED, &[own]);
    let mut side = attached(&asked);
    for bytes in [0, 1, 100, 4096, 10_000, 65_536, u32::MAX] {
        asked.control.snapshot_bytes = bytes;
        side.set_control(asked.control).unwrap();
        // What was taken with the size before.
        thread::sleep(Duration::from_millis(20));
        while side.drain(|_| {}) > 0 {}
        let sizes = RefCell::new(Vec::new());
        drain_until(
            &mut side,
            |sample| {
                if sample.head.tid == spinning.tid && sample.head.flags & FLAG_USER_MODE != 0 {
                    assert_eq!(sample.head.flags & FLAG_SNAPSHOT_FAULT, 0);
                    // The spinning thread's frame, then its array.
                    assert!(bytes < 4096 || sample.stack.ends_with(&[0x5a; 512]));
                    sizes.borrow_mut().push(sample.stack.len());
                }
            },
            || sizes.borrow().len() >= 20,
        );
        let expected = bytes.min(65_536) as usize;
        assert!(sizes.borrow().iter().all(|size| *size == expected), "{bytes}: {:?}", sizes.borrow());
    }
    assert!(side.counters().read().unwrap().total().snapshot_full >= 100);
}

#[test]
fn filters_change_while_it_runs() {
    let Some(_turn) = turn() else { return };
    let (one, other) = (Process::burning(), Process::burning());
    let spinning = Spinning::start();
    let mut asked = config(499, CONTROL_PAUSED, &[]);
    let mut side = attached(&asked);
    let handle = side.counters();
    let filtered = || handle.read().unwrap().total().filtered;
    drain_until(&mut side, |sample| panic!("paused: {:?}", sample.head), || filtered() > 50);
    assert_eq!(handle.read().unwrap().total().taken, 0);

    // From here on, whatever comes must be what is asked for.
    let check = |side: &mut KernelSide, wanted: &dyn Fn(u32, u32) -> bool| {
        thread::sleep(Duration::from_millis(20));
        while side.drain(|_| {}) > 0 {}
        let count = Cell::new(0);
        drain_until(
            side,
            |sample| {
                assert!(wanted(sample.head.tgid, sample.head.flags), "{:?}", sample.head);
                count.set(count.get() + 1);
            },
            || count.get() > 50,
        );
    };
    asked.control.flags = CONTROL_ONLY_LISTED;
    side.set_control(asked.control).unwrap();
    side.add_tgid(one.tgid()).unwrap();
    check(&mut side, &|tgid, _| tgid == one.tgid());
    side.remove_tgid(one.tgid()).unwrap();
    side.remove_tgid(one.tgid()).unwrap();
    side.add_tgid(other.tgid()).unwrap();
    check(&mut side, &|tgid, _| tgid == other.tgid());
    asked.control.flags = CONTROL_NO_SELF | CONTROL_NO_KERNEL_THREADS;
    side.set_control(asked.control).unwrap();
    check(&mut side, &|tgid, flags| tgid != std::process::id() && flags & FLAG_KERNEL_THREAD == 0);
    drop(spinning);
}

#[test]
fn children_are_followed_and_forgotten() {
    let Some(_turn) = turn() else { return };
    // The child starts when the shell's input ends, and ends with it.
    let mut shell = Process::start("sh", &["-c", "read x; timeout 20 sh -c 'while :; do :; done' & wait"]);
    let stranger = Process::burning();
    let mut side = attached(&config(499, CONTROL_ONLY_LISTED | CONTROL_FOLLOW_CHILDREN, &[shell.tgid()]));
    assert!(side.children_error().is_none(), "{:?}", side.children_error());
    shell.close_input();
    let busy = RefCell::new(Vec::new());
    drain_until(
        &mut side,
        |sample| {
            assert_ne!(sample.head.tgid, stranger.tgid());
            if sample.comm() == b"sh" && sample.head.tgid != shell.tgid() {
                busy.borrow_mut().push(sample.head.tgid);
            }
        },
        || busy.borrow().len() > 100,
    );
    let grandchild = *busy.borrow().last().unwrap();
    assert!(side.listed().contains(&grandchild));
    // SAFETY: ends a process that this test's shell started and that is still its descendant.
    unsafe { libc::kill(i32::try_from(grandchild).unwrap(), libc::SIGKILL) };
    // The kernel tells of a task's end on the CPU that let it go, when its last readers are through (RCU): not while that sleeps.
    let _awake = every_cpu_busy();
    let end = Instant::now() + Duration::from_secs(60);
    while !side.listed().is_empty() && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
        // Its shell ends with it; only then is it waited for and freed.
        if !fs::exists(format!("/proc/{grandchild}")).unwrap() {
            shell.reap();
        }
    }
    let states = side.listed().into_iter().map(|tgid| (tgid, fs::read_to_string(format!("/proc/{tgid}/stat"))));
    let left: Vec<_> = states.collect();
    assert!(left.is_empty(), "of {} and its child {grandchild} are on the list: {left:?}", shell.tgid());
    assert_eq!(side.counters().read().unwrap().total().children_not_listed, 0);
}

/// What does not fit is counted, to the record.
#[test]
fn a_full_ring_loses_nothing_uncounted() {
    let Some(_turn) = turn() else { return };
    let process = Process::burning();
    let mut asked = config(997, CONTROL_ONLY_LISTED, &[process.tgid()]);
    asked.ring_bytes = 64 * 1024;
    let mut side = attached(&asked);
    let handle = side.counters();
    let end = Instant::now() + Duration::from_secs(60);
    while handle.read().unwrap().total().lost_ring < 100 {
        assert!(Instant::now() < end, "{:?}", handle.read());
        thread::sleep(Duration::from_millis(50));
    }
    // There is room again for some.
    let mut records = side.drain(|_| {});
    thread::sleep(Duration::from_millis(100));
    side.detach();
    let mut bytes = 0;
    loop {
        let now = side.drain(|sample| bytes += sample.stack.len());
        records += now;
        if now == 0 {
            break;
        }
    }
    let counters = handle.read().unwrap();
    let total = counters.total();
    assert_eq!(total.taken - total.lost_ring - total.lost_scratch, records as u64, "{total:?}");
    assert_eq!(total.lost_scratch, 0);
    assert_eq!(counters.malformed, 0);
    assert!(bytes > 0 && total.ring_bytes > bytes as u64);
    assert_eq!(counters.ring_capacity_bytes, 64 * 1024);
}

#[test]
fn the_reader_is_woken_when_enough_waits() {
    let Some(_turn) = turn() else { return };
    let process = Process::burning();
    let readable = |side: &KernelSide, timeout_ms| {
        use std::os::fd::AsRawFd as _;
        // SAFETY: makes a descriptor or fails; checked below.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(epoll >= 0);
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: both descriptors are open; the event is read during the call.
        let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, side.ring_fd().as_raw_fd(), &raw mut event) };
        assert_eq!(added, 0);
        // SAFETY: room for one event.
        let woken = unsafe { libc::epoll_wait(epoll, &raw mut event, 1, timeout_ms) };
        // SAFETY: ours, and not used again.
        unsafe { libc::close(epoll) };
        woken > 0
    };
    for (wakeup_bytes, woken) in [(32 * 1024, true), (u32::MAX, false)] {
        let mut asked = config(499, CONTROL_ONLY_LISTED, &[process.tgid()]);
        asked.control.wakeup_bytes = wakeup_bytes;
        let side = attached(&asked);
        assert_eq!(readable(&side, 1_000), woken, "with {wakeup_bytes}");
        let waiting = side.counters().read().unwrap().total().ring_bytes;
        assert!(waiting >= u64::from(wakeup_bytes.min(1)), "{waiting}");
    }
}

#[test]
fn what_is_impossible_is_refused_before_anything_runs() {
    for rate in [0, 1001, u32::MAX] {
        assert!(matches!(KernelSide::load(&config(rate, 0, &[])), Err(KernelError::Rate(refused)) if refused == rate));
    }
    for ring_bytes in [0, 4095, 12_288, 1 << 31] {
        let mut asked = config(19, 0, &[]);
        asked.ring_bytes = ring_bytes;
        assert!(matches!(KernelSide::load(&asked), Err(KernelError::RingBytes(refused)) if refused == ring_bytes));
    }
}

/// The verifier gives up at a million; what it goes through is also what loading takes.
#[test]
fn the_verifier_is_soon_done() {
    let Some(_turn) = turn() else { return };
    for (max_shards, expected) in [(0, 500..10_000), (1, 5_000..60_000)] {
        let side = KernelSide::load(&KernelConfig { max_shards, ..config(19, 0, &[]) }).unwrap();
        assert!(side.tables_error().is_none(), "{:?}", side.tables_error());
        let instructions = side.verified_instructions();
        println!("{max_shards} shards: {instructions:?}");
        assert!(instructions.is_none_or(|count| expected.contains(&count)), "{instructions:?}");
    }
}

#[test]
fn it_can_be_attached_again() {
    let Some(_turn) = turn() else { return };
    let process = Process::burning();
    let mut side = attached(&config(499, CONTROL_ONLY_LISTED | CONTROL_FOLLOW_CHILDREN, &[process.tgid()]));
    let handle = side.counters();
    for round in 1..=2 {
        let before = handle.read().unwrap();
        drain_until(&mut side, |_| {}, || handle.read().unwrap().total().taken > before.total().taken + 20);
        side.detach();
        let after = handle.read().unwrap();
        for (index, row) in after.cpus.iter().enumerate() {
            assert!(seen(&after, index) <= row.expected + round, "{row:?}");
        }
        side.attach().unwrap();
        assert!(side.children_error().is_none());
    }
}

#[test]
fn a_refusal_names_what_is_missing() {
    let Some(_turn) = turn() else { return };
    // Capabilities belong to threads: only this one loses them.
    let (error, report) = thread::spawn(|| {
        support::drop_capabilities();
        (KernelSide::load(&config(19, 0, &[])).unwrap_err(), sampler::kernel::probe())
    })
    .join()
    .unwrap();
    assert!(matches!(error, KernelError::LoadDenied { .. }), "{error}");
    assert!(error.to_string().contains("CAP_BPF"), "{error}");
    assert!(!report.works());
    let text = report.to_string();
    assert!(text.contains("CAP_BPF") && text.contains("CAP_PERFMON"), "{text}");
}

#[test]
fn the_probe_says_that_it_works() {
    let Some(_turn) = turn() else { return };
    let report = sampler::kernel::probe();
    assert!(report.works(), "{report}");
    assert!(report.findings.len() >= 9, "{report}");
}
