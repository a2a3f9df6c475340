use proptest::prelude::*;

use super::*;

const UID: &str = "3f1c2d4e-0b1a-4c5d-8e9f-001122334455";
const SLICE_UID: &str = "3f1c2d4e_0b1a_4c5d_8e9f_001122334455";
/// Of a static pod.
const HASH: &str = "0123456789abcdef0123456789abcdef";

fn id() -> String {
    "0123456789abcdef".repeat(4)
}

fn other() -> String {
    "fedcba9876543210".repeat(4)
}

/// Id, runtime, UID and class of the pod.
type Told = Option<(String, Runtime, Option<(String, Qos)>)>;

fn container(path: &str) -> Told {
    let found = place(path.as_bytes());
    assert_eq!(&*found.cgroup, path);
    let c = found.container?;
    assert_eq!(found.unit, None);
    Some((c.id.to_string(), c.runtime, c.pod.map(|p| (p.uid.to_string(), p.qos))))
}

fn unit_of(path: &str) -> Option<String> {
    let found = place(path.as_bytes());
    assert_eq!(found.container, None, "{path}");
    found.unit.map(|u| u.to_string())
}

#[test]
fn pods_with_the_cgroupfs_driver() {
    let id = id();
    let check = |path: String, runtime, uid: &str, qos| {
        assert_eq!(container(&path), Some((id.clone(), runtime, Some((uid.to_owned(), qos)))), "{path}");
    };
    check(format!("/kubepods/burstable/pod{UID}/{id}"), Runtime::Unknown, UID, Qos::Burstable);
    check(format!("/kubepods/besteffort/pod{UID}/{id}"), Runtime::Unknown, UID, Qos::BestEffort);
    check(format!("/kubepods/pod{UID}/{id}"), Runtime::Unknown, UID, Qos::Guaranteed);
    check(format!("/kubepods/burstable/pod{HASH}/{id}"), Runtime::Unknown, HASH, Qos::Burstable);
    check(format!("/kubepods/burstable/pod{UID}/crio-{id}"), Runtime::CriO, UID, Qos::Burstable);
    check(format!("/kubepods/burstable/pod{UID}/libpod-{id}"), Runtime::Podman, UID, Qos::Burstable);
    assert_eq!(container(&format!("/kubepods/burstable/pod{UID}/crio-conmon-{id}")), None);
    assert_eq!(container(&format!("/kubepods/burstable/pod{UID}")), None);
    assert_eq!(container("/kubepods/burstable"), None);
    assert_eq!(container("/kubepods"), None);
    assert_eq!(container(&format!("/kubepods/burstable/{UID}/{id}")), None);
}

#[test]
fn pods_with_the_systemd_driver() {
    let id = id();
    let check = |path: String, runtime, uid: &str, qos| {
        assert_eq!(container(&path), Some((id.clone(), runtime, Some((uid.to_owned(), qos)))), "{path}");
    };
    let burstable = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice");
    check(format!("{burstable}/cri-containerd-{id}.scope"), Runtime::Containerd, UID, Qos::Burstable);
    check(format!("{burstable}/crio-{id}.scope"), Runtime::CriO, UID, Qos::Burstable);
    check(format!("{burstable}/crio-{id}.scope/container"), Runtime::CriO, UID, Qos::Burstable);
    check(format!("{burstable}/docker-{id}.scope"), Runtime::Docker, UID, Qos::Burstable);
    let guaranteed = format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice");
    check(format!("{guaranteed}/cri-containerd-{id}.scope"), Runtime::Containerd, UID, Qos::Guaranteed);
    let of_static = format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{HASH}.slice");
    check(format!("{of_static}/cri-containerd-{id}.scope"), Runtime::Containerd, HASH, Qos::BestEffort);
    let rooted = format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE_UID}.slice");
    check(format!("{rooted}/cri-containerd-{id}.scope"), Runtime::Containerd, UID, Qos::Guaranteed);
    let mixed = format!("/system.slice/containerd.service/kubepods-burstable-pod{SLICE_UID}.slice");
    check(format!("{mixed}:cri-containerd:{id}"), Runtime::Containerd, UID, Qos::Burstable);
    for helper in ["crio-conmon", "unknown"] {
        assert_eq!(unit_of(&format!("{burstable}/{helper}-{id}.scope")), None, "{helper}");
    }
}

#[test]
fn containers_without_kubernetes() {
    let id = id();
    let check = |path: String, runtime| assert_eq!(container(&path), Some((id.clone(), runtime, None)), "{path}");
    check(format!("/docker/{id}"), Runtime::Docker);
    check(format!("/system.slice/docker-{id}.scope"), Runtime::Docker);
    check(format!("/machine.slice/libpod-{id}.scope"), Runtime::Podman);
    check(format!("/machine.slice/libpod-{id}.scope/container"), Runtime::Podman);
    check(format!("/machine.slice/machine-libpod_pod_{}.slice/libpod-{id}.scope", other()), Runtime::Podman);
    check(format!("/libpod_parent/libpod-{id}"), Runtime::Podman);
    check(format!("/libpod_parent/{}/libpod-{id}", other()), Runtime::Podman);
    check(format!("/system.slice/nerdctl-{id}.scope"), Runtime::Containerd);
    check(format!("/system.slice/cri-containerd-{id}.scope"), Runtime::Containerd);
    for path in [
        format!("/libpod_parent/libpod-conmon-{id}"),
        "/libpod_parent/conmon".to_owned(),
        format!("/machine.slice/libpod-conmon-{id}.scope"),
        // Only containerd knows what these are.
        "/default/web".to_owned(),
        format!("/default/{id}"),
        format!("/{id}"),
        format!("/docker/{id}0"),
        format!("/docker/{}", id.to_uppercase()),
        format!("/docker/x{}", &id[1..]),
        "/".to_owned(),
        String::new(),
    ] {
        assert_eq!(place(path.as_bytes()).container, None, "{path}");
        assert_eq!(place(path.as_bytes()).unit, None, "{path}");
    }
}

#[test]
fn units() {
    let check = |path: &str, unit: Option<&str>| assert_eq!(unit_of(path).as_deref(), unit, "{path}");
    check("/system.slice/nginx.service", Some("nginx.service"));
    check("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service"));
    check(r"/system.slice/srv-a\x2db.mount", Some(r"srv-a\x2db.mount"));
    check("/system.slice/_cpu.service", Some("cpu.service"));
    check("/init.scope", Some("init.scope"));
    check("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope"));
    check("/user.slice/user-1000.slice/user@1000.service", Some("user@1000.service"));
    check("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("init.scope"));
    check("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", Some("foo.service"));
    check("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.slice/x@1.service", Some("x@1.service"));
    check("/system.slice/containerd.service", Some("containerd.service"));
    check("/system.slice", None);
    check("/user.slice/user-1000.slice", None);
    check("/system.slice/not a unit.service", None);
    check("/system.slice/.service", None);
    check(&format!("/system.slice/{}.service", "x".repeat(300)), None);
    check("/not/slices/nginx.service", None);
}

/// What a process inside may call its own sub-cgroups changes nothing.
#[test]
fn names_that_imitate_another_container() {
    let (id, other) = (id(), other());
    let imitations = [
        other.clone(),
        format!("docker/{other}"),
        format!("docker-{other}.scope"),
        format!("cri-containerd-{other}.scope"),
        format!("libpod-{other}.scope/container"),
        format!("kubepods/burstable/pod{HASH}/{other}"),
        format!("kubepods.slice/kubepods-pod{HASH}.slice/crio-{other}.scope"),
        format!("system.slice/docker-{other}.scope"),
        format!("../{other}"),
        format!("x (deleted)\n0::/docker/{other}"),
    ];
    let owners = [
        format!("/kubepods/burstable/pod{UID}/{id}"),
        format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice/cri-containerd-{id}.scope"),
        format!("/docker/{id}"),
        format!("/libpod_parent/libpod-{id}"),
        format!("/machine.slice/libpod-{id}.scope"),
    ];
    for (owner, imitation) in owners.iter().flat_map(|o| imitations.iter().map(move |i| (o, i))) {
        let found = place(format!("{owner}/{imitation}").as_bytes()).container.unwrap();
        assert_eq!(found, place(owner.as_bytes()).container.unwrap(), "{owner}/{imitation}");
        assert_eq!(*found.id, *id);
    }
    let delegated = [
        ("/system.slice/web.service", Some("web.service")),
        ("/system.slice/containerd.service", Some("containerd.service")),
        ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
        ("/default/web", None),
        ("/web", None),
        ("/x.slice/y.slice", None),
    ];
    for ((owner, unit), imitation) in delegated.iter().flat_map(|o| imitations.iter().map(move |i| (o, i))) {
        let path = format!("{owner}/{imitation}");
        let found = place(path.as_bytes());
        assert_eq!((found.container, found.unit.as_deref()), (None, *unit), "{path}");
        let found = place(format!("{owner}/sshd.service").as_bytes());
        assert_eq!((found.container, found.unit.as_deref()), (None, *unit), "{path}");
    }
    // A user's manager may name units, but no containers.
    for imitation in &imitations {
        let path = format!("/user.slice/user-1000.slice/user@1000.service/{imitation}");
        assert_eq!(place(path.as_bytes()).container, None, "{path}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken_without_a_panic(path: Vec<u8>) {
        place(&path);
        place(&[b"/", path.as_slice()].concat());
        for parent in ["/kubepods/burstable/pod", "/kubepods.slice/kubepods-pod", "/docker/", "/system.slice/"] {
            place(&[parent.as_bytes(), path.as_slice()].concat());
        }
    }

    /// A container's id is always the one that its runtime wrote, whatever follows.
    #[test]
    fn what_follows_a_container_does_not_matter(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
        let owner = format!("/kubepods/pod{UID}/{}", id());
        let whole = [owner.as_bytes(), b"/", rest.as_slice()].concat();
        prop_assert_eq!(place(&whole).container, place(owner.as_bytes()).container);
    }

    #[test]
    fn a_path_too_long_tells_nothing(more in 1usize..100) {
        let path = format!("/docker/{}/{}", id(), "x".repeat(MAX_PATH_BYTES + more));
        prop_assert_eq!(place(path.as_bytes()), Place::default());
    }
}
