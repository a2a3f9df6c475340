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

/// A runtime on a socket: what real ones answer, and what they do not.
mod socket {
    use std::convert::Infallible;
    use std::future::{Future, ready};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::net::UnixListener;
    use tonic::body::Body;
    use tonic::server::NamedService;
    use tonic::{Request, Response, Status};
    use tonic_prost::ProstCodec;
    use tower::{Service, service_fn};

    use super::super::generated::{
        ContainerStatus, ContainerStatusRequest, ContainerStatusResponse, ListContainersRequest, ListPodSandboxRequest,
    };
    use super::*;

    #[derive(Clone)]
    struct Fake {
        /// Only the interface before v1.
        old: bool,
    }

    impl NamedService for Fake {
        const NAME: &'static str = "runtime.v1.RuntimeService";
    }

    async fn unary<Q, A>(request: http::Request<Body>, answer: Result<A, Status>) -> http::Response<Body>
    where
        Q: Message + Default + Send + Sync + 'static,
        A: Message + Default + Send + Sync + Clone + 'static,
    {
        let service = service_fn(move |_: Request<Q>| ready(answer.clone().map(Response::new)));
        tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
    }

    impl Service<http::Request<Body>> for Fake {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let old = self.old.then(|| Status::unimplemented("unknown service runtime.v1.RuntimeService"));
            let given = |id: &str| {
                let spec = ImageSpec { image: "registry/web:7".into(), user_specified_image: String::new() };
                ContainerStatusResponse { status: Some(ContainerStatus { id: id.into(), image: Some(spec) }) }
            };
            Box::pin(async move {
                let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                Ok(match method.as_str() {
                    "ListPodSandbox" => {
                        let all = ListPodSandboxResponse { items: vec![sandbox("s1", "u1", "web-5d4-x7k2p")] };
                        unary::<ListPodSandboxRequest, _>(request, old.map_or(Ok(all), Err)).await
                    }
                    "ListContainers" => {
                        let all = ListContainersResponse { containers: vec![container("c1", "s1", "main")] };
                        unary::<ListContainersRequest, _>(request, old.map_or(Ok(all), Err)).await
                    }
                    _ => unary::<ContainerStatusRequest, _>(request, old.map_or(Ok(given("c1")), Err)).await,
                })
            })
        }
    }

    fn serve(path: &Path, old: bool) -> tokio::task::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        let incoming = futures_util::stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = tonic::transport::Server::builder().add_service(Fake { old }).serve_with_incoming(incoming);
        tokio::spawn(async move { server.await.unwrap() })
    }

    #[tokio::test]
    async fn a_runtime_that_is_started_late_and_one_that_is_too_old() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("run/containerd")).unwrap();
        let settings = IdentitySettings { host_root: dir.path().to_owned(), ..IdentitySettings::default() };
        let mut cri = Cri::new(&settings);
        assert_eq!((cri.socket(), cri.list().await.unwrap_err().condition), (None, "no socket"));
        let socket = dir.path().join("run/containerd/containerd.sock");
        let server = serve(&socket, false);
        let listing = cri.list().await.unwrap();
        let record = &listing.pods[0].containers[1];
        assert_eq!((record.name.as_deref(), record.image.as_deref()), (Some("main"), Some("registry/web:7")));
        assert_eq!((record.runtime, &*listing.pods[0].pod.name), (Runtime::Containerd, "web-5d4-x7k2p"));
        server.abort();
        std::fs::remove_file(&socket).unwrap();
        let server = serve(&socket, true);
        let mut old = Cri::new(&settings);
        assert_eq!(old.list().await.unwrap_err().condition, "no runtime interface");
        server.abort();
        // A file that is no socket.
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "x").unwrap();
        assert_eq!(Cri::new(&settings).list().await.unwrap_err().condition, "connection");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn asked_while_the_kubelet_cannot_be() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("run/containerd")).unwrap();
        let server = serve(&dir.path().join("run/containerd/containerd.sock"), false);
        let settings = IdentitySettings {
            host_root: dir.path().to_owned(),
            // Nobody listens there.
            kubelet_url: Some("http://127.0.0.1:1".into()),
            runtimes: false,
            ..IdentitySettings::default()
        };
        let identities = crate::Identities::start(settings, &tokio::runtime::Handle::current()).unwrap();
        let pod = Some(profile::PodRef { uid: "u1".into(), qos: profile::Qos::Burstable });
        let container = profile::Container { id: "c1".into(), runtime: Runtime::Containerd, pod };
        let place = profile::Place { cgroup: "/x".into(), container: Some(container), unit: None };
        identities.seen(&place, 1);
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let found = loop {
            if let Some(found) = identities.workload(&place) {
                break found;
            }
            assert!(std::time::Instant::now() < until, "{:?}", identities.stats());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((found.container_name.as_deref(), found.label("app")), (Some("main"), Some("web")));
        assert_eq!((identities.stats().failures, identities.stats().answers), (1, 1));
        server.abort();
    }
}
