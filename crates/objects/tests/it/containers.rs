//! Files of containers: one path, one inode number, and another file each time.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use objects::{MappedFile, Objects};
use profile::{ElfAddress, ObjectInfo};

use crate::support::{self, Folder, NOBODY, Running, Test, executable, object, room, wait_until};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("containers::different_files_at_one_path_are_never_mixed_up", never_mixed_up),
        ("containers::a_device_number_that_is_used_again_is_another_containers", device_used_again),
    ]
}

fn name_of(room: &Objects, info: &ObjectInfo) -> Option<String> {
    room.names(info.id, &[ElfAddress(1)]).remove(0).map(|name| name.name)
}

/// A process in a mount namespace of its own, with an overlay over `merged`. Its layer is a file system of its own, so
/// that the first file of each has the same inode number.
fn contained(folder: &Folder, merged: &Path, function: &str) -> (Running, MappedFile, std::ops::Range<u64>) {
    let (layers, source) = (folder.path(&format!("layers-{function}")), folder.path(&format!("source-{function}")));
    fs::create_dir_all(&layers).unwrap();
    executable(&source, function);
    let script = format!(
        "mount -t tmpfs none {layers} && mkdir {layers}/l {layers}/u {layers}/w && cp {source} {layers}/l/program && \
         mount -t overlay overlay -o lowerdir={layers}/l,upperdir={layers}/u,workdir={layers}/w {merged} && \
         exec {merged}/program 600",
        layers = layers.display(),
        source = source.display(),
        merged = merged.display(),
    );
    let child = Command::new("unshare").args(["-m", "sh", "-c", &script]).stdin(Stdio::null()).spawn().unwrap();
    let running = Running(child);
    let mut mapping = None;
    wait_until("it runs", || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", running.pid())).unwrap_or_default();
        let line = maps.lines().find(|line| line.contains("merged/program") && maps.contains("libc"));
        mapping = line.map(|line| running.mapping(line.split_whitespace().nth(4).unwrap().parse().unwrap()));
        mapping.is_some()
    });
    let (file, range) = mapping.unwrap();
    (running, file, range)
}

fn never_mixed_up() {
    let (room, folder) = (room(), Folder::new());
    let merged = folder.path("merged");
    fs::create_dir(&merged).unwrap();
    let program = merged.join("program");
    executable(&program, "hosts");
    let own = object(&room, &program);
    let (first, first_file, first_range) = contained(&folder, &merged, "firsts");
    let (second, second_file, second_range) = contained(&folder, &merged, "seconds");
    assert_eq!((&first_file.path, first_file.inode), (&second_file.path, second_file.inode), "as alike as can be");
    assert_eq!(first_file.path, program.to_str().unwrap().as_bytes());
    let a = room.object(&first_file, first.pid(), first_range);
    let b = room.object(&second_file, second.pid(), second_range.clone());
    let names = |room: &Objects| [&own, &a, &b].map(|info| name_of(room, info));
    let expected = ["hosts@1", "firsts@1", "seconds@1"].map(|name| Some(name.to_owned()));
    assert_eq!(names(&room), expected);
    // A process of the one that claims to map the other's file.
    for room in [&room, &support::room()] {
        let wrong = room.object(&second_file, first.pid(), second_range.clone());
        let name = name_of(room, &wrong);
        assert!(!wrong.readable || name.as_deref() == Some("seconds@1"), "{name:?}");
    }
    let fresh = support::room();
    let nobodys = fresh.object(&first_file, NOBODY, 0..0);
    assert!(!nobodys.readable || name_of(&fresh, &nobodys).as_deref() == Some("firsts@1"));
    // The names outlive the containers, and none of their files is held open.
    drop((first, second));
    assert_eq!(names(&room), expected);
    for descriptor in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let path = fs::read_link(descriptor.path()).unwrap_or_default();
        // Other tests of this process have programs of their own.
        assert!(path != program, "{}", path.display());
    }
}

fn device_used_again() {
    let (room, folder) = (room(), Folder::new());
    let merged = folder.path("merged");
    fs::create_dir(&merged).unwrap();
    let (running, before, range) = contained(&folder, &merged, "before");
    let old = room.object(&before, running.pid(), range);
    assert_eq!(name_of(&room, &old).as_deref(), Some("before@1"));
    drop(running);
    // The kernel gives the lowest free number to the next file system; the last one's takes a moment to become free.
    for attempt in 0..20 {
        let function = format!("after{attempt}");
        let (running, after, range) = contained(&folder, &merged, &function);
        let new = room.object(&after, running.pid(), range);
        assert_eq!(name_of(&room, &new), Some(format!("{function}@1")));
        assert_ne!(new.id, old.id);
        assert_eq!(name_of(&room, &old).as_deref(), Some("before@1"));
        if (after.major, after.minor, after.inode) == (before.major, before.minor, before.inode) {
            return;
        }
    }
    println!("this kernel did not use the device number again: {:?}", fs::metadata(&merged).map(|m| m.dev()));
}
