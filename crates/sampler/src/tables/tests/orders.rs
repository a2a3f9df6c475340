//! What is done in which order.

use super::*;

fn ready(state: &mut State, kernel: &mut FakeKernel, news: &Mapped, known: &[u64]) {
    let known: Vec<_> = known.iter().map(|&inode| (name(inode), info(ObjectId(inode)))).collect();
    state.mapped(news, &known, kernel);
    state.fetch_ahead(news);
}

#[test]
fn a_program_that_begins_has_its_files_fetched_and_the_next_one_is_ready_at_once() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    let first = Mapped { executable: Some(name(0)), ..mapped(5, &maps(&budget, [0, 1, 9]), Why::Executed) };
    ready(&mut state, &mut kernel, &first, &[]);
    let entry = kernel.published[&5];
    assert_eq!((entry.leader_start_mono_ns, entry.serial), (12, first.maps.serial()));
    assert_eq!([0, 1, 9].map(|inode| found(&kernel, &entry, inode)), [End::PENDING, End::PENDING, End::NO_TABLE]);
    assert!(matches!(state.next_work(), Some(Work::Open { file, .. }) if file == name(0)), "the executable first");
    state.opened(&name(0), &info(ObjectId(0)));
    settle(&mut state, &mut kernel);
    let entry = kernel.published[&5];
    assert_eq!([0, 1, 9].map(|inode| found(&kernel, &entry, inode)), [End::GOING_ON, End::GOING_ON, End::NO_TABLE]);

    let second = mapped(6, &maps(&budget, [0, 1]), Why::Executed);
    assert_eq!(state.unlooked(&second).len(), 2, "they may have changed");
    ready(&mut state, &mut kernel, &second, &[0, 1]);
    assert!(!state.has_work());
    assert_eq!([0, 1].map(|inode| found(&kernel, &kernel.published[&6], inode)), [End::GOING_ON; 2]);
}

#[test]
fn who_was_only_forked_or_was_there_before_waits_for_a_sample_and_its_files_too() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    let set = maps(&budget, [0, 1]);
    let changed = mapped(5, &set, Why::Changed);
    assert!(state.unlooked(&changed).is_empty());
    state.mapped(&changed, &[], &mut kernel);
    assert!(kernel.published.is_empty());
    ready(&mut state, &mut kernel, &mapped(5, &set, Why::Sampled), &[]);
    assert!(kernel.published.contains_key(&5) && !state.has_work(), "nothing is fetched that nobody needs");
    state.wanted(&name(1), 1);
    settle(&mut state, &mut kernel);
    let entry = kernel.published[&5];
    assert_eq!([0, 1].map(|inode| found(&kernel, &entry, inode)), [End::PENDING, End::GOING_ON]);
}

#[test]
fn the_hottest_file_is_fetched_first() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    ready(&mut state, &mut kernel, &mapped(5, &maps(&budget, 0..4), Why::Sampled), &[0, 1, 2, 3]);
    for (inode, samples) in [(0, 3), (1, 9), (2, 1), (3, 9)] {
        state.wanted(&name(inode), samples);
    }
    let order: Vec<u64> = std::iter::from_fn(|| match state.next_work() {
        Some(Work::Load { object }) => Some(object.0),
        _ => None,
    })
    .collect();
    assert_eq!(order, [1, 3, 0, 2]);
}

#[test]
fn mappings_of_a_program_that_has_gone_do_not_come_back() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    ready(&mut state, &mut kernel, &mapped(5, &maps(&budget, [0]), Why::Executed), &[0]);
    kernel.executed(5);
    // Its files come, and its mappings change: both are of the old program.
    settle(&mut state, &mut kernel);
    state.mapped(&mapped(5, &maps(&budget, [0, 1]), Why::Changed), &[], &mut kernel);
    assert!(kernel.published.is_empty());
    ready(&mut state, &mut kernel, &mapped(5, &maps(&budget, [1]), Why::Executed), &[1]);
    assert_eq!(found(&kernel, &kernel.published[&5], 1), End::PENDING);
}

#[test]
fn colder_files_give_way_but_not_to_files_as_hot() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(1));
    // 16, 24 and 8 pieces: the first two fill a shard.
    ready(&mut state, &mut kernel, &mapped(5, &maps(&budget, [2, 8, 1]), Why::Sampled), &[2, 8, 1]);
    state.wanted(&name(2), 1);
    state.wanted(&name(8), 9);
    settle(&mut state, &mut kernel);
    let ends = |kernel: &FakeKernel| [2, 8, 1].map(|inode| found(kernel, &kernel.published[&5], inode));
    assert_eq!(ends(&kernel), [End::GOING_ON, End::GOING_ON, End::PENDING]);
    state.wanted(&name(1), 2);
    settle(&mut state, &mut kernel);
    assert_eq!(state.refused_files, 1, "not twice as hot as the colder one");
    state.wanted(&name(1), 4);
    let before = kernel.published[&5];
    settle(&mut state, &mut kernel);
    assert_eq!(ends(&kernel), [End::PENDING, End::GOING_ON, End::GOING_ON]);
    assert_eq!((state.evicted, kernel.waits > 0), (1, true));
    assert_ne!(before, kernel.published[&5]);
}

#[test]
fn a_file_that_was_taken_off_stays_off() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    let set = maps(&budget, [0, 1]);
    ready(&mut state, &mut kernel, &mapped(5, &set, Why::Executed), &[0, 1]);
    settle(&mut state, &mut kernel);
    state.take_off(ObjectId(0));
    state.take_off(ObjectId(0));
    assert_eq!(state.taken_off, 1);
    state.wanted(&name(0), 100);
    settle(&mut state, &mut kernel);
    let entry = kernel.published[&5];
    assert_eq!([0, 1].map(|inode| found(&kernel, &entry, inode)), [End::PENDING, End::GOING_ON]);
    state.gone(5, &mut kernel);
    ready(&mut state, &mut kernel, &mapped(6, &set, Why::Executed), &[0, 1]);
    settle(&mut state, &mut kernel);
    assert_eq!(found(&kernel, &kernel.published[&6], 0), End::PENDING);
}

#[test]
fn a_file_that_cannot_be_opened_counts_as_one_without_a_table_in_the_end() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    ready(&mut state, &mut kernel, &mapped(5, &maps(&budget, [0]), Why::Sampled), &[]);
    let unreadable = Arc::new(ObjectInfo { readable: false, ..(*info(ObjectId(0))).clone() });
    for _ in 0..3 {
        assert_eq!(found(&kernel, &kernel.published[&5], 0), End::PENDING);
        state.wanted(&name(0), 1);
        assert!(matches!(state.next_work(), Some(Work::Open { .. })));
        state.opened(&name(0), &unreadable);
    }
    settle(&mut state, &mut kernel);
    assert_eq!(found(&kernel, &kernel.published[&5], 0), End::NO_TABLE);
    // A minute later it can, but its table cannot be had; another minute later all is well.
    state.windows(12, &FxHashMap::default());
    assert!(matches!(state.next_work(), Some(Work::Open { .. })));
    state.opened(&name(0), &info(ObjectId(0)));
    assert!(matches!(state.next_work(), Some(Work::Load { .. })));
    state.load(ObjectId(0), None, None, &mut kernel);
    settle(&mut state, &mut kernel);
    assert_eq!(found(&kernel, &kernel.published[&5], 0), End::NO_TABLE);
    state.windows(12, &FxHashMap::default());
    settle(&mut state, &mut kernel);
    assert_eq!(found(&kernel, &kernel.published[&5], 0), End::GOING_ON);
}

#[test]
fn many_processes_leave_room_for_files() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(1));
    let busy = maps(&budget, [0]);
    ready(&mut state, &mut kernel, &mapped(1, &busy, Why::Sampled), &[0]);
    state.wanted(&name(0), 1);
    settle(&mut state, &mut kernel);
    // Each has 3000 mappings, which is 96 KB.
    for tgid in 2..20 {
        let mut set = MapSet::new(&budget);
        for i in 0..3000 {
            let start = 0x7000_0000_0000 + i * 0x2000;
            assert!(set.insert(Mapping { start, end: start + 0x1000, offset: 0, file: name(9) }));
        }
        ready(&mut state, &mut kernel, &mapped(tgid, &Arc::new(set), Why::Executed), &[]);
    }
    assert!(state.refused_processes > 5 && kernel.published.len() > 5, "{}", state.refused_processes);
    state.wanted(&name(0), 1);
    settle(&mut state, &mut kernel);
    assert_eq!(found(&kernel, &kernel.published[&1], 0), End::GOING_ON);
}

#[test]
fn where_the_kernel_has_no_room_processes_are_refused_and_counted() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    kernel.max_processes = 2;
    for tgid in 1..=3 {
        ready(&mut state, &mut kernel, &mapped(tgid, &maps(&budget, [9]), Why::Executed), &[]);
    }
    assert_eq!((kernel.published.len(), state.sets.len(), state.refused_processes), (2, 2, 1));
    state.gone(1, &mut kernel);
    let third = mapped(3, &maps(&budget, [9]), Why::Sampled);
    ready(&mut state, &mut kernel, &third, &[]);
    assert_eq!(kernel.published.len(), 1, "not in the same window");
    state.windows(1, &FxHashMap::default());
    ready(&mut state, &mut kernel, &third, &[]);
    assert!(kernel.published.contains_key(&3));
}

#[test]
fn a_table_whose_last_process_goes_while_room_is_made_for_it_does_not_stay() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(1));
    ready(&mut state, &mut kernel, &mapped(5, &maps(&budget, [2, 8]), Why::Sampled), &[2, 8]);
    ready(&mut state, &mut kernel, &mapped(6, &maps(&budget, [1, 2]), Why::Sampled), &[1, 2]);
    state.wanted(&name(2), 1);
    state.wanted(&name(8), 2);
    settle(&mut state, &mut kernel);
    // Room is made over a file that it maps too: so its set is written anew, and it is seen that it has executed.
    kernel.executed(6);
    state.wanted(&name(1), 90);
    settle(&mut state, &mut kernel);
    assert!(!state.processes.contains_key(&6) && !state.objects.contains_key(&ObjectId(1)));
    state.gone(5, &mut kernel);
    state.windows(1000, &FxHashMap::default());
    state.collect(&mut kernel);
    assert_eq!(state.arena.stats().free_bytes, state.arena.stats().total_bytes);
}

#[test]
fn copies_of_a_file_have_one_table() {
    let budget = Arc::new(MapBudget::default());
    let (mut state, mut kernel) = (State::new(), FakeKernel::new(8));
    ready(&mut state, &mut kernel, &mapped(5, &maps(&budget, [2]), Why::Sampled), &[2]);
    ready(&mut state, &mut kernel, &mapped(6, &maps(&budget, [7]), Why::Sampled), &[7]);
    let ends =
        |kernel: &FakeKernel| [(5, 2), (6, 7)].map(|(tgid, inode)| found(kernel, &kernel.published[&tgid], inode));
    state.wanted(&name(2), 1);
    settle(&mut state, &mut kernel);
    assert_eq!(ends(&kernel), [End::GOING_ON, End::PENDING]);
    state.wanted(&name(7), 1);
    assert!(matches!(state.next_work(), Some(Work::Load { object: ObjectId(7) })));
    assert!(!state.share(ObjectId(7), None) && !state.share(ObjectId(7), Some([0; 32])));
    assert!(state.share(ObjectId(7), content(ObjectId(7))), "nothing need be fetched");
    settle(&mut state, &mut kernel);
    assert_eq!((ends(&kernel), state.arena.stats().files), ([End::GOING_ON; 2], 1));
    // What is wrong with one of them may be right for the other: its samples come another way.
    state.take_off(ObjectId(2));
    settle(&mut state, &mut kernel);
    assert_eq!((ends(&kernel), state.arena.stats().files), ([End::PENDING, End::GOING_ON], 1));
    state.gone(6, &mut kernel);
    assert_eq!((state.arena.stats().files, state.arena.stats().used_files), (1, 0));
    state.windows(1000, &FxHashMap::default());
    assert_eq!(state.arena.stats().files, 0);
}
