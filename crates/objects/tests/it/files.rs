//! Which file is behind a mapping: deleted, replaced and reused ones, other roots, budgets.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use objects::{MappedFile, Objects};
use profile::{ElfAddress, ObjectInfo};

use crate::support::{Folder, NOBODY, Running, Test, config, executable, mapped, object, room, wait_until};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("files::the_mapped_file_is_found_by_its_process", found_by_its_process),
        ("files::a_deleted_file_is_still_the_processs", a_deleted_file),
        ("files::a_replaced_file_never_gets_the_new_ones_names", a_replaced_file),
        ("files::a_replaced_file_of_a_dead_process_has_no_names", a_replaced_file_of_a_dead_process),
        ("files::a_file_written_in_place_is_a_new_object", written_in_place),
        ("files::a_reused_inode_is_a_new_object", a_reused_inode),
        ("files::another_generation_is_another_file", another_generation),
        ("files::a_renamed_or_linked_file_stays_the_same_object", a_linked_file),
        ("files::in_another_root_links_stay_there", in_another_root),
        ("files::a_dead_process_of_another_mount_namespace", dead_in_another_namespace),
        ("files::on_an_overlay_the_file_is_found", on_an_overlay),
        ("files::what_was_absent_is_tried_again", absent_is_tried_again),
        ("files::known_does_no_reading", known_does_no_reading),
        ("files::the_vdso_is_an_object", the_vdso),
        ("files::tables_stay_within_their_budget", tables_stay_within_their_budget),
        ("files::objects_stay_within_their_number", objects_stay_within_their_number),
        ("files::no_descriptor_of_a_target_is_kept", no_descriptor_is_kept),
        ("files::many_threads_get_one_object", many_threads),
    ]
}

fn name_of(room: &Objects, info: &ObjectInfo) -> Option<String> {
    room.names(info.id, &[ElfAddress(1)]).remove(0).map(|name| name.name)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn found_by_its_process() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "mine");
    let running = Running::sleep(&path);
    let (file, range) = running.mapping(inode(&path));
    let info = room.object(&file, running.pid(), range.clone());
    assert_eq!(name_of(&room, &info).as_deref(), Some("mine@1"));
    assert_eq!(&*info.path, path.to_str().unwrap());
    // Its mappings have moved since the record was written.
    let other = Objects::start(config()).unwrap();
    let info = other.object(&file, running.pid(), 0x1000..0x2000);
    assert_eq!(name_of(&other, &info).as_deref(), Some("mine@1"));
    // The path says nothing.
    let other = Objects::start(config()).unwrap();
    let lie = MappedFile { path: b"/bin/bash".to_vec(), ..file };
    let info = other.object(&lie, running.pid(), range);
    assert_eq!(name_of(&other, &info).as_deref(), Some("mine@1"));
}

fn a_deleted_file() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "deleted");
    let number = inode(&path);
    let running = Running::sleep(&path);
    fs::remove_file(&path).unwrap();
    let (file, range) = running.mapping(number);
    assert!(file.path.ends_with(b" (deleted)"));
    let info = room.object(&file, running.pid(), range);
    assert_eq!(name_of(&room, &info).as_deref(), Some("deleted@1"));
    assert_eq!(&*info.path, path.to_str().unwrap(), "without the kernel's suffix");
}

fn a_replaced_file() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "old");
    let number = inode(&path);
    let running = Running::sleep(&path);
    let fresh = folder.executable("b", "new");
    fs::rename(&fresh, &path).unwrap();
    let (file, range) = running.mapping(number);
    let old = room.object(&file, running.pid(), range);
    assert_eq!(name_of(&room, &old).as_deref(), Some("old@1"));

    let second = Running::sleep(&path);
    let (file, range) = second.mapping(inode(&path));
    let new = room.object(&file, second.pid(), range);
    assert_eq!(name_of(&room, &new).as_deref(), Some("new@1"));
    assert_ne!(old.id, new.id);
    assert_eq!(name_of(&room, &old).as_deref(), Some("old@1"));
}

fn a_replaced_file_of_a_dead_process() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "old");
    let keep = folder.path("keep");
    fs::hard_link(&path, &keep).unwrap(); // so that the inode is not reused
    let file = mapped(&path);
    let fresh = folder.executable("b", "new");
    fs::rename(&fresh, &path).unwrap();
    let info = room.object(&file, NOBODY, 0x1000..0x2000);
    assert!(!info.readable);
    assert_eq!(name_of(&room, &info), None);
    let stats = room.stats();
    assert_eq!((stats.identity_mismatches, stats.open_errors, stats.extracted), (1, 0, 0));
}

fn written_in_place() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "one");
    let first = object(&room, &path);
    assert_eq!(name_of(&room, &first).as_deref(), Some("one@1"));
    executable(&path, "two");
    let second = object(&room, &path);
    assert_ne!(first.id, second.id);
    assert_eq!(name_of(&room, &second).as_deref(), Some("two@1"));
    assert_eq!(name_of(&room, &first).as_deref(), Some("one@1"), "frames from before keep their names");
    assert_eq!(object(&room, &path).id, second.id);
}

fn a_reused_inode() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "one");
    let number = inode(&path);
    let first = object(&room, &path);
    // The file system gives the number to one of the next files; how soon is its matter.
    fs::remove_file(&path).unwrap();
    let reused = (0..2000).map(|at| folder.executable(&format!("b{at}"), "two")).find(|path| inode(path) == number);
    let Some(reused) = reused else {
        println!("this file system does not reuse inodes soon");
        return;
    };
    let second = object(&room, &reused);
    assert_ne!(first.id, second.id);
    assert_eq!(name_of(&room, &second).as_deref(), Some("two@1"));
}

fn another_generation() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "one");
    let file = fs::File::open(&path).unwrap();
    let mut generation = [0_u32; 2];
    // SAFETY: FS_IOC_GETVERSION writes at most a long.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), 0x8008_7601_u32 as libc::Ioctl, generation.as_mut_ptr())
    };
    if result != 0 || generation[0] == 0 {
        println!("this file system has no generations");
        return;
    }
    let right = MappedFile { generation: generation[0].into(), ..mapped(&path) };
    let wrong = MappedFile { generation: u64::from(generation[0] ^ 1), ..right.clone() };
    assert!(!room.object(&wrong, NOBODY, 0..0).readable, "the file that is there now is not that one");
    let info = room.object(&right, NOBODY, 0..0);
    assert_eq!(name_of(&room, &info).as_deref(), Some("one@1"));
    assert_eq!(room.known(&right).map(|info| info.id), Some(info.id));
    assert!(room.known(&wrong).is_none());
    assert_eq!(room.object(&mapped(&path), NOBODY, 0..0).id, info.id, "not known means any");
}

fn a_linked_file() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "one");
    let first = object(&room, &path);
    let other = folder.path("other");
    fs::hard_link(&path, &other).unwrap(); // changes the inode's time, not the content's
    assert_eq!(object(&room, &path).id, first.id);
    assert_eq!(object(&room, &other).id, first.id);
    let stats = room.stats();
    assert!(stats.objects == 1 && stats.extracted + stats.shared >= 2, "{stats:?}");
    assert_eq!(name_of(&room, &first).as_deref(), Some("one@1"));
}

fn in_another_root() {
    // A root of its own, with a link that is absolute there, and the program's libraries.
    let (room, folder) = (room(), Folder::new());
    let root = folder.path("root");
    fs::create_dir_all(root.join("real")).unwrap();
    symlink("/real", root.join("bin")).unwrap();
    let program = root.join("real/program");
    executable(&program, "in-its-root");
    for library in libraries(&program) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&library, &target).unwrap();
    }
    let child = Command::new("chroot").arg(&root).args(["/bin/program", "600"]).stdin(Stdio::null()).spawn().unwrap();
    let running = Running::when_it_runs(child, &program);
    let (file, _) = running.mapping(inode(&program));
    // The kernel's link is not to be had: the path below the process's root is.
    let by_path = MappedFile { path: b"/bin/program".to_vec(), ..file };
    let info = room.object(&by_path, running.pid(), 0x1000..0x2000);
    assert_eq!(name_of(&room, &info).as_deref(), Some("in-its-root@1"));
}

/// The libraries that a program is linked with, its interpreter among them.
fn libraries(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

fn dead_in_another_namespace() {
    let (room, folder) = (room(), Folder::new());
    // A file that exists only in another mount namespace, where a process goes on living.
    let mount = folder.path("mount");
    fs::create_dir(&mount).unwrap();
    let program = mount.join("program");
    let source = folder.executable("source", "elsewhere");
    let script = format!(
        "mount -t tmpfs none {mount} && cp {source} {program} && cp {program} {mount}/keeper && exec {mount}/keeper 600",
        mount = mount.display(),
        source = source.display(),
        program = program.display(),
    );
    let child = Command::new("unshare").args(["-m", "sh", "-c", &script]).stdin(Stdio::null()).spawn().unwrap();
    let running = Running(child);
    let inside = format!("/proc/{}/root{}", running.pid(), mount.display());
    wait_until("it runs", || {
        let exe = fs::metadata(format!("/proc/{}/exe", running.pid())).map(|exe| exe.ino());
        fs::metadata(format!("{inside}/keeper")).is_ok_and(|keeper| exe.is_ok_and(|exe| exe == keeper.ino()))
    });
    assert!(!program.exists());
    let mut dead = mapped(Path::new(&format!("{inside}/program")));
    dead.path = program.to_str().unwrap().into();
    assert!(!room.object(&dead, NOBODY, 0..0).readable, "nobody knows that namespace yet");
    let keeper = mapped(Path::new(&format!("{inside}/keeper")));
    assert!(room.object(&keeper, running.pid(), 0..0).readable);
    thread::sleep(Duration::from_millis(150)); // until it may be tried again
    let info = room.object(&dead, NOBODY, 0..0);
    assert_eq!(name_of(&room, &info).as_deref(), Some("elsewhere@1"));
}

fn on_an_overlay() {
    let folder = Folder::new();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(folder.path(name)).unwrap();
    }
    executable(&folder.path("lower/program"), "in-a-layer");
    let (merged, lower) = (folder.path("merged"), folder.path("lower"));
    let script = format!(
        "mount -t tmpfs none {upper} && mkdir {upper}/u {upper}/w && \
         mount -t overlay overlay -o lowerdir={lower},upperdir={upper}/u,workdir={upper}/w {merged} && \
         exec {merged}/program 600",
        upper = folder.path("upper").display(),
        lower = lower.display(),
        merged = merged.display(),
    );
    let child = Command::new("unshare").args(["-m", "sh", "-c", &script]).stdin(Stdio::null()).spawn().unwrap();
    let running = Running(child);
    let mut file = None;
    wait_until("it runs", || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", running.pid())).unwrap_or_default();
        let line = maps.lines().find(|line| line.contains("merged/program") && maps.contains("libc"));
        file = line.map(|line| running.mapping(line.split_whitespace().nth(4).unwrap().parse().unwrap()));
        file.is_some()
    });
    let (file, range) = file.unwrap();
    let by_link = room();
    let info = by_link.object(&file, running.pid(), range);
    assert_eq!(name_of(&by_link, &info).as_deref(), Some("in-a-layer@1"));
    // A kernel before 6.18 tells the layer's device instead: then the process's own path, on an overlay, is believed.
    let layer = mapped(&lower.join("program"));
    let other = MappedFile { major: layer.major, minor: layer.minor, ..file.clone() };
    let by_path = room();
    let info = by_path.object(&other, running.pid(), 0x1000..0x2000);
    let stat = fs::metadata(format!("/proc/{}/root{}", running.pid(), merged.display())).unwrap();
    let tells = (rustix::fs::major(stat.dev()), rustix::fs::minor(stat.dev())) == (file.major, file.minor);
    assert_eq!(name_of(&by_path, &info).as_deref(), (!tells).then_some("in-a-layer@1"));
    // Since then, with the overlay's device, whatever number the layer's file has by itself.
    let by_path = room();
    let info = by_path.object(&file, running.pid(), 0x1000..0x2000);
    assert_eq!(name_of(&by_path, &info).as_deref(), Some("in-a-layer@1"));
    // Not so a path of ours on a plain file system.
    let elsewhere = MappedFile { major: file.major + 1, path: lower.join("program").to_str().unwrap().into(), ..layer };
    assert!(!room().object(&elsewhere, NOBODY, 0..0).readable);
}

fn absent_is_tried_again() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "late");
    let file = mapped(&path);
    let hidden = folder.path("hidden");
    fs::rename(&path, &hidden).unwrap();
    let first = room.object(&file, NOBODY, 0..0);
    assert!(!first.readable);
    assert_eq!(room.object(&file, NOBODY, 0..0).id, first.id);
    fs::rename(&hidden, &path).unwrap();
    assert!(room.stats().open_errors >= 1);
    wait_until("it is tried again", || room.object(&file, NOBODY, 0..0).readable);
    assert_ne!(room.known(&file).unwrap().id, first.id);
}

fn known_does_no_reading() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "");
    assert!(room.known(&mapped(&path)).is_none());
    assert_eq!(room.stats().extracted, 0);
    let info = object(&room, &path);
    assert_eq!(room.known(&mapped(&path)).unwrap().id, info.id);
    let anonymous = MappedFile { path: b"//anon".to_vec(), ..MappedFile::default() };
    assert!(room.known(&anonymous).is_none());
    assert!(!room.object(&anonymous, NOBODY, 0..0).readable);
    assert_eq!(room.stats().objects, 1);
}

fn the_vdso() {
    let room = room();
    let file = MappedFile { path: b"[vdso]".to_vec(), ..MappedFile::default() };
    assert!(room.known(&file).is_none());
    let info = room.vdso().unwrap();
    assert_eq!((&*info.path, info.readable), ("[vdso]", true));
    assert!(info.segments.iter().any(|segment| segment.executable));
    assert!(!info.build_id.gnu.is_empty());
    assert_eq!(room.vdso().unwrap().id, info.id);
    assert_eq!(room.object(&file, NOBODY, 0x1000..0x2000).id, info.id);
    assert_eq!(room.known(&file).unwrap().id, info.id);
    assert_eq!(name_of(&room, &info).as_deref(), Some("plain@1"));
}

fn tables_stay_within_their_budget() {
    let mut config = config();
    config.table_bytes = 1 << 20;
    let (room, folder) = (Objects::start(config).unwrap(), Folder::new());
    let files: Vec<_> = (0..60)
        .map(|at| {
            folder.executable(&format!("f{at}"), &format!("unwind={}", at + if at < 30 { 100 << 10 } else { 10 }))
        })
        .collect();
    for file in &files {
        assert!(object(&room, file).readable);
        let stats = room.stats();
        assert!(stats.table_bytes <= 1 << 20, "{stats:?}");
    }
    assert_eq!((room.stats().objects, room.stats().extracted), (60, 60));
    // What was let go is read again when it is needed.
    let first = object(&room, &files[0]);
    assert!(name_of(&room, &first).is_some());
    assert_eq!(room.stats().extracted, 61);
    // But not if the file is another one by now.
    let second = object(&room, &files[1]);
    executable(&files[1], "changed");
    assert_eq!(name_of(&room, &second), None);
    assert!(room.stats().table_bytes <= 1 << 20);
}

fn objects_stay_within_their_number() {
    let mut config = config();
    config.max_objects = 32;
    let (room, folder) = (Objects::start(config).unwrap(), Folder::new());
    let vdso = room.vdso().unwrap();
    let first = folder.executable("first", "first");
    for at in 0..100 {
        assert!(object(&room, &folder.executable(&format!("f{at}"), "")).readable);
        assert!(object(&room, &first).readable, "in use all the time");
        assert!(room.stats().objects <= 32);
    }
    assert!(room.stats().table_bytes < 32 * 100);
    assert!(name_of(&room, &vdso).is_some(), "our own is never let go");
    assert!(room.known(&mapped(&first)).is_some());
    assert!(room.known(&mapped(&folder.path("f0"))).is_none());
}

fn no_descriptor_is_kept() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "");
    let info = object(&room, &path);
    assert!(name_of(&room, &info).is_some());
    for process in ["self".to_owned(), room.stats().worker_pid.to_string()] {
        for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten() {
            let link = fs::read_link(entry.path()).unwrap_or_default();
            assert_ne!(link, path, "{process}");
        }
    }
}

fn many_threads() {
    let (room, folder) = (room(), Folder::new());
    let files: Vec<_> = (0..8).map(|at| folder.executable(&format!("f{at}"), &at.to_string())).collect();
    let ids: Vec<Vec<_>> = thread::scope(|scope| {
        let run = || files.iter().map(|file| object(&room, file).id).collect::<Vec<_>>();
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|other| *other == ids[0]));
    assert_eq!((room.stats().objects, room.stats().extracted), (8, 8));
}
