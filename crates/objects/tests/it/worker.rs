//! The worker's life: requests, deaths, hangs, replacement, quarantine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use objects::{Objects, UnwindRequest};
use profile::{ElfAddress, StackEnd, UserFrame};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Folder, PATIENCE, Test, config, executable, impatient, maps, object, room, sample, wait_until};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("worker::extracts_loads_unwinds_and_names", extracts_loads_unwinds_and_names),
        ("worker::a_file_that_kills_it_is_left_alone_until_it_changes", a_file_that_kills_it_is_left_alone),
        ("worker::a_file_on_which_it_hangs_is_left_alone_for_a_while", a_file_on_which_it_hangs),
        ("worker::deadly_tables_are_not_used_again", deadly_tables_are_not_used_again),
        ("worker::deadly_names_cost_the_object_its_names", deadly_names),
        ("worker::a_deadly_stack_costs_only_itself", a_deadly_stack_costs_only_itself),
        ("worker::a_process_of_deadly_stacks_is_left_alone", a_process_of_deadly_stacks_is_left_alone),
        ("worker::many_deadly_processes_cost_a_bounded_number_of_workers", many_deadly_processes),
        ("worker::killed_at_random_it_is_replaced_and_nothing_is_wrong", killed_at_random),
        ("worker::killed_while_idle_no_request_fails", killed_while_idle),
        ("worker::a_starting_failure_is_an_error", a_starting_failure_is_an_error),
        ("worker::after_shutdown_requests_fail", after_shutdown_requests_fail),
        ("worker::it_outlives_the_thread_that_asked_first", outlives_the_thread),
        ("worker::it_dies_with_the_room", dies_with_the_room),
        ("worker::its_memory_for_tables_is_bounded", memory_for_tables_is_bounded),
        ("worker::large_batches_come_back_whole", large_batches),
    ]
}

fn pid(room: &Objects) -> Pid {
    Pid::from_raw(room.stats().worker_pid as i32).expect("a worker runs")
}

fn extracts_loads_unwinds_and_names() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", "some-name"));
    assert!(info.readable);
    assert_eq!(info.file_name(), "a");
    assert!(!info.build_id.gnu.is_empty() && info.build_id.htlhash.len() == 32);
    assert!(info.segments.iter().any(|segment| segment.executable));

    let names = room.names(info.id, &[ElfAddress(0x10), ElfAddress(0x20)]);
    let names: Vec<_> = names.into_iter().map(|name| name.unwrap().name).collect();
    assert_eq!(names, ["some-name@10", "some-name@20"]);

    let request = UnwindRequest { processes: vec![maps(&[&info])], samples: vec![sample(1, "")] };
    let stacks = room.unwind(&request);
    assert_eq!(stacks.len(), 1);
    assert_eq!(stacks[0].frames, [UserFrame::Object { object: info.id, address: 0x10 }]);
    assert_eq!(stacks[0].end, StackEnd::Root);

    let stats = room.stats();
    assert_eq!((stats.objects, stats.extracted, stats.worker_restarts), (1, 1, 0));
    assert_eq!((stats.parse_errors, stats.open_errors, stats.identity_mismatches), (0, 0, 0));
    assert!(stats.table_bytes >= 32 + 15);
}

fn a_file_that_kills_it_is_left_alone() {
    for command in ["die", "panic", "overflow", "memory"] {
        let (room, folder) = (room(), Folder::new());
        let (bad, good) = (folder.executable("bad", command), folder.executable("good", ""));
        assert!(!object(&room, &bad).readable, "{command}");
        let stats = room.stats();
        assert_eq!((stats.worker_restarts, stats.quarantined, stats.worker_failed_requests), (2, 1, 1), "{command}");
        assert!(object(&room, &good).readable, "{command}");
        assert!(!object(&room, &bad).readable, "{command}");
        assert_eq!(room.stats().worker_restarts, 2, "{command}: it was not tried again");

        executable(&bad, "now-good");
        let info = object(&room, &bad);
        assert!(info.readable, "{command}: it has changed");
        assert_eq!(room.names(info.id, &[ElfAddress(1)])[0].as_ref().unwrap().name, "now-good@1");
        assert_eq!(room.stats().quarantined, 1);
    }
}

fn a_file_on_which_it_hangs() {
    for command in ["hang", "sleep"] {
        let (room, folder) = (Objects::start(impatient()).unwrap(), Folder::new());
        let (bad, good) = (folder.executable("bad", command), folder.executable("good", ""));
        let start = Instant::now();
        assert!(!object(&room, &bad).readable);
        // A spinning worker that has to share its CPU may get four times as long.
        assert!(start.elapsed() >= Duration::from_millis(700) && start.elapsed() < PATIENCE);
        assert_eq!(room.stats().worker_restarts, 1);
        assert!(!object(&room, &bad).readable);
        assert!(object(&room, &good).readable);
        let stats = room.stats();
        assert_eq!((stats.worker_restarts, stats.worker_failed_requests), (1, 1), "{command}: it has to wait");
    }
}

fn deadly_tables_are_not_used_again() {
    let (room, folder) = (room(), Folder::new());
    for (command, restarts) in [("die-load", 2), ("refuse-load", 2)] {
        let info = object(&room, &folder.executable(command, command));
        assert!(info.readable);
        for _ in 0..3 {
            let request = UnwindRequest { processes: vec![maps(&[&info])], samples: vec![sample(1, "")] };
            assert_eq!(room.unwind(&request)[0].end, StackEnd::NoTable, "{command}");
        }
        assert_eq!(room.stats().worker_restarts, restarts, "{command}");
    }
    let stats = room.stats();
    assert_eq!((stats.quarantined, stats.parse_errors), (1, 1));
}

fn deadly_names() {
    let (room, folder) = (room(), Folder::new());
    let bad = object(&room, &folder.executable("bad", "die-names"));
    let good = object(&room, &folder.executable("good", "good"));
    for _ in 0..3 {
        assert_eq!(room.names(bad.id, &[ElfAddress(1), ElfAddress(2)]), [None, None]);
        assert!(room.names(good.id, &[ElfAddress(1)])[0].is_some());
    }
    let stats = room.stats();
    assert_eq!((stats.worker_restarts, stats.quarantined, stats.worker_failed_requests), (2, 1, 1));

    for (command, name_bytes) in [("long-names", Some(4096)), ("empty-names", None)] {
        let info = object(&room, &folder.executable(command, command));
        let names = room.names(info.id, &[ElfAddress(1); 1500]);
        assert_eq!(names.len(), 1500);
        for name in names {
            assert_eq!(name.map(|name| name.name.len()), name_bytes, "{command}");
        }
    }
    assert_eq!(room.stats().worker_restarts, 2);
}

fn a_deadly_stack_costs_only_itself() {
    for (command, deadly) in [("die", 0), ("die", 37), ("panic", 99), ("hang", 50)] {
        let config = if command == "hang" { impatient() } else { config() };
        let (room, folder) = (Objects::start(config).unwrap(), Folder::new());
        let info = object(&room, &folder.executable("a", ""));
        let samples = (0..100).map(|at| sample(1, if at == deadly { command } else { "" })).collect();
        let stacks = room.unwind(&UnwindRequest { processes: vec![maps(&[&info])], samples });
        assert_eq!(stacks.len(), 100);
        for (at, stack) in stacks.iter().enumerate() {
            let expected = if at == deadly { StackEnd::WorkerFailed } else { StackEnd::Root };
            assert_eq!(stack.end, expected, "{command} at {deadly}, stack {at}");
            assert_eq!(stack.frames.len(), usize::from(at != deadly));
        }
        let stats = room.stats();
        assert_eq!((stats.worker_restarts, stats.worker_failed_requests), (2, 1), "{command} at {deadly}");
    }
}

fn a_process_of_deadly_stacks_is_left_alone() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", ""));
    let hostile = || {
        let mut processes = vec![maps(&[&info])];
        processes.push(vec![profile::MapEntry { start: 0x5000, end: 0x6000, file_offset: 0, object: None }]);
        let mut samples: Vec<_> = (0..6).map(|_| sample(1, "die")).collect();
        for sample in &mut samples {
            sample.process = 1;
        }
        samples.push(sample(1, ""));
        room.unwind(&UnwindRequest { processes, samples })
    };
    for round in 0..3 {
        let stacks = hostile();
        assert!(stacks[..6].iter().all(|stack| stack.end == StackEnd::WorkerFailed));
        assert_eq!(stacks[6].end, StackEnd::Root, "another process's stack");
        assert_eq!(room.stats().worker_restarts, 3, "round {round}: the first two stacks are tried, no more");
    }
}

fn many_deadly_processes() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", ""));
    let processes = (0..60)
        .map(|at| {
            let start = 0x10_0000 * (at + 1);
            vec![profile::MapEntry { start, end: start + 1, file_offset: 0, object: Some(info.id) }]
        })
        .collect();
    let samples = (0..60)
        .map(|at| {
            let mut sample = sample(1, "die");
            sample.process = at;
            sample
        })
        .collect();
    let stacks = room.unwind(&UnwindRequest { processes, samples });
    assert_eq!(stacks.len(), 60);
    assert!(stacks.iter().all(|stack| stack.end == StackEnd::WorkerFailed));
    assert!(room.stats().worker_restarts <= 16);
}

fn killed_at_random() {
    let (room, folder) = (room(), Folder::new());
    let files: Vec<_> = (0..40).map(|at| folder.executable(&format!("f{at}"), &format!("name{at}"))).collect();
    let done = AtomicBool::new(false);
    let (results, kills) = thread::scope(|scope| {
        let work = scope.spawn(|| {
            let mut results = Results::default();
            // Twelve deaths and more, however fast the machine is.
            while results.rounds < 6 || room.stats().worker_restarts < 12 {
                results.round(&room, &files);
            }
            results
        });
        let killer = scope.spawn(|| {
            let mut kills = 0;
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(60 + 13 * (kills % 5)));
                if let Some(pid) = Pid::from_raw(room.stats().worker_pid as i32) {
                    kills += u64::from(kill_process(pid, Signal::KILL).is_ok());
                }
            }
            kills
        });
        let results = work.join();
        done.store(true, Ordering::Relaxed);
        (results.unwrap(), killer.join().unwrap())
    });
    let stats = room.stats();
    assert_eq!(results.wrong, Vec::<String>::new());
    assert!(kills >= 12 && stats.worker_restarts <= kills, "{stats:?} after {kills} kills");
    assert!(stats.worker_failed_requests > 0 || results.failed == 0, "{results:?} not counted: {stats:?}");
    assert!(results.unloaded == 0 || stats.quarantined > 0, "{results:?} not counted: {stats:?}");
    assert!(results.failed * 10 < results.asked, "{results:?}: {stats:?}");
    // Without the killer, all is well.
    let info = object(&room, &folder.executable("last", "last"));
    assert_eq!(room.names(info.id, &[ElfAddress(5)])[0].as_ref().unwrap().name, "last@5");
}

#[derive(Debug, Default)]
struct Results {
    rounds: u64,
    asked: u64,
    /// Answers that say that the worker failed.
    failed: u64,
    /// Stacks without tables.
    unloaded: u64,
    wrong: Vec<String>,
}

impl Results {
    fn round(&mut self, room: &Objects, files: &[std::path::PathBuf]) {
        self.rounds += 1;
        for (at, file) in files.iter().enumerate() {
            self.asked += 66;
            let info = object(room, file);
            if !info.readable {
                self.failed += 1;
                continue;
            }
            let samples = (0..64).map(|_| sample(1, "")).collect();
            let stacks = room.unwind(&UnwindRequest { processes: vec![maps(&[&info])], samples });
            if stacks.len() != 64 {
                self.wrong.push(format!("{} stacks", stacks.len()));
            }
            for stack in &stacks {
                match (stack.end, stack.frames.len()) {
                    (StackEnd::Root, 1) => {}
                    (StackEnd::WorkerFailed, 0) => self.failed += 1,
                    (StackEnd::NoTable, 1) => self.unloaded += 1,
                    _ => self.wrong.push(format!("{stack:?}")),
                }
            }
            match &room.names(info.id, &[ElfAddress(5)])[..] {
                [Some(name)] if name.name == format!("name{at}@5") => {}
                [None] => self.failed += 1,
                other => self.wrong.push(format!("{other:?}")),
            }
        }
    }
}

fn killed_while_idle() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", "a"));
    for round in 1..=5 {
        kill_process(pid(&room), Signal::KILL).unwrap();
        thread::sleep(Duration::from_millis(20));
        let request = UnwindRequest { processes: vec![maps(&[&info])], samples: vec![sample(1, "")] };
        assert_eq!(room.unwind(&request)[0].end, StackEnd::Root, "its tables were loaded again");
        assert!(room.names(info.id, &[ElfAddress(1)])[0].is_some());
        assert_eq!(room.stats().worker_restarts, round);
    }
    assert_eq!(room.stats().worker_failed_requests, 0);
}

fn a_starting_failure_is_an_error() {
    let mut config = config();
    config.timeouts.hello = Duration::from_millis(300);
    config.worker.program = "/nonexistent/worker".into();
    assert!(Objects::start(config.clone()).is_err());
    config.worker.program = "/bin/true".into();
    assert!(Objects::start(config.clone()).is_err());
    config.worker.program = "/bin/sleep".into();
    config.worker.args = vec!["600".into()];
    assert!(Objects::start(config).is_err());
}

fn after_shutdown_requests_fail() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", "a"));
    let worker = pid(&room);
    room.shutdown();
    assert_eq!(room.stats().worker_pid, 0);
    assert!(rustix::process::test_kill_process(worker).is_err(), "the worker has ended");
    assert_eq!(room.names(info.id, &[ElfAddress(1)]), [None]);
    assert!(!object(&room, &folder.executable("b", "b")).readable);
    let request = UnwindRequest { processes: vec![maps(&[&info])], samples: vec![sample(1, "")] };
    assert_eq!(room.unwind(&request)[0].end, StackEnd::WorkerFailed);
    room.shutdown();
}

fn outlives_the_thread() {
    // The kernel sends the death signal when the thread ends that started the worker.
    let folder = Folder::new();
    let room = thread::spawn(room).join().unwrap();
    let first = pid(&room);
    kill_process(first, Signal::KILL).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| object(&room, &folder.executable("a", ""))).join().unwrap();
    });
    let second = pid(&room);
    assert_ne!(first, second);
    thread::sleep(Duration::from_millis(50));
    assert!(object(&room, &folder.executable("b", "")).readable);
    assert_eq!(pid(&room), second);
}

fn dies_with_the_room() {
    let room = room();
    let worker = pid(&room);
    drop(room);
    wait_until("the worker ends", || rustix::process::test_kill_process(worker).is_err());
}

fn memory_for_tables_is_bounded() {
    let mut config = config();
    config.worker_unwind_bytes = 3 << 20;
    let (room, folder) = (Objects::start(config).unwrap(), Folder::new());
    let megabyte = format!("unwind={}", 1 << 20);
    let infos: Vec<_> = (0..12).map(|at| object(&room, &folder.executable(&format!("f{at}"), &megabyte))).collect();
    let infos: Vec<_> = infos.iter().collect();
    // One process after the other: each has what it needs.
    for _ in 0..2 {
        let samples = (1..=12).map(|place| sample(place, "")).collect();
        let stacks = room.unwind(&UnwindRequest { processes: vec![maps(&infos)], samples });
        assert!(stacks.iter().all(|stack| stack.end == StackEnd::Root), "{stacks:?}");
    }
    let memory = rss_bytes(&room);
    assert!(memory < 40 << 20, "{memory} bytes");
    // A stack that alone needs more than fits goes without some tables, and the worker lives.
    let mut greedy = sample(1, "");
    greedy.stack = (1..=12_u64).flat_map(|place| (0x10000 * place + 0x20).to_le_bytes()).collect();
    let stacks = room.unwind(&UnwindRequest { processes: vec![maps(&infos)], samples: vec![greedy] });
    assert_eq!((stacks[0].frames.len(), stacks[0].end), (13, StackEnd::NoTable));
    assert_eq!(room.stats().worker_restarts, 0);
}

fn rss_bytes(room: &Objects) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", room.stats().worker_pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn large_batches() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", ""));
    let samples: Vec<_> = (0..700_u64)
        .map(|at| {
            let mut sample = sample(1, "");
            sample.registers.pc = 0x10000 + at;
            sample.stack = vec![0; 64 << 10];
            sample
        })
        .collect();
    let stacks = room.unwind(&UnwindRequest { processes: vec![maps(&[&info])], samples });
    assert_eq!(stacks.len(), 700);
    for (at, stack) in (0..).zip(&stacks) {
        assert_eq!(stack.frames, [UserFrame::Object { object: info.id, address: at }]);
    }
    assert!(room.unwind(&UnwindRequest::default()).is_empty());
}
