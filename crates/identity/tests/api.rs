//! The API server as a source.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Asked, FakeKubelet, Step, answer, place, pod, until, wait};
use identity::{Identities, IdentityError, IdentitySettings, Source, WorkloadKind};
use serde_json::{Value, json};

fn start(server: &FakeKubelet) -> Arc<Identities> {
    let kubeconfig = server.file("kubeconfig");
    let content = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"{}\"}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
        server.url
    );
    std::fs::write(&kubeconfig, content).unwrap();
    server.start_identities(IdentitySettings {
        kubernetes: Source::Api,
        node_name: Some("n1".into()),
        kubeconfig: Some(kubeconfig),
        kubelet_url: None,
        ..server.settings()
    })
}

fn made_by(mut pod: Value, kind: &str, name: &str) -> Value {
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "o", "controller": true}]);
    pod
}

fn json_answer(body: &Value) -> Vec<Step> {
    answer(200, body.to_string().as_bytes())
}

/// The first events of a watch, which then stays open.
fn events(events: &[(&str, Value)]) -> Vec<Step> {
    let mut steps = vec![Step::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec())];
    for (kind, object) in events {
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = "11".into();
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        steps.push(Step::Send(format!("{:x}\r\n{line}\r\n", line.len()).into_bytes()));
    }
    steps.push(Step::Wait(Duration::from_secs(60)));
    steps
}

fn pods(asked: &Asked<'_>, listed: &[Value], watched: &[(&str, Value)]) -> Option<Vec<Step>> {
    if !asked.path.starts_with("/api/v1/pods?") {
        return None;
    }
    assert!(asked.path.contains("fieldSelector=spec.nodeName%3Dn1"), "{}", asked.path);
    Some(if asked.path.contains("watch=true") {
        events(watched)
    } else {
        json_answer(
            &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": listed}),
        )
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_and_go_and_their_makers_are_known() {
    let server = FakeKubelet::start_for_paths(None, |asked| {
        let first = made_by(pod("u1", "odd-1", &["a"]), "ReplicaSet", "odd");
        let second = made_by(pod("u2", "web-5d4-x", &["b"]), "Job", "nightly-1");
        if let Some(answer) = pods(asked, std::slice::from_ref(&first), &[("ADDED", second), ("DELETED", first.clone())]) {
            return answer;
        }
        match asked.path {
            "/apis/apps/v1/namespaces/shop/replicasets/odd" => {
                let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop", "uid": "d", "controller": true}]);
                json_answer(&json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"name": "odd", "ownerReferences": owner}}))
            }
            "/apis/batch/v1/namespaces/shop/jobs/nightly-1" => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"});
                answer(403, status.to_string().as_bytes())
            }
            other => panic!("{other}"),
        }
    })
    .await;
    let identities = start(&server);
    let second = wait(&identities, &place("u2", "b"), |w| w.complete()).await;
    // Not allowed to ask: what its own pod says.
    assert_eq!(second.controller(), Some((WorkloadKind::Job, "nightly-1")));
    // Gone, and still known.
    let first = wait(&identities, &place("u1", "a"), |w| w.complete()).await;
    assert_eq!(first.controller(), Some((WorkloadKind::Deployment, "shop")));
    let stats = identities.stats();
    assert_eq!((stats.pods, stats.containers, stats.failures), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_at_first() {
    let allowed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&allowed);
    let server = FakeKubelet::start_for_paths(None, move |asked| {
        if !seen.load(Ordering::SeqCst) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"});
            return answer(403, status.to_string().as_bytes());
        }
        pods(asked, &[pod("u1", "web", &["a"])], &[]).unwrap()
    })
    .await;
    let identities = start(&server);
    until("a failure", || identities.stats().failures > 0).await;
    assert!(identities.workload(&place("u1", "a")).is_none());
    allowed.store(true, Ordering::SeqCst);
    let found = wait(&identities, &place("u1", "a"), |w| w.complete()).await;
    assert_eq!(found.pod_name(), Some("web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_must_have_a_name() {
    let settings = IdentitySettings { kubernetes: Source::Api, ..IdentitySettings::default() };
    let started = Identities::start(settings, &tokio::runtime::Handle::current());
    assert!(matches!(started, Err(IdentityError::NodeName)));
}
