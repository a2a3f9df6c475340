use objects::MappedFile;
use profile::Declared;

use super::*;
use crate::declared::Environment;
use crate::fakes::FakeObjects;
use crate::process::{ProcessTable, Sighting};
use crate::sideband::{Kind, MapRecord, Record};

/// A process that maps `/app` at 0x1000, `/lib` at 0x3000, the vDSO at 0x7000 and memory without a file at 0x9000.
fn table() -> ProcessTable {
    let mut table = ProcessTable::default();
    let mut put = |kind| table.apply(&Record { time_mono_ns: 100, cpu: 0, kind });
    put(Kind::Fork { tgid: 10, tid: 10, parent_tgid: 1 });
    put(Kind::Comm { tgid: 10, comm: Comm::from_bytes(b"app"), exec: true });
    for (start, inode, path) in [
        (0x1000, 5, "/app (deleted)"),
        (0x3000, 6, "/lib"),
        (0x5000, 6, "/lib"),
        (0x7000, 0, "[vdso]"),
        (0x9000, 0, "//anon"),
    ] {
        let file = MappedFile { inode, path: path.into(), ..MappedFile::default() };
        let map = MapRecord { start, end: start + 0x1000, offset: start, file };
        put(Kind::Map { tgid: 10, map: Box::new(map) });
    }
    table
}

fn process(table: &mut ProcessTable) -> &mut Process {
    let sighting =
        Sighting { time_mono_ns: 200, tgid: 10, leader_start_mono_ns: 90, comm: Comm::default(), cgroup_id: 0 };
    table.sighted(sighting).unwrap()
}

fn head(pc: u64) -> SampleHead {
    let mut comm = [0; 16];
    comm[..6].copy_from_slice(b"worker");
    SampleHead { user_pc: pc, tgid: 10, tid: 11, leader_start_mono_ns: 90, cgroup_id: 4, comm, ..SampleHead::default() }
}

#[test]
fn only_files_that_a_stack_may_lead_through_are_opened() {
    let mut table = table();
    let process = process(&mut table);
    let objects = FakeObjects::default();
    let mut resolver = Resolver::new(objects.clone(), false);
    let entries = resolver.mappings(process, &head(0x1010), &[0; 64]);
    assert_eq!(objects.paths(), ["[vdso]", "/app (deleted)"]);
    assert_eq!(entries.iter().map(|e| e.object.is_some()).collect::<Vec<_>>(), [true, false, false, true, false]);
    assert_eq!((entries[0].file_offset, entries[3].file_offset), (0x1000, 0), "the vDSO is its own file");
    // A return address into the second mapping of /lib; it may be the mapping's very end.
    let mut snapshot = [0u8; 64];
    snapshot[16..24].copy_from_slice(&0x6000u64.to_ne_bytes());
    let entries = resolver.mappings(process, &head(0x1010), &snapshot);
    assert_eq!(objects.paths(), ["[vdso]", "/app (deleted)", "/lib"]);
    assert_eq!(entries[1].object, Some(objects.id("/lib")));
    assert_eq!(entries[2].object, entries[1].object, "one file, two mappings");
    let again = resolver.mappings(process, &head(0x1010), &snapshot);
    assert!(Arc::ptr_eq(&entries, &again), "the steady state makes nothing new");
}

#[test]
fn files_that_cannot_be_read_are_no_objects_and_are_asked_for_by_another_process_or_later() {
    let mut table = table();
    let process = process(&mut table);
    let objects = FakeObjects { unreadable: true, ..FakeObjects::default() };
    let mut resolver = Resolver::new(objects.clone(), false);
    let entries = resolver.mappings(process, &head(0x1010), &[]);
    assert!(entries.iter().all(|e| e.object.is_none()));
    let again = resolver.mappings(process, &head(0x1010), &[]);
    assert!(Arc::ptr_eq(&entries, &again));
    let asked = || objects.paths().iter().filter(|path| path.starts_with("/app")).count();
    assert_eq!(asked(), 1);
    // Its child has the same mappings, and the process that was asked by may have ended.
    process.tgid = 77;
    resolver.mappings(process, &head(0x1010), &[]);
    assert_eq!(asked(), 2);
    resolver.turn();
    resolver.mappings(process, &head(0x1010), &[]);
    assert_eq!(asked(), 3);
    let objects = FakeObjects::default();
    resolver.objects = objects.clone();
    resolver.turn();
    let entries = resolver.mappings(process, &head(0x1010), &[]);
    assert_eq!(entries[0].object, Some(objects.id("/app (deleted)")));
}

#[test]
fn an_owner_says_who_it_is() {
    let mut table = table();
    let process = process(&mut table);
    let objects = FakeObjects::default();
    let mut resolver = Resolver::new(objects.clone(), false);
    let owner = resolver.owner(&head(0), Some(process), None);
    assert_eq!((&*owner.process_name, &*owner.comm), ("app", "worker"));
    assert_eq!(&*owner.executable_path, "/app (deleted)");
    assert_eq!(owner.executable, Some(objects.id("/app (deleted)")));
    assert_eq!(owner.process, ProcessKey { tgid: 10, leader_start_mono_ns: 90 });
    assert_eq!((owner.tid, owner.cgroup_id, owner.kernel_thread), (None, 4, false));
    assert!(resolver.info(owner.executable.unwrap()).is_some());
    assert!(Arc::ptr_eq(&owner, &resolver.owner(&SampleHead { tid: 12, ..head(9) }, Some(process), None)));
    let mut per_thread = Resolver::new(objects, true);
    assert_eq!(per_thread.owner(&head(0), Some(process), None).tid, Some(11));
    assert_ne!(per_thread.owner(&SampleHead { tid: 12, ..head(0) }, Some(process), None).tid, Some(11));
}

#[test]
fn what_is_learned_later_makes_another_owner() {
    let mut table = table();
    let process = process(&mut table);
    let mut resolver = Resolver::new(FakeObjects::default(), false);
    let first = resolver.owner(&head(0), Some(process), None);
    let place = Arc::new(Place { cgroup: "/a".into(), ..Place::default() });
    let second = resolver.owner(&head(0), Some(process), Some(&place));
    assert_eq!((first.place.as_ref(), second.place.as_ref()), (None, Some(&place)));
    let declared = Arc::new(Declared { service_name: Some("cart".into()), ..Declared::default() });
    process.environment = Environment::Read(Some(Arc::clone(&declared)));
    let third = resolver.owner(&head(0), Some(process), Some(&place));
    assert_eq!((second.declared.as_ref(), third.declared.as_ref()), (None, Some(&declared)));
    assert!(Arc::ptr_eq(&third, &resolver.owner(&head(0), Some(process), Some(&place))));
}

#[test]
fn an_owner_without_a_process_still_has_a_name() {
    let mut resolver = Resolver::new(FakeObjects::default(), false);
    let kernel = SampleHead { flags: FLAG_KERNEL_THREAD, ..head(0) };
    let owner = resolver.owner(&kernel, None, None);
    assert_eq!((&*owner.process_name, owner.kernel_thread), ("worker", true));
    let nameless = resolver.owner(&SampleHead { comm: [0; 16], ..head(0) }, None, None);
    assert_eq!(&*nameless.process_name, "[unknown]");
}

#[test]
fn what_is_not_used_is_forgotten_but_not_what_owners_need() {
    let mut table = table();
    let process = process(&mut table);
    let mut resolver = Resolver::new(FakeObjects::default(), false);
    resolver.mappings(process, &head(0x3010), &[]);
    let owner = resolver.owner(&head(0), Some(process), None);
    for _ in 0..5 {
        resolver.turn();
        resolver.owner(&head(0), Some(process), None);
        assert!(resolver.info(owner.executable.unwrap()).is_some());
    }
    assert!(resolver.maps.is_empty());
    assert_eq!(resolver.infos.len(), 1);
    (0..5).for_each(|_| resolver.turn());
    assert!(resolver.owners.is_empty() && resolver.infos.is_empty());
}

#[test]
fn opening_has_a_budget_for_each_process_and_window() {
    let mut table = table();
    let process = process(&mut table);
    let objects = FakeObjects::default();
    let mut resolver = Resolver::new(objects.clone(), false);
    resolver.budget = Duration::ZERO;
    let mut snapshot = [0u8; 8];
    snapshot.copy_from_slice(&0x3010u64.to_ne_bytes());
    let entries = resolver.mappings(process, &head(0x1010), &snapshot);
    assert_eq!(objects.paths(), ["[vdso]", "/app (deleted)"]);
    assert!(entries[1].object.is_none());
    assert_eq!(resolver.deferred(), 1);
    resolver.turn();
    assert!(resolver.mappings(process, &head(0x1010), &snapshot)[1].object.is_some());
}

#[test]
fn mappings_that_change_between_samples_are_bounded() {
    const MANY: u64 = MAX_ENTRIES as u64 / 20;
    let mut table = table();
    let put = |table: &mut ProcessTable, i: u64| {
        let start = 0x10_0000 + i * 0x2000;
        let file = MappedFile { path: b"//anon".to_vec(), ..MappedFile::default() };
        let map = MapRecord { start, end: start + 0x1000, offset: 0, file };
        table.apply(&Record { time_mono_ns: 150, cpu: 0, kind: Kind::Map { tgid: 10, map: Box::new(map) } });
    };
    (0..MANY).for_each(|i| put(&mut table, i));
    let mut resolver = Resolver::new(FakeObjects::default(), false);
    for i in 0..60 {
        put(&mut table, MANY + i);
        let entries = resolver.mappings(process(&mut table), &head(0x1010), &[]);
        assert!(entries[0].object.is_some() && entries.len() as u64 > MANY);
        let held: usize = resolver.maps.values().map(|r| r.entries.len()).sum();
        assert!(held <= MAX_ENTRIES && held == resolver.entries, "{held}");
    }
    (0..5).for_each(|_| resolver.turn());
    assert_eq!((resolver.maps.len(), resolver.entries), (0, 0));
}
