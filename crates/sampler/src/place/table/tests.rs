use std::cell::{Cell, RefCell};
use std::sync::Mutex;

use super::*;
use crate::judge::{Subject, Verdict};
use crate::place::path::place;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Cgroups by their number, and where processes are.
#[derive(Debug, Default)]
struct Fake {
    by_number: RefCell<FxHashMap<u64, String>>,
    of: RefCell<FxHashMap<u32, (u64, String)>>,
    asked: Cell<u64>,
}

impl PlaceSource for Fake {
    fn key_of_created(&self, number: u64) -> u64 {
        number
    }

    fn place(&self, id: u64, created: Option<&[u8]>) -> Option<Place> {
        self.asked.set(self.asked.get() + 1);
        created.map(place).or_else(|| self.by_number.borrow().get(&id).map(|path| place(path.as_bytes())))
    }

    fn place_of(&self, tgid: u32) -> Option<(u64, Place)> {
        self.asked.set(self.asked.get() + 1);
        self.of.borrow().get(&tgid).map(|(id, path)| (*id, place(path.as_bytes())))
    }

    fn cgroup_exists(&self, _: u64) -> Option<bool> {
        None
    }
}

#[derive(Debug, Default)]
struct Listener(Mutex<Vec<(String, u32)>>);

impl Judge for Listener {
    fn filters(&self) -> bool {
        false
    }

    fn judge(&self, _: &Subject<'_>) -> Verdict {
        Verdict::default()
    }

    fn generation(&self) -> u64 {
        0
    }

    fn seen(&self, place: &Place, tgid: u32) {
        self.0.lock().unwrap().push((place.cgroup.to_string(), tgid));
    }
}

fn places() -> (Places, Arc<Listener>) {
    let listener = Arc::new(Listener::default());
    (Places::new(Arc::clone(&listener) as Arc<dyn Judge>), listener)
}

fn cgroup(found: Option<&Arc<Place>>) -> Option<String> {
    found.map(|place| place.cgroup.to_string())
}

#[test]
fn a_cgroup_is_asked_for_once_and_told_once() {
    let (mut places, listener) = places();
    let fake = Fake::default();
    let path = format!("/docker/{ID}");
    fake.by_number.borrow_mut().insert(7, path.clone());
    for tgid in 1..10 {
        assert_eq!(cgroup(places.of(7, tgid, 0, &fake)), Some(path.clone()), "of a process that is gone");
    }
    assert_eq!((fake.asked.get(), places.readings(), places.len()), (1, 1, 1));
    assert_eq!(*listener.0.lock().unwrap(), [(path, 1)]);
    // What its number cannot tell any more.
    fake.by_number.borrow_mut().clear();
    assert!(places.of(7, 10, 0, &fake).is_some());
}

#[test]
fn only_what_may_be_a_container_is_told() {
    let (mut places, listener) = places();
    let fake = Fake::default();
    for (id, path) in [(1, "/"), (2, "/system.slice/a.service"), (3, "/default/web")] {
        fake.by_number.borrow_mut().insert(id, path.to_owned());
        places.of(id, 5, 0, &fake);
    }
    assert_eq!(*listener.0.lock().unwrap(), [("/default/web".to_owned(), 5)]);
}

#[test]
fn a_process_that_was_moved_meanwhile_does_not_lend_its_new_place() {
    let (mut places, _) = places();
    let fake = Fake::default();
    fake.of.borrow_mut().insert(5, (8, format!("/docker/{ID}")));
    assert_eq!(places.of(7, 5, 0, &fake), None, "the sample is from before");
    assert_eq!(cgroup(places.of(8, 5, 0, &fake)), Some(format!("/docker/{ID}")));
    assert_eq!(fake.asked.get(), 2, "one answer was enough for that");
}

#[test]
fn what_nobody_can_tell_is_asked_for_again_later() {
    let (mut places, _) = places();
    let fake = Fake::default();
    for now in [0, 1, RETRY_NS - 1] {
        assert_eq!(places.of(7, 5, now, &fake), None);
    }
    assert_eq!((places.readings(), places.len()), (1, 0));
    fake.by_number.borrow_mut().insert(7, "/a".to_owned());
    assert_eq!(cgroup(places.of(7, 5, RETRY_NS, &fake)), Some("/a".to_owned()));
}

#[test]
fn a_container_that_was_gone_before_its_sample_was_read() {
    let (mut places, _) = places();
    let fake = Fake::default();
    let path = format!("/docker/{ID}");
    places.created(7, path.as_bytes(), &fake);
    assert_eq!(cgroup(places.of(7, 5, 0, &fake)), Some(path.clone()));
    for number in 0..10 * MAX_CREATED as u64 {
        places.created(100 + number, path.as_bytes(), &fake);
        places.created(100 + number, &vec![b'/'; MAX_CREATED_BYTES + 1], &fake);
        places.created(100 + number, b"//toolong", &fake);
    }
    assert_eq!((places.created.len(), places.created_order.len()), (MAX_CREATED, MAX_CREATED));
    assert_eq!(places.len(), 1);
}

#[test]
fn a_program_of_a_new_container_tells_of_it() {
    let (mut places, listener) = places();
    let fake = Fake::default();
    fake.of.borrow_mut().insert(5, (8, format!("/docker/{ID}")));
    let told = (0..1000).filter_map(|_| places.executed(5, 0, &fake)).count();
    assert_eq!(told as u64, EXEC_ASKS_PER_SECOND);
    assert_eq!(listener.0.lock().unwrap().len(), 1);
    assert_eq!(fake.asked.get(), EXEC_ASKS_PER_SECOND);
    // The rest of the second is for samples.
    fake.by_number.borrow_mut().insert(9, "/a".to_owned());
    assert!(places.of(9, 5, 0, &fake).is_some());
    places.executed(6, SECOND_NS, &fake);
    assert_eq!(fake.asked.get(), EXEC_ASKS_PER_SECOND + 2);
}

#[test]
fn a_flood_is_bounded_and_spares_what_is_used() {
    let (mut places, _) = places();
    let fake = Fake::default();
    let kept = format!("/docker/{ID}");
    fake.by_number.borrow_mut().insert(7, kept.clone());
    for i in 0..4 * MAX_PLACES as u64 {
        let now = i * SECOND_NS;
        assert_eq!(cgroup(places.of(7, 5, now, &fake)), Some(kept.clone()));
        places.of(1000 + i, 5, now, &fake);
        assert!(places.known.len() <= MAX_PLACES && places.order.len() == places.known.len());
    }
    assert_eq!(fake.by_number.borrow_mut().remove(&7), Some(kept));
    assert!(places.of(7, 5, 0, &fake).is_some());
    // Long names count by their bytes.
    for i in 0..4000u64 {
        fake.by_number.borrow_mut().insert(1 << 40 | i, format!("/{}", "x".repeat(4000)));
        places.of(1 << 40 | i, 5, (1 << 50) + i * SECOND_NS, &fake);
        assert!(places.bytes <= MAX_BYTES);
    }
    assert!(places.len() > 1000);
    let held: usize = places.known.values().map(|k| cost_bytes(k.place.as_ref())).sum();
    assert_eq!(held, places.bytes);
}
