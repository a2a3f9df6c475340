//! What extracting and looking up cost; run by hand:
//! `FILES=... cargo test --release -p symbolizer --test cost -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::time::Instant;

use symbolizer::KernelSymbols;
use symbolizer::table::{Limits, extract, lookup, rows};

#[test]
#[ignore = "a measurement, not a test"]
fn of_a_file() {
    let list = std::env::var("FILES").unwrap_or_else(|_| "/lib/x86_64-linux-gnu/libc.so.6 /usr/bin/python3".to_owned());
    for path in list.split_whitespace() {
        let bytes = std::fs::read(path).unwrap();
        let start = Instant::now();
        let table = extract(bytes.as_slice(), &Limits::default()).unwrap();
        let extracted = start.elapsed();
        let start = Instant::now();
        let mut found = 0u32;
        let mut address = 1u64;
        for _ in 0..100_000 {
            address = address.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            found += u32::from(lookup(&table, (address >> 33) % (bytes.len() as u64)).is_some());
        }
        let each = start.elapsed() / 100_000;
        println!(
            "{path}: {extracted:?}, {} rows, {} bytes, {each:?} a look-up ({found} found)",
            rows(&table),
            table.len()
        );
    }
}

#[test]
#[ignore = "a measurement, not a test"]
fn of_the_kernel() {
    let kallsyms = std::fs::read("/proc/kallsyms").unwrap();
    let start = Instant::now();
    let symbols = KernelSymbols::parse(&kallsyms);
    println!("{} of {} bytes in {:?}", symbols.len(), kallsyms.len(), start.elapsed());
}
