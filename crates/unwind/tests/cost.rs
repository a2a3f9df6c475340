//! What extracting and unwinding cost; run by hand: `cargo test --release -p unwind --test cost -- --ignored --nocapture`.
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
