//! The agent and `record` on this machine's kernel, as root: what a person sees, without other programs.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROFILER: &str = env!("CARGO_BIN_EXE_profiler");

fn profiler(args: &[&str]) -> Command {
    let mut command = Command::new(PROFILER);
    for (name, _) in std::env::vars_os() {
        if ["OTEL_", "PROFILER_"].iter().any(|p| name.to_string_lossy().starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command.args(args);
    command
}

/// A running agent on a port of its own; ended when dropped.
struct Agent {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Agent {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = profiler(&["--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.args(args).envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it was ready");
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(page) = value["page"].as_str() {
                break page.trim_start_matches("http://").trim_end_matches('/').to_owned();
            }
        };
        Self { child, address, log }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// The exit code, the log after the first line, and standard output.
    fn end(&mut self) -> (Option<i32>, String, String) {
        let (mut log, mut output) = (String::new(), String::new());
        self.log.read_to_string(&mut log).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        (self.child.wait().unwrap().code(), log, output)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(longest: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < longest, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_agent_answers_and_ends_with_a_ledger_that_adds_up() {
    let mut agent = Agent::start(&["-F", "99", "--window", "1s", "--print", "--include-self"], &[]);
    until(Duration::from_secs(120), "ready", || agent.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(agent.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(agent.get("/").contains("text/html"));
    until(Duration::from_secs(120), "a window", || {
        agent.get("/metrics").lines().any(|l| l.starts_with("profiler_samples_exported_total") && !l.ends_with(" 0"))
    });
    let metrics = agent.get("/metrics");
    let documented = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
    for name in metrics.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()) {
        let known = documented.contains(name)
            || name.starts_with("process_")
            || name.rsplit_once("queue_").is_some_and(|(_, rest)| documented.contains(&format!("_{rest}")))
            || name.rsplit_once("store").is_some_and(|(_, rest)| documented.contains(&format!("`{rest}`")));
        assert!(known, "docs/metrics.md does not know {name}");
    }
    agent.signal(Signal::SIGTERM);
    let (code, log, output) = agent.end();
    assert_eq!(code, Some(0), "{log}");
    let line = log.lines().rev().find(|l| l.contains("final ledger")).unwrap();
    let ledger: serde_json::Value = serde_json::from_str(line).unwrap();
    let term = |name: &str| ledger[name].as_i64().unwrap();
    assert!(term("taken") > 0 && ledger["balanced"] == true, "{line}");
    assert_eq!(term("taken"), term("exported") + term("held") + term("dropped"), "{line}");
    assert_eq!(term("held"), 0, "{line}");
    assert!(output.starts_with("SAMPLES") || output.contains("FUNCTION"), "{output}");
}

#[test]
fn a_second_signal_ends_at_once() {
    // Nobody listens there: the last push is tried until the time for it is over, unless it is cut short.
    let nobody = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("PROFILER_WINDOW", "1s"),
        ("PROFILER_EXPORT_SHUTDOWN_TIMEOUT", "120s"),
    ];
    let mut agent = Agent::start(&[], &nobody);
    until(Duration::from_secs(120), "ready", || agent.get("/readyz").starts_with("HTTP/1.1 200"));
    std::thread::sleep(Duration::from_secs(2));
    agent.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(1000));
    agent.signal(Signal::SIGINT);
    let start = Instant::now();
    let (code, log, _) = agent.end();
    assert_eq!(code, Some(130), "{log}");
    assert!(start.elapsed() < Duration::from_secs(60), "the last push was waited for");
}

#[test]
fn metrics_are_not_shown_where_they_are_not_wanted() {
    let agent = Agent::start(&[], &[("OTEL_METRICS_EXPORTER", "none")]);
    assert!(agent.get("/metrics").starts_with("HTTP/1.1 404"));
    assert!(agent.get("/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_recorded_command_keeps_its_exit_code_and_gives_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exit 7";
    for (name, magic) in [("a.pb.gz", &b"\x1f\x8b"[..]), ("a.folded", b""), ("a.svg", b"<?xml"), ("a.html", b"<!")] {
        let path = dir.path().join(name);
        let output =
            profiler(&["record", "-F", "499", "-o", path.to_str().unwrap(), "--", "sh", "-c", burn]).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{log}");
        assert!(log.contains("exited with code 7") && log.contains("samples in"), "{log}");
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() > 50 && bytes.starts_with(magic), "{name}: {:?}", &bytes[..bytes.len().min(40)]);
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(table.lines().count() > 1 && table.contains("FUNCTION"), "{table}");
    }
    let folded = fs::read_to_string(dir.path().join("a.folded")).unwrap();
    // The command's process is the profiler's own program until it executes the command's; while it does, it has no stack to tell by.
    let is_held = |line: &str| line.contains("profiler::command::Held");
    let is_executing = |line: &str| line.starts_with("profiler;") && !line.contains("::");
    let (before, after): (Vec<&str>, Vec<&str>) = folded.lines().partition(|line| is_held(line) || is_executing(line));
    let shell = after.iter().filter(|l| l.starts_with("sh;") || l.starts_with("dash;")).count();
    assert!(shell > 0 && shell == after.len(), "only the command is recorded: {folded}");
    assert!(before.len() < shell, "most of it is the command's: {folded}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "no file half written remains");
}

#[test]
fn a_signal_writes_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.folded");
    let mut child = profiler(&["record", "-o", path.to_str().unwrap(), "--duration", "60s"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(!path.exists(), "the file appears when it is whole");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(fs::read_to_string(&path).unwrap().lines().count() > 0);
}

#[test]
fn a_terminal_shows_how_far_a_recording_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.folded");
    // `script` gives the command a terminal of its own.
    let line = format!("{PROFILER} record --duration 2s -o {}", path.display());
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("recording all processes [") && seen.contains(" of 2.0 s, "), "{seen}");
    assert!(fs::read_to_string(&path).unwrap().lines().count() > 0);
}

/// A program of its own name that keeps a processor busy; ended when dropped.
struct Busy(Child);

impl Busy {
    fn start(dir: &std::path::Path, name: &str) -> Self {
        let program = dir.join(name);
        // By another process: what a thread beside this one starts has for a moment what is open here, and what is open for writing
        // cannot be executed.
        assert!(Command::new("cp").arg("/bin/sh").arg(&program).status().unwrap().success());
        Self(Command::new(program).args(["-c", "while :; do :; done"]).spawn().unwrap())
    }

    /// The processor time that it has used, in seconds.
    fn seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let ticks: f64 =
            stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2).map(|t| t.parse::<f64>().unwrap()).sum();
        ticks / 100.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cgroup in every hierarchy by which containers may be told apart; removed when dropped.
struct Cgroup {
    path: String,
    directories: Vec<std::path::PathBuf>,
}

impl Cgroup {
    fn make(name: &str) -> Self {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"];
        let roots = roots.iter().map(std::path::Path::new).filter(|r| r.join("cgroup.procs").exists());
        let directories: Vec<_> = roots.map(|r| r.join(name)).filter(|d| fs::create_dir(d).is_ok()).collect();
        assert!(!directories.is_empty());
        Self { path: format!("/{name}"), directories }
    }

    fn add(&self, pid: u32) {
        for directory in &self.directories {
            fs::write(directory.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            until(Duration::from_secs(60), "an empty cgroup", || fs::remove_dir(directory).is_ok());
        }
    }
}

/// Records for three seconds at 99 Hz: the folded stacks, and the ledger.
fn recorded(rules: &[&str]) -> (String, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.folded");
    let usual = ["record", "-F", "99", "--duration", "3s", "--log-level", "info", "--log-format", "json", "-o"];
    let output = profiler(&usual).arg(&path).args(rules).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let line = log.lines().find(|l| l.contains("final ledger")).unwrap();
    (fs::read_to_string(&path).unwrap(), serde_json::from_str(line).unwrap())
}

fn samples(folded: &str, process: &str) -> u64 {
    let of = |line: &str| line.starts_with(&format!("{process};"));
    let count = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap();
    folded.lines().filter(|l| of(l)).map(count).sum()
}

/// Nothing of `out` is there, something of `kept` is, and nothing is missing.
fn only(rules: &[&str], out: &str, kept: &str) {
    let (folded, ledger) = recorded(rules);
    assert_eq!(samples(&folded, out), 0, "{rules:?}: {ledger}");
    assert!(samples(&folded, kept) > 0, "{rules:?}: {ledger}\n{folded}");
    assert!(ledger["balanced"] == true && ledger["held"] == 0, "{ledger}");
    assert_eq!(ledger["dropped"], ledger["dropped_filtered"], "{ledger}");
    assert!(ledger["filtered"].as_u64().unwrap() + ledger["dropped"].as_u64().unwrap() > 0, "it ran: {ledger}");
}

/// The sum of all series of a metric whose labels contain a text.
fn value(metrics: &str, name: &str, label: &str) -> f64 {
    let of =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label));
    metrics.lines().filter(of).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Once the verdict is told, every tick of the excluded process is refused in the kernel, and every scrape adds up.
fn refused_in_the_kernel(rule: &str, busy: &Busy) {
    // With itself, since its own ticks count as filtered too.
    let agent = Agent::start(&["-F", "99", "--window", "1s", "--include-self", "--exclude", rule], &[]);
    let filtered = |metrics: &str| value(metrics, "profiler_ticks_total", "\"filtered\"");
    until(Duration::from_secs(120), "a verdict", || {
        value(&agent.get("/metrics"), "profiler_filter_verdicts", "") > 0.0
    });
    // What the kernel took before is still on its way.
    std::thread::sleep(Duration::from_secs(2));
    let (first, before) = (agent.get("/metrics"), busy.seconds());
    until(Duration::from_secs(60), "a second of a processor", || busy.seconds() > before + 1.0);
    let (last, after) = (agent.get("/metrics"), busy.seconds());
    let (ticks, seen) = ((after - before) * 99.0, filtered(&last) - filtered(&first));
    assert!((seen - ticks).abs() < 0.2 * ticks + 10.0, "{rule}: {seen} of {ticks} ticks");
    for metrics in [&first, &last] {
        let sum = value(metrics, "profiler_samples_exported_total", "")
            + value(metrics, "profiler_samples_held", "")
            + value(metrics, "profiler_samples_dropped_total", "");
        let taken = value(metrics, "profiler_samples_taken_total", "");
        assert!((taken - sum).abs() < 0.5, "{taken} {sum} {metrics}");
    }
}

#[test]
fn what_a_rule_excludes_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let _noise = Busy::start(dir.path(), "busy-noise");
    let _wanted = Busy::start(dir.path(), "busy-wanted");
    only(&["--exclude", "comm=busy-n*"], "busy-noise", "busy-wanted");
    only(&["--exclude", "executable=*/busy-noise"], "busy-noise", "busy-wanted");
    let include = format!("executable={}/busy-*", dir.path().display());
    let (folded, ledger) = recorded(&["--include", &include, "--exclude", "comm=busy-noise"]);
    assert!(samples(&folded, "busy-wanted") > 0 && ledger["balanced"] == true, "{ledger}");
    assert!(folded.lines().all(|l| l.starts_with("busy-wanted;")), "{folded}");
}

#[test]
fn what_a_rule_excludes_is_refused_in_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let noise = Busy::start(dir.path(), "busy-tick");
    refused_in_the_kernel("comm=busy-tick", &noise);
}

#[test]
fn a_cgroup_is_excluded_with_everything_that_moves_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let cgroup = Cgroup::make(&format!("profiler-live-{}", std::process::id()));
    let noise = Busy::start(dir.path(), "busy-group");
    let _wanted = Busy::start(dir.path(), "busy-wanted");
    cgroup.add(noise.0.id());
    only(&["--exclude", &format!("cgroup={}", cgroup.path)], "busy-group", "busy-wanted");
    let (folded, _) = recorded(&["--include", &format!("cgroup={}", cgroup.path)]);
    assert!(samples(&folded, "busy-group") > 0, "{folded}");
    assert!(folded.lines().all(|l| l.starts_with("busy-group;")), "{folded}");
    refused_in_the_kernel(&format!("cgroup={}", cgroup.path), &noise);
    drop(noise);
}
