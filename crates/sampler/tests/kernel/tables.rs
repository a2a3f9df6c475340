//! Samples that are walked over tables in the kernel, of a process whose stack is known.

use std::{cell::RefCell, collections::BTreeMap, fs, process, thread, time::Duration};

use sampler::kernel::{KernelError, KernelSide};
use sampler_abi::{
    CONTROL_NO_SELF, CONTROL_ONLY_LISTED, CONTROL_TABLES, FLAG_CHECK, FLAG_SNAPSHOT_FAULT, FLAG_USER_MODE,
    FLAG_WALK_GUESSED, FLAG_WALK_SIGNAL, FLAG_WALKED, ProcessEntry, SampleHead,
};
use unwind_table::{End, Mapping, SHARD_BYTES, SHARDS, Shards as _};

use crate::{
    deep::{Deep, Tables},
    support::{Process, attached, config, drain_until, turn},
};

const LEVELS: u16 = 60;
const ENOUGH: usize = 100;
const SERIAL: u64 = 7;
const MAX_SHARDS: u32 = 16;

struct Walked {
    head: SampleHead,
    user: Vec<u64>,
    kernel: usize,
    stack: usize,
}

fn walking(tgid: u32, limit: u32, check_every: u32) -> KernelSide {
    let mut asked = config(997, CONTROL_ONLY_LISTED | CONTROL_TABLES, &[tgid]);
    asked.control.max_user_frames = limit;
    asked.control.check_every = check_every;
    asked.max_shards = MAX_SHARDS;
    let side = attached(&asked);
    assert!(side.tables_error().is_none(), "{:?}", side.tables_error());
    side
}

/// Samples of the workload's loop, of which `wanted` says that they count.
fn samples(side: &mut KernelSide, deep: &Deep, mut wanted: impl FnMut(&SampleHead) -> bool) -> Vec<Walked> {
    let taken = RefCell::new(Vec::new());
    drain_until(
        side,
        |sample| {
            let head = sample.head;
            if deep.is_in_loop(head.user_pc) && wanted(&head) {
                let (user, kernel) = (sample.user_frames().collect(), sample.kernel_frames().len());
                taken.borrow_mut().push(Walked { head, user, kernel, stack: sample.stack.len() });
            }
        },
        || taken.borrow().len() >= ENOUGH,
    );
    taken.into_inner()
}

/// When the process's leader started, as samples say.
fn leader_start(side: &mut KernelSide, deep: &Deep) -> u64 {
    samples(side, deep, |_| true)[0].head.leader_start_mono_ns
}

/// The side walks the workload, which is published with its tables.
fn published(side: &mut KernelSide, deep: &Deep) -> Tables {
    let start = leader_start(side, deep);
    let mut tables = Tables::new(side.take_tables().unwrap(), MAX_SHARDS);
    assert!(side.take_tables().is_none());
    let mappings = tables.mappings(deep.process.tgid());
    tables.publish(deep.process.tgid(), start, SERIAL, &mappings);
    tables
}

fn is_walked(head: &SampleHead) -> bool {
    head.flags & FLAG_WALKED != 0
}

#[test]
fn a_stack_without_frame_pointers_is_walked_to_its_root() {
    let Some(_turn) = turn() else { return };
    for in_kernel in [false, true] {
        let deep = Deep::start(LEVELS, in_kernel);
        let mut side = walking(deep.process.tgid(), 256, 0);
        let before = samples(&mut side, &deep, |_| true);
        for sample in &before {
            let head = &sample.head;
            assert_eq!((head.flags & FLAG_WALKED, head.user_frames, head.mappings_serial, head.walk_end), (0, 0, 0, 0));
            assert!(sample.user.is_empty() && sample.stack > 0);
        }
        let _tables = published(&mut side, &deep);
        let walked = samples(&mut side, &deep, is_walked);
        for sample in &walked {
            let head = &sample.head;
            assert!(deep.is_stack(head.user_pc, &sample.user, 256), "{head:x?} {:x?}", sample.user);
            assert_eq!((head.walk_end, head.mappings_serial), (End::ROOT.0, SERIAL));
            assert_eq!(head.flags & (FLAG_WALK_GUESSED | FLAG_WALK_SIGNAL | FLAG_CHECK | FLAG_SNAPSHOT_FAULT), 0);
            assert_eq!(sample.stack, 0, "no snapshot");
            assert_eq!(head.flags & FLAG_USER_MODE == 0, sample.kernel > 0);
        }
        let of_kind = walked.iter().filter(|sample| (sample.kernel > 0) == in_kernel).count();
        assert!(of_kind * 4 >= walked.len(), "{of_kind} of {}", walked.len());
        let total = side.counters().read().unwrap().total();
        assert!(total.walked >= walked.len() as u64 && total.walked_frames > total.walked * u64::from(LEVELS) / 2);
        assert!(total.walk_ns > 0 && total.bridged_unknown >= before.len() as u64 && total.checks == 0);
        assert_eq!(total.bridged_bad_frame, 0, "{total:?}");
    }
}

#[test]
fn a_walk_has_as_many_frames_as_are_asked_for_at_the_most() {
    let Some(_turn) = turn() else { return };
    let deep = Deep::start(1500, false);
    for limit in [1, 10, 1024, u32::MAX] {
        let mut side = walking(deep.process.tgid(), limit, 0);
        let _tables = published(&mut side, &deep);
        for sample in samples(&mut side, &deep, is_walked) {
            let limit = limit.min(1024) as usize;
            assert_eq!((sample.user.len(), sample.head.walk_end), (limit, End::TOO_MANY_FRAMES.0));
            assert!(deep.is_stack(sample.head.user_pc, &sample.user, limit));
        }
    }
}

#[test]
fn one_in_so_many_carries_a_snapshot_too() {
    let Some(_turn) = turn() else { return };
    let deep = Deep::start(LEVELS, false);
    let mut side = walking(deep.process.tgid(), 256, 4);
    let _tables = published(&mut side, &deep);
    // For each CPU: whether a walked sample is checked, in order of time.
    let mut checked: BTreeMap<u32, Vec<bool>> = BTreeMap::new();
    for sample in samples(&mut side, &deep, is_walked) {
        let check = sample.head.flags & FLAG_CHECK != 0;
        assert!(deep.is_stack(sample.head.user_pc, &sample.user, 256));
        assert_eq!(check, sample.stack > 0);
        checked.entry(sample.head.cpu).or_default().push(check);
    }
    side.detach();
    let total = side.counters().read().unwrap().total();
    assert!(total.checks.abs_diff(total.walked / 4) <= checked.len() as u64 + 1, "{total:?}");
    assert!(checked.values().flatten().any(|&check| check));
    for run in checked.values() {
        assert!(run.windows(4).all(|four| four.iter().filter(|&&check| check).count() <= 1), "{run:?}");
    }
}

#[test]
fn what_needs_a_table_that_is_not_loaded_is_bridged() {
    let Some(_turn) = turn() else { return };
    let deep = Deep::start(LEVELS, false);
    let mut side = walking(deep.process.tgid(), 256, 1);
    let start = leader_start(&mut side, &deep);
    let mut tables = Tables::new(side.take_tables().unwrap(), MAX_SHARDS);
    let whole = tables.mappings(deep.process.tgid());
    let pending: Vec<_> = whole
        .iter()
        .map(|mapping| Mapping::pending(mapping.start, mapping.start + u64::from(mapping.pages) * 4096))
        .collect();
    let check = |side: &mut KernelSide, tables: &mut Tables, mappings: &[Mapping], serial, end: End| {
        tables.publish(deep.process.tgid(), start, serial, mappings);
        for sample in samples(side, &deep, |head| head.mappings_serial == serial) {
            assert_eq!((sample.head.walk_end, sample.head.flags & (FLAG_WALKED | FLAG_CHECK)), (end.0, 0));
            assert!(sample.user.is_empty() && sample.stack > 0, "a snapshot and no frames");
        }
    };
    check(&mut side, &mut tables, &pending, 10, End::PENDING);
    // In a shard that is not there.
    let lost: Vec<_> = whole.iter().map(|mapping| Mapping { anchors: 0x0fff_ffff, ..*mapping }).collect();
    check(&mut side, &mut tables, &lost, 11, End::NO_SHARD);
    check(&mut side, &mut tables, &[], 12, End::UNKNOWN_PROCESS);
    let total = side.counters().read().unwrap().total();
    assert!(total.bridged_pending >= 2 * ENOUGH as u64 && total.bridged_unknown >= ENOUGH as u64, "{total:?}");
    assert_eq!((total.walked, total.checks), (0, 0));
}

#[test]
fn entries_count_for_their_process_only_and_end_with_its_program() {
    let Some(_turn) = turn() else { return };
    let deep = Deep::start(LEVELS, false);
    let tgid = deep.process.tgid();
    let mut side = walking(tgid, 256, 0);
    let start = leader_start(&mut side, &deep);
    let mut tables = published(&mut side, &deep);
    let mappings = tables.mappings(tgid);
    // A process with the same number that started after this was published would not be walked with it.
    tables.publish(tgid, start - 1, SERIAL + 1, &mappings);
    side.drain(|_| {});
    let unknown = side.counters().read().unwrap().total().bridged_unknown;
    for sample in samples(&mut side, &deep, |head| head.mappings_serial != SERIAL) {
        assert_eq!((sample.head.mappings_serial, sample.head.walk_end, sample.head.flags & FLAG_WALKED), (0, 0, 0));
        assert!(sample.stack > 0);
    }
    assert!(side.counters().read().unwrap().total().bridged_unknown > unknown);
    assert!(tables.handle.withdraw(tgid).unwrap());
    assert!(!tables.handle.withdraw(tgid).unwrap());
    assert_eq!(tables.handle.published(tgid).unwrap(), None);

    // Executes another program when its input ends.
    let mut shell = Process::start("sh", &["-c", "read x; exec sleep 30"]);
    tables.publish(shell.tgid(), 1, SERIAL, &mappings);
    tables.publish(process::id(), 1, SERIAL, &mappings);
    shell.close_input();
    let comm = format!("/proc/{}/comm", shell.tgid());
    while fs::read_to_string(&comm).unwrap() != "sleep\n" {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(tables.handle.published(shell.tgid()).unwrap(), None);
    assert_eq!(tables.handle.all_published(), [process::id()]);
    tables.handle.wait_for_walks().unwrap();
}

#[test]
fn shards_cost_what_is_used() {
    let Some(_turn) = turn() else { return };
    let mut asked = config(19, CONTROL_NO_SELF, &[]);
    asked.max_shards = 3;
    let mut side = KernelSide::load(&asked).unwrap();
    let mut handle = side.take_tables().unwrap();
    let shard = u64::from(SHARD_BYTES);
    let none = handle.kernel_bytes();
    assert_eq!(none, side.kernel_bytes());
    handle.wait_for_walks().unwrap();
    for number in 0..3 {
        assert_eq!(handle.shards(), number);
        assert_eq!(handle.add_shard().unwrap(), number);
        let grown = handle.kernel_bytes() - none;
        let shards = u64::from(number) + 1;
        assert!((shards * shard..shards * (shard + 16_384)).contains(&grown), "{grown} bytes for {shards}");
    }
    assert!(matches!(handle.add_shard(), Err(KernelError::ShardsFull(3))));
    // The ring of samples is one.
    let mapped = || fs::read_to_string("/proc/self/maps").unwrap().matches("bpf-map").count();
    let before = mapped();
    let bytes = vec![0xa5; SHARD_BYTES as usize];
    handle.write(2, 0, &bytes);
    handle.write(1, 4090, &bytes[..100]);
    handle.write(1, SHARD_BYTES - 5, &bytes[..5]);
    assert_eq!(mapped(), before, "nothing stays mapped");
    let entry = ProcessEntry { leader_start_mono_ns: 1, serial: 1, mappings: 1, mapping_count: 0 };
    assert!(handle.publish(1, &entry).unwrap());
    // What cannot be written makes everything doubtful.
    handle.write(1, SHARD_BYTES - 5, &bytes[..6]);
    assert!(matches!(handle.publish(2, &entry), Err(KernelError::Shard(_))));
    assert!(handle.withdraw(1).unwrap());

    asked.max_shards = SHARDS + 1;
    assert!(matches!(KernelSide::load(&asked), Err(KernelError::MaxShards(_))));
    asked.max_shards = 0;
    let mut without = KernelSide::load(&asked).unwrap();
    assert!(without.take_tables().is_none() && without.tables_error().is_none());
    assert!(without.kernel_bytes() < none);
}
