//! Tables kept on disk: over restarts, damage, full and foreign directories.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use objects::{Objects, ObjectsConfig};
use profile::ElfAddress;
use profile::stats::CacheStats;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::shared::with_middle;
use crate::support::{Folder, Test, config, object, wait_until};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("cache::a_restarted_agent_extracts_nothing", warm_start),
        ("cache::a_file_with_anothers_build_id_poisons_nothing", poisoned),
        ("cache::damaged_entries_are_deleted_and_made_again", damaged),
        ("cache::entries_of_another_version_are_not_used", foreign),
        ("cache::a_full_disk_costs_the_cache_and_nothing_else", full_disk),
        ("cache::a_directory_that_others_may_write_to_is_refused", refused),
        ("cache::its_bytes_are_bounded", bounded),
        ("cache::tables_that_kill_are_not_kept", deadly),
        ("cache::unused_tables_go_and_come_back_without_their_file", unused),
        ("cache::unused_tables_that_are_not_kept_stay", unused_without_a_cache),
    ]
}

fn with_cache(directory: &Path) -> ObjectsConfig {
    ObjectsConfig { cache: Some(directory.to_owned()), ..config() }
}

fn open(directory: &Path) -> Objects {
    Objects::start(with_cache(directory)).unwrap()
}

fn cache_of(room: &Objects) -> CacheStats {
    room.stats().cache.unwrap()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// Reads a file in a room of its own, and waits until it is kept.
fn keep(directory: &Path, file: &Path) {
    let room = open(directory);
    assert!(object(&room, file).readable);
    wait_until("it is kept", || cache_of(&room).stored == 1);
}

fn warm_start() {
    let folder = Folder::new();
    let directory = folder.path("new/cache");
    let files: Vec<_> = (0..20).map(|at| folder.executable(&format!("f{at}"), &format!("name{at}"))).collect();
    let vdso = {
        let room = open(&directory);
        files.iter().for_each(|file| assert!(object(&room, file).readable));
        let vdso = room.vdso().unwrap();
        let stats = room.stats();
        assert_eq!((stats.extracted, stats.cache.unwrap().hits), (21, 0));
        wait_until("all are written", || cache_of(&room).stored == 21);
        (vdso.build_id.clone(), room.walk_table(vdso.id))
    };
    let meta = fs::metadata(&directory).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o700);
    for entry in entries(&directory) {
        assert_eq!(fs::metadata(entry).unwrap().permissions().mode() & 0o777, 0o600);
    }

    let room = open(&directory);
    for (at, file) in files.iter().enumerate() {
        let info = object(&room, file);
        assert_eq!(info.path.as_ref(), file.to_str().unwrap());
        let name = room.names(info.id, &[ElfAddress(1)]).remove(0).unwrap().name;
        assert_eq!(name, format!("name{at}@1"));
        assert_eq!(room.walk_table(info.id).unwrap(), b"dniwnu");
    }
    let again = room.vdso().unwrap();
    assert_eq!((again.build_id.clone(), room.walk_table(again.id)), vdso);
    let stats = room.stats();
    let cache = stats.cache.unwrap();
    assert_eq!((stats.extracted, cache.hits, cache.stored, cache.damaged), (0, 21, 0, 0));
    assert!(cache.bytes > 21 * 64);
    assert!(cache.bytes == entries(&directory).iter().map(|entry| fs::metadata(entry).unwrap().len()).sum::<u64>());
}

fn unused() {
    let folder = Folder::new();
    let directory = folder.path("cache");
    let room = open(&directory);
    let files = ["a", "b", "c"].map(|name| folder.executable(name, name));
    let infos = files.each_ref().map(|file| object(&room, file));
    let name = |at: usize| room.names(infos[at].id, &[ElfAddress(1)]).remove(0).map(|name| name.name);
    let two = |at: usize| (name(at), room.walk_table(infos[at].id));
    let before = [0, 1, 2].map(two);
    assert!(before[0].0.is_some() && before[0].1.is_some());
    wait_until("all are written", || cache_of(&room).stored == 3);
    let held = room.stats().table_bytes;

    room.release_unused();
    assert_eq!(room.stats().table_bytes, held, "all were used just now");
    assert_eq!(name(0), before[0].0);
    room.release_unused();
    // The first: what the worker has of it was used.
    assert!(room.stats().table_bytes > 0 && room.stats().table_bytes < held);
    room.release_unused();
    assert_eq!(room.stats().table_bytes, 0);

    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    assert_eq!([0, 1, 2].map(two), before);
    assert_eq!((room.stats().table_bytes, room.stats().extracted, cache_of(&room).hits), (held, 3, 3));

    // Files with the same content have the same tables again, once.
    let copy = folder.path("copy");
    fs::copy(folder.executable("a", "a"), &copy).unwrap();
    let copy = object(&room, &copy);
    assert_eq!((room.stats().table_bytes, room.walk_table(copy.id)), (held, before[0].1.clone()));
    for _ in 0..3 {
        room.release_unused();
    }
    assert_eq!(room.stats().table_bytes, 0);
    assert_eq!((room.walk_table(copy.id), two(0)), (before[0].1.clone(), before[0].clone()));
    assert_eq!(room.stats().table_bytes * 3, held);

    // What is damaged on disk meanwhile is gone with its file.
    for _ in 0..3 {
        room.release_unused();
    }
    for entry in entries(&directory) {
        fs::write(entry, b"damaged").unwrap();
    }
    assert_eq!((name(1), cache_of(&room).damaged), (None, 1));
}

fn unused_without_a_cache() {
    let folder = Folder::new();
    let room = Objects::start(config()).unwrap();
    let info = object(&room, &folder.executable("a", "a"));
    let held = room.stats().table_bytes;
    for _ in 0..3 {
        room.release_unused();
    }
    assert!(held > 0 && room.stats().table_bytes == held);
    assert!(room.walk_table(info.id).is_some());
}

fn poisoned() {
    let folder = Folder::new();
    let directory = folder.path("cache");
    let (theirs, ours) = (folder.path("theirs"), folder.path("ours"));
    with_middle(&theirs, b'X');
    with_middle(&ours, b'o');
    keep(&directory, &theirs);
    keep(&directory, &ours);
    assert_eq!(entries(&directory).len(), 2);

    let room = open(&directory);
    let (theirs, ours) = (object(&room, &theirs), object(&room, &ours));
    assert_eq!(theirs.build_id, ours.build_id);
    assert_eq!(room.walk_table(theirs.id).unwrap(), b"X");
    assert_eq!(room.walk_table(ours.id).unwrap(), b"o");
    assert_eq!((room.stats().extracted, cache_of(&room).hits), (0, 2));
}

fn damaged() {
    let folder = Folder::new();
    let directory = folder.path("cache");
    let file = folder.executable("a", "unwind=100000");
    keep(&directory, &file);
    let entry = entries(&directory).remove(0);
    let sound = fs::read(&entry).unwrap();

    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cut = |bytes: usize| sound[..bytes].to_vec();
    // Of the head: magic, producer, both sizes, both checksums; of the result; of the tables.
    let mut wrong: Vec<Vec<u8>> = [0, 8, 16, 24, 32, 48, 70, 300, 50_000, sound.len() - 1].map(flipped).to_vec();
    wrong.extend([0, 1, 63, 64, 100, sound.len() / 2, sound.len() - 1].map(cut));
    wrong.push(vec![0; sound.len()]);
    for (number, bytes) in wrong.into_iter().enumerate() {
        fs::write(&entry, bytes).unwrap();
        let room = open(&directory);
        let info = object(&room, &file);
        assert!(info.readable && room.walk_table(info.id).is_some(), "{number}");
        assert_eq!((room.stats().extracted, cache_of(&room).damaged, cache_of(&room).hits), (1, 1, 0), "{number}");
        wait_until("it is made again", || cache_of(&room).stored == 1);
        assert_eq!(fs::read(&entry).unwrap(), sound, "{number}");
    }
    // Named after another file.
    let (start, producer) = entry.to_str().unwrap().rsplit_once('-').unwrap();
    let other = format!("{start}-{}.{}", "0".repeat(32), producer.rsplit_once('.').unwrap().1);
    fs::rename(&entry, &other).unwrap();
    let room = open(&directory);
    assert!(object(&room, &file).readable);
    assert_eq!((room.stats().extracted, cache_of(&room).damaged), (1, 1));
    assert!(!Path::new(&other).exists());
}

fn foreign() {
    let folder = Folder::new();
    let directory = folder.path("cache");
    let file = folder.executable("a", "");
    keep(&directory, &file);
    let entry = entries(&directory).remove(0);
    let foreign = entry.with_extension("0123456789abcdef");
    fs::rename(&entry, &foreign).unwrap();
    fs::write(directory.join("README"), "of the operator").unwrap();
    {
        let room = open(&directory);
        assert!(object(&room, &file).readable);
        let stats = cache_of(&room);
        assert_eq!((room.stats().extracted, stats.hits, stats.damaged), (1, 0, 0));
        wait_until("it is kept", || cache_of(&room).stored == 1);
    }
    assert!(foreign.exists() && entry.exists() && directory.join("README").exists());
}

fn full_disk() {
    let folder = Folder::new();
    let directory = folder.path("cache");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    mount("none", &directory, "tmpfs", MountFlags::empty(), Some(c"size=128k,mode=0700")).unwrap();
    let result = std::panic::catch_unwind(|| {
        let room = open(&directory);
        let large = object(&room, &folder.executable("a", "unwind=1000000"));
        assert_eq!(room.walk_table(large.id).unwrap().len(), 1_000_000);
        wait_until("writing has failed", || cache_of(&room).failed == 1);
        assert!(object(&room, &folder.executable("b", "b")).readable);
        wait_until("the next is not even tried", || cache_of(&room).failed == 2);
        assert_eq!((cache_of(&room).stored, cache_of(&room).bytes), (0, 0));
        assert!(entries(&directory).is_empty(), "nothing half written stays");
    });
    unmount(&directory, UnmountFlags::DETACH).unwrap();
    result.unwrap();
}

fn refused() {
    let folder = Folder::new();
    let file = folder.executable("a", "");
    let (open_to_all, of_group, link) = (folder.path("all"), folder.path("group"), folder.path("link"));
    for (path, mode) in [(&open_to_all, 0o1777), (&of_group, 0o770)] {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink(folder.path(""), &link).unwrap();
    let anothers = folder.path("anothers");
    fs::create_dir(&anothers).unwrap();
    std::os::unix::fs::chown(&anothers, Some(65534), None).unwrap();
    let below_a_file = file.join("cache");
    for directory in [&open_to_all, &of_group, &link, &anothers, &below_a_file, &PathBuf::from("/proc/sys/cache")] {
        let room = open(directory);
        assert!(object(&room, &file).readable);
        assert_eq!((room.stats().extracted, room.stats().cache), (1, None), "{directory:?}");
    }
    assert!(entries(&open_to_all).is_empty() && entries(&of_group).is_empty() && entries(&anothers).is_empty());
}

fn bounded() {
    let folder = Folder::new();
    let directory = folder.path("cache");
    let bytes = || entries(&directory).iter().map(|entry| fs::metadata(entry).unwrap().size()).sum::<u64>();
    let limited = || Objects::start(ObjectsConfig { cache_bytes: 1 << 20, ..with_cache(&directory) }).unwrap();
    let files: Vec<_> =
        (0..30).map(|at| folder.executable(&format!("f{at}"), &format!("unwind={}", 50_000 + at))).collect();
    {
        let room = limited();
        for (at, file) in (1..).zip(&files) {
            assert!(object(&room, file).readable);
            wait_until("it is kept", || cache_of(&room).stored == at);
            assert!(bytes() <= 1 << 20);
        }
        assert!(object(&room, &folder.executable("large", "unwind=2000000")).readable);
        let stats = cache_of(&room);
        assert!(stats.evicted > 15 && stats.bytes <= 1 << 20, "{stats:?}");
    }
    let room = limited();
    let (first, last) = (object(&room, &files[0]), object(&room, &files[29]));
    assert!(first.readable && last.readable);
    assert_eq!((room.stats().extracted, cache_of(&room).hits), (1, 1), "the last was kept");
}

fn deadly() {
    let folder = Folder::new();
    let directory = folder.path("cache");
    let file = folder.executable("a", "die-names");
    {
        let room = open(&directory);
        let info = object(&room, &file);
        wait_until("it is kept", || cache_of(&room).stored == 1);
        assert_eq!(room.names(info.id, &[ElfAddress(1)]), [None]);
        assert_eq!(room.stats().quarantined, 1);
        wait_until("it is deleted", || entries(&directory).is_empty());
    }
    let room = open(&directory);
    object(&room, &file);
    assert_eq!(cache_of(&room).hits, 0);
}
