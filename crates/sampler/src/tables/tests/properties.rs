//! Any order of events: walks under way read what they began with, and all of it comes back.

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Mapped(u32, Vec<u64>, Why),
    /// With the mappings of another process.
    Shared(u32, u32, Why),
    /// Only the kernel side knows of it yet.
    Exec(u32),
    Gone(u32),
    OnlyRun(Vec<u32>),
    Wanted(u64, u64),
    /// The file has another content.
    Changed(u64),
    Work(usize),
    Rewrite(usize),
    Windows(Vec<(u64, u64)>),
    TakeOff(u64),
    Collect,
}

fn why() -> impl Strategy<Value = Why> {
    prop_oneof![Just(Why::Executed), Just(Why::Sampled), Just(Why::Changed)]
}

fn event() -> impl Strategy<Value = Event> {
    let files = || proptest::collection::vec(0..FILES, 0..7);
    prop_oneof![
        8 => (0u32..12, files(), why()).prop_map(|(tgid, files, why)| Event::Mapped(tgid, files, why)),
        4 => (0u32..12, 0u32..12, why()).prop_map(|(tgid, other, why)| Event::Shared(tgid, other, why)),
        2 => (0u32..12).prop_map(Event::Exec),
        2 => (0u32..12).prop_map(Event::Gone),
        1 => proptest::collection::vec(0u32..12, 0..8).prop_map(Event::OnlyRun),
        10 => (0..FILES, 0u32..10).prop_map(|(file, samples)| Event::Wanted(file, 1 << samples)),
        1 => (0..FILES - 1).prop_map(Event::Changed),
        10 => (1usize..6).prop_map(Event::Work),
        4 => (1usize..4).prop_map(Event::Rewrite),
        2 => proptest::collection::vec((0..FILES * 2, 0u64..50), 0..6).prop_map(Event::Windows),
        1 => (0..FILES).prop_map(Event::TakeOff),
        2 => Just(Event::Collect),
    ]
}

/// What each list of mappings that was ever published has in it, by its number.
type Sets = BTreeMap<u64, Arc<MapSet>>;

fn check(state: &State, kernel: &FakeKernel, sets: &Sets) {
    for entry in kernel.published.values().chain(&kernel.under_way) {
        for mapping in sets[&entry.serial].list() {
            let inode = mapping.start / 0x10_0000_0000 - 1;
            let end = found(kernel, entry, inode);
            if inode == 9 {
                assert_eq!(end, End::NO_TABLE, "memory without a file has no table");
            } else {
                assert!(end == End::GOING_ON || end == End::PENDING, "{end:?}");
            }
        }
    }
    for (tgid, entry) in &kernel.published {
        assert_eq!(state.processes.get(tgid).map(|process| process.serial), Some(entry.serial), "tgid {tgid}");
    }
    let mut used = BTreeSet::new();
    for (serial, set) in &state.sets {
        assert!(set.placed.is_some() && !set.processes.is_empty(), "a set that nobody has");
        assert!(set.processes.iter().all(|tgid| state.processes[tgid].serial == *serial));
        used.extend(set.uses.iter().map(|used| used.key));
        for mapping in set.maps.list().iter().filter(|mapping| super::super::sets::has_file(mapping)) {
            assert!(state.files[&mapping.file].sets.contains(serial));
        }
    }
    assert!(state.processes.values().all(|process| state.sets.contains_key(&process.serial)));
    assert!(state.files.values().all(|file| !file.sets.is_empty()));
    assert_eq!(state.arena.stats().used_files, used.len() as u64, "{used:?}");
    assert!(used.iter().all(|&key| state.arena.placed(key).is_some()));
    let loaded = state.objects.values().filter_map(|object| object.table);
    assert_eq!(loaded.collect::<BTreeSet<_>>().len() as u64, state.arena.stats().files);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_events(shards in 1u32..3, events in proptest::collection::vec(event(), 1..120)) {
        let budget = Arc::new(MapBudget::default());
        let (mut state, mut kernel) = (State::new(), FakeKernel::new(shards));
        kernel.max_processes = 9;
        let mut sets = Sets::new();
        let mut current: BTreeMap<u32, Arc<MapSet>> = BTreeMap::new();
        let mut objects: BTreeMap<u64, ObjectId> = (0..FILES).map(|inode| (inode, ObjectId(inode))).collect();
        for event in events {
            let news = match event {
                Event::Mapped(tgid, files, why) => Some(mapped(tgid, &maps(&budget, files), why)),
                Event::Shared(tgid, other, why) => current.get(&other).map(|maps| mapped(tgid, maps, why)),
                Event::Exec(tgid) => {
                    kernel.executed(tgid);
                    None
                }
                Event::Gone(tgid) => {
                    current.remove(&tgid);
                    state.gone(tgid, &mut kernel);
                    prop_assert!(!kernel.published.contains_key(&tgid) || kernel.has_executed.contains(&tgid));
                    None
                }
                Event::OnlyRun(running) => {
                    state.only_these_run(&running.into_iter().collect::<FxHashSet<_>>(), &mut kernel);
                    None
                }
                Event::Wanted(inode, samples) => {
                    state.wanted(&name(inode), samples);
                    None
                }
                Event::Changed(inode) => {
                    objects.insert(inode, ObjectId(objects[&inode].0 % FILES + FILES));
                    None
                }
                Event::Work(count) => {
                    for _ in 0..count {
                        work(&mut state, &mut kernel, |inode| objects[&inode]);
                    }
                    None
                }
                Event::Rewrite(count) => {
                    state.rewrite(count, &mut kernel);
                    None
                }
                Event::Windows(samples) => {
                    let samples = samples.into_iter().map(|(object, samples)| (ObjectId(object), samples));
                    state.windows(1, &samples.collect::<FxHashMap<_, _>>());
                    None
                }
                Event::TakeOff(object) => {
                    state.take_off(ObjectId(object));
                    None
                }
                Event::Collect => {
                    state.collect(&mut kernel);
                    None
                }
            };
            if let Some(news) = news {
                sets.insert(news.maps.serial(), Arc::clone(&news.maps));
                current.insert(news.tgid, Arc::clone(&news.maps));
                let unlooked = state.unlooked(&news);
                let known: Vec<_> = unlooked
                    .into_iter()
                    .filter_map(|index| news.maps.list().get(index))
                    // Some were never opened.
                    .filter(|mapping| mapping.file.mapped.inode % 2 == 0)
                    .map(|m| (Arc::clone(&m.file), info(objects[&(m.file.mapped.inode - 100)])))
                    .collect();
                state.mapped(&news, &known, &mut kernel);
                state.fetch_ahead(&news);
            }
            check(&state, &kernel, &sets);
        }
        for tgid in 0..12 {
            state.gone(tgid, &mut kernel);
        }
        prop_assert!(state.sets.is_empty() && state.files.is_empty() && state.processes.is_empty());
        prop_assert!(kernel.published.is_empty());
        state.windows(1000, &FxHashMap::default());
        state.collect(&mut kernel);
        let arena = state.arena.stats();
        prop_assert_eq!(arena.free_bytes, arena.total_bytes);
        prop_assert!(state.objects.values().all(|object| object.names.is_empty()));
        prop_assert!(!work(&mut state, &mut kernel, ObjectId));
    }
}
