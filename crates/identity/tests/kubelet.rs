//! The kubelet as a source, with all that may go wrong.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{FakeKubelet, Step, answer, list, place, pod, until, wait};
use identity::{Identities, IdentityError, IdentitySettings, Source};
use profile::{Owner, Profile};

const LOCAL: Option<&[&str]> = Some(&["127.0.0.1"]);

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_named_soon_after_it_was_seen() {
    let kubelet = FakeKubelet::start(LOCAL, |_, token| match token {
        Some("first") => list(&[pod("u1", "web", &["a", "b"])]),
        _ => answer(401, b"Unauthorized"),
    })
    .await;
    let identities = kubelet.start_identities(kubelet.settings());
    // Nobody is asked before there is something to ask for.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(kubelet.asked(), 0);
    let (before, start) = (identities.generation(), Instant::now());
    identities.seen(&place("u1", "a"), 1);
    let found = wait(&identities, &place("u1", "a"), |w| w.complete()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!((found.pod_name(), found.container_name.as_deref()), (Some("web"), Some("c-a")));
    assert_ne!(identities.generation(), before);
    // The other container came with the same answer.
    assert!(identities.workload(&place("u1", "b")).is_some_and(|w| w.complete()));
    let owner = Owner { place: Some(Arc::new(place("u1", "b"))), ..Owner::default() };
    let profile = identities.attribute(Profile { owners: vec![Arc::new(owner)], ..Profile::default() });
    let identity = profile.owners[0].identity.clone().unwrap();
    assert_eq!((&*identity.service_name, identity.get("k8s.container.name")), ("web", Some("c-b")));
    let stats = identities.stats();
    assert_eq!((stats.containers, stats.pods, stats.failures, stats.unknown_containers), (2, 1, 0, 0));
    assert!(stats.answers >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_replaced() {
    let turned = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&turned);
    let kubelet = FakeKubelet::start(LOCAL, move |_, token| {
        let wanted = if seen.load(Ordering::SeqCst) { "second" } else { "first" };
        if token == Some(wanted) {
            list(&[pod("u1", "web", &["a"]), pod("u2", "db", &["b"])])
        } else {
            answer(401, b"")
        }
    })
    .await;
    let identities = kubelet.start_identities(kubelet.settings());
    identities.seen(&place("u9", "zz"), 1);
    until("a first answer", || identities.stats().answers > 0).await;
    turned.store(true, Ordering::SeqCst);
    // Expired, not replaced yet.
    until("a failure", || identities.stats().failures > 0).await;
    std::fs::write(kubelet.file("token"), "second\n").unwrap();
    let answers = identities.stats().answers;
    until("an answer with the new token", || identities.stats().answers > answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_are_counted_and_come_to_an_end() {
    let pods = serde_json::to_vec(&serde_json::json!({"items": [pod("u1", "web", &["a"])]})).unwrap();
    let kubelet = FakeKubelet::start(LOCAL, move |number, _| match number {
        0 => answer(200, b"\xff\xfe garbage"),
        1 => answer(403, b"Forbidden (user=system:anonymous, verb=get, resource=nodes)"),
        2 => answer(200, &pods[..pods.len() / 2]),
        3 => answer(302, b"elsewhere"),
        _ => answer(200, &pods),
    })
    .await;
    let identities = kubelet.start_identities(kubelet.settings());
    identities.seen(&place("u1", "a"), 1);
    let found = wait(&identities, &place("u1", "a"), |w| w.complete()).await;
    assert_eq!(found.pod_name(), Some("web"));
    let stats = identities.stats();
    assert_eq!((stats.failures, stats.answers, kubelet.asked()), (4, 1, 5));
    // Each failure doubles the wait.
    let times = kubelet.times.lock().unwrap().clone();
    let waits: Vec<_> = times.windows(2).map(|w| w[1] - w[0]).collect();
    for (wait, least) in waits.iter().zip([700, 1400, 2900, 5900]) {
        assert!(*wait >= Duration::from_millis(least), "{waits:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_endless_answers() {
    let kubelet = FakeKubelet::start(LOCAL, |number, _| match number {
        0 => vec![Step::Wait(Duration::from_secs(60))],
        1 => {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"x\": [0\r\n".to_vec();
            vec![
                Step::Send(head),
                Step::Repeat([b"10000\r\n".to_vec(), b",0".repeat(1 << 15), b"\r\n".to_vec()].concat(), 1000),
            ]
        }
        _ => list(&[pod("u1", "web", &["a"])]),
    })
    .await;
    let identities = kubelet.start_identities(kubelet.settings());
    let start = Instant::now();
    identities.seen(&place("u1", "a"), 1);
    // Asking takes its time; whoever looks does not wait for it.
    let look = Instant::now();
    assert!(identities.workload(&place("u1", "a")).is_none());
    assert!(look.elapsed() < Duration::from_secs(5));
    wait(&identities, &place("u1", "a"), |w| w.complete()).await;
    assert!(start.elapsed() < Duration::from_secs(55), "{:?}", start.elapsed());
    assert_eq!(identities.stats().failures, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_certificate_it_is() {
    let behaviour = |_, token: Option<&str>| {
        assert!(token.is_some());
        list(&[pod("u1", "web", &["a"])])
    };
    // For the node's name only, as kubelets' own are; asked by address.
    let kubelet = FakeKubelet::start(Some(&["node-1"]), behaviour).await;
    let known = |settings: IdentitySettings| {
        let identities = kubelet.start_identities(settings);
        identities.seen(&place("u1", "a"), 1);
        async move {
            until("asked", || identities.stats().answers + identities.stats().failures > 0).await;
            identities.stats().answers > 0
        }
    };
    let settings = kubelet.settings();
    assert!(!known(settings.clone()).await, "another's name");
    assert!(known(IdentitySettings { node_name: Some("node-1".into()), ..settings.clone() }).await);
    assert!(!known(IdentitySettings { node_name: Some("node-2".into()), ..settings.clone() }).await);
    assert!(known(IdentitySettings { insecure_skip_verify: true, ..settings.clone() }).await);
    // The very certificate, from a file of the operator or from the host's disk.
    assert!(known(IdentitySettings { kubelet_ca: Some(kubelet.file("server.crt")), ..settings.clone() }).await);
    std::fs::remove_file(kubelet.file("ca.crt")).unwrap();
    assert!(!known(settings.clone()).await, "no authority at all");
    let own = kubelet.file("var/lib/kubelet/pki");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(kubelet.file("server.crt"), own.join("kubelet.crt")).unwrap();
    assert!(known(settings.clone()).await);
    // Another authority's.
    let other = FakeKubelet::start(LOCAL, |_, _| Vec::new()).await;
    assert!(!known(IdentitySettings { kubelet_ca: Some(other.file("ca.crt")), ..settings }).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_only_port_gets_no_token() {
    let kubelet =
        FakeKubelet::start(
            None,
            |_, token| {
                if token.is_none() { list(&[pod("u1", "web", &["a"])]) } else { answer(400, b"") }
            },
        )
        .await;
    let identities = kubelet.start_identities(IdentitySettings { kubernetes: Source::Kubelet, ..kubelet.settings() });
    // Asked at once, since the settings name it.
    until("listed", || identities.stats().pods == 1).await;
    assert!(identities.workload(&place("u1", "a")).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_and_late_containers() {
    let kubelet = FakeKubelet::start(LOCAL, |number, _| {
        // The kubelet lists a container some time after it started.
        let late = number >= 3;
        let mut late_pod = pod("u2", "late", &["l"]);
        if !late {
            late_pod["status"]["containerStatuses"] = serde_json::json!([{"name": "c-l", "state": {"waiting": {}}}]);
        }
        list(&[pod("u1", "web", &["a"]), late_pod])
    })
    .await;
    let identities = kubelet.start_identities(kubelet.settings());
    identities.seen(&place("u1", "pause"), 1);
    identities.seen(&place("u2", "l"), 2);
    // Its pod is known at once, what it is a little later.
    let found = wait(&identities, &place("u1", "pause"), |_| true).await;
    assert!(!found.complete() && found.pod_name() == Some("web"));
    let found = wait(&identities, &place("u1", "pause"), |w| w.complete()).await;
    assert!(found.is_pause && found.container_name.is_none());
    let found = wait(&identities, &place("u2", "l"), |w| w.complete()).await;
    assert!(!found.is_pause && found.container_name.as_deref() == Some("c-l"));
    assert!(identities.workload(&place("u2", "a")).is_none(), "another pod's container");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_containers_is_asked_for_once_a_second() {
    let kubelet = FakeKubelet::start(LOCAL, |_, _| list(&[pod("u1", "web", &["a"])])).await;
    let identities = kubelet.start_identities(kubelet.settings());
    let start = Instant::now();
    for i in 0..300 {
        identities.seen(&place(&format!("x{i}"), &format!("gone-{i}")), i);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seconds = start.elapsed().as_secs() + 1;
    assert!(kubelet.asked() <= seconds + 1 && kubelet.asked() >= 2, "{} in {seconds} s", kubelet.asked());
    let stats = identities.stats();
    assert_eq!((stats.containers, stats.refused), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_stay_after_the_pod_is_gone() {
    let gone = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&gone);
    let kubelet = FakeKubelet::start(LOCAL, move |_, _| {
        if seen.load(Ordering::SeqCst) { list(&[]) } else { list(&[pod("u1", "web", &["a"])]) }
    })
    .await;
    let keep = Duration::from_secs(8);
    let identities = kubelet.start_identities(IdentitySettings { keep, ..kubelet.settings() });
    identities.seen(&place("u1", "a"), 1);
    wait(&identities, &place("u1", "a"), |w| w.complete()).await;
    gone.store(true, Ordering::SeqCst);
    let answers = identities.stats().answers;
    identities.seen(&place("u2", "new"), 1);
    until("listed again", || identities.stats().answers > answers).await;
    assert!(identities.workload(&place("u1", "a")).is_some_and(|w| w.pod_name() == Some("web")));
    until("forgotten", || identities.stats().containers == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be() {
    let handle = tokio::runtime::Handle::current();
    let start = |settings| Identities::start(settings, &handle).map(drop);
    let url = IdentitySettings { kubelet_url: Some("10.0.0.5".into()), ..IdentitySettings::default() };
    assert!(matches!(start(url), Err(IdentityError::KubeletUrl { .. })));
    let optional = IdentitySettings { optional_attributes: vec!["x".into()], ..IdentitySettings::default() };
    assert!(start(optional).is_err_and(|e| e.to_string().contains("k8s.replicaset.name")));
    assert!(start(IdentitySettings { kubernetes: Source::Off, ..IdentitySettings::default() }).is_ok());
}
