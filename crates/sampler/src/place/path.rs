//! What the path of a cgroup tells of who runs there.
//!
//! Whoever may write below a cgroup may make others there, of any name: a process in a container that its runtime let
//! have its cgroup, a systemd service with `Delegate=`, a user's own service manager. So a path is read from the
//! hierarchy's root inwards, and reading ends where somebody else than root's own software may have chosen the names:
//!
//! - the **outermost** container decides. A container inside a container (kind, Docker in Docker, podman in a pod) is a
//!   part of the outer one: its id could be any other's, and nobody outside can tell. What a process may call its own
//!   sub-cgroups thus never changes whose it is;
//! - below a system unit nothing is read, but below `user@UID.service`, where the user's manager names its units: those
//!   are given as units, never as containers;
//! - a container is recognised only where runtimes put them: below a pod of the kubelet, in scopes below slices, below
//!   `/docker` and `/libpod_parent`. Elsewhere the path is kept, and says nothing: of `/NAMESPACE/NAME`, as plain
//!   containerd has it, only containerd knows what it is.
//!
//! **In**: the path from the hierarchy's root, as the kernel has it (names are hostile). **Out**: [`Place`]. **Limits**:
//! [`MAX_PATH_BYTES`], [`MAX_UNIT_BYTES`]; a longer path tells nothing.

use std::borrow::Cow;
use std::sync::Arc;

use profile::{Container, Place, PodRef, Qos, Runtime};

/// The kernel's own limit of a path.
pub(super) const MAX_PATH_BYTES: usize = 4096;
/// systemd's own limit of a unit's name.
const MAX_UNIT_BYTES: usize = 255;
/// Digits of a container's id.
const ID_DIGITS: usize = 64;
/// A pod's UID is a UUID, or 32 digits; others are let pass up to this.
const MAX_UID_BYTES: usize = 64;
/// What else systemd calls a unit that may hold processes.
const UNIT_KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
/// Services below which the runtimes that they are put containers by a name of three parts, where the kubelet wants
/// systemd's names and the runtime does not.
const RUNTIME_SERVICES: [&str; 8] = [
    "containerd.service",
    "crio.service",
    "docker.service",
    "k3s.service",
    "k3s-agent.service",
    "kubelet.service",
    "rke2-agent.service",
    "rke2-server.service",
];

/// What a component says.
enum Found {
    Container(Container),
    Unit(Arc<str>),
    Nothing,
}

/// The place that a path names.
pub(crate) fn place(path: &[u8]) -> Place {
    if path.len() > MAX_PATH_BYTES || !path.starts_with(b"/") {
        return Place::default();
    }
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let cgroup = String::from_utf8_lossy(path);
    let (container, unit) = match find(&cgroup) {
        Found::Container(container) => (Some(container), None),
        Found::Unit(unit) => (None, Some(unit)),
        Found::Nothing => (None, None),
    };
    Place { cgroup: cgroup.into(), container, unit }
}

fn find(path: &str) -> Found {
    let mut names = path.split('/').skip(1).filter(|name| !name.is_empty());
    match names.next() {
        None => Found::Nothing,
        Some("kubepods") => in_kubepods(names),
        Some("docker") => direct(names.next(), &[("", Runtime::Docker)]),
        Some("libpod_parent") => in_libpod(names),
        Some(first) if first.ends_with(".slice") => in_slices(first, names),
        Some(first) => unit(first).map_or(Found::Nothing, Found::Unit),
    }
}

/// `[QOS/]podUID/NAME`, made by the kubelet.
fn in_kubepods<'a>(mut names: impl Iterator<Item = &'a str>) -> Found {
    let (qos, pod) = match names.next() {
        Some("burstable") => (Qos::Burstable, names.next()),
        Some("besteffort") => (Qos::BestEffort, names.next()),
        other => (Qos::Guaranteed, other),
    };
    let Some(uid) = pod.and_then(|pod| pod.strip_prefix("pod")).filter(|uid| is_uid(uid)) else {
        return Found::Nothing;
    };
    let forms = [
        ("", Runtime::Unknown),
        ("crio-", Runtime::CriO),
        ("cri-containerd-", Runtime::Containerd),
        ("docker-", Runtime::Docker),
        ("libpod-", Runtime::Podman),
    ];
    with_pod(direct(names.next(), &forms), PodRef { uid: uid.into(), qos })
}

/// `libpod-ID`, or `POD/libpod-ID`, made by podman.
fn in_libpod<'a>(mut names: impl Iterator<Item = &'a str>) -> Found {
    let first = names.next();
    let name = if first.is_some_and(is_id) { names.next() } else { first };
    direct(name, &[("libpod-", Runtime::Podman)])
}

/// A component that is a prefix and an id.
fn direct(name: Option<&str>, forms: &[(&str, Runtime)]) -> Found {
    let id = |&(prefix, runtime): &(&str, Runtime)| {
        let id = name?.strip_prefix(prefix).filter(|id| is_id(id))?;
        Some(Container { id: id.into(), runtime, pod: None })
    };
    forms.iter().find_map(id).map_or(Found::Nothing, Found::Container)
}

/// A run of slices, each named after the one around it, then what is in the last.
fn in_slices<'a>(first: &'a str, mut names: impl Iterator<Item = &'a str>) -> Found {
    let mut slice = first.strip_suffix(".slice").unwrap_or_default();
    let name = loop {
        let Some(name) = names.next() else { return Found::Nothing };
        let Some(inner) = name.strip_suffix(".slice") else { break name };
        if !inner.strip_prefix(slice).is_some_and(|rest| rest.starts_with('-')) {
            return Found::Nothing;
        }
        slice = inner;
    };
    let pod = pod_of_slice(slice);
    let found = in_scope(name);
    match (found, pod) {
        (found @ Found::Container(_), Some(pod)) => with_pod(found, pod),
        // Nothing but containers and their helpers is there.
        (Found::Unit(_), Some(_)) => Found::Nothing,
        (Found::Unit(unit), None) if is_user_manager(&unit) => in_user_manager(unit, names),
        (Found::Unit(unit), None) if RUNTIME_SERVICES.contains(&&*unit) => in_runtime_service(unit, names),
        (found, _) => found,
    }
}

/// `RUNTIME-ID.scope`, a runtime's helper, or another unit.
fn in_scope(name: &str) -> Found {
    let Some(scope) = name.strip_suffix(".scope") else {
        return unit(name).map_or(Found::Nothing, Found::Unit);
    };
    let forms = [
        ("cri-containerd-", Runtime::Containerd),
        ("nerdctl-", Runtime::Containerd),
        ("crio-", Runtime::CriO),
        ("docker-", Runtime::Docker),
        ("libpod-", Runtime::Podman),
    ];
    match direct(Some(scope), &forms) {
        Found::Container(container) => Found::Container(container),
        // A service of its own for each container's helper says nothing of use.
        _ if scope.starts_with("crio-conmon-") || scope.starts_with("libpod-conmon-") => Found::Nothing,
        _ => unit(name).map_or(Found::Nothing, Found::Unit),
    }
}

/// `SLICE:RUNTIME:ID` below a runtime's service.
fn in_runtime_service<'a>(service: Arc<str>, mut names: impl Iterator<Item = &'a str>) -> Found {
    names.next().and_then(three_parts).map_or(Found::Unit(service), Found::Container)
}

fn three_parts(name: &str) -> Option<Container> {
    let mut parts = name.splitn(3, ':');
    let slice = parts.next()?.strip_suffix(".slice")?;
    let runtime = match parts.next()? {
        "cri-containerd" => Runtime::Containerd,
        "crio" => Runtime::CriO,
        "docker" => Runtime::Docker,
        _ => return None,
    };
    let id = parts.next().filter(|id| is_id(id))?;
    Some(Container { id: id.into(), runtime, pod: pod_of_slice(slice) })
}

/// The unit of a user's own manager, behind its slices.
fn in_user_manager<'a>(manager: Arc<str>, names: impl Iterator<Item = &'a str>) -> Found {
    let mut names = names.skip_while(|name| name.ends_with(".slice"));
    Found::Unit(names.next().and_then(unit).unwrap_or(manager))
}

fn is_user_manager(unit: &str) -> bool {
    let uid = unit.strip_prefix("user@").and_then(|unit| unit.strip_suffix(".service"));
    uid.is_some_and(|uid| !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_digit()))
}

/// The pod of `[ROOT-]kubepods[-QOS]-podUID`, where the UID's dashes are underscores.
fn pod_of_slice(slice: &str) -> Option<PodRef> {
    let at = slice.rfind("-pod")?;
    let (parent, uid) = (slice.get(..at)?, slice.get(at + "-pod".len()..)?);
    let (parent, qos) = if let Some(parent) = parent.strip_suffix("-burstable") {
        (parent, Qos::Burstable)
    } else if let Some(parent) = parent.strip_suffix("-besteffort") {
        (parent, Qos::BestEffort)
    } else {
        (parent, Qos::Guaranteed)
    };
    if parent != "kubepods" && !parent.ends_with("-kubepods") {
        return None;
    }
    let uid = uid.replace('_', "-");
    is_uid(&uid).then(|| PodRef { uid: uid.into(), qos })
}

fn with_pod(found: Found, pod: PodRef) -> Found {
    match found {
        Found::Container(container) => Found::Container(Container { pod: Some(pod), ..container }),
        other => other,
    }
}

/// The name of a unit other than a slice. systemd puts an underscore before names that would be files of the kernel's.
fn unit(name: &str) -> Option<Arc<str>> {
    let name = name.strip_prefix('_').map_or(Cow::Borrowed(name), |rest| Cow::Owned(rest.to_owned()));
    let is_unit = name.len() <= MAX_UNIT_BYTES
        && UNIT_KINDS.iter().any(|kind| name.strip_suffix(kind).is_some_and(|stem| !stem.is_empty()))
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
    is_unit.then(|| name.into())
}

fn is_id(id: &str) -> bool {
    id.len() == ID_DIGITS && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_uid(uid: &str) -> bool {
    (1..=MAX_UID_BYTES).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests;
