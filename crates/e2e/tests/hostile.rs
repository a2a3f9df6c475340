//! Nothing that a target does brings the agent down, takes a sample from the ledger, or gives it to another.
#![cfg(feature = "live")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{Agent, Setup};
use e2e::hostile;
use e2e::process::{Running, Start, wait_for};
use e2e::{figure, paths};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn sound(agent: &mut Agent) -> Result<e2e::scrape::Scrape> {
    agent.running.still_runs()?;
    let scrape = agent.scrape()?;
    scrape.ledger()?.check()?;
    Ok(scrape)
}

#[test]
fn garbage_files_under_garbage_names_are_counted_and_survived() -> Result<()> {
    let folder = paths::scratch("garbage")?;
    let mut agent = Setup::new("agent", &folder)?.start()?;
    let runner = paths::workload("runmapped")?;
    let files = hostile::files(&folder, std::path::Path::new("/usr/bin/git"))?;
    let comm = OsStr::from_bytes(hostile::NAME);
    let mut running: Vec<Running> = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let words =
            [file.as_os_str().to_owned(), hostile::CODE_OFFSET.to_string().into(), comm.to_owned(), "90".into()];
        running.push(Start::new(&format!("run{i}"), &runner, &folder).args(words).start()?);
    }
    // An executable under such a name, too.
    let odd = folder.join(OsStr::from_bytes(&[b"burn-".as_slice(), hostile::NAME].concat()));
    fs::copy(paths::workload("deep")?, &odd)?;
    let executable = Start::new("odd", &odd, &folder).args(["90"]).start()?;
    sleep(Duration::from_secs(1));
    let stacks = agent.pprof(15)?;
    for (file, process) in files.iter().zip(&mut running) {
        process.still_runs()?;
        // Before exec it was a copy of this test.
        let own = stacks.of_pid(process.pid()).only(|r| !r.process.starts_with("hostile"));
        let cut = own.count(|r| r.cut().is_some());
        let kind = file.file_name().map(|n| n.to_string_lossy().chars().take(9).collect::<String>());
        figure(format!("{kind:?}: {} samples, {cut} cut; {}", own.total(), own.heaviest(1).trim()));
        ensure!(own.total() > 10, "{kind:?} has {} samples", own.total());
        ensure!(own.rows.iter().all(|r| r.process == "runmapped"), "another owner: {}", own.heaviest(3));
        ensure!(own.rows.iter().all(|r| !r.frames.iter().any(String::is_empty)), "an empty name: {}", own.heaviest(3));
    }
    let own = stacks.of_pid(executable.pid()).only(|r| !r.process.starts_with("hostile"));
    ensure!(own.with("deep_frame") > 10, "{}", own.heaviest(3));
    ensure!(own.rows.iter().all(|r| r.process.starts_with("burn-e<b>\n")), "{}", own.heaviest(1));
    let scrape = sound(&mut agent)?;
    figure(format!(
        "parse errors {}, worker restarts {}",
        scrape.sum("profiler_objects_errors_total").unwrap_or_default(),
        scrape.sum("profiler_worker_restarts_total")?
    ));
    drop(running);
    drop(executable);
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn a_replaced_or_deleted_binary_keeps_its_own_names() -> Result<()> {
    let folder = paths::scratch("replaced")?;
    let mut agent = Setup::new("agent", &folder)?.start()?;
    let (deep, names) = (paths::workload("deep")?, paths::workload("names")?);
    let path = folder.join("program");
    fs::copy(&deep, &path)?;
    let old = Start::new("old", &path, &folder).args(["60"]).start()?;
    // Replaced by rename before the agent has looked at it: the path now leads to another file.
    fs::copy(&names, folder.join("new"))?;
    fs::rename(folder.join("new"), &path)?;
    let new = Start::new("new-run", &path, &folder).args(["60"]).start()?;
    let gone = folder.join("gone");
    fs::copy(&deep, &gone)?;
    let deleted = Start::new("deleted", &gone, &folder).args(["60"]).start()?;
    fs::remove_file(&gone)?;
    sleep(Duration::from_secs(1));
    let stacks = agent.pprof(10)?;
    for (what, process, own, other) in [
        ("replaced", &old, "deep_frame", "outer::"),
        ("its successor", &new, "outer::", "deep_frame"),
        ("deleted", &deleted, "deep_frame", "outer::"),
    ] {
        let rows = stacks.of_pid(process.pid());
        figure(format!("{what}: {} of {} samples with its own names", rows.with(own), rows.total()));
        ensure!(rows.total() > 50, "{what}: {}", rows.heaviest(3));
        ensure!(rows.with(other) == 0, "{what} got another file's names: {}", rows.heaviest(3));
    }
    for process in [&old, &deleted] {
        let rows = stacks.of_pid(process.pid());
        ensure!(
            rows.with("deep_frame") * 10 > rows.total() * 9,
            "a file that is mapped can be read: {}",
            rows.heaviest(3)
        );
    }
    // What is gone from the disk is the same service as before, under the same name.
    let rows = stacks.of_pid(deleted.pid()).only(|r| !r.process.starts_with("hostile"));
    ensure!(rows.rows.iter().all(|r| r.process == "gone"), "another name for a deleted binary: {}", rows.heaviest(1));
    sound(&mut agent)?;
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn other_namespaces_keep_names_and_host_pids() -> Result<()> {
    let folder = paths::scratch("namespaces")?;
    let mut agent = Setup::new("agent", &folder)?.start()?;
    // The binary lies where only its own mount namespace sees it, and the process is number 1 of its own pid namespace.
    let script = format!(
        "mount -t tmpfs none /mnt && cp {} /mnt/hidden && exec /mnt/hidden 60",
        paths::workload("deep")?.display()
    );
    let words = ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script];
    let unshare = Start::new("unshare", "unshare", &folder).args(words).start()?;
    let child = wait_for("the hidden process", Duration::from_secs(30), || {
        let text = fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.pid()))?;
        let child: Option<u32> = text.split_whitespace().next().and_then(|p| p.parse().ok());
        let name = child.and_then(|c| fs::read_to_string(format!("/proc/{c}/comm")).ok());
        Ok(child.filter(|_| name.is_some_and(|n| n.trim() == "hidden")))
    })?;
    ensure!(!std::path::Path::new("/mnt/hidden").exists(), "the binary is to be seen from here");
    let stacks = agent.pprof(8)?;
    let own = stacks.of_pid(child);
    figure(format!("hidden: {} of {} samples with its function", own.with("deep_frame"), own.total()));
    ensure!(own.total() > 50 && own.with("deep_frame") * 10 > own.total() * 9, "{}", own.heaviest(3));
    let named = own.of("hidden");
    ensure!(named.with("deep_frame") == own.with("deep_frame"), "{}", own.heaviest(3));
    sound(&mut agent)?;
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn processes_that_die_in_the_middle_cost_nothing() -> Result<()> {
    let folder = paths::scratch("dying")?;
    let mut agent = Setup::new("agent", &folder)?.start()?;
    let deep = paths::workload("deep")?;
    let end = Instant::now() + Duration::from_secs(15);
    let mut killed = 0_u32;
    while Instant::now() < end {
        // Killed in the middle of whatever they do; some before exec is through.
        let mut children = Vec::new();
        for _ in 0..4 {
            children.push(Command::new(&deep).arg("60").spawn()?);
        }
        sleep(Duration::from_millis(u64::from(killed % 7) * 5));
        for mut child in children {
            child.kill()?;
            child.wait()?;
            killed += 1;
        }
    }
    let scrape = sound(&mut agent)?;
    let ledger = scrape.ledger()?;
    figure(format!(
        "{killed} processes killed; {ledger:?}; unknown {}",
        scrape.sum("profiler_samples_unknown_process_total")?
    ));
    ensure!(ledger.dropped == 0.0 && ledger.taken > 100.0, "{ledger:?}");
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn a_worker_killed_ten_times_costs_no_sample() -> Result<()> {
    let folder = paths::scratch("worker")?;
    let mut agent = Setup::new("agent", &folder)?.start()?;
    let busy = Start::new("busy", paths::workload("deep")?, &folder).args(["200"]).start()?;
    let storm = format!("while :; do {} 30; done", paths::workload("burn50")?.display());
    let storm = Start::new("storm", "/bin/sh", &folder).args([OsString::from("-c"), storm.into()]).start()?;
    let first = sound(&mut agent)?.ledger()?;
    let mut killed = Vec::new();
    for i in 0..10_u64 {
        // Not in step with windows: somewhere in the six seconds.
        sleep(Duration::from_millis(4000 + (i * 733) % 2000));
        let worker = wait_for("a worker", Duration::from_secs(30), || Ok(agent.worker().ok()))?;
        ensure!(!killed.contains(&worker), "the killed worker is still there");
        kill(Pid::from_raw(i32::try_from(worker)?), Signal::SIGKILL)?;
        killed.push(worker);
        sound(&mut agent)?;
    }
    let stacks = agent.pprof(6)?;
    let own = stacks.of_pid(busy.pid());
    ensure!(own.with("deep_frame") > 50, "after the last one: {}", own.heaviest(3));
    let scrape = sound(&mut agent)?;
    let ledger = scrape.ledger()?;
    let restarts = scrape.sum("profiler_worker_restarts_total")?;
    figure(format!(
        "restarts {restarts}; worker_failed {}; {ledger:?}",
        scrape.with("profiler_samples_truncated_total", "reason", "worker_failed")
    ));
    ensure!(restarts >= 10.0, "{restarts} restarts");
    ensure!(ledger.dropped == first.dropped, "samples were dropped: {ledger:?}");
    drop((busy, storm));
    let end = agent.stop()?.success()?;
    ensure!(end.log.contains("exported"), "no final line");
    Ok(())
}

#[test]
fn the_worker_can_do_nothing_but_parse() -> Result<()> {
    let folder = paths::scratch("sandbox")?;
    let agent = Setup::new("agent", &folder)?.start()?;
    let worker = wait_for("a worker", Duration::from_secs(30), || Ok(agent.worker().ok()))?;
    let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
    let line = |name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim_start_matches(':').trim().to_owned())
    };
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        ensure!(line(set).as_deref() == Some("0000000000000000"), "{set}: {:?}", line(set));
    }
    ensure!(line("NoNewPrivs").as_deref() == Some("1"), "NoNewPrivs: {:?}", line("NoNewPrivs"));
    let limits = fs::read_to_string(format!("/proc/{worker}/limits"))?;
    let limit = |name: &str| limits.lines().find(|l| l.starts_with(name)).map(str::to_owned).context(name.to_owned());
    ensure!(!limit("Max address space")?.contains("unlimited unlimited"), "{}", limit("Max address space")?);
    figure(format!("uid {:?}; {}", line("Uid"), limit("Max address space")?));
    // What it holds open is no file of a target's and no socket to anywhere: pipes, memory, its own pair.
    let mut open = Vec::new();
    for entry in fs::read_dir(format!("/proc/{worker}/fd"))? {
        open.push(fs::read_link(entry?.path())?.display().to_string());
    }
    figure(format!("open: {open:?}"));
    let files: Vec<_> =
        open.iter().filter(|f| f.starts_with('/') && !f.starts_with("/dev/") && !f.contains("memfd")).collect();
    ensure!(files.iter().all(|f| f.starts_with(&folder.display().to_string())), "open files: {files:?}");
    agent.stop()?.success()?;
    Ok(())
}
