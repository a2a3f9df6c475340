//! What tables cost; run by hand:
//! `FILES="..." cargo test --release -p unwind --test table_cost -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]
#![cfg(target_arch = "x86_64")]

mod common;
#[path = "common/tables.rs"]
mod tables;

use std::time::Instant;

use unwind::{Limits, compile, extract};
use unwind_table::FileTable;

#[test]
#[ignore = "a measurement, not a test"]
fn of_files() {
    let list = std::env::var("FILES").unwrap_or_else(|_| "/lib/x86_64-linux-gnu/libc.so.6 /usr/bin/python3".to_owned());
    println!(
        "| file | functions | rows | rules | bytes | bytes a row | wide pages | largest page | extract ms | compile ms | parse ms | unsupported |"
    );
    for path in list.split_whitespace() {
        let bytes = std::fs::read(path).unwrap();
        let start = Instant::now();
        let blob = extract(bytes.as_slice(), &Limits::default()).unwrap();
        let extracted = start.elapsed();
        let start = Instant::now();
        let compiled = compile(blob, None).unwrap();
        let took = start.elapsed();
        let (stats, unsupported) = (compiled.stats, &compiled.unsupported);
        let kept = compiled.table.to_bytes();
        let start = Instant::now();
        assert_eq!(FileTable::parse(&kept).unwrap(), compiled.table);
        let parsed = start.elapsed();
        let registers: Vec<_> = unsupported.registers.iter().enumerate().filter(|r| *r.1 > 0).collect();
        println!(
            "| {} | {} | {} | {} | {} | {:.2} | {:.1} % | {} | {:.1} | {:.1} | {:.2} | {} rows ({:.3} %): registers {:?}, {} expressions, {} fp, {} ra, {} numbers; {} broken, {} left |",
            path.rsplit('/').next().unwrap(),
            compiled.functions,
            stats.rows,
            stats.rules,
            stats.bytes,
            stats.bytes as f64 / stats.rows.max(1) as f64,
            stats.wide_pages as f64 * 100.0 / stats.pages.max(1) as f64,
            stats.largest_page,
            extracted.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e3,
            parsed.as_secs_f64() * 1e3,
            unsupported.rows(),
            unsupported.rows() as f64 * 100.0 / stats.rows.max(1) as f64,
            registers,
            unsupported.expressions,
            unsupported.fp,
            unsupported.ra,
            unsupported.numbers,
            unsupported.broken,
            unsupported.work,
        );
    }
}

/// One stack, walked again and again by both.
#[test]
#[ignore = "a measurement, not a test"]
fn of_walks() {
    let dir = tempfile::tempdir().unwrap();
    let program = common::compile("cc", "deep.c", &["-O2", "-fomit-frame-pointer"], dir.path()).unwrap();
    let traced = common::Traced::run(&program, &[]);
    let mut process = common::Process::of(&traced);
    let tables = tables::Tables::of(&process);
    let registers = traced.registers();
    let stack = traced.memory(registers.sp, 16 << 10);
    const ROUNDS: u32 = 20_000;
    let mut walk = Box::<unwind_table::Walk>::default();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        tables.walk(&registers, &stack, &mut walk);
    }
    let ours = start.elapsed() / ROUNDS;
    let mut frames = Vec::new();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        frames.clear();
        process.unwinder.unwind(&process.maps, &registers, &stack, &mut frames);
    }
    let theirs = start.elapsed() / ROUNDS;
    println!("{} frames: {ours:?} by tables, {theirs:?} from the snapshot", walk.frames);
}
