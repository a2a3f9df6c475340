//! The short names of an owner: what the page, pprof labels and the aggregated metric call it.
//!
//! **In**: an [`Owner`] after attribution. **Out**: borrowed texts, empty where unknown. They come from targets, and
//! whoever shows them escapes.

use profile::Owner;

/// What the kernel puts behind the path of a file that has no name any more.
const DELETED: &str = " (deleted)";

/// The characters of a container's id that stand for it where it has no name: as many as runtimes show.
const SHORT_ID: usize = 12;

/// Where an owner belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Names<'a> {
    /// `k8s.namespace.name`.
    pub(crate) namespace: &'a str,
    /// `k8s.pod.name`.
    pub(crate) pod: &'a str,
    /// The container's name, in its pod or as its runtime has it; the head of its id where it has none.
    pub(crate) container: &'a str,
    /// `service.name`.
    pub(crate) service: &'a str,
}

impl<'a> Names<'a> {
    pub(crate) fn of(owner: &'a Owner) -> Self {
        let get = |key| owner.identity.as_ref().and_then(|i| i.get(key)).unwrap_or_default();
        let named = [get("k8s.container.name"), get("container.name")].into_iter().find(|name| !name.is_empty());
        let short = || {
            let id = owner.container_id().unwrap_or_default();
            id.get(..id.floor_char_boundary(SHORT_ID)).unwrap_or_default()
        };
        Self {
            namespace: get("k8s.namespace.name"),
            pod: get("k8s.pod.name"),
            container: named.unwrap_or_else(short),
            service: get("service.name"),
        }
    }
}

/// The path of an owner's executable: a program that was replaced while it runs is the same as before.
pub(crate) fn executable_path(owner: &Owner) -> &str {
    owner.executable_path.strip_suffix(DELETED).unwrap_or(&owner.executable_path)
}

/// The file name of an owner's executable, else the process's name.
pub(crate) fn executable_name(owner: &Owner) -> &str {
    let file = executable_path(owner).rsplit('/').next().unwrap_or_default();
    if file.is_empty() { &owner.process_name } else { file }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Builder;

    #[test]
    fn a_container_without_a_name_is_the_head_of_its_id() {
        let mut owner = Builder::owner(1, "/bin/a", "a");
        assert_eq!(Names::of(&owner), Names::default());
        owner.place = Builder::place("0123456789abcdef");
        assert_eq!(Names::of(&owner).container, "0123456789ab");
        owner.identity = Builder::identity("shop", &[("container.name", "db")]);
        assert_eq!(Names::of(&owner), Names { container: "db", service: "shop", ..Names::default() });
        let pod = [("k8s.container.name", "web"), ("k8s.namespace.name", "n"), ("k8s.pod.name", "web-0")];
        owner.identity = Builder::identity("shop", &pod);
        assert_eq!(Names::of(&owner), Names { namespace: "n", pod: "web-0", container: "web", service: "shop" });
    }

    #[test]
    fn executables() {
        let name = |path: &str| executable_name(&Builder::owner(1, path, "comm")).to_owned();
        assert_eq!(name("/usr/bin/app (deleted)"), "app");
        assert_eq!(name("/memfd:sealed (deleted)"), "memfd:sealed");
        assert_eq!(name(""), "comm");
    }
}
