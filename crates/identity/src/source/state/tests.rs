use std::time::Instant;

use profile::{Container, PodRef, Qos};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::asking::Asking;

const ID: &str = "0a554e80a3156f2cc825d1720f303d59bd521da19bcbd01316870e1313ecbd23";

fn wanted(place: Place) -> Vec<Wanted> {
    let mut asking = Asking::default();
    asking.want(&place, 0, Instant::now());
    asking.all()
}

fn by_id(id: &str, runtime: Runtime, uid: Option<&str>) -> Place {
    let pod = uid.map(|uid| PodRef { uid: uid.into(), qos: Qos::Guaranteed });
    Place { cgroup: "/x".into(), container: Some(Container { id: id.into(), runtime, pod }), unit: None }
}

fn at(cgroup: &str, unit: Option<&str>) -> Place {
    Place { cgroup: cgroup.into(), container: None, unit: unit.map(Into::into) }
}

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, content: &serde_json::Value) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        std::fs::write(path, text).unwrap();
    }

    fn one(&self, place: Place) -> Option<Found> {
        let mut found = look(self.0.path(), &wanted(place)).unwrap();
        assert!(found.len() <= 1);
        found.pop()
    }
}

#[test]
fn podman_and_crio() {
    let root = Root::new();
    let metadata = json!({"image-name": "localhost/web:1", "name": "web", "created-at": 1}).to_string();
    let in_pod =
        json!({"pod-name": "k8s_POD", "pod-id": "x", "image-name": "registry/db:2", "name": "ignored"}).to_string();
    let second = ID.replace('0', "1");
    root.write("var/lib/containers/storage/overlay-containers/containers.json", &json!([
        {"id": ID, "names": ["web"], "image": "aa", "layer": "bb", "metadata": metadata, "created": "2026-01-01T00:00:00Z"},
        {"id": second, "names": ["k8s_db_db-0_shop_u-1_2"], "metadata": in_pod},
        {"id": "bare", "names": null, "metadata": "not json"},
    ]));
    let (record, pod) = root.one(by_id(ID, Runtime::Podman, None)).unwrap();
    assert_eq!((record.name.as_deref(), record.image.as_deref(), pod), (Some("web"), Some("localhost/web:1"), None));
    assert_eq!((record.runtime, record.cgroup), (Runtime::Podman, None));
    assert!(root.one(by_id(ID, Runtime::Unknown, None)).is_some());
    let (record, pod) = root.one(by_id(&second, Runtime::CriO, Some("u-1"))).unwrap();
    let pod = pod.unwrap();
    assert_eq!((record.name.as_deref(), &*pod.name, &*pod.namespace, &*pod.uid), (Some("db"), "db-0", "shop", "u-1"));
    assert_eq!(record.runtime, Runtime::CriO);
    for none in ["bare", "other", "", "..", "a/b"] {
        assert_eq!(root.one(by_id(none, Runtime::Podman, None)), None, "{none}");
    }
}

#[test]
fn a_users_own_podman() {
    let root = Root::new();
    root.write("etc/passwd", &"ann:x:1000:1000::/home/ann:/bin/sh\n".into());
    let list = json!([{"id": ID, "names": ["mine"], "metadata": ""}]);
    root.write("home/ann/.local/share/containers/storage/overlay-containers/containers.json", &list);
    let scope = format!("libpod-{ID}.scope");
    let cgroup = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/{scope}");
    let (record, _) = root.one(at(&cgroup, Some(&scope))).unwrap();
    assert_eq!((record.name.as_deref(), &*record.id, record.cgroup.as_deref()), (Some("mine"), ID, Some(&*cgroup)));
    // In another user's cgroups, or as root's, it says nothing.
    for cgroup in
        [cgroup.replace("1000", "1001"), cgroup.replacen("1000", "1001", 1), format!("/machine.slice/{scope}")]
    {
        assert_eq!(root.one(at(&cgroup, Some(&scope))), None, "{cgroup}");
    }
    assert_eq!(root.one(by_id(ID, Runtime::Podman, None)), None);
}

#[test]
fn docker() {
    let root = Root::new();
    let config = json!({"ID": ID, "Name": "/web", "RestartCount": 2, "Config": {"Image": "nginx:1.27", "Labels": {}}, "State": {}});
    root.write(&format!("var/lib/docker/containers/{ID}/config.v2.json"), &config);
    let (record, _) = root.one(by_id(ID, Runtime::Docker, None)).unwrap();
    assert_eq!(
        (record.name.as_deref(), record.image.as_deref(), record.restarts),
        (Some("web"), Some("nginx:1.27"), Some(2))
    );
}

fn specification(cgroup: &str, annotations: &serde_json::Value) -> serde_json::Value {
    json!({"ociVersion": "1.0.2", "process": {"args": ["x"]}, "annotations": annotations, "linux": {"cgroupsPath": cgroup, "namespaces": []}})
}

#[test]
fn containerd_with_and_without_kubernetes() {
    let root = Root::new();
    let state = "run/containerd/io.containerd.runtime.v2.task";
    root.write(&format!("{state}/default/web/config.json"), &specification("/default/web", &json!(null)));
    root.write(
        &format!("{state}/k3/{ID}/config.json"),
        &specification(&format!("/k3/{ID}"), &json!({"nerdctl/name": "cache"})),
    );
    let cri = json!({"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "main",
        "io.kubernetes.cri.sandbox-name": "web-1", "io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-uid": "u-1",
        "io.kubernetes.cri.image-name": "registry/web:7"});
    root.write(
        &format!("{state}/k8s.io/main/config.json"),
        &specification("kubepods-podu_1.slice:cri-containerd:main", &cri),
    );
    let mut sandbox = cri.clone();
    sandbox["io.kubernetes.cri.container-type"] = "sandbox".into();
    root.write(&format!("{state}/k8s.io/pause/config.json"), &specification("/kubepods/podu-1/pause", &sandbox));

    let (record, pod) = root.one(at("/default/web", None)).unwrap();
    assert_eq!(
        (&*record.id, record.name.as_deref(), record.cgroup.as_deref()),
        ("web", Some("web"), Some("/default/web"))
    );
    assert_eq!((record.runtime, pod), (Runtime::Containerd, None));
    assert!(root.one(at("/default/web/inner", None)).is_some());
    for other in ["/default/web2", "/default", "/", "/web", "/other/default/web"] {
        assert_eq!(root.one(at(other, None)), None, "{other}");
    }
    let (record, _) = root.one(at(&format!("/k3/{ID}"), None)).unwrap();
    assert_eq!((record.name.as_deref(), &*record.id), (Some("cache"), ID));
    let (record, pod) = root.one(by_id("main", Runtime::Containerd, Some("u-1"))).unwrap();
    assert_eq!(
        (record.name.as_deref(), record.image.as_deref(), record.cgroup),
        (Some("main"), Some("registry/web:7"), None)
    );
    assert_eq!(&*pod.unwrap().name, "web-1");
    let (record, pod) = root.one(by_id("pause", Runtime::Unknown, Some("u-1"))).unwrap();
    assert!(record.is_pause && record.name.is_none() && record.image.is_none() && pod.is_some());
}

#[test]
fn a_root_that_is_not_there_is_an_error() {
    assert!(look(Path::new("/no/such/root"), &wanted(at("/x", None))).is_err());
}

proptest! {
    #[test]
    fn any_files(bytes in proptest::collection::vec(any::<u8>(), 0..200), id in "[a-z/.]{0,9}", cgroup in ".{0,40}") {
        let _ = containerd::found(&bytes, "ns", &id);
        let root = Root::new();
        for path in [
            "var/lib/containers/storage/overlay-containers/containers.json",
            "var/lib/docker/containers/a/config.v2.json",
            "run/containerd/io.containerd.runtime.v2.task/n/a/config.json",
            "etc/passwd",
        ] {
            let path = root.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &bytes).unwrap();
        }
        for place in [by_id(&id, Runtime::Unknown, None), by_id("a", Runtime::Unknown, None), at(&cgroup, None)] {
            let _ = root.one(place);
        }
    }
}
