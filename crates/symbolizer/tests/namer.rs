//! Windows to profiles.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use profile::window::WindowEntry;
use profile::{
    BuildId, ElfAddress, Frame, ObjectId, ObjectInfo, Owner, ProcessKey, Profile, Segment, Span, StackEnd, SymbolName,
    UserAddress, Window,
};
use proptest::prelude::*;
use symbolizer::{KernelSymbols, NameSource, Namer, NamerLimits};

/// Knows every address that is not a multiple of 7; writes down what it was asked.
#[derive(Default)]
struct Source {
    asked: RefCell<Vec<(ObjectId, Vec<u64>)>>,
    /// Answers fewer than it was asked.
    short: bool,
}

impl NameSource for Source {
    fn names(&self, object: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
        self.asked.borrow_mut().push((object, addresses.iter().map(|a| a.0).collect()));
        let name = |a: &ElfAddress| {
            let name = |name: String| SymbolName { system_name: format!("_Z{name}"), name, ..SymbolName::default() };
            (!a.0.is_multiple_of(7)).then(|| name(format!("f{}_{}", object.0, a.0 / 16)))
        };
        let n = if self.short { addresses.len() / 2 } else { addresses.len() };
        addresses.iter().take(n).map(name).collect()
    }
}

fn object(id: u64, path: &str) -> Arc<ObjectInfo> {
    let segment =
        |elf_address, executable| Segment { elf_address, file_offset: elf_address / 2, file_bytes: 0x800, executable };
    Arc::new(ObjectInfo {
        id: ObjectId(id),
        path: path.into(),
        build_id: BuildId { gnu: format!("{id:x}"), ..BuildId::default() },
        segments: vec![segment(0x400, false), segment(0x1000, true), segment(0x3000, true)],
        readable: true,
    })
}

fn owner(tgid: u32, executable: Option<u64>) -> Arc<Owner> {
    Arc::new(Owner {
        process: ProcessKey { tgid, leader_start_mono_ns: 1 },
        process_name: "p".into(),
        executable: executable.map(ObjectId),
        ..Owner::default()
    })
}

fn window(entries: Vec<(u32, Vec<Frame>, u64)>) -> Window {
    let samples = entries.iter().map(|e| e.2).sum();
    let entries = entries
        .into_iter()
        .map(|(owner, stack, count)| WindowEntry { owner, stack: stack.into(), count, times_unix_ns: vec![] })
        .collect();
    Window {
        span: Span { from_mono_ns: 1, to_mono_ns: 2, from_unix_ns: 3, to_unix_ns: 4 },
        period_ns: 10,
        owners: vec![owner(1, Some(1)), owner(2, None), owner(3, Some(3))],
        objects: [object(1, "/usr/bin/one"), object(2, "/lib/two.so"), object(3, "/never/seen")]
            .map(|o| (o.id, o))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        entries,
        samples,
    }
}

fn in_object(object: u64, address: u64) -> Frame {
    Frame::Object { object: ObjectId(object), address: ElfAddress(address) }
}

fn kernel() -> KernelSymbols {
    KernelSymbols::parse(b"ffffffff81000000 T do_it\nffffffff81000100 T do_that\nffffffffc0000000 t write\t[ext4]\n")
}

fn stacks(profile: &Profile) -> Vec<(u32, u64, Vec<String>)> {
    let names = |stack: &[u32]| stack.iter().map(|&l| profile.location_name(l).to_owned()).collect();
    profile.entries.iter().map(|e| (e.owner, e.count, names(&profile.stacks[e.stack as usize]))).collect()
}

#[test]
fn texts_of_every_kind_of_frame() {
    let anon = |mapping: &str| Frame::Unmapped { mapping: mapping.into(), address: UserAddress(0x7f00) };
    let window = window(vec![(
        1,
        vec![
            Frame::Kernel(0xffff_ffff_8100_0010),
            Frame::Kernel(0xffff_ffff_c000_0010),
            Frame::Kernel(0xffff_ffff_9000_0000),
            in_object(1, 0x1001),
            in_object(2, 0x1007 / 7 * 7),
            in_object(9, 0x1001),
            anon("//anon"),
            anon(""),
            anon("[heap]"),
            anon("/tmp/perf-1.map\n"),
            Frame::Cut(StackEnd::TruncatedSnapshot),
        ],
        3,
    )]);
    let mut namer = Namer::new(kernel(), NamerLimits::default());
    let profile = namer.name(&window, &Source::default());
    profile.check().unwrap();
    let (owner, count, names) = stacks(&profile).remove(0);
    assert_eq!((owner, count, profile.samples()), (1, 3, 3));
    assert_eq!(
        names,
        [
            "do_it",
            "write",
            "[kernel]+0xffffffff90000000",
            "f1_256",
            "two.so+0x1001".replace("0x1001", &format!("{:#x}", 0x1007 / 7 * 7)).as_str(),
            "[unknown]+0x1001",
            "[anon]+0x7f00",
            "[anon]+0x7f00",
            "[heap]+0x7f00",
            "perf-1.map\u{fffd}+0x7f00",
            "[cut: truncated_snapshot]",
        ]
    );
    let paths: Vec<_> = profile.mappings.iter().map(|m| (profile.text(m.path), m.kernel)).collect();
    // Executables first, whether or not a frame refers to them.
    assert_eq!(
        paths,
        [("/usr/bin/one", false), ("/never/seen", false), ("[kernel]", true), ("[ext4]", true), ("/lib/two.so", false)]
    );
    assert_eq!(profile.owner_mappings, [Some(0), None, Some(1)]);
    let one = &profile.mappings[0];
    assert_eq!((one.memory_start, one.memory_limit, one.file_offset), (0x1000, 0x3800, 0x800));
    let f = profile.functions.iter().find(|f| profile.text(f.name) == "f1_256").unwrap();
    assert_eq!(profile.text(f.system_name), "_Zf1_256");
    let stats = namer.stats().stats();
    assert_eq!((stats.named_frames, stats.unnamed_frames, stats.kernel_symbols), (3, 7, 3));
}

#[test]
fn an_address_is_asked_for_once() {
    let window = window(vec![
        (0, vec![in_object(1, 0x1001), in_object(2, 0x1001), in_object(1, 0x1007)], 1),
        (1, vec![in_object(1, 0x1001), in_object(1, 0x1010 / 7 * 7)], 1),
    ]);
    let source = Source::default();
    let mut namer = Namer::new(kernel(), NamerLimits::default());
    for _ in 0..3 {
        namer.name(&window, &source).check().unwrap();
    }
    let mut asked = source.asked.borrow().clone();
    asked.sort();
    let unknown = 0x1010 / 7 * 7;
    let mut first = vec![0x1001, 0x1007, unknown];
    first.sort_unstable();
    assert_eq!(asked, [(ObjectId(1), first), (ObjectId(2), vec![0x1001])]);
    assert_eq!(namer.stats().stats().cached_names, 4);
}

#[test]
fn a_name_is_asked_for_once_for_all_its_addresses() {
    /// Functions of 16 bytes; every third address claims to be of a range that it is not in.
    struct Functions(RefCell<Vec<u64>>);
    impl NameSource for Functions {
        fn names(&self, _: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
            self.0.borrow_mut().extend(addresses.iter().map(|a| a.0));
            let name = |a: &ElfAddress| {
                let start = a.0 / 16 * 16;
                let addresses = if a.0.is_multiple_of(3) { 0x2000..0x3000 } else { start..start + 16 };
                Some(SymbolName { name: format!("f{start:x}"), addresses, ..SymbolName::default() })
            };
            addresses.iter().map(name).collect()
        }
    }
    let source = Functions(RefCell::default());
    let mut namer = Namer::new(kernel(), NamerLimits::default());
    let mut asks = |address: u64| {
        let profile = namer.name(&window(vec![(0, vec![in_object(1, address)], 1)]), &source);
        assert_eq!(stacks(&profile).remove(0).2, [format!("f{:x}", address / 16 * 16)], "{address:x}");
        std::mem::take(&mut *source.0.borrow_mut()) == [address]
    };
    // The function's first address, its last, and its neighbours.
    assert_eq!([0x1010, 0x1010, 0x101f, 0x100f, 0x1020].map(&mut asks), [true, false, false, true, true]);
    // What is said of others is not believed.
    assert_eq!([0x1032, 0x1032, 0x1033, 0x2001].map(&mut asks), [true, false, true, true]);
}

#[test]
fn a_source_that_answers_too_little_or_nonsense() {
    struct Nonsense;
    impl NameSource for Nonsense {
        fn names(&self, _: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
            let name = |a: &ElfAddress| {
                let name = if a.0.is_multiple_of(2) { String::new() } else { "a\nb".repeat(4000) };
                Some(SymbolName { name, ..SymbolName::default() })
            };
            addresses.iter().chain(addresses).map(name).collect()
        }
    }
    let window = window(vec![(0, vec![in_object(1, 0x1001), in_object(1, 0x1002)], 1)]);
    let mut namer = Namer::new(kernel(), NamerLimits::default());
    let profile = namer.name(&window, &Nonsense);
    profile.check().unwrap();
    let names = stacks(&profile).remove(0).2;
    assert!(names[0].starts_with("a\u{fffd}ba") && names[0].len() < 5000);
    assert_eq!(names[1], "one+0x1002");
    let short = Source { short: true, ..Source::default() };
    Namer::new(kernel(), NamerLimits::default()).name(&window, &short).check().unwrap();
}

#[test]
fn no_sample_vanishes() {
    let mut broken =
        window(vec![(0, vec![], 2), (77, vec![in_object(1, 0x1001)], 3), (0, vec![in_object(1, 0x1001)], 4)]);
    broken.entries.push(broken.entries[2].clone());
    let profile = Namer::new(kernel(), NamerLimits::default()).name(&broken, &Source::default());
    profile.check().unwrap();
    assert_eq!(profile.samples(), 13);
    assert_eq!(profile.entries.len(), 3);
    assert_eq!(profile.owners.len(), profile.owner_mappings.len());
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (0u64..0x300).prop_map(|n| Frame::Kernel(0xffff_ffff_8100_0000 + n)),
        (1u64..5, 0x1000u64..0x1100).prop_map(|(o, a)| in_object(o, a)),
        ("(//anon|/x/y|)", 0u64..20).prop_map(|(m, a)| Frame::Unmapped { mapping: m.into(), address: UserAddress(a) }),
        (0usize..10).prop_map(|i| Frame::Cut(StackEnd::ALL[i])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn profiles_are_valid_and_complete(
        entries in proptest::collection::vec((0u32..4, proptest::collection::vec(frame(), 0..8), 1u64..5), 0..30),
        cached in 1usize..40,
    ) {
        let window = window(entries);
        let mut namer = Namer::new(kernel(), NamerLimits { cached_names: cached });
        let first = namer.name(&window, &Source::default());
        prop_assert_eq!(first.check(), Ok(()));
        prop_assert_eq!(first.samples(), window.samples);
        for location in 0..first.locations.len() {
            prop_assert!(!first.location_name(u32::try_from(location).unwrap()).is_empty());
        }
        for (table, rows) in [("strings", first.strings.len()), ("locations", first.locations.len())] {
            let distinct = match table {
                "strings" => first.strings.iter().collect::<std::collections::HashSet<_>>().len(),
                _ => first.locations.iter().collect::<std::collections::HashSet<_>>().len(),
            };
            prop_assert_eq!(distinct, rows, "{}", table);
        }
        // The cache, however small, changes nothing.
        let second = namer.name(&window, &Source::default());
        prop_assert_eq!(stacks(&first), stacks(&second));
        prop_assert!(namer.stats().stats().cached_names <= cached.max(2) as u64);
    }
}

#[test]
fn fifty_thousand_frames() {
    let entries = (0..5000u64)
        .map(|i| (0, (0..50).map(|f| in_object(1 + f % 2, 0x1000 + (i * 10 + f % 10) * 3)).collect(), 1))
        .collect();
    let window = window(entries);
    let source = Source::default();
    let mut namer = Namer::new(kernel(), NamerLimits::default());
    // Each address is asked for once; then for those without a name, and for what the cache has no room for.
    for (what, most) in [("cold", 50_000), ("warm", 25_000)] {
        let start = Instant::now();
        let profile = namer.name(&window, &source);
        let took = start.elapsed();
        let asked: usize = source.asked.take().iter().map(|(_, addresses)| addresses.len()).sum();
        println!("{what}: {} locations, {} frames, {asked} asked for in {took:?}", profile.locations.len(), 5000 * 50);
        assert!(asked <= most, "{what}: {asked}");
    }
}

/// A name of four kilobytes for every address.
struct Endless;

impl NameSource for Endless {
    fn names(&self, _: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
        let name = |a: &ElfAddress| {
            Some(SymbolName {
                name: format!("{:04000}", a.0),
                system_name: format!("_{:03999}", a.0),
                ..SymbolName::default()
            })
        };
        addresses.iter().map(name).collect()
    }
}

/// What one process can make up within a window, with a file of its own that has a name for everything.
#[test]
fn a_window_of_made_up_stacks_is_bounded() {
    const STACKS: u64 = 140;
    let in_file = (0..STACKS).map(|i| (0, (0..1000).map(|f| in_object(1, 0x1000 + i * 1000 + f)).collect(), 1));
    let anonymous = Frame::Unmapped { mapping: "//anon".into(), address: UserAddress(7) };
    let last = (1, vec![anonymous, Frame::Kernel(0xffff_ffff_8100_0004), Frame::Cut(StackEnd::BadFrame)], 5);
    let window = window(in_file.chain([last]).collect());
    let profile = Namer::new(kernel(), NamerLimits::default()).name(&window, &Endless);
    assert_eq!((profile.check(), profile.samples()), (Ok(()), STACKS + 5));
    assert!(profile.locations.len() < (1 << 17) + 10, "{}", profile.locations.len());
    let bytes: usize = profile.strings.iter().map(|s| s.len()).sum();
    assert!(bytes < 64 << 20, "{bytes}");
    assert!(profile.strings.iter().all(|s| !s.is_empty() || Arc::ptr_eq(s, &profile.strings[0])));
    for text in ["one+?", "[anon]+?", "do_it", "[cut: bad_frame]"] {
        assert!(profile.strings.iter().any(|s| &**s == text), "{text}");
    }
}
