//! Files that are no files, or not what they say.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use objects::{MappedFile, Objects};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Folder, NOBODY, PATIENCE, Test, mapped, object, room};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("hostile::fifos_devices_and_directories_do_not_block", no_regular_files),
        ("hostile::a_fifo_put_in_the_files_place", a_fifo_in_the_files_place),
        ("hostile::a_huge_sparse_file_costs_nothing", a_huge_sparse_file),
        ("hostile::garbage_is_counted_and_nothing_else", garbage),
        ("hostile::damaged_executables_are_counted_and_nothing_else", damaged_executables),
        ("hostile::strange_paths", strange_paths),
        ("hostile::a_file_that_changes_while_it_is_read", changing_file),
        ("hostile::tools_that_fail_leave_the_identity", tools_that_fail),
    ]
}

/// The worker still works, and was never replaced.
fn assert_unharmed(room: &Objects, folder: &Folder) {
    assert!(object(room, &folder.executable("unharmed", "")).readable);
    assert_eq!(room.stats().worker_restarts, 0);
    assert_eq!(room.stats().worker_failed_requests, 0);
}

fn no_regular_files() {
    let (room, folder) = (room(), Folder::new());
    let fifo = folder.path("fifo");
    make_fifo(&fifo);
    let directory = folder.path("directory");
    fs::create_dir(&directory).unwrap();
    let start = Instant::now();
    for path in [&fifo, &directory, Path::new("/dev/zero"), Path::new("/dev/null"), Path::new("/proc/self/mem")] {
        let info = object(&room, path);
        assert!(!info.readable, "{path:?}");
    }
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(room.stats().open_errors, 4, "{:?}", room.stats());
    assert_unharmed(&room, &folder);
}

fn make_fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a string that lives until the call returns.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

fn a_fifo_in_the_files_place() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "");
    let file = mapped(&path);
    fs::rename(&path, folder.path("kept")).unwrap();
    make_fifo(&path);
    let start = Instant::now();
    assert!(!room.object(&file, NOBODY, 0..0).readable);
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(room.stats().identity_mismatches, 1);
    assert_unharmed(&room, &folder);
}

fn a_huge_sparse_file() {
    let (room, folder) = (room(), Folder::new());
    let head = fs::read("/bin/sleep").unwrap();
    for (name, bytes) in [("large", 8_u64 << 30), ("huge", 1 << 40)] {
        let path = folder.path(name);
        let file = File::create(&path).unwrap();
        file.write_all_at(&head[..4096], 0).unwrap();
        file.set_len(bytes).unwrap();
        let start = Instant::now();
        let info = object(&room, &path);
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(info.readable, bytes <= 16 << 30, "{name}");
    }
    assert_eq!(room.stats().parse_errors, 1);
    assert_unharmed(&room, &folder);
}

fn garbage() {
    let (room, folder) = (room(), Folder::new());
    let mut count = 0;
    let strategy = proptest::collection::vec(any::<u8>(), 0..4096);
    let is_elf = any::<bool>();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(300) });
    let cell = std::cell::RefCell::new(&mut count);
    runner
        .run(&(strategy, is_elf), |(mut content, is_elf)| {
            if is_elf {
                content.splice(0..0, *b"\x7fELF\x02\x01\x01");
            }
            let mut count = cell.borrow_mut();
            **count += 1;
            let path = folder.path(&format!("g{count}"));
            fs::write(&path, content).unwrap();
            let _ = object(&room, &path);
            prop_assert_eq!(room.stats().worker_restarts, 0);
            Ok(())
        })
        .unwrap();
    let stats = room.stats();
    assert_eq!(stats.extracted, count);
    assert!(stats.parse_errors >= count * 9 / 10);
    assert_unharmed(&room, &folder);
}

fn damaged_executables() {
    let (room, folder) = (room(), Folder::new());
    let whole = fs::read("/bin/sleep").unwrap();
    let count = std::cell::Cell::new(0_u64);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(300) });
    let changes = proptest::collection::vec((0..1024_usize, any::<u8>()), 0..16);
    let cut = prop_oneof![Just(whole.len()), 0..whole.len()];
    runner
        .run(&(changes, cut), |(changes, cut)| {
            let mut content = whole.clone();
            for (at, value) in changes {
                content[at] = value;
            }
            content.truncate(cut);
            count.set(count.get() + 1);
            let path = folder.path(&format!("d{}", count.get()));
            fs::write(&path, content).unwrap();
            let info = object(&room, &path);
            prop_assert!(info.segments.len() <= 256);
            prop_assert_eq!(room.stats().worker_restarts, 0);
            Ok(())
        })
        .unwrap();
    assert_eq!(room.stats().extracted + room.stats().shared, count.get());
    assert_unharmed(&room, &folder);
}

fn strange_paths() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("new\nline \u{1b}[31m \u{202e}", "");
    let info = object(&room, &path);
    assert!(info.readable && info.path.contains("new\nline"));
    for path in [&b""[..], b"/", b"//", b"relative", b"/\xff\xfe", b"/a\0b", b"/../../../etc/passwd", b" (deleted)"] {
        let file = MappedFile { major: 8, minor: 1, inode: 1 << 40, generation: 0, path: path.to_vec() };
        assert!(!room.object(&file, NOBODY, 0..0).readable, "{path:?}");
    }
    let long = MappedFile { inode: 1 << 40, path: [b"/".as_slice(), &[b'x'; 1 << 20]].concat(), ..Default::default() };
    assert!(!room.object(&long, NOBODY, 0..0).readable);
    assert!(room.object(&mapped(&path), u32::MAX, 0..u64::MAX).readable);
    assert_unharmed(&room, &folder);
}

fn changing_file() {
    let (room, folder) = (room(), Folder::new());
    let path = folder.executable("a", "");
    let content = fs::read(&path).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().write(true).open(&path).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.set_len(0).unwrap();
                file.set_len(1 << 20).unwrap();
                let _ = file.write_all(&content);
                file.set_len(100).unwrap();
            }
        });
        for _ in 0..300 {
            let _ = object(&room, &path);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_unharmed(&room, &folder);
    crate::support::executable(&path, "calm");
    crate::support::wait_until("it is read", || object(&room, &path).readable);
}

fn tools_that_fail() {
    let (room, folder) = (room(), Folder::new());
    let info = object(&room, &folder.executable("a", "bad"));
    assert!(info.readable && !info.build_id.gnu.is_empty() && !info.segments.is_empty());
    let stats = room.stats();
    assert_eq!((stats.parse_errors, stats.table_bytes), (1, 0));
    assert_eq!(room.names(info.id, &[profile::ElfAddress(1)]), [None]);
    assert_unharmed(&room, &folder);
}
