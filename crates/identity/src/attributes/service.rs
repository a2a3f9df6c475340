//! Which service a process belongs to.
//!
//! The order is the one of OpenTelemetry's semantic conventions for Kubernetes; the process's own word comes first, and what
//! is no pod has its container, then its systemd unit.

use profile::{Declared, Owner, Place};

use crate::workload::{Workload, WorkloadKind};

/// What all annotations that name an attribute begin with.
pub(crate) const RESOURCE_PREFIX: &str = "resource.opentelemetry.io/";
/// What SDKs call a service that has no name.
const UNKNOWN: &str = "unknown_service";
/// The name of all kernel threads: their own names are many and change.
pub(crate) const KERNEL: &str = "[kernel]";
/// What the kernel puts behind the path of a file that has no name any more.
const DELETED: &str = " (deleted)";

/// The order in which controllers give their name.
const CONTROLLERS: [WorkloadKind; 7] = [
    WorkloadKind::Deployment,
    WorkloadKind::ReplicaSet,
    WorkloadKind::StatefulSet,
    WorkloadKind::DaemonSet,
    WorkloadKind::ReplicationController,
    WorkloadKind::CronJob,
    WorkloadKind::Job,
];

/// `service.name`; never empty.
pub(crate) fn name(owner: &Owner, workload: Option<&Workload>) -> String {
    let declared = owner.declared.as_deref();
    let found = declared
        .and_then(|d| d.service_name.as_deref())
        .filter(known)
        .or_else(|| declared.and_then(|d| attribute(d, "service.name")).filter(known))
        .or_else(|| workload.and_then(of_workload))
        .or_else(|| owner.place.as_deref().and_then(of_unit))
        .map(str::trim)
        .filter(|name| !name.is_empty());
    found.map_or_else(|| format!("{UNKNOWN}:{}", executable(owner)), str::to_owned)
}

/// A value that a process's `OTEL_RESOURCE_ATTRIBUTES` holds.
pub(crate) fn attribute<'a>(declared: &'a Declared, key: &str) -> Option<&'a str> {
    declared.attributes.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
}

/// What SDKs write where nobody named a service says nothing.
fn known(name: &&str) -> bool {
    !name.trim().is_empty() && !name.trim_start().starts_with(UNKNOWN)
}

fn of_workload(workload: &Workload) -> Option<&str> {
    let Some(pod) = workload.pod.as_deref() else { return workload.container_name.as_deref().filter(known) };
    pod.annotation("resource.opentelemetry.io/service.name")
        .filter(known)
        .or_else(|| pod.label("app.kubernetes.io/instance").filter(known))
        .or_else(|| pod.label("app.kubernetes.io/name").filter(known))
        .or_else(|| {
            let named = |kind: &WorkloadKind| pod.controllers.iter().find(|(k, _)| k == kind).map(|(_, name)| &**name);
            CONTROLLERS.iter().find_map(named).filter(known)
        })
        .or(Some(&*pod.name).filter(known))
        .or(workload.container_name.as_deref().filter(known))
}

/// A systemd service's name. Scopes and slices hold what somebody started (a session, a terminal's tab), not a service, and
/// what `systemd-run` names itself is new each time.
fn of_unit(place: &Place) -> Option<&str> {
    place.unit.as_deref()?.strip_suffix(".service").filter(|name| known(name) && !is_transient(name))
}

/// `run-u123`, `run-r<32 hex>`, `run-p123-i456`, `run-123`.
fn is_transient(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("run-") else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let random = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let two = |text: &str| text.split_once("-i").is_some_and(|(pid, inode)| digits(pid) && digits(inode));
    digits(rest)
        || rest.strip_prefix('u').is_some_and(digits)
        || rest.strip_prefix('r').is_some_and(random)
        || rest.strip_prefix('p').is_some_and(two)
}

/// The name of the executable's file; that of a program that was replaced while it runs is the same as before.
pub(crate) fn executable(owner: &Owner) -> &str {
    if owner.kernel_thread {
        return KERNEL;
    }
    let path = owner.executable_path.strip_suffix(DELETED).unwrap_or(&owner.executable_path);
    let file = path.rsplit('/').next().unwrap_or_default();
    if file.is_empty() { &owner.process_name } else { file }
}
