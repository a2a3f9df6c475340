use profile::{Container, PodRef, Qos, Runtime};
use proptest::prelude::*;

use super::*;
use crate::workload::{Pod, WorkloadKind};

fn pairs(list: &[(&str, &str)]) -> Vec<(Arc<str>, Arc<str>)> {
    let mut out: Vec<_> = list.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect();
    out.sort();
    out
}

fn owner(path: &str) -> Owner {
    Owner { executable_path: path.into(), process_name: "proc".into(), comm: "comm".into(), ..Owner::default() }
}

fn in_pod(mut owner: Owner) -> Owner {
    let container = Container {
        id: "c1".into(),
        runtime: Runtime::Containerd,
        pod: Some(PodRef { uid: "u-1".into(), qos: Qos::Burstable }),
    };
    owner.place = Some(Arc::new(Place { cgroup: "/kubepods/x".into(), container: Some(container), unit: None }));
    owner
}

fn in_unit(mut owner: Owner, unit: &str) -> Owner {
    owner.place = Some(Arc::new(Place {
        cgroup: format!("/system.slice/{unit}").into(),
        container: None,
        unit: Some(unit.into()),
    }));
    owner
}

fn declare(mut owner: Owner, service: &str, attributes: &[(&str, &str)]) -> Owner {
    owner.declared = Some(Arc::new(Declared {
        service_name: (!service.is_empty()).then(|| service.into()),
        attributes: attributes.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect(),
    }));
    owner
}

fn web() -> Pod {
    Pod {
        uid: "u-1".into(),
        namespace: "shop".into(),
        name: "web-5d4-abc".into(),
        node: "n1".into(),
        labels: pairs(&[("app", "web"), ("pod-template-hash", "5d4"), ("app.kubernetes.io/part-of", "all")]),
        annotations: Vec::new(),
        controllers: vec![(WorkloadKind::Deployment, "web".into()), (WorkloadKind::ReplicaSet, "web-5d4".into())],
    }
}

fn container(pod: Pod) -> Workload {
    Workload {
        container_id: "c1".into(),
        container_name: Some("main".into()),
        runtime: Runtime::Containerd,
        image: Some("registry.example:5000/web:v7".into()),
        restarts: Some(3),
        is_pause: false,
        pod: Some(Arc::new(pod)),
    }
}

fn identity(owner: &Owner, workload: Option<&Workload>) -> Identity {
    build::identity(owner, workload, &IdentitySettings::default()).0
}

fn service(owner: &Owner, pod: Pod) -> String {
    identity(owner, Some(&container(pod))).service_name.to_string()
}

#[test]
fn a_container_of_a_deployment() {
    let identity = identity(&in_pod(owner("/web")), Some(&container(web())));
    assert_eq!(&*identity.service_name, "web");
    let want = pairs(&[
        ("container.id", "c1"),
        ("container.image.name", "registry.example:5000/web"),
        ("container.image.tags", "v7"),
        ("k8s.container.name", "main"),
        ("k8s.deployment.name", "web"),
        ("k8s.namespace.name", "shop"),
        ("k8s.node.name", "n1"),
        ("k8s.pod.name", "web-5d4-abc"),
        ("k8s.pod.uid", "u-1"),
        ("service.namespace", "shop"),
    ]);
    assert_eq!(identity.attributes, want);
    assert_eq!(identity.get("k8s.pod.name"), Some("web-5d4-abc"));
}

#[test]
fn the_order_of_service_names() {
    let plain = in_pod(owner("/web"));
    let mut pod = web();
    assert_eq!(service(&declare(plain.clone(), "own", &[("service.name", "other")]), pod.clone()), "own");
    assert_eq!(service(&declare(plain.clone(), "", &[("service.name", "other")]), pod.clone()), "other");
    assert_eq!(service(&declare(plain.clone(), "unknown_service:node", &[]), pod.clone()), "web");
    pod.labels = pairs(&[("app.kubernetes.io/name", "by-name")]);
    assert_eq!(service(&plain, pod.clone()), "by-name");
    pod.labels = pairs(&[("app.kubernetes.io/name", "by-name"), ("app.kubernetes.io/instance", "by-instance")]);
    assert_eq!(service(&plain, pod.clone()), "by-instance");
    pod.annotations = pairs(&[("resource.opentelemetry.io/service.name", "by-annotation")]);
    assert_eq!(service(&plain, pod.clone()), "by-annotation");
    assert_eq!(service(&declare(plain.clone(), "own", &[]), pod), "own");
    use WorkloadKind as K;
    for (controllers, want) in [
        (vec![(K::ReplicaSet, "rs")], "rs"),
        (vec![(K::StatefulSet, "set")], "set"),
        (vec![(K::DaemonSet, "ds")], "ds"),
        (vec![(K::CronJob, "nightly"), (K::Job, "nightly-29001234")], "nightly"),
        (vec![(K::Job, "once")], "once"),
        (vec![], "web-5d4-abc"),
    ] {
        let controllers = controllers.into_iter().map(|(kind, name)| (kind, name.into())).collect();
        assert_eq!(service(&plain, Pod { controllers, ..web() }), want);
    }
}

#[test]
fn without_kubernetes() {
    let place = |id: &str| {
        let container = Container { id: id.into(), runtime: Runtime::Podman, pod: None };
        Some(Arc::new(Place { cgroup: "/libpod".into(), container: Some(container), unit: None }))
    };
    let mut boxed = owner("/usr/bin/app");
    boxed.place = place("p1");
    let known = Workload {
        container_id: "p1".into(),
        container_name: Some("db".into()),
        runtime: Runtime::Podman,
        image: Some("localhost/db:1".into()),
        ..Workload::default()
    };
    let found = identity(&boxed, Some(&known));
    assert_eq!(&*found.service_name, "db");
    let want = pairs(&[
        ("container.id", "p1"),
        ("container.image.name", "localhost/db"),
        ("container.image.tags", "1"),
        ("container.name", "db"),
        ("container.runtime.name", "podman"),
    ]);
    assert_eq!(found.attributes, want);
    // Nobody knows it: what the path tells, and no more.
    let found = identity(&boxed, None);
    assert_eq!(&*found.service_name, "unknown_service:app");
    assert_eq!(found.attributes, pairs(&[("container.id", "p1"), ("container.runtime.name", "podman")]));
    // A container that only its cgroup's path told: the source knows its id.
    boxed.place = Some(Arc::new(Place { cgroup: "/default/x".into(), ..Place::default() }));
    assert_eq!(identity(&boxed, Some(&known)).get("container.id"), Some("p1"));
}

#[test]
fn units_and_executables() {
    for (unit, want) in [
        ("nginx.service", "nginx"),
        ("getty@tty1.service", "getty@tty1"),
        ("session-3.scope", "unknown_service:app"),
        ("run-u77.service", "unknown_service:app"),
        ("run-p12-i34.service", "unknown_service:app"),
        ("run-r0123456789abcdef0123456789abcdef.service", "unknown_service:app"),
        ("run-parts.service", "run-parts"),
        (".service", "unknown_service:app"),
    ] {
        let found = identity(&in_unit(owner("/usr/bin/app"), unit), None);
        assert_eq!((&*found.service_name, found.attributes.len()), (want, 0), "{unit}");
    }
    for (path, want) in [
        ("/usr/bin/app (deleted)", "unknown_service:app"),
        ("/memfd:sealed (deleted)", "unknown_service:memfd:sealed"),
        ("", "unknown_service:proc"),
        ("/a\nb", "unknown_service:a\u{fffd}b"),
    ] {
        assert_eq!(&*identity(&owner(path), None).service_name, want);
    }
    let thread = Owner { kernel_thread: true, ..in_pod(owner("")) };
    let found = identity(&thread, Some(&container(web())));
    assert_eq!((&*found.service_name, found.attributes.len()), ("unknown_service:[kernel]", 0));
}

#[test]
fn a_sandbox_and_a_pod_alone_have_the_pods_names() {
    let pause = Workload { container_name: None, is_pause: true, image: None, ..container(web()) };
    let found = identity(&in_pod(owner("/pause")), Some(&pause));
    assert_eq!(&*found.service_name, "web");
    assert_eq!((found.get("k8s.pod.name"), found.get("k8s.container.name")), (Some("web-5d4-abc"), None));
    // Without any source: the UID that the path tells, and the node that we are on.
    let settings = IdentitySettings { node_name: Some("n9".into()), ..IdentitySettings::default() };
    let (found, _) = build::identity(&in_pod(owner("/web")), None, &settings);
    let want = pairs(&[("container.id", "c1"), ("k8s.node.name", "n9"), ("k8s.pod.uid", "u-1")]);
    assert_eq!((&*found.service_name, found.attributes), ("unknown_service:web", want));
}

#[test]
fn nobody_says_who_he_is_but_the_sources() {
    let lies =
        [("k8s.namespace.name", "bank"), ("container.id", "x"), ("process.pid", "1"), ("a-b/c", "d"), ("team", "a")];
    let mut pod = web();
    pod.annotations = pairs(&[
        ("resource.opentelemetry.io/k8s.pod.name", "other"),
        ("resource.opentelemetry.io/team", "b"),
        ("resource.opentelemetry.io/k8s.cluster.name", "c7"),
        ("resource.opentelemetry.io/service.version", "7.1"),
        ("unrelated", "x"),
    ]);
    let (found, refused) = build::identity(
        &declare(in_pod(owner("/web")), "", &lies),
        Some(&container(pod)),
        &IdentitySettings::default(),
    );
    assert_eq!((found.get("k8s.namespace.name"), found.get("container.id")), (Some("shop"), Some("c1")));
    assert_eq!((found.get("process.pid"), found.get("k8s.pod.name")), (None, Some("web-5d4-abc")));
    assert_eq!((found.get("team"), found.get("k8s.cluster.name")), (Some("a"), Some("c7")));
    assert_eq!((found.get("service.version"), refused), (Some("7.1"), 1));
    assert!(found.get("unrelated").is_none());
}

#[test]
fn settings_choose_more() {
    let mut settings = IdentitySettings {
        labels: vec!["app*".into()],
        annotations: vec!["note".into()],
        optional_attributes: super::super::OPTIONAL_ATTRIBUTES.map(str::to_owned).to_vec(),
        attributes: vec![("env".into(), "prod".into())],
        ..IdentitySettings::default()
    };
    let mut pod = web();
    pod.annotations = pairs(&[("note", "hello"), ("other", "x")]);
    let workload = container(pod);
    let own = in_pod(owner("/web"));
    let (found, refused) = build::identity(&own, Some(&workload), &settings);
    for (key, want) in [
        ("k8s.pod.label.app", "web"),
        ("k8s.pod.label.app.kubernetes.io_part_of", "all"),
        ("k8s.pod.annotation.note", "hello"),
        ("k8s.replicaset.name", "web-5d4"),
        ("k8s.container.restart_count", "3"),
        ("container.runtime.name", "containerd"),
        ("service.instance.id", "shop.web-5d4-abc.main"),
        ("env", "prod"),
    ] {
        assert_eq!(found.get(key), Some(want), "{key}");
    }
    assert!(found.get("k8s.pod.label.pod_template_hash").is_none() && refused == 0);
    settings.verbatim_keys = true;
    let (found, _) = build::identity(&own, Some(&workload), &settings);
    assert_eq!(found.get("k8s.pod.label.app.kubernetes.io/part-of"), Some("all"));
    // What others choose goes first when there is no room.
    settings.max_attributes = 14;
    let (found, refused) = build::identity(&declare(own, "", &[("team", "a")]), Some(&workload), &settings);
    assert_eq!(found.attributes.len(), 14);
    assert!(refused == 5 && found.get("k8s.pod.name").is_some() && found.get("team").is_none());
}

#[test]
fn equal_identities_are_one() {
    let settings = IdentitySettings::default();
    let mut namer = Namer::default();
    let profile = |names: &[&str]| Profile {
        owners: names.iter().map(|n| Arc::new(in_pod(owner(n)))).collect(),
        ..Profile::default()
    };
    let known = Arc::new(container(web()));
    let first = namer.attribute(profile(&["/a", "/b"]), &settings, 1, |_, _| Some(Arc::clone(&known)));
    let ids: Vec<_> = first.owners.iter().map(|o| o.identity.clone().unwrap()).collect();
    // Two executables of one container are one service.
    assert!(Arc::ptr_eq(&ids[0], &ids[1]));
    // Remembered: nobody is asked again before something changed.
    let second = namer.attribute(profile(&["/a"]), &settings, 1, |_, _| unreachable!());
    assert!(Arc::ptr_eq(second.owners[0].identity.as_ref().unwrap(), &ids[0]));
    let third = namer.attribute(profile(&["/a"]), &settings, 2, |_, _| None);
    assert_eq!(&*third.owners[0].identity.as_ref().unwrap().service_name, "unknown_service:a");
}

proptest! {
    #[test]
    fn any_texts_make_a_fit_identity(
        exe in ".{0,40}", service in ".{0,300}", unit in proptest::option::of(".{0,40}"),
        declared in proptest::collection::vec((".{0,140}", ".{0,300}"), 0..40),
        labels in proptest::collection::vec((".{0,140}", ".{0,300}"), 0..10),
        max in 0usize..30,
    ) {
        let mut own = owner(&exe);
        own.place = Some(Arc::new(Place { unit: unit.map(Into::into), ..Place::default() }));
        let declared: Vec<_> = declared.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let own = declare(own, &service, &declared);
        let labels: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let pod = Pod { labels: pairs(&labels), annotations: pairs(&labels), ..web() };
        let settings = IdentitySettings { max_attributes: max, labels: vec!["*".into()], ..IdentitySettings::default() };
        let (found, _) = build::identity(&own, Some(&container(pod)), &settings);
        prop_assert!(!found.service_name.is_empty() && found.service_name.len() <= text::MAX_VALUE);
        prop_assert!(found.attributes.len() <= max);
        prop_assert!(found.attributes.iter().all(|(k, v)| text::is_plain_key(k) || k.starts_with("k8s.pod.label.")
            && !v.is_empty() && v.len() <= text::MAX_VALUE));
        prop_assert!(found.attributes.windows(2).all(|w| w[0].0 < w[1].0));
    }
}
