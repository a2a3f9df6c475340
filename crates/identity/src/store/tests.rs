use profile::{Container, PodRef, Qos, Runtime};
use proptest::prelude::*;

use super::*;

fn limits(max: usize) -> Limits {
    Limits { max, keep: Duration::from_secs(600) }
}

fn place(id: &str, uid: Option<&str>) -> Place {
    let pod = uid.map(|uid| PodRef { uid: uid.into(), qos: Qos::Burstable });
    let container = Container { id: id.into(), runtime: Runtime::Containerd, pod };
    Place { cgroup: format!("/kubepods/{id}").into(), container: Some(container), unit: None }
}

fn at(path: &str) -> Place {
    Place { cgroup: path.into(), ..Place::default() }
}

fn container(id: &str, name: &str) -> ContainerRecord {
    ContainerRecord { id: id.into(), name: Some(name.into()), ..ContainerRecord::default() }
}

fn pod(uid: &str, name: &str) -> Pod {
    Pod { uid: uid.into(), name: name.into(), namespace: "shop".into(), ..Pod::default() }
}

fn record(uid: &str, ids: &[&str]) -> PodRecord {
    let containers = ids.iter().map(|id| container(id, &format!("name-{id}"))).collect();
    PodRecord { pod: pod(uid, &format!("pod-{uid}")), containers, settled: true, ..PodRecord::default() }
}

fn names(store: &mut Store, place: &Place) -> Option<(Option<String>, Option<String>)> {
    let found = store.look_up(place)?;
    Some((found.pod_name().map(Into::into), found.container_name.as_deref().map(Into::into)))
}

fn both(pod: &str, container: &str) -> Option<(Option<String>, Option<String>)> {
    Some((Some(pod.into()), Some(container.into())))
}

#[test]
fn names_stay_for_a_while() {
    let start = Instant::now();
    let mut store = Store::new(limits(10));
    store.listing(Rank::Kubernetes, vec![record("u1", &["a", "b"])], start);
    let generation = store.generation();
    assert_eq!(names(&mut store, &place("a", Some("u1"))), both("pod-u1", "name-a"));
    // Nothing new is nothing new.
    store.listing(Rank::Kubernetes, vec![record("u1", &["a", "b"])], start);
    assert_eq!(store.generation(), generation);
    let gone = start + Duration::from_secs(100);
    store.listing(Rank::Kubernetes, vec![], gone);
    assert_eq!(store.generation(), generation);
    store.expire(gone + Duration::from_secs(599));
    assert_eq!(names(&mut store, &place("b", Some("u1"))), both("pod-u1", "name-b"));
    store.expire(gone + Duration::from_secs(600));
    assert_eq!((names(&mut store, &place("b", Some("u1"))), store.pods(), store.containers()), (None, 0, 0));
    // One container of a pod that goes on.
    store.listing(Rank::Kubernetes, vec![record("u1", &["a", "b"])], start);
    store.listing(Rank::Kubernetes, vec![record("u1", &["a"])], gone);
    store.expire(gone + Duration::from_secs(600));
    assert_eq!(names(&mut store, &place("a", Some("u1"))), both("pod-u1", "name-a"));
    assert_eq!(names(&mut store, &place("b", Some("u1"))), Some((Some("pod-u1".into()), None)));
}

#[test]
fn never_another_pods_names() {
    let now = Instant::now();
    let mut store = Store::new(limits(10));
    store.listing(Rank::Kubernetes, vec![record("u1", &["a"]), record("u2", &["b"])], now);
    // The path says pod 2, the kubelet says that the container is one of pod 1.
    assert_eq!(names(&mut store, &place("a", Some("u2"))), None);
    assert_eq!(names(&mut store, &place("a", Some("u3"))), None);
    assert_eq!(names(&mut store, &place("c", Some("u2"))), Some((Some("pod-u2".into()), None)));
    assert_eq!(names(&mut store, &place("c", None)), None);
    assert_eq!(store.known(&place("a", Some("u2"))), Known::No);
    assert_eq!(store.known(&place("a", Some("u1"))), Known::By(Rank::Kubernetes));
}

#[test]
fn static_pods_have_two_uids() {
    let now = Instant::now();
    let mut store = Store::new(limits(10));
    let mut mirror = record("api-uid", &["a"]);
    mirror.aliases = vec!["0123456789abcdef0123456789abcdef".into()];
    store.pod(Rank::Kubernetes, mirror, now);
    let by_hash = place("a", Some("0123456789abcdef0123456789abcdef"));
    assert_eq!(names(&mut store, &by_hash), both("pod-api-uid", "name-a"));
    assert_eq!(store.look_up(&by_hash).unwrap().pod.as_ref().unwrap().uid.as_ref(), "api-uid");
}

#[test]
fn who_knows_better_is_believed() {
    let now = Instant::now();
    let mut store = Store::new(limits(10));
    let mut early = container("a", "from-disk");
    early.image = Some("web:1".into());
    store.container(Rank::State, early, Some(pod("u1", "early")), now);
    assert_eq!(names(&mut store, &place("a", Some("u1"))), both("early", "from-disk"));
    assert_eq!(store.known(&place("a", Some("u1"))), Known::By(Rank::State));
    // The kubelet lists the pod, not its new container yet.
    store.listing(Rank::Kubernetes, vec![record("u1", &[])], now);
    assert_eq!(names(&mut store, &place("a", Some("u1"))), both("pod-u1", "from-disk"));
    assert_eq!(store.known(&place("a", Some("u1"))), Known::By(Rank::Kubernetes));
    store.listing(Rank::Kubernetes, vec![record("u1", &["a"])], now);
    let found = store.look_up(&place("a", Some("u1"))).unwrap();
    assert_eq!((found.container_name.as_deref(), found.image.as_deref()), (Some("name-a"), Some("web:1")));
    store.container(Rank::State, container("a", "again"), Some(pod("u1", "again")), now);
    assert_eq!(names(&mut store, &place("a", Some("u1"))), both("pod-u1", "name-a"));
}

#[test]
fn sandboxes() {
    let now = Instant::now();
    let mut store = Store::new(limits(10));
    let pause = place("p", Some("u1"));
    assert!(!store.sandbox(&pause, now), "nobody knows the pod");
    store.pod(Rank::Kubernetes, PodRecord { settled: false, ..record("u1", &["a"]) }, now);
    assert!(!store.sandbox(&pause, now), "a container is about to start");
    store.pod(Rank::Kubernetes, record("u1", &["a"]), now);
    assert!(!store.sandbox(&place("a", Some("u1")), now), "a container");
    assert!(store.sandbox(&pause, now));
    let found = store.look_up(&pause).unwrap();
    assert!(found.is_pause && found.complete() && found.pod_name() == Some("pod-u1"));
    // A guess that proves wrong.
    store.pod(Rank::Kubernetes, record("u1", &["a", "p"]), now);
    assert_eq!(names(&mut store, &pause), both("pod-u1", "name-p"));
    assert!(!store.look_up(&pause).unwrap().is_pause);
}

#[test]
fn containers_that_only_their_path_tells() {
    let now = Instant::now();
    let mut store = Store::new(limits(10));
    let record = ContainerRecord { cgroup: Some("/default/web".into()), ..container("web", "web") };
    store.container(Rank::State, record, None, now);
    for path in ["/default/web", "/default/web/inner/deeper"] {
        assert_eq!(store.look_up(&at(path)).unwrap().container_id.as_ref(), "web", "{path}");
    }
    for path in ["/default", "/default/web2", "/", "", "/default/webby/web", &"/x".repeat(5000)] {
        assert_eq!(store.look_up(&at(path)), None, "{path}");
    }
}

#[test]
fn room_is_made_by_what_is_gone_first() {
    let now = Instant::now();
    let mut store = Store::new(limits(3));
    for id in ["a", "b", "c"] {
        store.container(Rank::State, container(id, id), None, now);
    }
    store.look_up(&place("a", None));
    store.container(Rank::State, container("d", "d"), None, now);
    assert!(store.look_up(&place("a", None)).is_some() && store.look_up(&place("b", None)).is_none());
    // What a list names stays: who comes is refused.
    let mut store = Store::new(limits(3));
    store.listing(Rank::Kubernetes, vec![record("u1", &["a", "b", "c", "d"])], now);
    assert_eq!((store.containers(), store.refused()), (3, 1));
    store.listing(Rank::Kubernetes, vec![record("u1", &["a", "b"])], now);
    store.pod(Rank::Kubernetes, record("u1", &["a", "b", "e"]), now);
    assert_eq!(names(&mut store, &place("e", Some("u1"))), both("pod-u1", "name-e"));
    assert_eq!(store.containers(), 3);
}

proptest! {
    #[test]
    fn bounded_and_never_wrong(
        steps in proptest::collection::vec((0u8..6, 0u8..6, 0u8..12, 0u64..400), 1..200),
        max in 1usize..8,
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut store = Store::new(limits(max));
        for (step, uid, id, wait) in steps {
            now += Duration::from_secs(wait);
            // A container's id tells its pod: id 7 is of pod 1.
            let (uid, own) = (format!("u{uid}"), id % 6 == uid);
            let id = format!("c{id}");
            match step {
                0 if own => store.listing(Rank::Kubernetes, vec![record(&uid, &[&id])], now),
                1 if own => store.listing(Rank::Cri, vec![record(&uid, &[&id])], now),
                2 if own => store.pod(Rank::Kubernetes, record(&uid, &[&id]), now),
                3 if own => store.container(Rank::State, container(&id, &format!("name-{id}")), Some(pod(&uid, &format!("pod-{uid}"))), now),
                4 => store.gone(&uid, now),
                _ => { store.sandbox(&place(&id, Some(&uid)), now); }
            }
            prop_assert!(store.containers.len() <= max && store.pods.len() <= max);
            prop_assert!(store.paths.len() <= max && store.aliases.len() <= max);
            if let Some(found) = store.look_up(&place(&id, Some(&uid))) {
                let (pod, name) = (format!("pod-{uid}"), format!("name-{id}"));
                prop_assert_eq!(found.pod_name(), Some(&*pod));
                if let Some(container) = &found.container_name {
                    prop_assert!(own);
                    prop_assert_eq!(&**container, &*name);
                }
            }
        }
    }
}
