//! Separate debug files: found where debuggers look, used only where they are the file's.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use objects::{Objects, ObjectsConfig};
use profile::ObjectInfo;

use crate::support::{Folder, Test, config, config_with, mapped};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("debug::rows_of_a_debug_file_are_used", used),
        ("debug::a_debug_file_of_another_build_is_not", anothers),
        ("debug::a_deadly_debug_file_costs_itself", deadly),
    ]
}

/// A function without a frame pointer whose only call frame information is in the debug file.
const SOURCE: &str = "
    int sink(int); int deep(int n) { volatile char room[200]; room[n & 7] = n; return sink(room[3]) + n; }
    int sink(int n) { return n * 3; } int main(void) { return deep(1); }";

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Compiles `name`, and splits its debug information off into `name.debug`.
fn compile(folder: &Folder, name: &str, source: &str) {
    let [program, code, debug] =
        [name.to_owned(), format!("{name}.c"), format!("{name}.debug")].map(|n| folder.path(&n));
    let [program_arg, code_arg, debug_arg] = [&program, &code, &debug].map(|path| path.to_str().unwrap());
    fs::write(&code, source).unwrap();
    let flags = ["-O1", "-g", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    run("gcc", &[&flags[..], &["-Wl,--build-id", "-o", program_arg, code_arg]].concat());
    run("objcopy", &["--only-keep-debug", program_arg, debug_arg]);
    run("strip", &[program_arg]);
    run("objcopy", &["--add-gnu-debuglink", debug_arg, program_arg]);
}

/// Read for this process, whose root is ours.
fn read(room: &Objects, path: &Path) -> Arc<ObjectInfo> {
    room.object(&mapped(path), std::process::id(), 0..0)
}

fn rows(room: &Objects, object: &ObjectInfo) -> u64 {
    unwind_table::FileTable::parse(&room.walk_table(object.id).unwrap()).unwrap().rows()
}

fn used() {
    let folder = Folder::new();
    compile(&folder, "a", SOURCE);
    let (program, debug) = (folder.path("a"), folder.path("a.debug"));
    let cached = || ObjectsConfig { cache: Some(folder.path("cache")), ..config_with(&["real-worker"]) };
    let room = Objects::start(cached()).unwrap();
    let info = read(&room, &program);
    let with = rows(&room, &info);
    assert!(room.fingerprint(info.id).is_none(), "it is for this process alone");
    assert_eq!(room.stats().parse_errors, 0);
    drop(room);

    // Beside it in `.debug`, too.
    fs::create_dir(folder.path(".debug")).unwrap();
    fs::rename(&debug, folder.path(".debug/a.debug")).unwrap();
    let room = Objects::start(cached()).unwrap();
    assert_eq!(rows(&room, &read(&room, &program)), with);
    drop(room);

    fs::remove_dir_all(folder.path(".debug")).unwrap();
    let room = Objects::start(cached()).unwrap();
    let info = read(&room, &program);
    assert!(rows(&room, &info) + 2 <= with, "{} of {with}", rows(&room, &info));
    assert!(room.fingerprint(info.id).is_some());
    assert_eq!(room.stats().extracted, 1, "nothing of the others was kept");
}

fn anothers() {
    let folder = Folder::new();
    compile(&folder, "a", SOURCE);
    compile(&folder, "b", &SOURCE.replace("200", "300"));
    fs::rename(folder.path("b.debug"), folder.path("a.debug")).unwrap();
    let room = Objects::start(config_with(&["real-worker"])).unwrap();
    let info = read(&room, &folder.path("a"));
    assert!(info.readable && room.fingerprint(info.id).is_some());
    assert_eq!(room.stats().worker_restarts, 0);
}

fn deadly() {
    let folder = Folder::new();
    compile(&folder, "a", SOURCE);
    // The same file, with a command for the test's tools at its end.
    let mut deadly = fs::read(folder.path("a.debug")).unwrap();
    deadly.extend_from_slice(format!("{:64}", "command:die").as_bytes());
    fs::write(folder.path("a.debug"), deadly).unwrap();
    let room = Objects::start(config()).unwrap();
    let info = read(&room, &folder.path("a"));
    assert!(info.readable);
    assert_eq!(room.walk_table(info.id).unwrap(), b"dniwnu");
    let stats = room.stats();
    assert_eq!((stats.worker_restarts, stats.worker_failed_requests, stats.quarantined), (1, 1, 0));
}
