//! Stacks walked over unwind tables, of this program itself, which has no frame pointers where it counts.

use std::{error::Error, fs, process};

use object::{
    LittleEndian,
    elf::{FileHeader64, PF_X, PT_LOAD},
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use profile::Segment;
use sampler::kernel::{KernelSide, RawSample, TablesHandle};
use sampler_abi::{CONTROL_ONLY_LISTED, CONTROL_TABLES, FLAG_USER_MODE, FLAG_WALKED, ProcessEntry};
use unwind_table::{Arena, End, Mapping};

use crate::{
    trials::{self, ENOUGH, Outcome},
    workload::{Kind, LEVELS, Running},
};

const MAX_SHARDS: u32 = 4;
const SERIAL: u64 = 1;
/// What the number of a leader's start is while it does not matter.
const SOME_START: u64 = 1;

fn load(tgid: u32) -> Result<(KernelSide, TablesHandle), Box<dyn Error>> {
    let mut side = trials::load_with(CONTROL_ONLY_LISTED | CONTROL_TABLES, vec![tgid], MAX_SHARDS)?;
    if let Some(error) = side.tables_error() {
        return Err(error.to_string().into());
    }
    let handle = side.take_tables().ok_or("no tables")?;
    Ok((side, handle))
}

/// The samples of a loop below known calls: all walked to their root, once it is published.
pub(crate) fn walks(kind: Kind) -> Outcome {
    let child = Running::start(kind)?;
    let (mut side, mut handle) = load(child.tgid())?;
    side.attach()?;
    let (mut records, mut snapshots, mut start) = (0usize, 0usize, 0);
    trials::sample(&mut side, |sample| {
        records += 1;
        snapshots += usize::from(sample.head.flags & FLAG_WALKED == 0 && !sample.stack.is_empty());
        start = sample.head.leader_start_mono_ns;
    });
    if snapshots < ENOUGH || snapshots < records {
        return Err(format!("not published: {snapshots} of {records} with snapshots").into());
    }
    for _ in 0..MAX_SHARDS {
        handle.add_shard()?;
    }
    let mut arena = Arena::new(MAX_SHARDS);
    let mappings = mappings(child.tgid(), &mut arena, &mut handle)?;
    let (place, mapping_count) = arena.place_mappings(&mappings, &mut handle)?;
    let entry = ProcessEntry { leader_start_mono_ns: start, serial: SERIAL, mappings: place.0, mapping_count };
    if !handle.publish(child.tgid(), &entry)? {
        return Err("no room for a process".into());
    }
    handle.wait_for_walks()?;
    while side.drain(|_| records += 1) > 0 {}
    let before = side.counters().read()?.total();
    let (mut user, mut kernel, mut wrong, mut example) = (0usize, 0usize, 0usize, String::new());
    let mut look = |sample: RawSample<'_>| {
        let head = &sample.head;
        let frames: Vec<u64> = sample.user_frames().collect();
        let call = child.code.start - 1;
        let calls = frames.iter().skip(1).take_while(|&&frame| frame == call).count();
        let right = head.flags & FLAG_WALKED != 0
            && head.walk_end == End::ROOT.0
            && head.mappings_serial == SERIAL
            && frames.first() == Some(&head.user_pc)
            && child.code.contains(&head.user_pc)
            && calls == LEVELS
            && frames.len() > LEVELS + 2
            && sample.stack.is_empty();
        if !right {
            wrong += 1;
            example = format!("{head:x?} {frames:x?}, code {:x?}", child.code);
        } else if head.flags & FLAG_USER_MODE == 0 {
            kernel += 1;
        } else {
            user += 1;
        }
    };
    trials::sample(&mut side, |sample| {
        records += 1;
        look(sample);
    });
    let total = trials::finish(&mut side, &mut records, &mut look)?.total();
    let instructions = trials::verified(&side);
    drop(side);
    child.end()?;
    let of_kind = if kind == Kind::Deep { user } else { kernel };
    if of_kind < ENOUGH || wrong > 0 {
        return Err(format!("user {user}, kernel {kernel}, wrong {wrong}: {example}; {total:?}").into());
    }
    let walked = (total.walked - before.walked).max(1);
    Ok(format!(
        "user {user}, kernel {kernel}, wrong 0; {:.1} frames and {} ns a walk; {} KiB of maps; verified instructions {instructions}",
        (total.walked_frames - before.walked_frames) as f64 / walked as f64,
        (total.walk_ns - before.walk_ns) / walked,
        handle.kernel_bytes() / 1024,
    ))
}

/// The executable mappings of a process, with the tables of their files.
fn mappings(tgid: u32, arena: &mut Arena, handle: &mut TablesHandle) -> Result<Vec<Mapping>, Box<dyn Error>> {
    let mut mappings = Vec::new();
    for (line, key) in fs::read_to_string(format!("/proc/{tgid}/maps"))?.lines().zip(0..) {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights), Some(offset)) = (words.next(), words.next(), words.next()) else { continue };
        let (start, end) = range.split_once('-').ok_or("no range")?;
        let hex = |text| u64::from_str_radix(text, 16);
        let (start, end, offset) = (hex(start)?, hex(end)?, hex(offset)?);
        let name = words.nth(2).unwrap_or_default();
        if !rights.contains('x') {
            continue;
        }
        if !name.starts_with('/') {
            mappings.push(Mapping::without_table(start, end));
            continue;
        }
        let file = fs::read(name)?;
        let extracted = unwind::extract(file.as_slice(), &unwind::Limits::default())?;
        let placed = arena.load(key, &unwind::compile(extracted, None)?.table, 1, handle)?;
        let bias = profile::bias(&segments(&file)?, start, end, offset).ok_or("no segment")?;
        mappings.push(placed.mapping(start, end, bias));
    }
    Ok(mappings)
}

fn segments(file: &[u8]) -> Result<Vec<Segment>, object::Error> {
    let header = FileHeader64::<LittleEndian>::parse(file)?;
    let loads = header.program_headers(LittleEndian, file)?.iter();
    Ok(loads
        .filter(|load| load.p_type(LittleEndian) == PT_LOAD)
        .map(|load| Segment {
            elf_address: load.p_vaddr(LittleEndian),
            file_offset: load.p_offset(LittleEndian),
            file_bytes: load.p_filesz(LittleEndian),
            executable: load.p_flags(LittleEndian).0 & PF_X.0 != 0,
        })
        .collect())
}

/// A process that executes another program is not published any more; others stay.
pub(crate) fn executed() -> Outcome {
    let mut child = Running::start(Kind::Renewed)?;
    let (side, mut handle) = load(child.tgid())?;
    let entry = ProcessEntry { leader_start_mono_ns: SOME_START, serial: SERIAL, mappings: 1, mapping_count: 0 };
    handle.publish(child.tgid(), &entry)?;
    handle.publish(process::id(), &entry)?;
    let before = handle.published(child.tgid())?;
    child.renew()?;
    let (after, other) = (handle.published(child.tgid())?, handle.published(process::id())?);
    drop(side);
    child.end()?;
    if before != Some(entry) || after.is_some() || other != Some(entry) {
        return Err(format!("before {before:?}, after {after:?}, another {other:?}").into());
    }
    Ok("its entry is gone".to_owned())
}
