//! Stacks are whole and named: deep ones, short-lived processes, system calls, stock binaries, threads, libraries.
#![cfg(feature = "live")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{self, RATE, record};
use e2e::process::{Start, cpu_time};
use e2e::stacks::{Row, Stacks, percent};
use e2e::{figure, paths, pprof, stock};
use pprof_proto::Profile;

/// Records a workload from its start to its end.
fn workload(name: &str, folder: &Path, flags: &[&str], words: &[&str]) -> Result<(Profile, Stacks)> {
    let mut all: Vec<OsString> = flags.iter().map(Into::into).collect();
    all.push("--".into());
    all.push(paths::workload(name)?.into());
    all.extend(words.iter().map(Into::into));
    let profile = record(name, folder, all)?;
    let stacks = pprof::stacks(&profile)?;
    Ok((profile, stacks))
}

#[test]
fn a_recursion_of_sixty_frames_is_whole() -> Result<()> {
    let folder = paths::scratch("deep")?;
    let (_, stacks) = workload("deep", &folder, &[], &["10"])?;
    let stacks = stacks.of("deep");
    let within = stacks.only(|r| r.frames_of("deep_frame") > 0);
    let whole = within.count(|r| {
        r.frames_of("deep_frame") == 60 && r.frames_of("main") > 0 && r.frames.last().is_some_and(|f| f == "_start")
    });
    figure(format!(
        "{whole} of {} samples are whole ({:.2} %), {} of the process",
        within.total(),
        percent(whole, within.total()),
        stacks.total()
    ));
    ensure!(within.total() > 150, "only {} samples: {}", within.total(), stacks.heaviest(5));
    ensure!(percent(whole, within.total()) >= 99.0, "{}", within.only(|r| r.frames_of("deep_frame") != 60).heaviest(5));
    ensure!(
        percent(within.total(), stacks.total()) >= 97.0,
        "{}",
        stacks.only(|r| r.frames_of("deep_frame") == 0).heaviest(5)
    );
    Ok(())
}

#[test]
fn processes_of_fifty_milliseconds_are_seen_and_named() -> Result<()> {
    let folder = paths::scratch("burn50")?;
    let file = folder.join("all.pb.gz");
    let mut recorder = agent::command("record", &folder)?
        .args(["record", "-F", "99", "--duration", "300s", "-o"])
        .args([&file])
        .start()?;
    // The recorder needs a moment to attach; what it misses before that is no process of the hundred.
    std::thread::sleep(Duration::from_secs(3));
    let burn = paths::workload("burn50")?;
    let mut pids = Vec::new();
    for _ in 0..100 {
        let mut child = Command::new(&burn).spawn()?;
        pids.push(u64::from(child.id()));
        child.wait()?;
    }
    recorder.signal(nix::sys::signal::SIGINT)?;
    let status = recorder.wait(Duration::from_secs(60))?;
    ensure!(status.success(), "{}", recorder.errors());
    let stacks = pprof::stacks(&pprof::read(&fs::read(&file)?)?)?.of("burn50");
    let seen: BTreeSet<u64> = stacks.rows.iter().filter_map(|r| r.pid).collect();
    let named: BTreeSet<u64> =
        stacks.only(|r| r.frames_of("burn_shortly") > 0).rows.iter().filter_map(|r| r.pid).collect();
    let (seen, named) =
        (pids.iter().filter(|p| seen.contains(p)).count(), pids.iter().filter(|p| named.contains(p)).count());
    figure(format!(
        "of 100 processes {seen} are seen under their name, {named} with their function; {} samples",
        stacks.total()
    ));
    ensure!(seen >= 95 && named >= 95, "seen {seen}, named {named}");
    Ok(())
}

#[test]
fn samples_in_system_calls_carry_their_callers() -> Result<()> {
    let folder = paths::scratch("syscalls")?;
    let (_, stacks) = workload("syscalls", &folder, &[], &["10"])?;
    let stacks = stacks.of("syscalls");
    let kernel = stacks.only(|r| r.kernel);
    // The loop's own system calls: what ld.so and exec do before it and at the end has other callers.
    let own = kernel.only(|r| {
        r.frames.iter().any(|f| f.contains("vfs_read") || f.contains("ksys_read") || f.contains("read_zero"))
    });
    let callers = |r: &Row| ["sys_leaf", "sys_middle", "sys_outer", "main"].iter().all(|f| r.frames_of(f) > 0);
    let carried = own.count(callers);
    figure(format!(
        "{carried} of {} samples in read(2) carry all callers ({:.2} %); {} kernel samples of {}",
        own.total(),
        percent(carried, own.total()),
        kernel.total(),
        stacks.total()
    ));
    ensure!(own.total() > 500, "only {} samples in read(2): {}", own.total(), stacks.heaviest(5));
    ensure!(percent(carried, own.total()) >= 99.0, "{}", own.only(|r| !callers(r)).heaviest(5));
    ensure!(percent(kernel.count(callers), kernel.total()) >= 99.0, "{}", kernel.only(|r| !callers(r)).heaviest(5));
    Ok(())
}

#[test]
fn threads_are_told_apart_where_asked() -> Result<()> {
    let folder = paths::scratch("threads")?;
    let (_, stacks) = workload("threads", &folder, &["--threads"], &["6"])?;
    let stacks = stacks.of("threads");
    for colour in ["red", "green", "blue"] {
        let own = stacks.only(|r| r.comm.as_deref() == Some(&format!("thread-{colour}")));
        let burn = own.with(&format!("burn_{colour}"));
        figure(format!("thread-{colour}: {burn} of {} samples in its own function", own.total()));
        ensure!(own.total() > 100 && percent(burn, own.total()) > 95.0, "{}", own.heaviest(5));
        let others = ["red", "green", "blue"].iter().filter(|c| **c != colour).map(|c| own.with(&format!("burn_{c}")));
        ensure!(others.sum::<u64>() == 0, "another thread's function: {}", own.heaviest(5));
    }
    Ok(())
}

#[test]
fn a_library_between_two_executables_is_one_file_with_two_callers() -> Result<()> {
    let folder = paths::scratch("sharedlib")?;
    let one = Start::new("one", paths::workload("shared_one")?, &folder).args(["90"]).start()?;
    let two = Start::new("two", paths::workload("shared_two")?, &folder).args(["90"]).start()?;
    let profile = record("both", &folder, ["--duration", "8s"])?;
    let stacks = pprof::stacks(&profile)?;
    for (process, name, own, other) in
        [(&one, "shared_one", "call_one", "call_two"), (&two, "shared_two", "call_two", "call_one")]
    {
        let rows = stacks.of_pid(process.pid());
        figure(format!("{name}: {} samples, {} in the library under {own}", rows.total(), rows.with(own)));
        ensure!(rows.rows.iter().all(|r| r.process == name), "another name: {}", rows.heaviest(3));
        ensure!(percent(rows.with("shared_work"), rows.total()) > 95.0, "{}", rows.heaviest(5));
        ensure!(percent(rows.with(own), rows.total()) > 95.0 && rows.with(other) == 0, "{}", rows.heaviest(5));
    }
    let library: Vec<_> =
        profile.mapping.iter().filter(|m| pprof::text(&profile, m.filename).ends_with("libprofiled.so")).collect();
    ensure!(library.len() == 1, "{} mappings of the library", library.len());
    ensure!(!pprof::text(&profile, library[0].build_id).is_empty(), "the library has no build id");
    let main = pprof::text(&profile, profile.mapping.first().context("a mapping")?.filename);
    ensure!(main.ends_with("shared_one") || main.ends_with("shared_two"), "mapping[0] is {main}");
    Ok(())
}

#[test]
fn mangled_names_of_cpp_are_readable() -> Result<()> {
    let folder = paths::scratch("names")?;
    let (_, stacks) = workload("names", &folder, &[], &["5"])?;
    let stacks = stacks.of("names");
    for name in ["outer::Wheel<unsigned int>::turn(unsigned int)", "outer::Wheel<unsigned long>::turn(unsigned int)"] {
        let exact = stacks.count(|r| r.frames.iter().any(|f| f == name));
        figure(format!("{name}: {exact} of {}", stacks.total()));
        ensure!(percent(exact, stacks.total()) > 10.0, "{}", stacks.heaviest(5));
    }
    ensure!(stacks.with("_ZN") == 0, "a mangled name: {}", stacks.heaviest(5));
    Ok(())
}

#[test]
fn a_process_its_children_or_both_are_chosen() -> Result<()> {
    let folder = paths::scratch("family")?;
    let family = Start::new("family", paths::workload("family")?, &folder).args(["120"]).start()?;
    let pid = family.pid().to_string();
    std::thread::sleep(Duration::from_millis(500));
    let other = Start::new("other", paths::workload("deep")?, &folder).args(["120"]).start()?;
    let stacks = |name: &str, words: &[&str]| pprof::stacks(&record(name, &folder, words)?);
    let with = stacks("with-children", &["--pid", &pid, "--children", "--duration", "4s"])?;
    figure(format!("with children: child {}, grandchild {}", with.with("burn_child"), with.with("burn_grandchild")));
    ensure!(with.with("burn_child") > 20 && with.with("burn_grandchild") > 20, "{}", with.heaviest(5));
    ensure!(with.with("deep_frame") == 0, "a process that was not asked for: {}", with.heaviest(5));
    let alone = stacks("alone", &["--pid", &pid, "--duration", "2s"])?;
    ensure!(alone.with("burn_") == 0 && alone.with("deep_frame") == 0, "{}", alone.heaviest(5));
    for (name, words) in
        [("equals", vec![format!("-pid={}", other.pid())]), ("space", vec!["-pid".into(), other.pid().to_string()])]
    {
        let words: Vec<&str> = words.iter().map(String::as_str).chain(["--duration", "2s"]).collect();
        let one = stacks(name, &words)?;
        figure(format!("{words:?}: {} samples of {}", one.of_pid(other.pid()).total(), one.total()));
        ensure!(one.total() > 5 && one.of_pid(other.pid()).total() == one.total(), "{}", one.heaviest(5));
    }
    Ok(())
}

#[test]
fn stock_binaries_reach_their_root() -> Result<()> {
    let folder = paths::scratch("stock")?;
    let mut failures = Vec::new();
    for (name, processes, text) in stock::prepare(&folder)? {
        let profile = record(name, &folder, ["--", "/bin/sh", "-c", &text])?;
        let own = pprof::stacks(&profile)?.only(|r| processes.iter().any(|p| r.process.starts_with(p)));
        let reasons = own.ends();
        let count = |reason: &str| reasons.get(reason).copied().unwrap_or(0);
        let due = own.total() - count("truncated_snapshot") - count("no user half");
        let root = count("root");
        figure(format!(
            "{name:<8} {:>5.1} % of {due:>4} that fit reach their root; all {}: {reasons:?}",
            percent(root, due),
            own.total()
        ));
        // A compiler whose frames are larger than a snapshot: what fits is little, and is judged where tables are.
        let few = name == "rustc";
        if (due < 100 && !few) || (percent(root, due) < 95.0 && due > 0) {
            let lost = own.only(|r| r.user && !r.root && r.cut() != Some("truncated_snapshot"));
            failures.push(format!("{name}: {root} of {due}: {reasons:?}\n{}", lost.heaviest(3)));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn rates_from_one_to_a_thousand_are_kept() -> Result<()> {
    let folder = paths::scratch("rates")?;
    let busy = Start::new("busy", paths::workload("deep")?, &folder).args(["60"]).start()?;
    for rate in ["1", "19", "1000"] {
        let file = folder.join(format!("rate{rate}.pb.gz"));
        let words = ["record", "-F", rate, "--duration", "5s", "-o"].map(OsString::from);
        let (before, start) = (cpu_time(busy.pid())?, Instant::now());
        agent::run(
            &format!("rate{rate}"),
            &folder,
            words.into_iter().chain([file.clone().into()]),
            Duration::from_secs(60),
        )?
        .success()?;
        // How much of a CPU it had is the kernel's word.
        let had = (cpu_time(busy.pid())? - before).as_secs_f64() / start.elapsed().as_secs_f64();
        let profile = pprof::read(&fs::read(&file)?)?;
        let stacks = pprof::stacks(&profile)?;
        let hertz: i64 = rate.parse()?;
        ensure!((profile.period - 1_000_000_000 / hertz).abs() <= 1, "period {}", profile.period);
        let seconds = (stacks.to_unix_ns - stacks.from_unix_ns) as f64 / 1e9;
        let (samples, due) = (stacks.of_pid(busy.pid()).total() as f64, had * seconds * hertz as f64);
        figure(format!(
            "{rate} Hz: {samples} samples in {seconds:.1} s of a process that had {had:.2} of a CPU: {due:.0} are due"
        ));
        ensure!((samples - due).abs() < 0.2 * due + 4.0, "{samples} samples where {due:.0} are due");
    }
    ensure!(RATE == 99, "the other tests run at 99 Hz");
    Ok(())
}
