use profile::Runtime;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::workload::WorkloadKind;

fn read(json: &serde_json::Value) -> Vec<PodRecord> {
    let text = serde_json::to_vec(json).unwrap();
    read_list(text.as_slice(), 100).unwrap().pods
}

fn one(pod: serde_json::Value) -> PodRecord {
    read(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod]})).remove(0)
}

fn running(name: &str, id: &str) -> serde_json::Value {
    json!({"name": name, "containerID": id, "image": "docker.io/library/x:1", "imageID": "sha256:aa", "ready": true, "restartCount": 2,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        "lastState": {"terminated": {"exitCode": 137, "containerID": format!("{id}0"), "reason": "OOMKilled"}}})
}

fn deployment() -> serde_json::Value {
    json!({
        "metadata": {
            "name": "web-5d4-x7k2p", "generateName": "web-5d4-", "namespace": "shop", "uid": "5f0d1f2a-0000-4000-8000-000000000001",
            "labels": {"app": "web", "pod-template-hash": "5d4"},
            "annotations": {"kubernetes.io/config.source": "api", "note": "n"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4", "uid": "2", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:x": {}}}}],
        },
        "spec": {"nodeName": "n1", "restartPolicy": "Always",
            "containers": [{"name": "main", "image": "web:v7"}, {"name": "side", "image": "side"}],
            "initContainers": [{"name": "setup", "image": "setup:1"}, {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "qosClass": "Burstable",
            "containerStatuses": [running("main", "containerd://aa"), running("side", "containerd://bb")],
            "initContainerStatuses": [
                {"name": "setup", "containerID": "containerd://cc", "image": "setup:1", "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0, "containerID": "containerd://cc"}}, "lastState": {}},
                running("proxy", "containerd://dd")],
            "ephemeralContainerStatuses": [
                {"name": "debug", "containerID": "containerd://ee", "image": "busybox", "state": {"running": {}}}]},
    })
}

#[test]
fn a_pod_of_a_deployment() {
    let record = one(deployment());
    assert_eq!((&*record.pod.namespace, &*record.pod.name, &*record.pod.node), ("shop", "web-5d4-x7k2p", "n1"));
    assert_eq!(&*record.pod.uid, "5f0d1f2a-0000-4000-8000-000000000001");
    assert_eq!((record.pod.label("app"), record.pod.annotation("note")), (Some("web"), Some("n")));
    assert_eq!(
        record.pod.controllers,
        [(WorkloadKind::Deployment, "web".into()), (WorkloadKind::ReplicaSet, "web-5d4".into())]
    );
    let ids: Vec<_> = record.containers.iter().map(|c| (&*c.id, c.name.as_deref().unwrap())).collect();
    let want = [
        ("aa", "main"),
        ("aa0", "main"),
        ("bb", "side"),
        ("bb0", "side"),
        ("cc", "setup"),
        ("dd", "proxy"),
        ("dd0", "proxy"),
        ("ee", "debug"),
    ];
    assert_eq!(ids, want);
    let main = &record.containers[0];
    assert_eq!((main.image.as_deref(), main.restarts, main.runtime), (Some("web:v7"), Some(2), Runtime::Containerd));
    assert_eq!(record.containers[7].image.as_deref(), Some("busybox"));
    assert!(record.settled && record.aliases.is_empty());
}

#[test]
fn a_pod_is_settled_when_no_container_is_about_to_come() {
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut pod = deployment();
        change(&mut pod);
        one(pod).settled
    };
    let ended = |exit: i32| json!({"terminated": {"exitCode": exit}});
    assert!(with(&|_| {}));
    assert!(!with(&|p| p["status"]["phase"] = "Pending".into()));
    assert!(!with(&|p| p["status"]["containerStatuses"][0]["containerID"] = "".into()));
    assert!(!with(
        &|p| p["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}})
    ));
    assert!(!with(&|p| p["status"]["containerStatuses"][1]["state"] = ended(1)));
    assert!(with(&|p| {
        p["spec"]["restartPolicy"] = "Never".into();
        p["status"]["containerStatuses"][1]["state"] = ended(1);
    }));
    assert!(!with(&|p| p["status"]["containerStatuses"] = json!([running("main", "containerd://aa")])));
    assert!(!with(&|p| p["status"]["initContainerStatuses"][0]["state"] = ended(1)));
    assert!(!with(&|p| p["status"]["initContainerStatuses"][1]["state"] = ended(0)));
    assert!(with(&|p| p["status"]["ephemeralContainerStatuses"][0]["state"] = ended(1)));
    assert!(!with(&|p| p["spec"]["ephemeralContainers"] = json!([{"name": "debug"}, {"name": "second"}])));
}

#[test]
fn static_pods() {
    // As the kubelet shows it: its UID is what the cgroup's path says.
    let hash = "0123456789abcdef0123456789abcdef";
    let own = one(json!({"metadata": {"name": "etcd-n1", "namespace": "kube-system", "uid": hash,
        "annotations": {"kubernetes.io/config.hash": hash, "kubernetes.io/config.source": "file"}}}));
    assert!(own.aliases.is_empty() && &*own.pod.uid == hash && own.pod.controllers.is_empty());
    // As the API server shows it.
    let mirror = one(json!({"metadata": {"name": "etcd-n1", "namespace": "kube-system", "uid": "u-1",
        "annotations": {"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "controller": true}]}}));
    assert_eq!(mirror.aliases, [hash.into()]);
    assert!(mirror.pod.controllers.is_empty() && !mirror.settled);
}

#[test]
fn nulls_and_gaps() {
    let bare = |pod: serde_json::Value| one(pod).containers.len();
    let name = json!({"name": "p", "namespace": "n", "uid": "u", "labels": null, "annotations": null, "ownerReferences": null});
    assert_eq!(bare(json!({"metadata": name})), 0);
    assert_eq!(bare(json!({"metadata": name, "status": {"containerStatuses": null}, "spec": {"containers": null}})), 0);
    assert_eq!(
        bare(json!({"metadata": name, "status": {"containerStatuses": [{"name": "a", "state": {"waiting": {}}}]}})),
        0
    );
    assert!(read(&json!({"items": null})).is_empty());
    assert!(read(&json!({"items": [], "more": {"a": [1, {}]}})).is_empty());
    let listing = read_list(&br#"{"items": [{"metadata": {"name": "p"}}, {}]}"#[..], 9).unwrap();
    assert_eq!((listing.pods.len(), listing.refused), (0, 2));
    let many = json!({"items": (0..20).map(|i| json!({"metadata": {"name": "p", "namespace": "n", "uid": i.to_string()}})).collect::<Vec<_>>()});
    let listing = read_list(serde_json::to_vec(&many).unwrap().as_slice(), 5).unwrap();
    assert_eq!((listing.pods.len(), listing.refused), (5, 15));
}

#[test]
fn what_is_no_list_is_an_error() {
    for bad in [
        "",
        "null",
        "[]",
        "{}",
        "{\"kind\": \"Status\", \"code\": 403}",
        "Unauthorized",
        "{\"items\": 3}",
        "{\"items\": [3]}",
        "{\"items\": [",
        "{\"items\": []} more",
        "<html>",
        "{\"items\": [{\"metadata\": 1}]}",
    ] {
        assert!(read_list(bad.as_bytes(), 9).is_err(), "{bad}");
    }
    let deep = format!("{{\"x\": {}{}, \"items\": []}}", "[".repeat(100_000), "]".repeat(100_000));
    let _ = read_list(deep.as_bytes(), 9);
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_list(bytes.as_slice(), 9);
    }

    #[test]
    fn any_change_of_a_real_list(at in 0usize..3000, with in any::<u8>(), cut in 0usize..3000) {
        let mut bytes = serde_json::to_vec(&json!({"items": [deployment()]})).unwrap();
        let len = bytes.len();
        bytes[at % len] = with;
        let _ = read_list(bytes.as_slice(), 9);
        let _ = read_list(&bytes[..cut % len], 9);
    }
}
