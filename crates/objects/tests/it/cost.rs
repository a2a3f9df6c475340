//! What reading files costs; run by hand:
//! `FILES="..." cargo test --release -p objects --test it cost -- --ignored --nocapture --test-threads 1`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use objects::{MappedFile, Objects, ObjectsConfig};

use crate::support::{Folder, Test, config_with, object};

pub(crate) fn tests() -> Vec<Test> {
    vec![("cost::of_files", of_files), ("cost::of_all_processes", of_all_processes)]
}

/// CPU time of a process so far, in user and kernel mode.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn own_cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .map(|stat| Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap()))
        .sum()
}

/// A line of a process's status, in KiB.
fn memory(pid: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|found| found.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn room(cache: &Path) -> Objects {
    Objects::start(ObjectsConfig { cache: Some(cache.to_owned()), ..config_with(&["real-worker"]) }).unwrap()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn of_files() {
    let list = std::env::var("FILES").unwrap_or_else(|_| "/lib/x86_64-linux-gnu/libc.so.6 /usr/bin/python3".to_owned());
    println!(
        "| file | tables | for the walk | read ms | peak MB of the worker | MB after | with cache ms | worker's CPU ms |"
    );
    let folder = Folder::new();
    for path in list.split_whitespace() {
        let cache = folder.path(&path.replace('/', "_"));
        let first = {
            let room = room(&cache);
            let start = Instant::now();
            let info = object(&room, Path::new(path));
            let took = start.elapsed();
            let stats = room.stats();
            assert!(info.readable && stats.extracted == 1);
            let walk = room.walk_table(info.id).map_or(0, |table| table.len());
            let peak = memory(stats.worker_pid, "VmHWM");
            format!(
                "| {path} | {} | {walk} | {:.1} | {:.1} | {:.1}",
                stats.table_bytes,
                milliseconds(took),
                peak as f64 / 1024.0,
                memory(stats.worker_pid, "VmRSS") as f64 / 1024.0
            )
        };
        let room = room(&cache);
        let worker = room.stats().worker_pid;
        let (start, before) = (Instant::now(), cpu(worker));
        assert!(object(&room, Path::new(path)).readable);
        let took = start.elapsed();
        assert_eq!(room.stats().extracted, 0, "{:?}", room.stats());
        println!("{first} | {:.1} | {:.1} |", milliseconds(took), milliseconds(cpu(worker) - before));
    }
}

/// All executable mappings of all processes.
fn mappings() -> Vec<(MappedFile, u32, std::ops::Range<u64>)> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Some(tgid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(maps) = fs::read(process.path().join("maps")) else { continue };
        for line in String::from_utf8_lossy(&maps).lines() {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if !columns[1].contains('x') || columns[4] == "0" {
                continue;
            }
            let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
            let ((start, end), (major, minor)) =
                (columns[0].split_once('-').unwrap(), columns[3].split_once(':').unwrap());
            let file = MappedFile {
                major: number(major) as u32,
                minor: number(minor) as u32,
                inode: columns[4].parse().unwrap(),
                generation: 0,
                path: columns.get(5).copied().unwrap_or_default().into(),
            };
            found.push((file, tgid, number(start)..number(end)));
        }
    }
    found
}

fn of_all_processes() {
    let folder = Folder::new();
    let cache = folder.path("cache");
    let mappings = mappings();
    let processes: BTreeSet<u32> = mappings.iter().map(|(_, tgid, _)| *tgid).collect();
    let files: BTreeSet<(u32, u32, u64)> =
        mappings.iter().map(|(file, ..)| (file.major, file.minor, file.inode)).collect();
    println!("{} processes, {} mappings, {} files", processes.len(), mappings.len(), files.len());
    for what in ["cold", "warm"] {
        let before = own_cpu();
        let room = room(&cache);
        let start = Instant::now();
        for (file, tgid, range) in &mappings {
            let _ = room.object(file, *tgid, range.clone());
        }
        let (took, stats) = (start.elapsed(), room.stats());
        let ready = own_cpu();
        std::thread::sleep(Duration::from_secs(1)); // the cache is written
        let written = own_cpu();
        println!(
            "{what}: {:.0} ms; CPU ms: agent {:.0}, writing {:.0}, worker {:.0}; worker MB {:.1}, peak {:.1}; {:?}",
            milliseconds(took),
            milliseconds(ready - before),
            milliseconds(written - ready),
            milliseconds(cpu(stats.worker_pid)),
            memory(stats.worker_pid, "VmRSS") as f64 / 1024.0,
            memory(stats.worker_pid, "VmHWM") as f64 / 1024.0,
            room.stats()
        );
    }
}
