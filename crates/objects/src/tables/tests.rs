use proptest::prelude::*;

use super::*;

fn sizes(unwind: u64, walk: u64, symbols: u64) -> Sizes {
    Sizes { unwind, walk, symbols }
}

fn write(unwind: &[u8], walk: &[u8], symbols: &[u8]) -> OwnedFd {
    let mut writer = Writer::new().unwrap();
    writer.unwind(unwind).unwrap();
    writer.walk(walk).unwrap();
    writer.symbols(symbols).unwrap();
    writer.finish().unwrap().unwrap().0
}

#[test]
fn what_was_written_cannot_be_changed() {
    let memfd = write(b"unwind", b"walk", b"symbols");
    let sizes = sizes(6, 4, 7);
    assert_eq!(check(memfd.as_fd(), sizes).unwrap(), Layout::new(sizes).unwrap().bytes());
    let file = File::from(memfd.try_clone().unwrap());
    assert!(file.write_all_at(b"x", 0).is_err());
    assert!(file.set_len(10).is_err() && file.set_len(1 << 20).is_err());
    let stored = StoredTables::new(memfd.try_clone().unwrap(), sizes, None).unwrap();
    assert_eq!(stored.walk().unwrap().unwrap(), b"walk");
    let tables = Tables::open(memfd).unwrap();
    assert_eq!(*tables.unwind().unwrap(), *b"unwind");
    assert_eq!(*tables.symbols().unwrap(), *b"symbols");
}

#[test]
fn other_descriptors_are_refused() {
    let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let unsealed = || {
        let file = File::from(sealable_memfd("test").unwrap());
        file.set_len(64).unwrap();
        OwnedFd::from(file)
    };
    for descriptor in [open("/dev/zero"), open("/etc/passwd"), open("/proc/self/maps"), unsealed()] {
        assert!(check(descriptor.as_fd(), sizes(16, 0, 16)).is_err());
        assert!(Tables::open(descriptor).is_err());
    }
    let sealed = sealed_copy("test", &[0; 64]).unwrap();
    assert!(check(sealed.as_fd(), sizes(16, 0, 16)).is_ok(), "the agent does not look inside");
    assert!(check(sealed.as_fd(), sizes(16, 0, 17)).is_err());
    assert!(Tables::open(sealed).is_err(), "the worker does");
}

#[test]
fn sizes_are_bounded() {
    const MAX: u64 = MAX_TABLE_BYTES;
    for (unwind, walk, symbols) in
        [(MAX, 0, 0), (0, MAX, 0), (0, 0, MAX), (u64::MAX, 1, 1), (1, u64::MAX, 1), (1, 1, u64::MAX)]
    {
        assert!(Layout::new(sizes(unwind, walk, symbols)).is_err());
    }
    assert!(Layout::new(sizes(MAX - 64, 16, 16)).is_ok());
}

#[test]
fn without_sections_there_is_no_memfd() {
    let mut writer = Writer::new().unwrap();
    writer.unwind(b"").unwrap();
    writer.symbols(b"").unwrap();
    assert!(writer.finish().unwrap().is_none());
}

proptest! {
    #[test]
    fn tables_come_back(
        unwind in proptest::collection::vec(any::<u8>(), 1..5000),
        walk in proptest::collection::vec(any::<u8>(), 0..5000),
        symbols in proptest::collection::vec(any::<u8>(), 1..5000),
    ) {
        let memfd = write(&unwind, &walk, &symbols);
        let [a, b, c] = [&unwind, &walk, &symbols].map(|section| section.len() as u64);
        let stored = StoredTables::new(memfd.try_clone().unwrap(), sizes(a, b, c), None).unwrap();
        prop_assert_eq!(stored.walk().unwrap().unwrap_or_default(), walk);
        let tables = Tables::open(memfd).unwrap();
        prop_assert_eq!(&*tables.unwind().unwrap(), &unwind[..]);
        let map = tables.symbols().unwrap();
        prop_assert_eq!(&*map, &symbols[..]);
        prop_assert_eq!(map.as_ptr().align_offset(16), 0);
    }

    #[test]
    fn damaged_tables_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), sizes in any::<[u8; 2]>()) {
        if bytes.len() >= 32 {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..32].fill(0);
            (bytes[8], bytes[24]) = (sizes[0], sizes[1]);
        }
        if let Ok(tables) = Tables::open(sealed_copy("test", &bytes).unwrap()) {
            prop_assert_eq!(tables.unwind().unwrap().len(), usize::from(sizes[0]));
            prop_assert_eq!(tables.symbols().unwrap().len(), usize::from(sizes[1]));
        }
    }
}
