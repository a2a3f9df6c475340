//! Stacks of real programs, stopped at known places, against what their sources say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]
#![cfg(target_arch = "x86_64")]

mod common;

use std::path::Path;

use common::{Process, Traced, compile};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use profile::StackEnd;

const O2: [&str; 3] = ["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"];
const WHOLE: usize = 256 << 10;

/// Runs a fixture to its stop and gives the names up to and including `until`, and the end.
fn stack(program: &Path, args: &[&str], until: &str) -> (Vec<String>, Vec<String>, StackEnd) {
    let traced = Traced::run(program, args);
    let mut process = Process::of(&traced);
    let (frames, end) = process.unwind(&traced, WHOLE);
    let all = process.names(&frames);
    let all: Vec<String> = all.iter().map(|n| n.trim_end_matches(".cold").to_owned()).collect();
    let at = all.iter().position(|n| n == until).unwrap_or_else(|| panic!("no {until} in {all:?}, {end:?}"));
    (all[..=at].to_vec(), all, end)
}

fn flags(more: &[&'static str]) -> Vec<&'static str> {
    [O2.as_slice(), more].concat()
}

#[test]
fn sixty_frames_without_frame_pointers() {
    let dir = tempfile::tempdir().unwrap();
    for (compiler, more) in [
        ("cc", vec![]),
        ("cc", vec!["-static"]),
        ("cc", vec!["-static-pie"]),
        ("cc", vec!["-no-pie"]),
        ("cc", vec!["-s"]),
        ("cc", vec!["-Wl,--no-eh-frame-hdr"]),
        ("clang", vec![]),
        ("musl-gcc", vec![]),
        ("musl-gcc", vec!["-static"]),
        // No rows but those of `.debug_frame`.
        ("cc", vec!["-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions"]),
    ] {
        let Some(program) = compile(compiler, "deep.c", &flags(&more), dir.path()) else { continue };
        let what = format!("{compiler} {more:?}");
        if more.contains(&"-s") {
            let traced = Traced::run(&program, &[]);
            let (frames, end) = Process::of(&traced).unwind(&traced, WHOLE);
            assert_eq!(end, StackEnd::Root, "{what}");
            assert!((63..70).contains(&frames.len()), "{what}: {}", frames.len());
            continue;
        }
        let (names, all, end) = stack(&program, &[], "main");
        let want = [vec!["stop_here"], vec!["recurse"; 60], vec!["main"]].concat();
        assert_eq!(names, want, "{what}");
        assert_eq!(end, StackEnd::Root, "{what}: {:?}", &all[60..]);
        if compiler == "cc" {
            assert_eq!(all.last().map(String::as_str), Some("_start"), "{what}");
        }
    }
}

#[test]
fn frame_pointers_where_there_is_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let none =
        ["-O1", "-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions"];
    let program = compile("cc", "deep.c", &none, dir.path()).unwrap();
    let (names, _, end) = stack(&program, &[], "main");
    assert_eq!(names, [vec!["stop_here"], vec!["recurse"; 60], vec!["main"]].concat());
    assert_eq!(end, StackEnd::Root);
}

#[test]
fn neither_table_nor_frame_pointer_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let none =
        ["-O2", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions"];
    let program = compile("cc", "deep.c", &none, dir.path()).unwrap();
    let traced = Traced::run(&program, &[]);
    let mut process = Process::of(&traced);
    let (frames, end) = process.unwind(&traced, WHOLE);
    assert!(frames.len() < 60);
    assert!(matches!(end, StackEnd::NoTable | StackEnd::BadFrame), "{end:?} {:?}", process.names(&frames));
}

#[test]
fn a_cut_snapshot_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile("cc", "deep.c", &O2, dir.path()).unwrap();
    let traced = Traced::run(&program, &[]);
    let mut process = Process::of(&traced);
    let (whole, _) = process.unwind(&traced, WHOLE);
    let mut longest = 0;
    for bytes in (0..8192).step_by(64) {
        let (cut, end) = process.unwind(&traced, bytes);
        assert_eq!(cut, whole[..cut.len()], "{bytes} bytes");
        assert!(cut.len() >= longest);
        longest = cut.len();
        if cut.len() < whole.len() {
            assert_eq!(end, StackEnd::TruncatedSnapshot, "{bytes} bytes");
        }
    }
    assert!(longest > 60);
}

#[test]
fn through_a_signal_handler() {
    let dir = tempfile::tempdir().unwrap();
    for (compiler, more) in
        [("cc", vec![]), ("cc", vec!["-static"]), ("musl-gcc", vec![]), ("musl-gcc", vec!["-static"])]
    {
        let Some(program) = compile(compiler, "signal.c", &flags(&more), dir.path()) else { continue };
        let (names, _, end) = stack(&program, &[], "main");
        assert_eq!(names[..2], ["stop_here", "handler"], "{compiler} {more:?}");
        // Between them stands the restorer, which a stripped libc does not name.
        assert_eq!(names[3..], ["interrupted", "main"], "{compiler} {more:?}");
        assert_eq!(end, StackEnd::Root, "{compiler} {more:?}");
    }
}

#[test]
fn a_handler_on_a_stack_of_its_own_ends_at_what_it_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile("cc", "signal.c", &O2, dir.path()).unwrap();
    let traced = Traced::run(&program, &["alternate"]);
    let mut process = Process::of(&traced);
    // As much as the alternate stack may have; what lies between it and the real one is not the program's stack.
    let (frames, end) = process.unwind(&traced, 16 << 10);
    let names = process.names(&frames);
    assert_eq!(names[..2], ["stop_here", "handler"]);
    assert_eq!(names.last().unwrap(), "interrupted");
    assert_eq!(end, StackEnd::TruncatedSnapshot);
}

#[test]
fn to_the_start_of_a_thread() {
    let dir = tempfile::tempdir().unwrap();
    for (compiler, more) in
        [("cc", vec![]), ("cc", vec!["-static"]), ("musl-gcc", vec![]), ("musl-gcc", vec!["-static"])]
    {
        let Some(program) = compile(compiler, "thread.c", &flags(&more), dir.path()) else { continue };
        let (names, all, end) = stack(&program, &[], "body");
        assert_eq!(names, ["stop_here", "body"], "{compiler} {more:?}");
        assert_eq!(end, StackEnd::Root, "{compiler} {more:?}: {all:?}");
    }
}

#[test]
fn through_a_realigned_frame() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile("cc", "realign.c", &O2, dir.path()).unwrap();
    let (names, _, end) = stack(&program, &[], "main");
    assert_eq!(names, ["stop_here", "realigned", "caller", "main"]);
    assert_eq!(end, StackEnd::Root);
}

#[test]
fn through_a_running_exception() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = compile("g++", "throw.cc", &O2, dir.path()) else { return };
    let (names, _, end) = stack(&program, &[], "main");
    assert_eq!(names.first().unwrap(), "_Z9stop_herev");
    assert!(names.iter().any(|n| n.starts_with("_Z7throweri")), "{names:?}");
    assert!(names.iter().any(|n| n.starts_with("_Z7catcheri")), "{names:?}");
    assert_eq!(end, StackEnd::Root);
}

/// Every instruction of the PLT, qsort and its callback, longjmp, printf, malloc and the vDSO. Not the resolver of lazily bound
/// symbols: its rows count from `rbx`, which a sample does not carry.
#[test]
fn at_every_instruction() {
    let dir = tempfile::tempdir().unwrap();
    for more in [vec!["-static"], vec!["-Wl,-z,now"]] {
        let program = compile("cc", "walk.c", &flags(&more), dir.path()).unwrap();
        let traced = Traced::run(&program, &[]);
        let mut process = Process::of(&traced);
        let (mut steps, mut compared, mut cut) = (0u32, 0, Vec::new());
        loop {
            let before = traced.memory(traced.registers().pc, 1);
            if before == [0xcc] {
                break;
            }
            assert!(matches!(traced.single_step(), WaitStatus::Stopped(_, Signal::SIGTRAP)));
            let (frames, end) = process.unwind(&traced, 32 << 10);
            steps += 1;
            if steps.is_multiple_of(61) {
                // Whoever knows only rows sees the same, as far as both go.
                let theirs = process.framehop(&traced, 32 << 10);
                let n = theirs.len().min(frames.len());
                assert_eq!(theirs[..n], frames[..n], "{more:?}, step {steps}");
                compared += u32::from(n > 2);
            }
            let names = process.names(&frames);
            let main = names.iter().filter(|n| *n == "main").count();
            if end != StackEnd::Root || main != 1 {
                cut.push((
                    names.into_iter().take(6).collect::<Vec<_>>(),
                    frames.into_iter().take(3).collect::<Vec<_>>(),
                    end,
                ));
            }
        }
        assert!(steps > 1000 && compared > 20, "{more:?}: only {steps} instructions, {compared} compared");
        // Of `__longjmp`, the rows of the nine instructions after it has read its buffer count from `rdi` and `r8`.
        assert!(cut.len() <= 9, "{more:?}: {} of {steps}: {cut:#?}", cut.len());
    }
}
