//! What is tried, each with a kernel side of its own.

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use sampler::kernel::{Counters, KernelConfig, KernelSide, RawSample, probe};
use sampler_abi::{
    CONTROL_FOLLOW_CHILDREN, CONTROL_ONLY_LISTED, Control, DEFAULT_USER_FRAMES, FLAG_USER_MODE, FLAG_USER_REGS,
};

use crate::{
    cgroups, machine, tables,
    workload::{FRAME_POINTER, Kind, Running, TOP_OF_STACK},
};

/// What a trial says, or why it failed.
pub(crate) type Outcome = Result<String, Box<dyn Error>>;

const RATE_HZ: u32 = 199;
const SNAPSHOT_BYTES: u32 = 16 * 1024;
const RING_BYTES: u32 = 8 * 1024 * 1024;
const MAX_VERDICTS: u32 = 1024;
const TRIAL: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);
/// Samples that a trial of [`TRIAL`] must bring at least; emulated machines are slow.
pub(crate) const ENOUGH: usize = 100;
/// Of the samples, so many of a hundred must be right.
const RIGHT_PERCENT: usize = 99;
/// Ticks by which what was seen may be above what was expected.
const TOLERANCE: u64 = 2;
/// The CPU that is taken away; the first one often cannot be.
const REMOVABLE_CPU: u32 = 1;

/// Tries everything; returns how much failed.
pub(crate) fn run_all(as_init: bool) -> usize {
    let mut failed = 0;
    let mut trial = |name: &str, trial: fn() -> Outcome| match trial() {
        Ok(said) => println!("ok {name}: {said}"),
        Err(error) => {
            failed += 1;
            println!("FAILED {name}: {error}");
        }
    };
    trial("probe", look_around);
    trial("user mode", || registers(Kind::Spin));
    trial("kernel mode", || registers(Kind::Read));
    trial("children", children);
    trial("tables in user mode", || tables::walks(Kind::Deep));
    trial("tables in kernel mode", || tables::walks(Kind::DeepInKernel));
    trial("tables after an exec", tables::executed);
    if as_init {
        trial("cgroup version 2", cgroups::version_2);
        trial("cgroup version 1", cgroups::version_1);
        trial("cgroups of both versions", cgroups::both_versions);
        trial("hotplug", hotplug);
    }
    failed
}

fn look_around() -> Outcome {
    let report = probe();
    print!("{report}");
    if report.works() { Ok("everything needed is there".to_owned()) } else { Err("something needed is missing".into()) }
}

pub(crate) fn load(flags: u32, tgids: Vec<u32>) -> Result<KernelSide, Box<dyn Error>> {
    load_with(flags, tgids, 0)
}

/// With so many shards for tables.
pub(crate) fn load_with(flags: u32, tgids: Vec<u32>, max_shards: u32) -> Result<KernelSide, Box<dyn Error>> {
    let control = Control {
        flags,
        snapshot_bytes: SNAPSHOT_BYTES,
        wakeup_bytes: RING_BYTES / 4,
        max_user_frames: DEFAULT_USER_FRAMES,
        check_every: 0,
    };
    Ok(KernelSide::load(&KernelConfig {
        rate_hz: RATE_HZ,
        control,
        tgids,
        own_tgids: Vec::new(),
        max_verdicts: MAX_VERDICTS,
        max_shards,
        ring_bytes: RING_BYTES,
    })?)
}

/// Drains for a while.
pub(crate) fn sample(side: &mut KernelSide, mut each: impl FnMut(RawSample<'_>)) {
    let end = Instant::now() + TRIAL;
    while Instant::now() < end {
        thread::sleep(LOOK);
        side.drain(&mut each);
    }
}

/// Detaches, drains the rest, checks what was counted; returns the counters.
pub(crate) fn finish(
    side: &mut KernelSide,
    records: &mut usize,
    mut each: impl FnMut(RawSample<'_>),
) -> Result<Counters, Box<dyn Error>> {
    side.detach();
    while side.drain(|sample| {
        *records += 1;
        each(sample);
    }) > 0
    {}
    let counters = side.counters().read()?;
    let total = counters.total();
    let handed_over = total.taken - total.lost_ring - total.lost_scratch;
    if handed_over != *records as u64 || counters.malformed != 0 {
        return Err(format!("{records} records, counted {total:?}, malformed {}", counters.malformed).into());
    }
    for row in &counters.cpus {
        let seen = row.counters.idle + row.counters.filtered + row.counters.taken;
        if seen > row.expected + TOLERANCE {
            return Err(format!("CPU {}: {seen} ticks seen, {} expected", row.cpu, row.expected).into());
        }
    }
    Ok(counters)
}

/// Registers and stack of a loop that is known to the byte.
fn registers(kind: Kind) -> Outcome {
    let child = Running::start(kind)?;
    let mut side = load(CONTROL_ONLY_LISTED, vec![child.tgid()])?;
    let (mut user, mut kernel, mut wrong, mut frames) = (0usize, 0usize, 0usize, 0usize);
    let mut example = String::new();
    let mut look = |sample: RawSample<'_>| {
        let head = &sample.head;
        let top = sample.stack.first_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes));
        let in_kernel = head.flags & FLAG_USER_MODE == 0;
        let right = head.flags & FLAG_USER_REGS != 0
            && child.code.contains(&head.user_pc)
            && head.user_fp == FRAME_POINTER
            && top == Some(TOP_OF_STACK)
            && head.leader_start_mono_ns != 0
            && head.leader_start_mono_ns < head.time_mono_ns
            && in_kernel != (sample.kernel_frames().len() == 0);
        if right && in_kernel {
            kernel += 1;
            frames += sample.kernel_frames().len();
        } else if right {
            user += 1;
        } else {
            wrong += 1;
            example = format!("{head:?}, code {:x?}, top of stack {top:x?}", child.code);
        }
    };
    side.attach()?;
    let mut records = 0;
    sample(&mut side, |sample| {
        records += 1;
        look(sample);
    });
    let counters = finish(&mut side, &mut records, &mut look)?;
    let instructions = verified(&side);
    drop(side);
    child.end()?;
    let of_kind = if kind == Kind::Spin { user } else { kernel };
    if of_kind < ENOUGH || (user + kernel) * 100 < (user + kernel + wrong) * RIGHT_PERCENT {
        return Err(format!("user {user}, kernel {kernel}, wrong {wrong}; {example}").into());
    }
    let total = counters.total();
    Ok(format!(
        "user {user}, kernel {kernel} with {:.1} frames each, wrong {wrong}; {} ns a sample; verified instructions {instructions}",
        frames as f64 / kernel.max(1) as f64,
        total.run_ns / total.taken.max(1),
    ))
}

/// How many instructions the verifier went through for the timer's program.
pub(crate) fn verified(side: &KernelSide) -> String {
    side.verified_instructions().map_or_else(|| "unknown".to_owned(), |count| count.to_string())
}

/// A child that is started while its parent is listed.
fn children() -> Outcome {
    let mut parent = Running::start(Kind::Parent)?;
    let mut side = load(CONTROL_ONLY_LISTED | CONTROL_FOLLOW_CHILDREN, vec![parent.tgid()])?;
    side.attach()?;
    if let Some(error) = side.children_error() {
        return Err(error.to_string().into());
    }
    let child = parent.have_child()?;
    let (mut of_child, mut foreign, mut records) = (0usize, 0usize, 0usize);
    let family = [parent.tgid(), child];
    let mut look = |sample: RawSample<'_>| {
        of_child += usize::from(sample.head.tgid == child);
        foreign += usize::from(!family.contains(&sample.head.tgid));
    };
    sample(&mut side, |sample| {
        records += 1;
        look(sample);
    });
    let was_listed = side.listed().contains(&child);
    parent.end()?;
    // Freed after a grace period of RCU.
    let end = Instant::now() + TRIAL;
    while side.listed().iter().any(|tgid| family.contains(tgid)) && Instant::now() < end {
        thread::sleep(LOOK);
    }
    let still_listed = side.listed();
    finish(&mut side, &mut records, &mut look)?;
    if !was_listed || of_child < ENOUGH || foreign > 0 || !still_listed.is_empty() {
        return Err(
            format!("listed {was_listed}, of the child {of_child}, foreign {foreign}, left {still_listed:?}").into()
        );
    }
    Ok(format!("{of_child} samples of the child, none foreign, taken off the list at its end"))
}

/// A CPU that goes and comes, between two looks and within one.
fn hotplug() -> Outcome {
    let busy = [Running::start(Kind::Spin)?, Running::start(Kind::Spin)?];
    let mut side = load(0, Vec::new())?;
    let before = Instant::now();
    side.attach()?;
    let started = Instant::now();
    let counters = side.counters();
    let row =
        |counters: &Counters| counters.cpus.iter().find(|row| row.cpu == REMOVABLE_CPU).copied().unwrap_or_default();
    // Going and coming take their time, on a busy host seconds, in which a CPU ticks or not.
    let (mut away_at_least, mut away_at_most) = (Duration::ZERO, Duration::ZERO);
    let mut records = 0;
    let pause = Duration::from_secs(1);
    for within_one_look in [false, true] {
        thread::sleep(pause);
        records += side.drain(|_| {});
        let going = Instant::now();
        machine::set_online(REMOVABLE_CPU, false)?;
        let gone = Instant::now();
        thread::sleep(pause);
        if !within_one_look {
            let report = side.hotplug();
            if report.detached != [REMOVABLE_CPU] || !report.attached.is_empty() {
                return Err(format!("going: {report:?}").into());
            }
        }
        away_at_least += gone.elapsed();
        machine::set_online(REMOVABLE_CPU, true)?;
        let report = side.hotplug();
        away_at_most += going.elapsed();
        if report.attached != [REMOVABLE_CPU] || within_one_look != (report.detached == [REMOVABLE_CPU]) {
            return Err(format!("coming: {report:?}").into());
        }
    }
    thread::sleep(pause);
    let at_least = started.elapsed().saturating_sub(away_at_most);
    let after = row(&counters.read()?);
    let at_most = before.elapsed().saturating_sub(away_at_least);
    finish(&mut side, &mut records, |_| {})?;
    for child in busy {
        child.end()?;
    }
    let ticks = |time: Duration| time.as_secs_f64() * f64::from(RATE_HZ);
    let seen = after.counters.idle + after.counters.filtered + after.counters.taken;
    // One for each of three stretches of time that were cut off.
    let stretches = 3.0;
    let possible = ticks(at_least) - stretches..=ticks(at_most) + stretches;
    let said = format!(
        "{:.0} to {:.0} ticks by the clock, {} expected, {seen} seen",
        ticks(at_least),
        ticks(at_most),
        after.expected
    );
    let expected = after.expected as f64;
    if !possible.contains(&expected) || seen > after.expected + TOLERANCE || seen * 5 < after.expected {
        return Err(said.into());
    }
    Ok(said)
}
