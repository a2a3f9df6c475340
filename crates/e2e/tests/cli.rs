//! The command line: files that other tools open, and errors that say what to do.
#![cfg(feature = "live")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{self, Finished, Setup};
use e2e::process::{Start, free_port};
use e2e::stacks::percent;
use e2e::{browser, figure, paths, pprof};

const LONGEST: Duration = Duration::from_secs(60);

fn output(program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Result<String> {
    let done = Command::new(program).args(words).output()?;
    ensure!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[test]
fn record_writes_what_other_tools_open() -> Result<()> {
    let folder = paths::scratch("formats")?;
    let deep = paths::workload("deep")?;
    let mut ends = Vec::new();
    for kind in ["pb.gz", "folded", "svg", "html"] {
        let words = ["record", "-F", "99", "-o"].map(OsString::from).into_iter();
        let file = folder.join(format!("out.{kind}"));
        let words = words.chain([file.clone().into(), "--".into(), deep.clone().into(), "3".into()]);
        let end = agent::run(kind, &folder, words, LONGEST)?.success()?;
        ensure!(fs::metadata(&file)?.len() > 500, "{kind} is empty");
        let table = end.output.lines().chain(end.log.lines()).find(|l| l.contains("deep_frame"));
        figure(format!("{kind}: {} bytes; table: {:?}", fs::metadata(&file)?.len(), table.map(str::trim)));
        ensure!(table.is_some(), "no table at the end: {}{}", end.output, end.log);
        ends.push(file);
    }
    let pprof_program = paths::peer("pprof")?;
    let file = ends[0].to_string_lossy().into_owned();
    let top = output(&pprof_program, &["-top", "-symbolize=none", &file])?;
    let line = top.lines().find(|l| l.contains("deep_frame")).with_context(|| format!("pprof -top: {top}"))?;
    figure(format!("pprof -top: {}", line.trim()));
    let share = line.split_whitespace().nth(1).and_then(|w| w.trim_end_matches('%').parse::<f64>().ok());
    ensure!(share.is_some_and(|s| s > 90.0), "{line}");
    let raw = output(&pprof_program, &["-raw", "-symbolize=none", &file])?;
    ensure!(
        raw.contains("PeriodType: cpu nanoseconds") && raw.contains("samples/count cpu/nanoseconds"),
        "{}",
        &raw[..raw.len().min(500)]
    );
    let svg = output(&pprof_program, &["-svg", "-symbolize=none", &file])?;
    ensure!(svg.contains("<svg"), "pprof -svg made none");
    let profile = pprof::read(&fs::read(&ends[0])?)?;
    let main = pprof::text(&profile, profile.mapping.first().context("a mapping")?.filename);
    ensure!(main.ends_with("/deep"), "mapping[0] is {main}");
    let folded = fs::read_to_string(&ends[1])?;
    let deep_lines: Vec<&str> = folded.lines().filter(|l| l.contains("deep_frame;deep_frame")).collect();
    ensure!(!deep_lines.is_empty(), "{folded}");
    for line in folded.lines() {
        let (stack, count) = line.rsplit_once(' ').context("a count")?;
        ensure!(!stack.is_empty() && count.parse::<u64>().is_ok(), "{line}");
    }
    for (file, tag) in [(&ends[2], "deep_frame"), (&ends[3], "deep_frame")] {
        let name = file.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        let dom = browser::elements(&folder, &name, &format!("file://{}", file.display()), Duration::from_secs(3))?;
        browser::picture(&folder, &name, &format!("file://{}", file.display()), Duration::from_secs(3))?;
        ensure!(dom.matches(tag).count() > 10, "{name} in a browser shows {} boxes", dom.matches(tag).count());
    }
    Ok(())
}

fn refused(name: &str, end: Finished, says: &[&str]) -> Result<()> {
    let text = end.log.trim();
    figure(format!("{name}: {text}"));
    ensure!(!end.status.success(), "{name}: exit code 0");
    ensure!(text.lines().count() <= 4 && !text.contains("panicked"), "{name}: not one clear line: {text}");
    for word in says {
        ensure!(text.to_lowercase().contains(&word.to_lowercase()), "{name}: does not say {word}: {text}");
    }
    Ok(())
}

#[test]
fn errors_are_one_line_that_says_what_to_do() -> Result<()> {
    let folder = paths::scratch("errors")?;
    let out = folder.join("x.pb.gz").display().to_string();
    let run = |name: &str, words: &[&str]| agent::run(name, &folder, words, LONGEST);
    refused("rate 0", run("rate0", &["record", "-F", "0", "-o", &out])?, &["1"])?;
    refused("rate 1001", run("rate1001", &["record", "-F", "1001", "-o", &out])?, &["1000"])?;
    refused("rate fast", run("ratefast", &["record", "-F", "fast", "-o", &out])?, &["fast"])?;
    refused("duration", run("duration", &["record", "--duration", "-3s", "-o", &out])?, &["-3s"])?;
    refused("duration word", run("durationword", &["record", "--duration", "long", "-o", &out])?, &["long"])?;
    refused("unknown pid", run("pid", &["record", "--pid", "4194000", "--duration", "1s", "-o", &out])?, &["4194000"])?;
    refused(
        "unknown command",
        run("nocmd", &["record", "-o", &out, "--", "/nonexistent/program"])?,
        &["/nonexistent/program"],
    )?;
    refused(
        "unwritable",
        run("unwritable", &["record", "--duration", "1s", "-o", "no/such/folder/x.pb.gz"])?,
        &["no/such/folder"],
    )?;
    refused("suffix", run("suffix", &["record", "--duration", "1s", "-o", "x.unknown"])?, &[".pb.gz", ".folded"])?;
    ensure!(!Path::new(&out).exists(), "a refused recording left {out}");
    fs::write(
        folder.join("bad.yaml"),
        "file_format: \"1.0\"\ndistribution:\n  profiler:\n    sampling:\n      frequenzy: 99\n",
    )?;
    refused("unknown key", run("config", &["--config", "bad.yaml"])?, &["frequenzy", "frequency", "5"])?;
    fs::write(folder.join("garbage.yaml"), [0xff, 0xfe, b'{', 0, b'\n'])?;
    refused("garbage file", run("garbage", &["--config", "garbage.yaml"])?, &["garbage.yaml"])?;
    let port = free_port()?;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let listen = format!("127.0.0.1:{port}");
    refused("port taken", run("port", &["--listen", &listen])?, &[&port.to_string()])?;
    // Without privileges: a copy that everybody may run.
    let open = tempfile::Builder::new().prefix("profiler-test").tempdir_in("/tmp")?;
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755))?;
    let copy = open.path().join("profiler");
    fs::copy(paths::profiler()?, &copy)?;
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let listen = format!("127.0.0.1:{}", free_port()?);
    let mut nobody =
        Start::new("nobody", "setpriv", &folder).args(words).args([&copy]).args(["--listen", &listen]).start()?;
    let status = nobody.wait(LONGEST)?;
    refused("not root", Finished { status, log: nobody.errors(), output: nobody.output() }, &["root"])?;
    Ok(())
}

#[test]
fn check_tells_what_this_machine_can_do() -> Result<()> {
    let folder = paths::scratch("check")?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let end = agent::run("check", &folder, ["check", "--listen", &listen], LONGEST)?;
    let text = format!("{}{}", end.output, end.log).to_lowercase();
    for word in ["kernel", "btf", "perf", "pid namespace"] {
        ensure!(text.contains(word), "check does not speak of {word}: {text}");
    }
    ensure!(end.status.success(), "{text}");
    figure(format!("{} lines", text.lines().count()));
    Ok(())
}

#[test]
fn a_signal_ends_a_recording_with_all_that_it_has() -> Result<()> {
    let folder = paths::scratch("signal")?;
    let busy = Start::new("busy", paths::workload("deep")?, &folder).args(["60"]).start()?;
    for (name, signal) in [("int", nix::sys::signal::SIGINT), ("term", nix::sys::signal::SIGTERM)] {
        let file = folder.join(format!("{name}.pb.gz"));
        let recorder =
            agent::command(name, &folder)?.args(["record", "-F", "99", "--duration", "60s", "-o"]).args([&file]);
        let mut recorder = recorder.start()?;
        sleep(Duration::from_secs(6));
        recorder.signal(signal)?;
        let status = recorder.wait(Duration::from_secs(20))?;
        ensure!(status.success(), "{status}: {}", recorder.errors());
        let stacks = pprof::stacks(&pprof::read(&fs::read(&file)?)?)?;
        let own = stacks.of_pid(busy.pid());
        figure(format!(
            "{name}: {} samples, {:.1} s",
            own.total(),
            (stacks.to_unix_ns - stacks.from_unix_ns) as f64 / 1e9
        ));
        ensure!(own.total() > 150 && percent(own.with("deep_frame"), own.total()) > 90.0, "{}", own.heaviest(3));
    }
    let agent = Setup::new("agent", &folder)?.args(["--print"]).start()?;
    sleep(Duration::from_secs(4));
    let end = agent.stop()?.success()?;
    let table = format!("{}{}", end.output, end.log);
    let line = table.lines().find(|l| l.contains("deep_frame")).with_context(|| format!("no table: {table}"))?;
    ensure!(line.contains(&busy.pid().to_string()) && line.contains("deep"), "{line}");
    figure(line.trim());
    Ok(())
}
