//! Stacks of programs that nobody built for this: how many reach their root, and whether gdb sees the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]
#![cfg(target_arch = "x86_64")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Process, Traced};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use profile::{StackEnd, UserFrame};

/// What a sample carries at most when asked to.
const SNAPSHOT: usize = 64 << 10;
const SAMPLES: u32 = 60;
const COMPARED: u32 = 4;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, args: &[&str]) -> Option<Running> {
    let made =
        Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    made.ok().map(Running)
}

struct Sample {
    frames: Vec<UserFrame>,
    end: StackEnd,
    names: Vec<String>,
    theirs: Option<Vec<UserFrame>>,
}

/// Stops a process, looks at it, lets it go on. `with_gdb`: gdb looks at the same stop.
fn sample(child: &Running, with_gdb: bool) -> Option<Sample> {
    let pid = Pid::from_raw(i32::try_from(child.0.id()).ok()?);
    kill(pid, Signal::SIGSTOP).ok()?;
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).ok();
    ptrace::seize(pid, ptrace::Options::empty()).ok()?;
    // The stop that is there is reported to the new tracer.
    waitpid(pid, Some(WaitPidFlag::__WALL)).ok()?;
    let traced = std::mem::ManuallyDrop::new(Traced { pid, tid: pid });
    let mut process = Process::of(&traced);
    let (frames, end) = process.unwind(&traced, SNAPSHOT);
    let names = process.names(&frames);
    ptrace::detach(pid, None).ok()?;
    let theirs = if with_gdb { gdb(pid, &process) } else { None };
    kill(pid, Signal::SIGCONT).ok()?;
    Some(Sample { frames, end, names, theirs })
}

/// The frames that gdb sees, as ours would be.
fn gdb(pid: Pid, process: &Process) -> Option<Vec<UserFrame>> {
    let script = "python\nf = gdb.newest_frame()\nexact = True\nwhile f is not None:\n  \
                  if f.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):\n    print('PC', hex(f.pc()), exact or f.type() == gdb.SIGTRAMP_FRAME)\n    \
                  exact = f.type() == gdb.SIGTRAMP_FRAME\n  f = f.older()\nend\n";
    let mut file = tempfile::NamedTempFile::new().ok()?;
    file.write_all(script.as_bytes()).ok()?;
    let out = Command::new("gdb")
        .args(["-nx", "-batch", "-p", &pid.to_string(), "-x"])
        .arg(file.path())
        .stderr(Stdio::null())
        .output();
    let text = String::from_utf8(out.ok()?.stdout).ok()?;
    let frame = |line: &str| {
        let mut words = line.strip_prefix("PC ")?.split(' ');
        let pc = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
        let lookup = if words.next()? == "True" { pc } else { pc.wrapping_sub(1) };
        process.place(lookup)
    };
    let frames: Vec<_> = text.lines().filter_map(frame).collect();
    (!frames.is_empty()).then_some(frames)
}

#[test]
fn stock_programs_reach_their_root() {
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 63
    });
    let bytes: Vec<u8> = noise.take(64 << 20).collect();
    std::fs::write(&big, bytes).unwrap();
    let source = dir.path().join("big.c");
    let mut text = String::new();
    for i in 0..6000 {
        text += &format!("int f{i}(int n) {{ int s = 0; for (int i = 0; i < n; i++) s += i * {i} ^ n; return s; }}\n");
    }
    std::fs::write(&source, text).unwrap();
    let (big, source) = (big.to_str().unwrap(), source.to_str().unwrap());
    let cc1 = Command::new("cc")
        .arg("-print-prog-name=cc1")
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let cc1 = cc1.unwrap_or_default();
    let python = "import json\nd=[{'a':[i,str(i)]} for i in range(500)]\nwhile 1: sorted(json.loads(json.dumps(d)), key=lambda x: str(x))";
    let programs: &[(&str, &[&str])] = &[
        ("python3", &["-c", python]),
        ("bash", &["-c", "while :; do x=$((x+1)); y=${y:0:50}$x; [[ $y =~ 1+2 ]]; done"]),
        (
            "perl",
            &[
                "-e",
                "while(1){my %h; $h{$_ & 63} .= \"x$_\" for 1..1000; my @s = sort {$a cmp $b} values %h; my $t = join('',@s); $t =~ s/x1/y/g}",
            ],
        ),
        ("xz", &["-k", "-9", "-c", big]),
        ("gzip", &["-9", "-c", big]),
        (&cc1, &["-quiet", "-O2", source, "-o", "/dev/null"]),
    ];
    for (program, args) in programs {
        let Some(child) = start(program, args) else { continue };
        std::thread::sleep(Duration::from_millis(200));
        let (mut whole, mut taken, mut compared, mut ends) = (0u32, 0u32, 0u32, BTreeMap::new());
        let mut frames_seen = 0;
        for i in 0..SAMPLES {
            std::thread::sleep(Duration::from_millis(u64::from(i % 7) * 3 + 5));
            let with_gdb = i % (SAMPLES / COMPARED) == 0;
            let Some(Sample { frames, end, names, theirs }) = sample(&child, with_gdb) else { break };
            taken += 1;
            frames_seen += frames.len();
            // A stack that does not fit is no fault of the walk.
            if matches!(end, StackEnd::Root | StackEnd::TruncatedSnapshot) {
                whole += 1;
            } else {
                ends.entry(end).or_insert_with(|| names.iter().rev().take(3).cloned().collect::<Vec<_>>());
            }
            if let (Some(theirs), StackEnd::Root) = (theirs, end) {
                // gdb does not go on to the entry point; up to where it goes, both must be the same.
                let n = theirs.len().min(frames.len());
                assert_eq!(frames[..n], theirs[..n], "{program}: {names:?}");
                assert!(theirs.len() <= frames.len(), "{program}: gdb goes on above {names:?}");
                compared += 1;
            }
        }
        println!(
            "{program}: {whole} of {taken} whole, {} frames a stack, {compared} as gdb; else {ends:?}",
            frames_seen / taken.max(1) as usize
        );
        assert!(taken > 10, "{program} did not run long enough");
        assert!(whole * 100 >= taken * 95, "{program}: {whole} of {taken}: {ends:?}");
    }
}

/// Go has no tables, but frame pointers everywhere, and begins its stacks in ways of its own.
/// The rest is work that the runtime does on a stack of its own, which no snapshot joins to the goroutine's.
#[test]
fn go_programs_reach_their_root() {
    let dir = tempfile::tempdir().unwrap();
    let source = "package main\n\nimport (\n\t\"fmt\"\n\t\"runtime\"\n)\n\nfunc init() { runtime.LockOSThread() }\n\n\
                  //go:noinline\nfunc deep(n int) int {\n\tif n == 0 {\n\t\treturn len(fmt.Sprint(n, \"x\"))\n\t}\n\treturn deep(n-1) + 1\n}\n\n\
                  func main() {\n\tfor {\n\t\tdeep(30)\n\t}\n}\n";
    std::fs::write(dir.path().join("main.go"), source).unwrap();
    let mut command = Command::new("go");
    command.args(["build", "-o", "busy", "main.go"]).current_dir(dir.path()).env("CGO_ENABLED", "0");
    if !command.env("GO111MODULE", "off").status().is_ok_and(|s| s.success()) {
        return;
    }
    let child = start(dir.path().join("busy").to_str().unwrap(), &[]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let (mut whole, mut taken, mut named) = (0, 0, 0);
    for i in 0..SAMPLES {
        std::thread::sleep(Duration::from_millis(u64::from(i % 7) * 3 + 5));
        let Some(Sample { end, names, .. }) = sample(&child, false) else { break };
        taken += 1;
        whole += u32::from(end == StackEnd::Root);
        let Some(main) = names.iter().position(|n| n == "main.main") else { continue };
        named += 1;
        // No frame is left out, and none is made up from what lies about in the stack.
        let deep = names.iter().position(|n| n == "main.deep").unwrap_or(main);
        assert!(names[deep..main].iter().all(|n| n == "main.deep"), "{names:?}");
        if names.iter().any(|n| n == "fmt.Sprint") {
            assert_eq!(main - deep, 31, "{names:?}");
            assert!(deep > 0 && names[deep - 1] == "fmt.Sprint", "{names:?}");
        }
    }
    println!("go: {whole} of {taken} whole, {named} with main.main");
    assert!(taken > 10 && whole * 100 >= taken * 75 && named * 100 >= taken * 65, "{whole}, {named} of {taken}");
}
