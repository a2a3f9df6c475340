//! What the compact table of one file costs: `table_cost FILE` prints `NAME=VALUE` pairs. `cargo xtask bench tables` runs it.
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use object::read::ReadCache;
use unwind::{Limits, compile, extract};
use unwind_table::FileTable;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("table_cost FILE")?;
    let before = status_mb("VmRSS:")?;
    let start = Instant::now();
    let cache = ReadCache::new(File::open(path)?);
    let extracted = extract(&cache, &Limits::default())?;
    drop(cache);
    let extract = start.elapsed();
    let start = Instant::now();
    let compiled = compile(extracted, None)?;
    let bytes = compiled.table.to_bytes();
    let compile = start.elapsed();
    let peak = status_mb("VmHWM:")? - before;
    let start = Instant::now();
    let parsed = FileTable::parse(&bytes)?;
    let parse = start.elapsed();
    if parsed != compiled.table {
        return Err("the table's bytes do not read back as the table".into());
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let stats = compiled.stats;
    println!(
        "functions={} rows={} rules={} bytes={} pages={} wide_pages={} largest_page={} unsupported={} extract_ms={:.3} \
         compile_ms={:.3} parse_ms={:.3} peak_mb={peak:.3}",
        compiled.functions,
        stats.rows,
        stats.rules,
        stats.bytes,
        stats.pages,
        stats.wide_pages,
        stats.largest_page,
        compiled.unsupported.rows(),
        ms(extract),
        ms(compile),
        ms(parse),
    );
    Ok(())
}

/// A size in `/proc/self/status`, in MB.
fn status_mb(key: &str) -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("a line of the status")?;
    Ok(line.split_whitespace().next().ok_or("a number")?.parse::<f64>()? * 1024.0 / 1e6)
}
