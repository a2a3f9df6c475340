//! Whose stacks are wanted.
//!
//! **In**: the query of a URL. **Out**: a test for owners. **Limits**: texts of [`MAX_TEXT_BYTES`].

use profile::{Owner, Profile};
use serde::Deserialize;

use super::query::{QueryError, number};
use crate::names::Names;

/// A longer name is in no profile.
pub(super) const MAX_TEXT_BYTES: usize = 1024;

/// The characters of a container's id that are enough to mean it.
const LEAST_ID: usize = 12;

/// The query, as text; an empty one asks for nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FilterQuery {
    /// Only this process.
    pub(super) pid: Option<String>,
    /// Only this namespace of Kubernetes.
    pub(super) namespace: Option<String>,
    /// Only this pod, by name.
    pub(super) pod: Option<String>,
    /// Only this container: its name, its id, or as much of the id as runtimes show.
    pub(super) container: Option<String>,
    /// Only this service.
    pub(super) service: Option<String>,
}

impl FilterQuery {
    pub(super) fn filter(&self) -> Result<Filter, QueryError> {
        let pid = |text: &String| number("pid", text, 0, u64::from(u32::MAX));
        let tgid = self.pid.as_ref().filter(|text| !text.is_empty()).map(pid).transpose()?;
        let text = |name, text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(None),
            Some(text) if text.len() > MAX_TEXT_BYTES => Err(QueryError::Long { name }),
            Some(text) => Ok(Some(text.to_owned())),
        };
        Ok(Filter {
            tgid: tgid.and_then(|n| u32::try_from(n).ok()),
            namespace: text("namespace", &self.namespace)?,
            pod: text("pod", &self.pod)?,
            container: text("container", &self.container)?,
            service: text("service", &self.service)?,
        })
    }
}

/// What an owner has to be: all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) tgid: Option<u32>,
    pub(crate) namespace: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) container: Option<String>,
    pub(crate) service: Option<String>,
}

impl Filter {
    /// Everything is wanted.
    pub(super) fn is_all(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn takes(&self, owner: &Owner) -> bool {
        let names = Names::of(owner);
        let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        self.tgid.is_none_or(|tgid| tgid == owner.process.tgid)
            && is(&self.namespace, names.namespace)
            && is(&self.pod, names.pod)
            && is(&self.service, names.service)
            && self.container.as_deref().is_none_or(|wanted| {
                let id = owner.container_id().unwrap_or_default();
                wanted == names.container || (wanted.len() >= LEAST_ID && id.starts_with(wanted)) || wanted == id
            })
    }

    /// For each owner of a profile, whether it is wanted.
    pub(super) fn owners(&self, profile: &Profile) -> Vec<bool> {
        profile.owners.iter().map(|owner| self.takes(owner)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Builder;

    #[test]
    fn everything_that_is_given_has_to_hold() {
        let mut owner = Builder::owner(7, "/app", "app");
        owner.place = Builder::place("0123456789abcdef");
        let pod = [("k8s.container.name", "web"), ("k8s.namespace.name", "shop"), ("k8s.pod.name", "cart-0")];
        owner.identity = Builder::identity("cart", &pod);
        let text = |text: &str| Some(text.to_owned());
        for (query, taken) in [
            (FilterQuery::default(), true),
            (FilterQuery { pid: text("7"), service: text("cart"), ..FilterQuery::default() }, true),
            (FilterQuery { pid: text("8"), service: text("cart"), ..FilterQuery::default() }, false),
            (FilterQuery { namespace: text("shop"), pod: text("cart-0"), ..FilterQuery::default() }, true),
            (FilterQuery { namespace: text("shop"), pod: text("cart-1"), ..FilterQuery::default() }, false),
            (FilterQuery { container: text("web"), ..FilterQuery::default() }, true),
            (FilterQuery { container: text("0123456789ab"), ..FilterQuery::default() }, true),
            (FilterQuery { container: text("0123456789abcdef"), ..FilterQuery::default() }, true),
            (FilterQuery { container: text("01234567"), ..FilterQuery::default() }, false),
            (FilterQuery { namespace: text(""), pid: text(""), ..FilterQuery::default() }, true),
            (FilterQuery { service: text("Cart"), ..FilterQuery::default() }, false),
        ] {
            let filter = query.filter().unwrap();
            assert_eq!(filter.takes(&owner), taken, "{query:?}");
            let host = Builder::owner(9, "/bin/sh", "sh");
            assert_eq!(filter.takes(&host), filter.is_all(), "{query:?}");
        }
    }

    #[test]
    fn what_is_no_filter() {
        let pid = |text: &str| FilterQuery { pid: Some(text.to_owned()), ..FilterQuery::default() }.filter();
        assert_eq!(pid("4294967295").map(|f| f.tgid), Ok(Some(u32::MAX)));
        assert!(pid("4294967296").is_err() && pid("-1").is_err());
        let long = FilterQuery { pod: Some("x".repeat(MAX_TEXT_BYTES + 1)), ..FilterQuery::default() };
        assert_eq!(long.filter().unwrap_err().to_string(), "pod is longer than 1024 bytes");
    }
}
