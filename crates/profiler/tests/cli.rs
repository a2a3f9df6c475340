//! The built binary, as a person calls it: every mistake is one clear line and an exit code that is not 0, and nothing
//! half written remains. These tests need root, as the profiler does.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const PROFILER: &str = env!("CARGO_BIN_EXE_profiler");

/// The profiler without the caller's settings.
fn profiler(args: &[&str]) -> Command {
    clean(Command::new(PROFILER), args)
}

fn clean(mut command: Command, args: &[&str]) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["OTEL_", "PROFILER_"].iter().any(|p| text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command.args(args);
    command
}

/// The profiler started by another program (`setpriv`, `unshare`).
fn through(program: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(PROFILER);
    clean(command, args)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails with one line that begins with `profiler: ` and holds all of `words`.
fn refused(mut command: Command, words: &[&str]) {
    let output = command.output().unwrap();
    let text = stderr(&output);
    let complaint: Vec<&str> = text.lines().filter(|l| l.starts_with("profiler: ")).collect();
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{text}");
    assert_eq!(complaint.len(), 1, "one line says what is wrong: {text}");
    for word in words {
        assert!(complaint[0].contains(word), "`{word}` is missing in: {}", complaint[0]);
    }
    assert!(output.stdout.is_empty());
}

/// Fails in the command line itself.
fn misused(args: &[&str], word: &str) {
    let output = profiler(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    assert!(stderr(&output).contains(word), "{args:?}: {}", stderr(&output));
}

fn file(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn help_and_version() {
    let output = profiler(&["--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("--pid") && text.contains("record") && !text.contains("  worker"));
    for group in ["Who is profiled:", "How samples are taken:", "The port:", "Everything else:"] {
        assert!(text.contains(group), "{text}");
    }
    let output = profiler(&["--version"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), concat!("profiler ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn unknown_flags_and_words() {
    misused(&["--frequenzy", "99"], "--frequency");
    misused(&["recrod"], "recrod");
    misused(&["record"], "--output");
    misused(&["record", "-o", "x.svg", "--pid", "1", "--", "true"], "cannot be used with");
}

#[test]
fn bad_values_of_flags_and_variables() {
    refused(profiler(&["-F", "0"]), &["--frequency: `0`", "1 to 1000"]);
    refused(profiler(&["--frequency", "1001"]), &["`1001`", "1 to 1000"]);
    refused(profiler(&["-F", "-5"]), &["`-5`", "1 to 1000"]);
    refused(profiler(&["-pid=abc"]), &["--pid: `abc`"]);
    refused(profiler(&["--children"]), &["--pid"]);
    refused(profiler(&["--listen", "nowhere"]), &["--listen: `nowhere`", "127.0.0.1:2112"]);
    refused(profiler(&["--log-level", "loud"]), &["--log-level: `loud`", "debug"]);
    refused(profiler(&["record", "-o", "x.svg", "--duration", "0s"]), &["--duration: `0s`", "100ms"]);
    refused(profiler(&["record", "-o", "x.svg", "--duration", "-3"]), &["--duration: `-3`", "10s"]);
    let mut command = profiler(&[]);
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke");
    refused(command, &["OTEL_EXPORTER_OTLP_PROTOCOL: `smoke`", "http/protobuf"]);
    let mut command = profiler(&[]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318");
    refused(command, &["OTEL_EXPORTER_OTLP_ENDPOINT: `localhost:4318`", "http://"]);
    let mut command = profiler(&[]);
    command.env("PROFILER_FREQUENCY", "often");
    refused(command, &["PROFILER_FREQUENCY: `often`"]);
}

#[test]
fn rules_that_are_none() {
    refused(profiler(&["--exclude", "namespce=x"]), &["--exclude: `namespce=x`", "did you mean `namespace`?"]);
    refused(
        profiler(&["--include", "comm=a", "--include", "web"]),
        &["--include: `comm=a,web` holds `web`", "pod_label"],
    );
    refused(profiler(&["record", "-o", "x.svg", "--exclude", "pod_label=app"]), &["--exclude:", "pod_label=KEY=VALUE"]);
    let mut command = profiler(&[]);
    command.env("PROFILER_INCLUDE", "executable=nginx");
    refused(command, &["PROFILER_INCLUDE: `executable=nginx`", "executable=*/NAME"]);
    let mut command = profiler(&[]);
    command.env("PROFILER_KUBERNETES", "yes");
    refused(command, &["PROFILER_KUBERNETES: `yes` is none of auto, kubelet, api, cri, off"]);
}

#[test]
fn processes_that_are_not_there() {
    refused(profiler(&["--pid", "4194304"]), &["no process has the id 4194304"]);
    refused(profiler(&["-pid", "4194304"]), &["no process has the id 4194304"]);
    refused(profiler(&["-pid=4194304"]), &["no process has the id 4194304"]);
}

#[test]
fn configuration_files() {
    let dir = tempfile::tempdir().unwrap();
    let bad =
        file(&dir, "bad.yaml", "file_format: '1.0'\ndistribution:\n  profiler:\n    sampling:\n      frequenzy: 9\n");
    refused(profiler(&["--config", &bad]), &["bad.yaml:5:7", "unknown key `frequenzy`", "did you mean `frequency`?"]);
    let garbage = file(&dir, "garbage.yaml", "\u{1}\u{2}: [ }{\n");
    refused(profiler(&["--config", &garbage]), &["garbage.yaml:1:"]);
    fs::write(dir.path().join("binary.yaml"), [0xff, 0xfe, 0x00, 0x80]).unwrap();
    let binary = dir.path().join("binary.yaml");
    refused(profiler(&["--config", binary.to_str().unwrap()]), &["binary.yaml", "UTF-8"]);
    refused(profiler(&["--config", "/does/not/exist.yaml"]), &["/does/not/exist.yaml"]);
    let mut command = profiler(&["config"]);
    command.env("OTEL_CONFIG_FILE", &bad);
    refused(command, &["bad.yaml:5:7"]);
}

#[test]
fn the_configuration_can_be_shown_without_its_secrets() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/otel.yaml");
    let mut command = profiler(&["config", "--config", shipped]);
    command.env("PROFILER_FREQUENCY", "33");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("sampling.frequency: 33\n") && text.contains("http://collector:4317"), "{text}");
    assert!(text.contains("authorization") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(profiler(&["--listen", &address]), &["is in use", "--listen"]);
}

#[test]
fn secrets_of_an_endpoint_are_not_shown() {
    let mut command = profiler(&["config"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:hidden@host.example:4318");
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hidden");
    let output = command.output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && shown.contains("host.example:4318"), "{shown}");
    assert!(!shown.contains("hidden"), "{shown}");
}

#[test]
fn a_standard_output_that_is_full() {
    let mut command = profiler(&["config"]);
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("cannot write to standard output"), "{}", stderr(&output));
}

#[test]
fn places_that_can_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    refused(profiler(&["record", "-o", &at("no/such/dir/x.svg")]), &["cannot be written"]);
    refused(profiler(&["record", "-o", &at("x.txt")]), &[".pb.gz", ".folded", ".svg", ".html"]);
    refused(profiler(&["record", "-o", "/proc/x.svg"]), &["/proc/x.svg", "cannot be written"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_command_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.svg");
    let out = out.to_str().unwrap();
    refused(profiler(&["record", "-o", out, "--", "/no/such/program"]), &["/no/such/program", "no such program"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing half written");
}

/// A copy of the binary that everybody may run.
fn for_everybody(dir: &TempDir) -> String {
    use std::os::unix::fs::PermissionsExt;
    let copy = dir.path().join("profiler");
    // By another process: what a thread beside this one starts has for a moment what is open here, and what is open for writing
    // cannot be executed.
    assert!(Command::new("cp").arg(PROFILER).arg(&copy).status().unwrap().success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    copy.to_str().unwrap().to_owned()
}

#[test]
fn not_root() {
    let dir = tempfile::tempdir().unwrap();
    let binary = for_everybody(&dir);
    let nobody = |args: &[&str]| {
        let mut command = clean(Command::new(&binary), args);
        command.uid(65534).gid(65534).current_dir("/");
        command
    };
    refused(nobody(&["--listen", "127.0.0.1:0"]), &["CAP_", "root"]);
    let output = nobody(&["--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(stderr(&output).lines().count(), 1, "nothing beside that line: {}", stderr(&output));
    refused(nobody(&["record", "-o", "/root/x.svg"]), &["cannot be written"]);
    let output = nobody(&["check", "--listen", "127.0.0.1:0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILS") && text.contains("CAP_SYS_PTRACE") && text.contains("does not work here"), "{text}");
}

#[test]
fn root_without_the_capability_for_events() {
    let drop = ["setpriv", "--bounding-set", "-sys_admin,-perfmon"];
    refused(through(&drop, &["--listen", "127.0.0.1:0"]), &["CAP_PERFMON"]);
}

#[test]
fn root_without_the_capability_for_ebpf() {
    let drop = ["setpriv", "--bounding-set", "-sys_admin,-bpf"];
    refused(through(&drop, &["--listen", "127.0.0.1:0"]), &["CAP_BPF"]);
}

#[test]
fn a_kernel_without_type_information() {
    assert!(Path::new("/sys/kernel/btf/vmlinux").exists(), "this test hides it");
    let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
    let hide = ["unshare", "--mount", "sh", "-c", script];
    refused(through(&hide, &["--listen", "127.0.0.1:0"]), &["BTF"]);
}

#[test]
fn another_pid_namespace() {
    let inside = ["unshare", "--pid", "--fork", "--mount-proc"];
    refused(through(&inside, &["--listen", "127.0.0.1:0"]), &["pid namespace", "hostPID"]);
    let output = through(&inside, &["check", "--json", "--listen", "127.0.0.1:0"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), report["works"].as_bool()), (Some(1), Some(false)), "{report}");
    let item = report["items"].as_array().unwrap().iter().find(|i| i["name"] == "pid namespace").unwrap();
    assert_eq!(item["state"], "fails");
    assert!(item["remedy"].as_str().unwrap().contains("hostPID"));
}

#[test]
fn the_worker_is_not_for_people() {
    refused(profiler(&["worker"]), &["the agent starts its worker itself"]);
}

#[test]
fn this_machine_passes_its_own_check() {
    let output = profiler(&["check", "--json", "--listen", "127.0.0.1:0"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && report["works"] == true, "{report:#}");
    for name in [
        "kernel",
        "BTF",
        "CAP_SYS_PTRACE",
        "perf_event_paranoid",
        "pid namespace",
        "port",
        "worker process",
        "cgroups",
        "the host's files",
    ] {
        assert!(report["items"].as_array().unwrap().iter().any(|i| i["name"] == name), "{name}: {report:#}");
    }
}

/// A kubelet that answers everything with one status.
fn kubelet(status: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let body = if status.starts_with("200") { "{\"kind\":\"PodList\",\"items\":[]}" } else { "no" };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    address
}

#[test]
fn the_check_asks_the_kubelet() {
    let item = |status: &'static str| {
        let mut command = profiler(&["check", "--json", "--listen", "127.0.0.1:0"]);
        let output = command.env("PROFILER_KUBELET_URL", kubelet(status)).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["items"].as_array().unwrap().iter().find(|i| i["name"] == "kubelet").unwrap().clone()
    };
    let good = item("200 OK");
    assert_eq!((good["state"].as_str(), good["seen"].as_str()), (Some("ok"), Some("tells of 0 pods")));
    let unknown = item("401 Unauthorized");
    assert_eq!(unknown["state"], "limited");
    assert!(unknown["seen"].as_str().unwrap().contains("(401)"), "{unknown}");
    assert!(unknown["remedy"].as_str().unwrap().contains("token"), "{unknown}");
    let forbidden = item("403 Forbidden");
    assert!(forbidden["seen"].as_str().unwrap().contains("(403)"), "{forbidden}");
    assert!(forbidden["remedy"].as_str().unwrap().contains("nodes/pods"), "{forbidden}");
}
