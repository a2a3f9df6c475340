//! The API server: a watch of this node's pods, and who stands behind ReplicaSets and Jobs.
//!
//! **In**: pods as they change, of this node only. **Out**: the store is kept up to date. **Limits**: of each pod only what is
//! needed is kept; [`MAX_OWNERS`] owners are remembered; the library's own pauses between attempts.

use std::borrow::Cow;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, Config, Resource};
use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::{Failure, Health, chain};
use crate::bounds;
use crate::pods::{Metadata, OwnerReference, PodJson, Spec, Status};
use crate::record::{PodRecord, Rank};
use crate::settings::IdentitySettings;
use crate::shared::Shared;
use crate::tasks::settle;
use crate::workload::WorkloadKind;

/// The most owners of ReplicaSets and Jobs that are remembered.
const MAX_OWNERS: usize = 4096;
/// How long one look-up of an owner may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How old a container that no pod's status names must be before it is taken for a sandbox: statuses travel from the kubelet to
/// the API server and from there to us.
const SANDBOX_AGE: Duration = Duration::from_secs(15);
/// How long to wait when nothing is asked for.
const IDLE: Duration = Duration::from_secs(60);

/// A pod, as the API server sends it; only what is needed of it.
#[derive(Clone, Debug, Default, Deserialize)]
struct ApiPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

impl Resource for ApiPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl ApiPod {
    fn record(self) -> Option<PodRecord> {
        let Self { metadata, spec, status } = self;
        let owner = |o: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| OwnerReference {
            kind: o.kind,
            name: o.name,
            controller: o.controller,
        };
        let metadata = Metadata {
            name: metadata.name.unwrap_or_default(),
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: metadata.owner_references.map(|all| all.into_iter().map(owner).collect()),
        };
        PodJson { metadata, spec, status }.record()
    }
}

/// Keeps the store up to date, for ever.
pub(crate) async fn run(shared: Arc<Shared>, node: String) {
    let mut health = Health::new("API server");
    loop {
        match client(shared.settings.kubeconfig.as_deref()).await {
            Ok(client) => follow(&shared, client, &node, &mut health).await,
            Err(failure) => failed(&shared, &mut health, &failure),
        }
        let wait = health.not_before().unwrap_or_else(|| Instant::now() + TIMEOUT);
        tokio::time::sleep_until(wait.into()).await;
    }
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client, Failure> {
    let broken = |e: &dyn std::error::Error| Failure::new("configuration", chain(e));
    let config = match kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file).map_err(|e| broken(&e))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|e| broken(&e))?
        }
        None => Config::incluster().map_err(|e| broken(&e))?,
    };
    Client::try_from(config).map_err(|e| broken(&e))
}

async fn follow(shared: &Shared, client: Client, node: &str, health: &mut Health) {
    // From the API server's memory: nothing is read from its database for us.
    let wanted = watcher::Config::default().fields(&format!("spec.nodeName={node}")).any_semantic();
    let events = watch(Api::<ApiPod>::all(client.clone()), wanted).default_backoff();
    let mut owners = Owners { client, known: FxHashMap::default(), forbidden: false };
    watch_all(shared, pin!(events), &mut owners, health).await;
}

async fn watch_all(
    shared: &Shared,
    mut events: impl Stream<Item = watcher::Result<Event<ApiPod>>> + Unpin,
    owners: &mut Owners,
    health: &mut Health,
) {
    let mut first: Vec<PodRecord> = Vec::new();
    loop {
        let due = shared.pods.asking().next_due();
        let wake = due.unwrap_or_else(|| Instant::now() + IDLE);
        let event = tokio::select! {
            event = events.next() => event,
            () = shared.pods.rung() => continue,
            () = tokio::time::sleep_until(wake.into()) => {
                let now = Instant::now();
                shared.store().expire(now);
                settle(shared, now, now, SANDBOX_AGE);
                continue;
            }
        };
        let Some(event) = event else { return };
        let event = match event {
            Ok(event) => event,
            Err(e) => {
                failed(shared, health, &failure(&e));
                continue;
            }
        };
        let now = Instant::now();
        match event {
            Event::Init => first.clear(),
            Event::InitApply(pod) => match (first.len() < shared.settings.max_containers, pod.record()) {
                (true, Some(record)) => first.push(owners.complete(record).await),
                (true, None) => {}
                (false, _) => shared.refused(1),
            },
            Event::InitDone => {
                shared.store().listing(Rank::Kubernetes, std::mem::take(&mut first), now);
                health.answered();
                shared.answered(0);
            }
            Event::Apply(pod) => {
                health.answered();
                shared.answered(0);
                if let Some(record) = pod.record() {
                    let record = owners.complete(record).await;
                    shared.store().pod(Rank::Kubernetes, record, now);
                }
            }
            Event::Delete(pod) => {
                if let Some(uid) = pod.metadata.uid {
                    shared.store().gone(&uid, now);
                }
            }
        }
        // What was just learned may be what was asked for; a miss is counted by the clock only.
        found(shared);
    }
}

/// Strikes off what is known by now.
fn found(shared: &Shared) {
    let all = shared.pods.asking().all();
    for wanted in all {
        let known = shared.is_known(&wanted.place);
        if known {
            shared.pods.asking().found(&wanted.place);
        }
    }
}

fn failed(shared: &Shared, health: &mut Health, failure: &Failure) {
    health.failed(failure, Instant::now());
    shared.failed();
}

fn failure(error: &watcher::Error) -> Failure {
    let inner = match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            e
        }
        other => return Failure::new("watch", chain(other)),
    };
    Failure::new(condition(inner), chain(error))
}

fn condition(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 401 => "not authenticated",
        kube::Error::Api(status) if status.code == 403 => "not authorized",
        kube::Error::Api(_) => "refused",
        kube::Error::HyperError(_) | kube::Error::Service(_) => "connection",
        _ => "watch",
    }
}

/// Asks once for the pods of this node; how many there are.
pub(crate) async fn ask(settings: &IdentitySettings) -> Result<usize, Failure> {
    let node = settings.node_name.as_deref().unwrap_or_default();
    let wanted = ListParams::default().fields(&format!("spec.nodeName={node}")).match_any();
    let asked = async {
        let client = client(settings.kubeconfig.as_deref()).await?;
        let pods = Api::<ApiPod>::all(client).list_metadata(&wanted).await;
        pods.map(|list| list.items.len()).map_err(|e| Failure::new(condition(&e), chain(&e)))
    };
    let silent = |_| Failure::new("timeout", format!("no answer within {TIMEOUT:?}"));
    tokio::time::timeout(TIMEOUT, asked).await.map_err(silent)?
}

/// Kind and name of what made something.
type Controller = (WorkloadKind, Arc<str>);

/// Who made a ReplicaSet or a Job: asked once for each.
struct Owners {
    client: Client,
    /// By kind, namespace and name.
    known: FxHashMap<(WorkloadKind, Arc<str>, Arc<str>), Option<Controller>>,
    /// We may not ask: what the names tell has to do.
    forbidden: bool,
}

impl Owners {
    /// The record with what the API server says stands behind the pod's own owner.
    async fn complete(&mut self, mut record: PodRecord) -> PodRecord {
        let Some((kind, name)) = record.pod.controllers.last().cloned() else { return record };
        let plural = match kind {
            WorkloadKind::ReplicaSet => "replicasets",
            WorkloadKind::Job => "jobs",
            _ => return record,
        };
        let key = (kind, Arc::clone(&record.pod.namespace), Arc::clone(&name));
        let above = match self.known.get(&key) {
            Some(above) => above.clone(),
            None => {
                let Some(above) = self.ask(kind, plural, &record.pod.namespace, &name).await else { return record };
                if self.known.len() >= MAX_OWNERS {
                    self.known.clear();
                }
                self.known.insert(key, above.clone());
                above
            }
        };
        record.pod.controllers = above.into_iter().chain([(kind, name)]).collect();
        record
    }

    /// None: not known.
    async fn ask(
        &mut self,
        kind: WorkloadKind,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Option<Controller>> {
        if self.forbidden {
            return None;
        }
        let group = if kind == WorkloadKind::ReplicaSet { "apps" } else { "batch" };
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind.label()), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let object = match tokio::time::timeout(TIMEOUT, api.get_metadata_opt(name)).await {
            Ok(Ok(object)) => object?,
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                tracing::info!(why = status.message, "Deployments and CronJobs are told by names only");
                self.forbidden = true;
                return None;
            }
            Ok(Err(_)) | Err(_) => return None,
        };
        let owner = object.metadata.owner_references.into_iter().flatten().find(|o| o.controller == Some(true));
        let above = owner.and_then(|owner| {
            let kind = match owner.kind.as_str() {
                "Deployment" => WorkloadKind::Deployment,
                "CronJob" => WorkloadKind::CronJob,
                _ => return None,
            };
            Some((kind, bounds::name(&owner.name)?))
        });
        Some(above)
    }
}
