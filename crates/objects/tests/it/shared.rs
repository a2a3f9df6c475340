//! Files with the same content share their tables; files that only look alike do not.

use std::fs;
use std::path::Path;

use crate::support::{Folder, Test, object, room};
use crate::tools::COMMAND_BYTES;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("shared::copies_cost_one_extraction", copies),
        ("shared::a_file_with_anothers_build_id_gets_its_own_tables", poisoned),
        ("shared::tables_that_kill_are_not_shared", deadly),
    ]
}

fn copies() {
    let (room, folder) = (room(), Folder::new());
    let first = object(&room, &folder.executable("a", "unwind=1000000"));
    let held = room.stats().table_bytes;
    for name in ["b", "c", "d"] {
        let path = folder.executable(name, "unwind=1000000");
        let info = object(&room, &path);
        assert_ne!(info.id, first.id);
        assert_eq!((info.path.as_ref(), &info.build_id), (path.to_str().unwrap(), &first.build_id));
        assert_eq!(room.walk_table(info.id), room.walk_table(first.id));
        assert!(room.fingerprint(info.id).is_some());
        assert_eq!(room.fingerprint(info.id), room.fingerprint(first.id));
    }
    let stats = room.stats();
    assert_eq!((stats.objects, stats.extracted, stats.shared), (4, 1, 3));
    assert_eq!(stats.table_bytes, held, "held once");
}

/// A file with this command, and text in its middle that tools look at as well.
pub(crate) fn with_middle(path: &Path, middle: u8) {
    let mut content = fs::read("/bin/sleep").unwrap();
    content.resize(content.len().next_multiple_of(8192), 0);
    content.extend_from_slice(&[middle; 8192]);
    content.extend_from_slice(&[0; 8192 - COMMAND_BYTES as usize]);
    let mut command = b"command:middle".to_vec();
    command.resize(COMMAND_BYTES as usize, b' ');
    content.extend_from_slice(&command);
    fs::write(path, content).unwrap();
}

fn poisoned() {
    let (room, folder) = (room(), Folder::new());
    let (ours, theirs, again) = (folder.path("ours"), folder.path("theirs"), folder.path("again"));
    // The hostile file comes first: the same head, build id, size, and tail.
    with_middle(&theirs, b'X');
    with_middle(&ours, b'o');
    with_middle(&again, b'o');
    let (theirs, ours, again) = (object(&room, &theirs), object(&room, &ours), object(&room, &again));
    assert_eq!(theirs.build_id, ours.build_id);
    assert!(!ours.build_id.gnu.is_empty());
    assert_eq!(room.walk_table(theirs.id).unwrap(), b"X");
    assert_eq!(room.walk_table(ours.id).unwrap(), b"o");
    assert_eq!(room.walk_table(again.id).unwrap(), b"o");
    assert_ne!(room.fingerprint(ours.id), room.fingerprint(theirs.id));
    let stats = room.stats();
    assert_eq!((stats.extracted, stats.shared), (2, 1), "{stats:?}");
}

fn deadly() {
    let (room, folder) = (room(), Folder::new());
    let first = object(&room, &folder.executable("a", "die-names"));
    assert_eq!(room.names(first.id, &[profile::ElfAddress(1)]), [None]);
    assert_eq!(room.stats().quarantined, 1);
    object(&room, &folder.executable("b", "die-names"));
    assert_eq!((room.stats().extracted, room.stats().shared), (2, 0));
}
