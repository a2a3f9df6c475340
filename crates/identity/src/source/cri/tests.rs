use proptest::prelude::*;
use prost::Message;

use super::generated::{
    Container, ContainerMetadata, ImageSpec, ListContainersResponse, ListPodSandboxResponse, PodSandbox,
    PodSandboxMetadata,
};
use super::*;
use crate::workload::WorkloadKind;

fn sandbox(id: &str, uid: &str, name: &str) -> PodSandbox {
    let labels = [("pod-template-hash", "5d4"), ("app", "web"), ("io.kubernetes.pod.name", name)];
    PodSandbox {
        id: id.into(),
        metadata: Some(PodSandboxMetadata { name: name.into(), uid: uid.into(), namespace: "shop".into() }),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        annotations: [("note".to_owned(), "n".to_owned())].into(),
    }
}

fn container(id: &str, sandbox: &str, name: &str) -> Container {
    Container {
        id: id.into(),
        pod_sandbox_id: sandbox.into(),
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 3 }),
        image: Some(ImageSpec { image: "sha256:aa".into(), user_specified_image: String::new() }),
    }
}

#[test]
fn pods_with_sandboxes_and_containers() {
    let sandboxes = ListPodSandboxResponse {
        items: vec![
            sandbox("s1", "u1", "web-5d4-x7k2p"),
            sandbox("s2", "u2", "other"),
            sandbox("s3", "u1", "web-5d4-x7k2p"),
            sandbox("s4", "", "broken"),
        ],
    };
    let containers = ListContainersResponse {
        containers: vec![
            container("c1", "s1", "main"),
            container("c2", "s3", "side"),
            container("c3", "none", "lost"),
            container("c4", "s2", ""),
        ],
    };
    let images = [("c1".into(), Some("registry/web:7".into()))].into_iter().collect();
    let found = listing(sandboxes, containers, &images, Runtime::Containerd, 10);
    assert_eq!((found.pods.len(), found.refused), (2, 1));
    let pod = &found.pods[0];
    assert_eq!((pod.pod.label("app"), pod.pod.label("io.kubernetes.pod.name")), (Some("web"), None));
    assert_eq!(pod.pod.controllers[0], (WorkloadKind::Deployment, "web".into()));
    let shown: Vec<_> = pod.containers.iter().map(|c| (&*c.id, c.name.as_deref(), c.is_pause)).collect();
    assert_eq!(
        shown,
        [("s1", None, true), ("s3", None, true), ("c1", Some("main"), false), ("c2", Some("side"), false)]
    );
    assert_eq!((pod.containers[2].image.as_deref(), pod.containers[2].restarts), (Some("registry/web:7"), Some(3)));
    assert!(!pod.settled && found.pods[1].pod.controllers.is_empty());
}

#[test]
fn as_many_as_allowed() {
    let items = (0..10).map(|i| sandbox(&format!("s{i}"), &format!("u{i}"), "p")).collect();
    let found = listing(
        ListPodSandboxResponse { items },
        ListContainersResponse::default(),
        &FxHashMap::default(),
        Runtime::CriO,
        4,
    );
    assert_eq!((found.pods.len(), found.refused), (4, 6));
}

proptest! {
    #[test]
    fn any_bytes(a in proptest::collection::vec(any::<u8>(), 0..200), b in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let (Ok(a), Ok(b)) = (ListPodSandboxResponse::decode(&*a), ListContainersResponse::decode(&*b)) {
            listing(a, b, &FxHashMap::default(), Runtime::Unknown, 4);
        }
    }
}
