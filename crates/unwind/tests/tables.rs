//! The walk over tables against the unwinder of snapshots: the same stacks, the same frames, or a reason that is known.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]
#![cfg(target_arch = "x86_64")]

#[allow(clippy::duplicate_mod, reason = "each test is a program of its own")]
mod common;
#[path = "common/tables.rs"]
mod tables;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Process, Traced, compile};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use profile::{StackEnd, UserFrame, UserRegisters};
use tables::{Tables, frames, stack_end};
use unwind_table::Walk;

const SNAPSHOT: usize = 64 << 10;
const WHOLE: usize = 256 << 10;

/// What both say of one stack.
struct Both {
    ours: (Vec<UserFrame>, StackEnd),
    theirs: (Vec<UserFrame>, StackEnd),
    guesses: u32,
    signals: u32,
}

fn both(process: &mut Process, tables: &Tables, registers: &UserRegisters, stack: &[u8]) -> Both {
    let mut theirs = Vec::new();
    let end = process.unwinder.unwind(&process.maps, registers, stack, &mut theirs);
    let mut walk = Box::<Walk>::default();
    let our_end = tables.walk(registers, stack, &mut walk);
    let ours = frames(process, walk.stack());
    Both { ours: (ours, stack_end(our_end)), theirs: (theirs, end), guesses: walk.guesses, signals: walk.signals }
}

/// Stops a fixture where it stops itself, and compares.
fn check(program: &Path, args: &[&str]) -> Both {
    let traced = Traced::run(program, args);
    let mut process = Process::of(&traced);
    let tables = Tables::of(&process);
    let registers = traced.registers();
    let both = both(&mut process, &tables, &registers, &traced.memory(registers.sp, WHOLE));
    assert_eq!(process.names(&both.ours.0), process.names(&both.theirs.0), "{program:?} {args:?}");
    assert_eq!(both.ours, both.theirs, "{program:?} {args:?}");
    both
}

const O2: [&str; 3] = ["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"];

#[test]
fn fixtures_give_the_same_frames() {
    let dir = tempfile::tempdir().unwrap();
    let none = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions"];
    let cases: Vec<(&str, &str, Vec<&str>, &[&str])> = vec![
        ("cc", "deep.c", vec![], &[]),
        ("cc", "deep.c", vec!["-static"], &[]),
        ("cc", "deep.c", vec!["-static-pie"], &[]),
        ("cc", "deep.c", vec!["-no-pie"], &[]),
        ("cc", "deep.c", vec!["-Wl,--no-eh-frame-hdr"], &[]),
        ("clang", "deep.c", vec![], &[]),
        ("musl-gcc", "deep.c", vec![], &[]),
        ("musl-gcc", "deep.c", vec!["-static"], &[]),
        ("cc", "deep.c", [vec!["-g"], none.to_vec()].concat(), &[]),
        ("cc", "deep.c", [vec!["-fno-omit-frame-pointer"], none.to_vec()].concat(), &[]),
        ("cc", "signal.c", vec![], &[]),
        ("cc", "signal.c", vec!["-static"], &[]),
        ("musl-gcc", "signal.c", vec![], &[]),
        ("musl-gcc", "signal.c", vec!["-static"], &[]),
        ("cc", "thread.c", vec!["-pthread"], &[]),
        ("cc", "thread.c", vec!["-pthread", "-static"], &[]),
        ("musl-gcc", "thread.c", vec!["-static"], &[]),
        ("cc", "realign.c", vec!["-mavx2"], &[]),
        ("c++", "throw.cc", vec![], &[]),
    ];
    for (compiler, source, more, args) in cases {
        let flags = [O2.as_slice(), &more].concat();
        let Some(program) = compile(compiler, source, &flags, dir.path()) else { continue };
        let both = check(&program, args);
        println!("{compiler} {source} {more:?}: {} frames, {:?}", both.ours.0.len(), both.ours.1);
        assert_eq!(both.ours.1, StackEnd::Root, "{compiler} {source} {more:?}");
        assert_eq!(both.signals, u32::from(source == "signal.c"), "{compiler} {source} {more:?}");
    }
}

#[test]
fn a_cut_stack_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile("cc", "deep.c", &O2, dir.path()).unwrap();
    let traced = Traced::run(&program, &[]);
    let mut process = Process::of(&traced);
    let tables = Tables::of(&process);
    let registers = traced.registers();
    let stack = traced.memory(registers.sp, WHOLE);
    for bytes in (0..8192).step_by(56) {
        let both = both(&mut process, &tables, &registers, &stack[..bytes]);
        assert_eq!(both.ours, both.theirs, "{bytes} bytes");
    }
}

/// Every instruction of a program, from its first to where it stops itself: prologues, epilogues, PLT entries, the dynamic loader.
#[test]
fn every_instruction_gives_the_same_frames() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile("cc", "walk.c", &O2, dir.path()).unwrap();
    let traced = Traced::run(&program, &[]);
    let mut process = Process::of(&traced);
    let tables = Tables::of(&process);
    let (mut steps, mut causes) = (0u32, BTreeMap::new());
    for _ in 0..20_000 {
        if !matches!(traced.single_step(), nix::sys::wait::WaitStatus::Stopped(_, nix::sys::signal::Signal::SIGTRAP)) {
            break;
        }
        steps += 1;
        let registers = traced.registers();
        let stack = traced.memory(registers.sp, 16 << 10);
        let both = both(&mut process, &tables, &registers, &stack);
        if both.ours != both.theirs {
            let names = process.names(&both.theirs.0);
            causes
                .entry((names.first().cloned(), both.ours.1, both.theirs.1))
                .or_insert((0u32, names, both.ours.0))
                .0 += 1;
        }
    }
    let different: u32 = causes.values().map(|c| c.0).sum();
    println!("{different} of {steps} instructions differ");
    for (key, (n, theirs, ours)) in &causes {
        println!("  {n} {key:?}: {:?} instead of {theirs:?}", process.names(ours));
    }
    assert!(steps > 500, "{steps}");
    assert_eq!(different, 0);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Programs that nobody built for this, stopped at any place.
#[test]
fn stock_programs_give_the_same_frames() {
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 63
    });
    std::fs::write(&big, noise.take(64 << 20).collect::<Vec<u8>>()).unwrap();
    let source = dir.path().join("big.c");
    let mut text = String::new();
    for i in 0..20_000 {
        text += &format!("int f{i}(int n) {{ int s = 0; for (int i = 0; i < n; i++) s += i * {i} ^ n; return s; }}\n");
    }
    std::fs::write(&source, text).unwrap();
    let (big, source) = (big.to_str().unwrap(), source.to_str().unwrap());
    let found = |program: &str, argument: &str| {
        let made = Command::new(program).arg(argument).output();
        made.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cc1 = found("cc", "-print-prog-name=cc1");
    let python = "import json\nd=[{'a':[i,str(i)]} for i in range(500)]\nwhile 1: sorted(json.loads(json.dumps(d)), key=lambda x: str(x))";
    let script = "function f(n) { return n < 2 ? n : f(n - 1) + f(n - 2) } while (true) { f(22); JSON.stringify(Array(999).fill({a: 1})).replace(/a/g, 'b') }";
    let perl = "while(1){my %h; $h{$_ & 63} .= \"x$_\" for 1..1000; my @s = sort {$a cmp $b} values %h; my $t = join('',@s); $t =~ s/x1/y/g}";
    let programs: &[(&str, &[&str])] = &[
        ("python3", &["-c", python]),
        ("/usr/bin/python3", &["-c", python]),
        ("bash", &["-c", "while :; do x=$((x+1)); y=${y:0:50}$x; [[ $y =~ 1+2 ]]; done"]),
        ("perl", &["-e", perl]),
        ("xz", &["-k", "-9", "-c", big]),
        ("gzip", &["-9", "-c", big]),
        ("openssl", &["speed", "-seconds", "1", "aes-256-gcm", "sha256", "rsa2048", "ecdsap256"]),
        ("git", &["hash-object", big, big, big, big, big, big, big, big]),
        ("node", &["-e", script]),
        (&cc1, &["-quiet", "-O2", source, "-o", "/dev/null"]),
    ];
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40u32);
    let (mut all, mut same) = (0u32, 0u32);
    for (program, args) in programs {
        let made =
            Command::new(program).args(*args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = made else { continue };
        let mut child = Running(child);
        std::thread::sleep(Duration::from_millis(200));
        let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
        let (mut taken, mut agreed, mut roots, mut causes) = (0u32, 0u32, 0u32, BTreeMap::new());
        let mut known: Option<(Vec<profile::MapEntry>, Process, Tables)> = None;
        for i in 0..rounds {
            std::thread::sleep(Duration::from_millis(u64::from(i % 7) * 3 + 3));
            if child.0.try_wait().unwrap().is_some() {
                break;
            }
            ptrace::seize(pid, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(pid).unwrap();
            if !matches!(waitpid(pid, Some(WaitPidFlag::__WALL)), Ok(status) if status.pid().is_some()) {
                break;
            }
            let traced = std::mem::ManuallyDrop::new(Traced { pid, tid: pid });
            let Ok(registers) = ptrace::getregs(pid) else { break };
            let registers = UserRegisters { pc: registers.rip, sp: registers.rsp, fp: registers.rbp, lr: 0 };
            let stack = traced.memory(registers.sp, SNAPSHOT);
            let maps = Process::maps_of(&traced);
            if known.as_ref().is_none_or(|known| known.0 != maps) {
                let process = Process::of(&traced);
                let tables = Tables::of(&process);
                known = Some((maps, process, tables));
            }
            ptrace::detach(pid, None).unwrap();
            let Some((_, process, tables)) = &mut known else { break };
            let both = both(process, tables, &registers, &stack);
            taken += 1;
            roots += u32::from(both.ours.1 == StackEnd::Root);
            if both.ours == both.theirs {
                agreed += 1;
            } else {
                let at = both.ours.0.iter().zip(&both.theirs.0).take_while(|(a, b)| a == b).count();
                let names = |frames: &[UserFrame]| {
                    process.names(&frames[at.saturating_sub(2).min(frames.len())..(at + 2).min(frames.len())])
                };
                let cause = format!(
                    "at {at}: {:?} {:?} instead of {:?} {:?}, {} guesses",
                    names(&both.ours.0),
                    both.ours.1,
                    names(&both.theirs.0),
                    both.theirs.1,
                    both.guesses
                );
                *causes.entry(cause).or_insert(0u32) += 1;
            }
        }
        println!("{program}: {agreed} of {taken} the same, {roots} to the root");
        causes.iter().for_each(|(cause, n)| println!("  {n} {cause}"));
        (all, same) = (all + taken, same + agreed);
    }
    println!("{same} of {all} the same");
    assert!(all > 100 && same * 1000 >= all * 995, "{same} of {all}");
}
