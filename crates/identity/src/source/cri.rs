//! The CRI socket: what the container runtime tells the kubelet.
//!
//! **In**: lists of sandboxes and containers, over gRPC on a unix socket. **Out**: [`Listing`]; pods know their labels, and
//! what made them as far as labels and names tell. **Limits**: [`MAX_BYTES`], [`TIMEOUT`]; images are asked for, one by one,
//! of at most [`MAX_STATUSES`] containers that have not been asked for yet.

#[rustfmt::skip]
#[expect(unreachable_pub, reason = "generated from cri.proto")]
mod generated;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use profile::Runtime;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Failure, chain};
use crate::bounds;
use crate::controllers;
use crate::pods::Listing;
use crate::record::{ContainerRecord, MAX_POD_CONTAINERS, PodRecord};
use crate::settings::IdentitySettings;
use crate::workload::Pod;

/// The longest answer that is read, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// How long all questions of one listing may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most containers whose image is asked for in one listing.
const MAX_STATUSES: usize = 256;
/// Where the runtimes have their sockets, below the host's root.
const SOCKETS: [&str; 4] = [
    "run/containerd/containerd.sock",
    "run/crio/crio.sock",
    "run/k3s/containerd/containerd.sock",
    "run/cri-dockerd.sock",
];

/// A runtime on its socket.
#[derive(Debug)]
pub(crate) struct Cri {
    given: Option<PathBuf>,
    host_root: PathBuf,
    max: usize,
    connected: Option<Channel>,
    /// Images of containers, as they were asked for. Those of containers that are gone are forgotten.
    images: FxHashMap<Arc<str>, Option<Arc<str>>>,
}

impl Cri {
    pub(crate) fn new(settings: &IdentitySettings) -> Self {
        Self {
            given: settings.cri_socket.clone(),
            host_root: settings.host_root.clone(),
            max: settings.max_containers,
            connected: None,
            images: FxHashMap::default(),
        }
    }

    /// The socket: the one that was given, else the first usual one that is there.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        match &self.given {
            Some(given) => Some(given.clone()),
            None => SOCKETS.iter().map(|s| self.host_root.join(s)).find(|s| s.exists()),
        }
    }

    /// All pods that have a sandbox, and their containers.
    pub(crate) async fn list(&mut self) -> Result<Listing, Failure> {
        let Some(socket) = self.socket() else {
            return Err(Failure::new("no socket", format!("none of {} is there", SOCKETS.join(", "))));
        };
        let answer = match tokio::time::timeout(TIMEOUT, self.ask(&socket)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new("timeout", format!("no answer of {} within {TIMEOUT:?}", socket.display()))),
        };
        if answer.is_err() {
            self.connected = None;
        }
        answer
    }

    async fn ask(&mut self, socket: &Path) -> Result<Listing, Failure> {
        let channel = match &self.connected {
            Some(channel) => channel.clone(),
            None => self.connected.insert(connect(socket).await?).clone(),
        };
        let mut client = Grpc::new(channel).max_decoding_message_size(MAX_BYTES);
        let sandboxes: generated::ListPodSandboxResponse =
            call(&mut client, "/runtime.v1.RuntimeService/ListPodSandbox", generated::ListPodSandboxRequest {}).await?;
        let containers: generated::ListContainersResponse =
            call(&mut client, "/runtime.v1.RuntimeService/ListContainers", generated::ListContainersRequest {}).await?;
        self.ask_for_images(&mut client, &containers.containers).await;
        let runtime = socket.file_name().and_then(|n| n.to_str()).map_or(Runtime::Unknown, of_socket);
        Ok(listing(sandboxes, containers, &self.images, runtime, self.max))
    }

    /// In lists, runtimes say an image's id where its status has the name.
    async fn ask_for_images(&mut self, client: &mut Grpc<Channel>, containers: &[generated::Container]) {
        let there: FxHashSet<&str> = containers.iter().map(|c| c.id.as_str()).collect();
        self.images.retain(|id, _| there.contains(&**id));
        let mut asked = 0;
        for container in containers {
            let Some(id) = bounds::name(&container.id) else { continue };
            if asked >= MAX_STATUSES || self.images.len() >= self.max || self.images.contains_key(&id) {
                continue;
            }
            asked += 1;
            let request = generated::ContainerStatusRequest { container_id: container.id.clone() };
            let answer: Result<generated::ContainerStatusResponse, _> =
                call(client, "/runtime.v1.RuntimeService/ContainerStatus", request).await;
            // It may be gone since. Then its image is not known, and that is all.
            let image =
                answer.ok().and_then(|a| a.status?.image).and_then(|i| named(&i.user_specified_image, &i.image));
            self.images.insert(id, image);
        }
    }
}

async fn connect(socket: &Path) -> Result<Channel, Failure> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is not used: the socket is.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(TIMEOUT);
    let failed =
        |e: tonic::transport::Error| Failure::new("connection", format!("{}: {}", socket.display(), chain(&e)));
    endpoint.connect_with_connector(connector).await.map_err(failed)
}

async fn call<Q, A>(client: &mut Grpc<Channel>, method: &'static str, question: Q) -> Result<A, Failure>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let failed = |status: Status| {
        let condition = match status.code() {
            Code::Unimplemented => "no runtime interface",
            Code::Unavailable => "connection",
            _ => "refused",
        };
        Failure::new(condition, format!("{method}: {}: {}", status.code(), status.message()))
    };
    client.ready().await.map_err(|e| Failure::new("connection", chain(&e)))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = client.unary(Request::new(question), PathAndQuery::from_static(method), codec).await;
    Ok(answer.map_err(failed)?.into_inner())
}

fn of_socket(name: &str) -> Runtime {
    match name {
        "containerd.sock" => Runtime::Containerd,
        "crio.sock" => Runtime::CriO,
        "cri-dockerd.sock" => Runtime::Docker,
        _ => Runtime::Unknown,
    }
}

fn named(specified: &str, image: &str) -> Option<Arc<str>> {
    [specified, image].into_iter().find(|i| !i.is_empty()).and_then(bounds::image)
}

fn listing(
    sandboxes: generated::ListPodSandboxResponse,
    containers: generated::ListContainersResponse,
    images: &FxHashMap<Arc<str>, Option<Arc<str>>>,
    runtime: Runtime,
    max: usize,
) -> Listing {
    let mut out = Listing::default();
    let mut of_sandbox: FxHashMap<String, usize> = FxHashMap::default();
    let mut of_uid: FxHashMap<Arc<str>, usize> = FxHashMap::default();
    for sandbox in sandboxes.items {
        let Some(mut record) = pod(&sandbox) else {
            out.refused = out.refused.saturating_add(1);
            continue;
        };
        let Some(id) = bounds::name(&sandbox.id) else { continue };
        let pause = ContainerRecord { id, runtime, is_pause: true, ..ContainerRecord::default() };
        // A pod whose sandbox was replaced has two for a while.
        if let Some(at) = of_uid.get(&record.pod.uid) {
            if let Some(known) = out.pods.get_mut(*at) {
                known.containers.push(pause);
            }
            of_sandbox.insert(sandbox.id, *at);
            continue;
        }
        if out.pods.len() >= max {
            out.refused = out.refused.saturating_add(1);
            continue;
        }
        record.containers.push(pause);
        of_sandbox.insert(sandbox.id, out.pods.len());
        of_uid.insert(Arc::clone(&record.pod.uid), out.pods.len());
        out.pods.push(record);
    }
    for container in containers.containers {
        let Some(pod) = of_sandbox.get(&container.pod_sandbox_id).and_then(|at| out.pods.get_mut(*at)) else {
            continue;
        };
        let metadata = container.metadata.unwrap_or_default();
        let (Some(id), Some(name)) = (bounds::name(&container.id), bounds::name(&metadata.name)) else { continue };
        if pod.containers.len() >= MAX_POD_CONTAINERS {
            out.refused = out.refused.saturating_add(1);
            continue;
        }
        let spec = container.image.unwrap_or_default();
        let image = images.get(&id).cloned().flatten().or_else(|| named(&spec.user_specified_image, &spec.image));
        let restarts = Some(metadata.attempt);
        let record = ContainerRecord { id, name: Some(name), runtime, image, restarts, is_pause: false, cgroup: None };
        pod.containers.push(record);
    }
    out
}

fn pod(sandbox: &generated::PodSandbox) -> Option<PodRecord> {
    let metadata = sandbox.metadata.clone().unwrap_or_default();
    // The kubelet notes these for itself.
    let own = |key: &str| key.starts_with("io.kubernetes.pod.");
    let labels = sandbox.labels.clone().into_iter().filter(|(key, _)| !own(key));
    let mut pod = Pod {
        uid: bounds::name(&metadata.uid)?,
        namespace: bounds::name(&metadata.namespace)?,
        name: bounds::name(&metadata.name)?,
        labels: bounds::pairs(labels),
        annotations: bounds::pairs(sandbox.annotations.clone()),
        ..Pod::default()
    };
    pod.controllers = controllers::of_labels(&pod);
    Some(PodRecord { pod, ..PodRecord::default() })
}

#[cfg(test)]
mod tests;
