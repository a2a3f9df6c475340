//! Whose samples they are.

use super::*;

#[test]
fn processes_of_50_ms_have_their_names() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "fifty-ms");
    let text = count_for(50);
    let live = start(config(), alone);
    let started: BTreeSet<u32> = (0..100).map(|_| run(&mut script(&program, &text))).collect();
    let (rows, _) = live.stop();
    let named: BTreeSet<u32> = rows.iter().filter(|r| r.name == "fifty-ms").map(|r| r.tgid).collect();
    assert!(named.len() >= 95, "{} of 100 were seen", named.len());
    assert!(named.is_subset(&started));
    for row in rows.iter().filter(|r| started.contains(&r.tgid) && r.comm == "fifty-ms") {
        assert_eq!(row.name, "fifty-ms", "{row:?}");
        assert_ne!(row.end, Some(StackEnd::UnknownProcess), "{row:?}");
    }
}

#[test]
fn a_fork_without_exec_has_its_parents_program() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "forker");
    let text = count_for(400);
    let live = start(config(), alone);
    let parent = run(&mut script(&program, &format!("({text}) & ({text}) & wait")));
    let (rows, _) = live.stop();
    let children: BTreeSet<u32> =
        rows.iter().filter(|r| r.name == "forker" && r.tgid != parent).map(|r| r.tgid).collect();
    assert_eq!(children.len(), 2);
    let own = program.to_str().unwrap();
    for tgid in children {
        let of = |r: &&Row| r.tgid == tgid;
        let all: u64 = rows.iter().filter(of).map(|r| r.count).sum();
        let in_program: u64 = rows.iter().filter(of).filter(|r| r.file == own).map(|r| r.count).sum();
        let in_libc: u64 = rows.iter().filter(of).filter(|r| r.file.contains("libc")).map(|r| r.count).sum();
        assert!(in_program >= 3 && (in_program + in_libc) * 10 >= all * 9, "{in_program} + {in_libc} of {all}");
    }
}

#[test]
fn an_exec_replaces_the_program_of_the_same_process() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (shell(directory.path(), "first"), shell(directory.path(), "second"));
    let text = count_for(300);
    let live = start(config(), alone);
    let tgid = run(&mut script(&first, &format!("{text}; exec {} -c '{text}'", second.display())));
    let (rows, _) = live.stop();
    for (name, path, other) in [("first", &first, &second), ("second", &second, &first)] {
        let mine = || rows.iter().filter(|r| r.tgid == tgid && r.name == name);
        assert!(mine().filter(|r| r.file == path.to_str().unwrap()).map(|r| r.count).sum::<u64>() >= 3, "{name}");
        assert!(mine().all(|r| r.file != other.to_str().unwrap()), "{name} has code of the other");
    }
    let starts: BTreeSet<u64> = rows.iter().filter(|r| r.tgid == tgid).map(|r| r.start).collect();
    assert_eq!(starts.len(), 1, "one process all the time");
}

#[test]
fn a_process_that_ran_before_is_known() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "before");
    let mut child = spawn(&mut script(&program, &count_for(1500)));
    thread::sleep(Duration::from_millis(100));
    let live = start(config(), alone);
    thread::sleep(Duration::from_millis(800));
    let (rows, _) = live.stop();
    child.kill().unwrap();
    child.wait().unwrap();
    let own = program.to_str().unwrap();
    let all: u64 = rows.iter().filter(|r| r.tgid == child.id()).map(|r| r.count).sum();
    let right: u64 = rows
        .iter()
        .filter(|r| r.tgid == child.id() && r.name == "before" && (r.file == own || r.file.contains("libc")))
        .map(|r| r.count)
        .sum();
    assert!(all >= 10 && right * 10 > all * 8, "{right} of {all}");
}

#[test]
fn a_flood_of_records_loses_some_and_heals() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "flooded");
    let text = count_for(50);
    let live = start(config(), alone);
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                nix::sys::prctl::set_name(c"flood").unwrap();
            }
        })
    };
    let started: BTreeSet<u32> = (0..20).map(|_| run(&mut script(&program, &text))).collect();
    let mut long = spawn(&mut script(&program, &count_for(4000)));
    thread::sleep(Duration::from_millis(1500));
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    thread::sleep(Duration::from_millis(1500));
    let stats = live.stats.stats();
    let (rows, _) = live.stop();
    long.kill().unwrap();
    long.wait().unwrap();
    eprintln!("lost {} of {}", stats.sideband_lost, stats.sideband_records + stats.sideband_lost);
    for row in rows.iter().filter(|r| r.name == "flooded") {
        assert!(started.contains(&row.tgid) || row.tgid == long.id(), "{row:?}");
    }
    let of_long: u64 = rows.iter().filter(|r| r.tgid == long.id() && r.name == "flooded").map(|r| r.count).sum();
    assert!(of_long >= 50, "{of_long}");
}

#[test]
fn a_program_deleted_while_it_runs_keeps_its_name() {
    let Some(alone) = alone() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = shell(directory.path(), "deleted");
    let mut child = spawn(&mut script(&program, &count_for(4000)));
    thread::sleep(Duration::from_millis(100));
    fs::remove_file(&program).unwrap();
    let live = start(config(), alone);
    thread::sleep(Duration::from_millis(800));
    let (rows, _) = live.stop();
    child.kill().unwrap();
    child.wait().unwrap();
    let own: Vec<&Row> = rows.iter().filter(|r| r.tgid == child.id()).collect();
    assert!(own.iter().any(|r| r.file == format!("{} (deleted)", program.display())));
    assert!(own.iter().all(|r| r.name == "deleted"), "{own:?}");
}
