//! What extracting and unwinding cost; run by hand: `cargo test --release -p unwind --test cost -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]
#![cfg(target_arch = "x86_64")]

mod common;

use std::path::Path;
use std::time::Instant;

use common::{Process, Traced, compile};
use unwind::{Limits, extract};

#[test]
#[ignore = "a measurement, not a test"]
fn of_a_file() {
    let list = std::env::var("FILES").unwrap_or_else(|_| "/lib/x86_64-linux-gnu/libc.so.6 /usr/bin/python3".to_owned());
    for path in list.split_whitespace() {
        let bytes = std::fs::read(path).unwrap();
        let start = Instant::now();
        let blob = extract(bytes.as_slice(), &Limits::default()).unwrap();
        let extracted = start.elapsed();
        let size = blob.len();
        let start = Instant::now();
        unwind::Unwinder::new().load(profile::ObjectId(1), blob).unwrap();
        println!("{path}: {extracted:?}, {size} bytes; loaded in {:?}", start.elapsed());
    }
}

#[test]
#[ignore = "a measurement, not a test"]
fn of_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile("cc", "deep.c", &["-O2", "-fomit-frame-pointer"], dir.path()).unwrap();
    let traced = Traced::run(Path::new(&program), &[]);
    let mut process = Process::of(&traced);
    let registers = traced.registers();
    let stack = traced.memory(registers.sp, 16 << 10);
    let mut frames = Vec::new();
    const ROUNDS: u32 = 20_000;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        frames.clear();
        process.unwinder.unwind(&process.maps, &registers, &stack, &mut frames);
    }
    println!("{} frames in {:?}", frames.len(), start.elapsed() / ROUNDS);
}

/// How the stacks of all threads of a running process end: `PROGRAM='/path args' cargo test ... of_a_process`.
#[test]
#[ignore = "a measurement, not a test"]
fn of_a_process() {
    use nix::sys::ptrace;
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::Pid;
    let Ok(line) = std::env::var("PROGRAM") else { return };
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut child = std::process::Command::new(words[0]).args(&words[1..]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut seen = std::collections::BTreeMap::new();
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    for _ in 0..rounds {
        std::thread::sleep(std::time::Duration::from_millis(13));
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let tid = Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap());
            if ptrace::seize(tid, ptrace::Options::empty()).is_err() || ptrace::interrupt(tid).is_err() {
                continue;
            }
            waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap();
            let traced = std::mem::ManuallyDrop::new(Traced { pid, tid });
            let mut process = Process::of(&traced);
            let (frames, end) = process.unwind(&traced, 64 << 10);
            let names = process.names(&frames);
            ptrace::detach(tid, None).unwrap();
            let (inner, outer) = (names.first().cloned(), names.iter().rev().take(3).cloned().collect::<Vec<_>>());
            let entry = seen.entry((end, outer)).or_insert((0u32, 0, inner));
            *entry = (entry.0 + 1, entry.1.max(frames.len()), entry.2.take());
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rows: Vec<_> = seen.into_iter().collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.1.0));
    for ((end, outer), (n, longest, inner)) in rows.iter().take(25) {
        println!("{n:4} {end:?} up to {longest} frames, {outer:?} from {inner:?}");
    }
}
