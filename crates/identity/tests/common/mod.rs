//! A kubelet that does what no real one does on demand: wrong, slow, huge and broken answers.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs of this")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use identity::{Identities, IdentitySettings, Workload};
use profile::{Container, Place, PodRef, Qos, Runtime};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a connection is answered, piece by piece.
pub enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    /// The same bytes many times.
    Repeat(Vec<u8>, usize),
}

/// What is asked.
pub struct Asked<'a> {
    /// How many were asked before.
    pub number: u64,
    pub token: Option<&'a str>,
    /// With its query.
    pub path: &'a str,
}

type Behaviour = dyn Fn(&Asked<'_>) -> Vec<Step> + Send + Sync;

/// A server on 127.0.0.1, and the files that a service account has.
pub struct FakeKubelet {
    pub url: String,
    pub dir: tempfile::TempDir,
    pub requests: Arc<AtomicU64>,
    pub times: Arc<Mutex<Vec<Instant>>>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl FakeKubelet {
    /// `names`: whom its certificate is for; none: no TLS.
    pub async fn start(
        names: Option<&[&str]>,
        behaviour: impl Fn(u64, Option<&str>) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        Self::start_for_paths(names, move |asked| {
            assert_eq!(asked.path, "/pods");
            behaviour(asked.number, asked.token)
        })
        .await
    }

    /// The same for a server that is asked for more than pods.
    pub async fn start_for_paths(
        names: Option<&[&str]>,
        behaviour: impl Fn(&Asked<'_>) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), issuer.pem()).unwrap();
        std::fs::write(dir.path().join("token"), "first").unwrap();
        let acceptor = names.map(|names| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
            let pem = params.signed_by(&key, &issuer).unwrap().pem();
            std::fs::write(dir.path().join("server.crt"), &pem).unwrap();
            acceptor(&pem, &key.serialize_pem())
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicU64::new(0));
        let times = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(listener, acceptor, Arc::new(behaviour), Arc::clone(&requests), Arc::clone(&times)));
        Self { url, dir, requests, times, issuer }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn settings(&self) -> IdentitySettings {
        IdentitySettings {
            kubelet_url: Some(self.url.clone()),
            token_file: self.file("token"),
            host_root: self.dir.path().to_owned(),
            runtimes: false,
            ..IdentitySettings::default()
        }
    }

    pub fn start_identities(&self, settings: IdentitySettings) -> Arc<Identities> {
        Identities::start(settings, &tokio::runtime::Handle::current()).unwrap()
    }

    pub fn asked(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn acceptor(certificate: &str, key: &str) -> TlsAcceptor {
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    Arc::new(config).into()
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    behaviour: Arc<Behaviour>,
    requests: Arc<AtomicU64>,
    times: Arc<Mutex<Vec<Instant>>>,
) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else { return };
        let (acceptor, behaviour) = (acceptor.clone(), Arc::clone(&behaviour));
        let (requests, times) = (Arc::clone(&requests), Arc::clone(&times));
        tokio::spawn(async move {
            match acceptor {
                Some(acceptor) => {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        talk(tls, behaviour, requests, times).await;
                    }
                }
                None => talk(tcp, behaviour, requests, times).await,
            }
        });
    }
}

async fn talk(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    behaviour: Arc<Behaviour>,
    requests: Arc<AtomicU64>,
    times: Arc<Mutex<Vec<Instant>>>,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.strip_prefix("GET ").and_then(|h| h.split(' ').next()).unwrap().to_owned();
        times.lock().unwrap().push(Instant::now());
        let number = requests.fetch_add(1, Ordering::SeqCst);
        let token =
            head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("authorization: bearer ").map(str::to_owned));
        for step in behaviour(&Asked { number, token: token.as_deref(), path: &path }) {
            let sent = match step {
                Step::Send(bytes) => stream.write_all(&bytes).await,
                Step::Wait(time) => {
                    let flushed = stream.flush().await;
                    tokio::time::sleep(time).await;
                    flushed
                }
                Step::Repeat(bytes, times) => {
                    let mut sent = Ok(());
                    for _ in 0..times {
                        sent = stream.write_all(&bytes).await;
                        if sent.is_err() {
                            break;
                        }
                    }
                    sent
                }
            };
            if sent.is_err() {
                return;
            }
        }
        if stream.flush().await.is_err() {
            return;
        }
    }
}

/// A whole answer.
pub fn answer(status: u16, body: &[u8]) -> Vec<Step> {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
    vec![Step::Send(head.into_bytes()), Step::Send(body.to_vec())]
}

pub fn list(pods: &[Value]) -> Vec<Step> {
    answer(200, &serde_json::to_vec(&json!({"kind": "PodList", "items": pods})).unwrap())
}

/// A running pod with containers of these ids, each named after its id.
pub fn pod(uid: &str, name: &str, ids: &[&str]) -> Value {
    let statuses: Vec<_> = ids
        .iter()
        .map(|id| json!({"name": format!("c-{id}"), "containerID": format!("containerd://{id}"), "image": "x:1", "state": {"running": {}}}))
        .collect();
    let specs: Vec<_> = ids.iter().map(|id| json!({"name": format!("c-{id}"), "image": "x:1"})).collect();
    json!({"metadata": {"uid": uid, "name": name, "namespace": "shop"}, "spec": {"nodeName": "n1", "containers": specs},
        "status": {"phase": "Running", "containerStatuses": statuses}})
}

pub fn place(uid: &str, id: &str) -> Place {
    let pod = Some(PodRef { uid: uid.into(), qos: Qos::Burstable });
    let container = Container { id: id.into(), runtime: Runtime::Containerd, pod };
    Place { cgroup: format!("/kubepods/burstable/pod{uid}/{id}").into(), container: Some(container), unit: None }
}

/// Waits until a place is known as wanted.
pub async fn wait(identities: &Identities, place: &Place, wanted: impl Fn(&Workload) -> bool) -> Arc<Workload> {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if let Some(found) = identities.workload(place).filter(|w| wanted(w)) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never known: {place:?}: {:?} {:?}", identities.workload(place), identities.stats());
}

/// Waits until a condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
