//! Tables and programs that do not keep still, or lie: no function of another file is told, no walk goes on without end, and the
//! ledger holds.
#![cfg(feature = "live")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{Agent, Setup};
use e2e::process::{Running, Start, wait_for};
use e2e::stacks::{Row, Stacks, percent};
use e2e::walks::Walks;
use e2e::{figure, paths};

/// User frames of one stack that the agent is told to take.
const MAX_FRAMES: usize = 200;

/// An agent that samples what this test starts and nothing else, fast.
fn agent(folder: &Path) -> Result<Agent> {
    Setup::new("agent", folder)?
        .env("PROFILER_FREQUENCY", "997")
        .env("PROFILER_WINDOW", "1s")
        .env("PROFILER_UNWIND_MAX_FRAMES", MAX_FRAMES.to_string())
        .env("PROFILER_UNWIND_CHECK", "1/50")
        .env("PROFILER_PID", std::process::id().to_string())
        .env("PROFILER_CHILDREN", "true")
        .start()
}

/// What the agent tells of the next seconds, and how it unwound; its ledger holds, and it goes on.
fn look(agent: &mut Agent, seconds: u32) -> Result<(Stacks, Walks)> {
    let before = Walks::of(&agent.scrape()?)?;
    let stacks = agent.pprof(seconds)?;
    agent.running.still_runs()?;
    let scrape = agent.scrape()?;
    scrape.ledger()?.check()?;
    Ok((stacks, Walks::of(&scrape)? - &before))
}

/// Whether exactly this function is in a stack.
fn has(row: &Row, name: &str) -> bool {
    row.frames.iter().any(|f| f == name)
}

/// Stacks in which functions of the two sides stand together, though each side only calls its own.
fn mixed(stacks: &Stacks) -> Stacks {
    stacks.only(|r| r.frames.iter().any(|f| f.contains("left")) && r.frames.iter().any(|f| f.contains("right")))
}

/// `least`: of all samples, those that are whole, in percent.
fn plugins(how: &str, milliseconds: u32, least: f64) -> Result<()> {
    let folder = paths::scratch(&format!("plugins-{how}-{milliseconds}"))?;
    let mut agent = agent(&folder)?;
    let words = ["libleft.so", "libright.so"].map(|l| paths::workload(l).map(|p| p.display().to_string()));
    let [left, right] = words;
    let words = [left?, right?, "12".to_owned(), milliseconds.to_string(), how.to_owned()];
    let mut running = Start::new("plugins", paths::workload("plugins")?, &folder).args(&words).start()?;
    sleep(Duration::from_secs(1));
    let (stacks, walks) = look(&mut agent, 8)?;
    running.wait(Duration::from_secs(60))?;
    figure(format!("{how}, every {milliseconds} ms: {}", running.output().trim()));
    let changes: Vec<u64> = running.output().split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let [changed, same] = changes[..] else { anyhow::bail!("it said: {}{}", running.output(), running.errors()) };
    ensure!(same * 2 > changed, "the libraries were at the same address in {same} of {changed} changes only");
    let own = stacks.of("plugins");
    let called = own.only(|r| r.frames_of("call_left") + r.frames_of("call_right") > 0);
    let whole = |side: &str| {
        let (call, inner, work) = (format!("call_{side}"), format!("{side}_inner"), format!("{side}_work"));
        called.count(|r| r.frames_of(&call) > 0 && r.frames_of(&inner) == 6 && r.frames_of(&work) == 1 && r.root)
    };
    let (false_ones, good) = (mixed(&own), whole("left") + whole("right"));
    figure(format!(
        "{} samples, {} of them under their caller, {good} whole with its own functions, {} with another's; {:?}; {walks:?}",
        own.total(),
        called.total(),
        false_ones.total(),
        own.ends()
    ));
    ensure!(own.total() > 500, "only {} samples", own.total());
    ensure!(false_ones.total() == 0, "functions of the wrong library:\n{}", false_ones.heaviest(5));
    // A change may be the kernel's news for a moment, some tens of milliseconds; what is then not known is cut, not guessed. Where it changes
    // as often as that, it depends on the machine how much is cut.
    ensure!(percent(good, own.total()) > least, "{good} whole: {}", own.only(|r| !r.root).heaviest(5));
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn libraries_in_turn_at_one_address_lend_each_other_no_function() -> Result<()> {
    plugins("dlopen", 20, 50.0)?;
    plugins("dlopen", 2, 50.0)
}

#[test]
fn code_mapped_over_other_code_lends_it_no_function() -> Result<()> {
    plugins("remap", 1000, 75.0)?;
    plugins("remap", 20, 10.0)?;
    plugins("remap", 2, 10.0)
}

#[test]
fn programs_that_execute_each_other_in_one_process_lend_each_other_no_function() -> Result<()> {
    let folder = paths::scratch("execs")?;
    let mut agent = agent(&folder)?;
    let (left, right) = (paths::workload("execs_left")?, paths::workload("execs_right")?);
    for milliseconds in ["30", "3"] {
        let words = [right.display().to_string(), "12".to_owned(), milliseconds.to_owned()];
        let mut running = Start::new("execs", &left, &folder).args(&words).start()?;
        sleep(Duration::from_secs(1));
        let (stacks, walks) = look(&mut agent, 8)?;
        running.wait(Duration::from_secs(60))?;
        let own = stacks.only(|r| r.process.starts_with("execs_"));
        let of = |side: &str| own.of(&format!("execs_{side}"));
        let strange = |own: &str, other: &str| of(own).only(|r| r.frames_of(&format!("{other}_exec")) > 0);
        let strange = [strange("left", "right"), strange("right", "left")];
        let deep = own.only(|r| r.frames_of("_exec_inner") > 0);
        let whole = deep.count(|r| r.root && r.frames_of("_exec_outer") > 0);
        figure(format!(
            "every {milliseconds} ms: {} and {} samples, {whole} of {} in their functions are whole; {:?}; {walks:?}",
            of("left").total(),
            of("right").total(),
            deep.total(),
            own.ends()
        ));
        for strange in strange {
            ensure!(strange.total() == 0, "functions of the other program:\n{}", strange.heaviest(5));
        }
        ensure!(mixed(&own).total() == 0, "{}", mixed(&own).heaviest(5));
        ensure!(of("left").total() > 200 && of("right").total() > 200, "{}", own.heaviest(3));
        // After an exec the kernel may hold the other one for a moment: what it then walks is cut, not believed.
        ensure!(percent(whole, deep.total()) > 95.0, "{}", deep.only(|r| !r.root).heaviest(5));
    }
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn storms_of_execs_leave_no_process_behind() -> Result<()> {
    let folder = paths::scratch("storm")?;
    let mut agent = agent(&folder)?;
    let quiet = agent.scrape()?.sum("profiler_unwind_processes")?;
    let storm = format!("while :; do {} 1; /bin/true; done", paths::workload("burn50")?.display());
    let storms: Vec<Running> = (0..3)
        .map(|i| Start::new(&format!("storm{i}"), "/bin/sh", &folder).args(["-c", &storm]).group().start())
        .collect::<Result<_>>()?;
    let (stacks, walks) = look(&mut agent, 12)?;
    let during = agent.scrape()?.sum("profiler_unwind_processes")?;
    drop(storms);
    let pids = stacks.rows.iter().filter_map(|r| r.pid).collect::<BTreeSet<_>>().len();
    let own = stacks.of("burn50");
    let (root, due) = (own.count(|r| r.root), own.count(|r| r.user));
    figure(format!("{pids} processes seen, {root} of {due} samples reach their root; {:?}; {walks:?}", own.ends()));
    ensure!(pids > 200, "{pids} processes");
    ensure!(percent(root, due) > 99.0, "{}", own.only(|r| r.user && !r.root).heaviest(5));
    // No table of a dead process is left: as many processes as before the storm, but for what comes and goes on the machine.
    let left = wait_for("the processes of the storm gone", Duration::from_secs(30), || {
        let now = agent.scrape()?.sum("profiler_unwind_processes")?;
        Ok((now <= quiet + 20.0).then_some(now))
    });
    figure(format!("processes known to the kernel side: {quiet} before, {during} in the storm, {left:?} after"));
    left?;
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn unwind_information_that_lies_ends_a_walk_with_a_reason() -> Result<()> {
    const LIES: &[&str] = &["below", "itself", "endless", "far", "heap", "kernel", "low", "signal", "deref", "program"];
    let folder = paths::scratch("lies")?;
    let mut agent = agent(&folder)?;
    let mut running = BTreeMap::new();
    for lie in LIES {
        let process = Start::new(lie, paths::workload("liar")?, &folder).args([lie, "60"]).start()?;
        running.insert(*lie, process);
    }
    sleep(Duration::from_secs(2));
    let (stacks, walks) = look(&mut agent, 10)?;
    for (lie, process) in &mut running {
        process.still_runs()?;
        let own = stacks.of_pid(process.pid()).of("liar");
        let leaf = own.count(|r| r.frames.iter().any(|f| f.contains(&format!("lie_{lie}"))));
        let longest = own.rows.iter().map(|r| r.frames.len()).max().unwrap_or(0);
        figure(format!(
            "{lie:<8} {:>5} samples, {leaf} name it, {longest} frames at most, {:?}",
            own.total(),
            own.ends()
        ));
        ensure!(own.total() > 100, "{lie}: only {} samples", own.total());
        ensure!(percent(leaf, own.total()) > 90.0, "{lie}: {}", own.heaviest(3));
        // Kernel frames and the marker stand beside them.
        ensure!(longest <= MAX_FRAMES + 70, "{lie}: {longest} frames");
        let other = own.only(|r| r.frames.iter().any(|f| LIES.iter().any(|l| l != lie && f == &format!("lie_{l}"))));
        ensure!(other.total() == 0, "{lie}: a function of another process's: {}", other.heaviest(3));
    }
    figure(format!("{walks:?}"));
    drop(running);
    // Who tells the truth beside them is walked as ever.
    let _honest = Start::new("honest", paths::workload("deep")?, &folder).args(["30"]).start()?;
    sleep(Duration::from_secs(1));
    let (stacks, walks) = look(&mut agent, 4)?;
    let own = stacks.of("deep").only(|r| r.frames_of("deep_frame") > 0);
    ensure!(percent(own.count(|r| r.root), own.total()) > 99.0, "{}", own.only(|r| !r.root).heaviest(3));
    ensure!(walks.share() > 90.0, "{walks:?}");
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn the_callers_of_generated_code_are_found() -> Result<()> {
    let folder = paths::scratch("jit")?;
    let mut agent = agent(&folder)?;
    let _running = Start::new("jit", paths::workload("jit")?, &folder).args(["60"]).start()?;
    sleep(Duration::from_secs(1));
    let (stacks, walks) = look(&mut agent, 8)?;
    let own = stacks.of("jit");
    // What generated code calls, and generated code itself: its own callers keep a frame, or are found on top of the stack.
    let (callee, leaf) = (own.only(|r| r.frames_of("jit_callee") > 0), own.only(|r| r.frames_of("call_leaf") > 0));
    let through = callee.count(|r| has(r, "call_framed") && has(r, "main") && r.root);
    let out_of = leaf.count(|r| has(r, "main") && r.root);
    figure(format!(
        "{through} of {} through a frame of it, {out_of} of {} out of a leaf of it, {} in all; {:?}; {walks:?}",
        callee.total(),
        leaf.total(),
        own.total(),
        own.ends()
    ));
    ensure!(percent(through, callee.total()) > 95.0, "{}", callee.heaviest(3));
    ensure!(percent(out_of, leaf.total()) > 95.0, "{}", leaf.heaviest(3));
    ensure!(percent(callee.total() + leaf.total(), own.total()) > 90.0, "{}", own.only(|r| !r.root).heaviest(5));
    ensure!(own.with("jit_callee") > 500 && leaf.total() > 500, "{}", own.heaviest(3));
    agent.stop()?.success()?;
    Ok(())
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_program_of_32_bits_is_seen_and_named() -> Result<()> {
    let folder = paths::scratch("bits32")?;
    let program = paths::workload("bits32")?;
    // A kernel may be built without them.
    match Command::new(&program).arg("1").status() {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            figure("this kernel runs no 32-bit programs");
            return Ok(());
        }
        other => ensure!(other.context("bits32")?.success(), "bits32 failed"),
    }
    let mut agent = agent(&folder)?;
    let running = Start::new("bits32", &program, &folder).args(["60"]).start()?;
    sleep(Duration::from_secs(1));
    let (stacks, walks) = look(&mut agent, 6)?;
    let own = stacks.of_pid(running.pid());
    let leaf = own.with("spin32");
    figure(format!("{} samples, {leaf} with its function, {:?}; {walks:?}", own.total(), own.ends()));
    // Before exec it was a copy of this test.
    let own = own.only(|r| !r.process.starts_with("tables_hostile"));
    ensure!(own.total() > 500 && own.of("bits32").total() == own.total(), "{}", own.heaviest(3));
    ensure!(own.rows.iter().all(|r| r.frames.len() <= MAX_FRAMES + 70), "{}", own.heaviest(3));
    agent.stop()?.success()?;
    Ok(())
}
