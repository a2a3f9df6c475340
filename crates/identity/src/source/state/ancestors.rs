//! Containers whose runtime keeps its state elsewhere: told by the process that the runtime left to look after them.
//!
//! conmon (podman, CRI-O) has the container's id and name on its command line; containerd's shim has namespace and id there,
//! and stands in the directory where the specifications are. Both are ancestors of all processes of their containers.
//! Whoever may start processes may call one so: what it says is believed only of the very id or cgroup that is asked for, and
//! of a shim only if it is root's.

use profile::{Place, Runtime};

use super::containerd::{self, contains};
use super::host::{read_below, read_proc};
use super::{Found, MAX_ANCESTORS};
use crate::bounds;
use crate::record::{self, ContainerRecord};

/// The longest command line that is read, in bytes.
const MAX_COMMAND: u64 = 64 << 10;
/// The most of `/proc/PID/status` that is read, in bytes.
const MAX_STATUS: u64 = 8 << 10;

/// What a process's ancestors say of its container.
pub(super) fn look(tgid: u32, place: &Place, id: Option<&str>) -> Option<Found> {
    let mut pid = tgid;
    for _ in 0..MAX_ANCESTORS {
        if pid <= 1 {
            return None;
        }
        let status = Status::read(pid)?;
        let found = match status.name.as_str() {
            "conmon" => conmon(&command(pid)?, id?),
            name if name.starts_with("containerd-shim") && status.user == 0 => shim(pid, place, id),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        pid = status.parent;
    }
    None
}

struct Status {
    name: String,
    parent: u32,
    user: u32,
}

impl Status {
    fn read(pid: u32) -> Option<Self> {
        let text = read_proc(&format!("/proc/{pid}/status"), MAX_STATUS)?;
        let text = String::from_utf8_lossy(&text);
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        Some(Self {
            name: field("Name")?.to_owned(),
            parent: field("PPid")?.parse().ok()?,
            user: field("Uid")?.split_ascii_whitespace().next()?.parse().ok()?,
        })
    }
}

fn command(pid: u32) -> Option<Vec<String>> {
    let bytes = read_proc(&format!("/proc/{pid}/cmdline"), MAX_COMMAND)?;
    Some(bytes.split(|b| *b == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
}

/// `conmon -c ID -n NAME …`
fn conmon(command: &[String], id: &str) -> Option<Found> {
    let (told, name) = (after(command, &["-c", "--cid"])?, after(command, &["-n", "--name"])?);
    if told != id {
        return None;
    }
    let record = ContainerRecord { id: bounds::name(id)?, runtime: Runtime::Podman, ..ContainerRecord::default() };
    Some(match record::of_kubelet_name(name) {
        Some((container, pod)) => {
            let record = ContainerRecord { runtime: Runtime::CriO, ..record };
            (ContainerRecord { is_pause: container.is_none(), name: container, ..record }, Some(pod))
        }
        None => (ContainerRecord { name: Some(bounds::name(name)?), ..record }, None),
    })
}

/// `containerd-shim-runc-v2 -namespace NAMESPACE -id ID …`, in the directory of the first of its containers: those of a pod
/// share one.
fn shim(pid: u32, place: &Place, id: Option<&str>) -> Option<Found> {
    let command = command(pid)?;
    let namespace = after(&command, &["-namespace", "--namespace"])?;
    let first = after(&command, &["-id", "--id"])?;
    let wanted = bounds::name(id.unwrap_or(first)).filter(|id| !id.starts_with('.'))?;
    let specification = read_below(&format!("/proc/{pid}/cwd/.."), &format!("{wanted}/config.json"))?;
    let found = containerd::found(&specification, namespace, &wanted)?;
    // By its id it was asked for, or it must be the one of that cgroup.
    (id.is_some() || contains(&found.0, &place.cgroup)).then_some(found)
}

/// The argument behind an option.
fn after<'a>(command: &'a [String], options: &[&str]) -> Option<&'a str> {
    let at = command.iter().position(|argument| options.contains(&argument.as_str()))?;
    command.get(at + 1).map(String::as_str).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<String> {
        command.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_line_of_conmon() {
        let line = words("/usr/bin/conmon --api-version 1 -c abc -u abc -r /usr/sbin/runc -b /x -n web --exit-dir /y");
        let (record, pod) = conmon(&line, "abc").unwrap();
        assert_eq!((record.name.as_deref(), record.runtime, pod), (Some("web"), Runtime::Podman, None));
        assert_eq!(conmon(&line, "abd"), None);
        let line = words("conmon -c abc -n k8s_web_web-1_shop_u-1_0");
        let (record, pod) = conmon(&line, "abc").unwrap();
        assert_eq!((record.name.as_deref(), record.runtime), (Some("web"), Runtime::CriO));
        assert_eq!(&*pod.unwrap().namespace, "shop");
        for bad in ["", "conmon", "conmon -c", "conmon -c abc", "conmon -n web", "conmon -c abc -n"] {
            assert_eq!(conmon(&words(bad), "abc"), None, "{bad}");
        }
    }

    #[test]
    fn this_process_is_in_no_container_of_that_id() {
        let place = Place { cgroup: "/none".into(), ..Place::default() };
        assert_eq!(look(std::process::id(), &place, Some("abc")), None);
        assert_eq!((look(0, &place, None), look(u32::MAX, &place, None)), (None, None));
    }
}
