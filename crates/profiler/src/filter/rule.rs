//! What a rule says, and how it is written: `namespace=shop`, `pod_label=app=web`, `kernel_threads`.
//!
//! **In**: text of the configuration. **Out**: [`Rule`]s. **Limits**: [`MAX_RULES`] in one list.

use std::fmt;

use super::glob::Glob;
use crate::config::nearest;

/// The longest list: each rule is looked at for each new process.
pub(crate) const MAX_RULES: usize = 256;
/// The shortest piece of a container's id that is taken for one: what `docker ps` and `crictl ps` show.
const MIN_ID_DIGITS: usize = 12;
/// What a rule may begin with.
const WORDS: [&str; 10] =
    ["namespace", "pod", "pod_label", "container", "cgroup", "executable", "comm", "service", "unit", "kernel_threads"];

/// Which processes are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Those of the pods of a Kubernetes namespace.
    Namespace(Glob),
    /// Those of a pod, by its name.
    Pod(Glob),
    /// Those of pods with a label.
    PodLabel {
        /// The label's key.
        key: String,
        /// Its value.
        value: Glob,
    },
    /// Those of a container, by its name or by the beginning of its id.
    Container {
        /// The name.
        name: Glob,
        /// The same text, where it looks like an id or the beginning of one.
        id: Option<String>,
    },
    /// Those of a cgroup and of the cgroups below it.
    Cgroup(Glob),
    /// Those that run an executable, by its path as they see it.
    Executable(Glob),
    /// Those with a name (comm).
    Comm(Glob),
    /// Those of a service (`service.name`).
    Service(Glob),
    /// Those of a systemd unit.
    Unit(Glob),
    /// Kernel threads.
    KernelThreads,
}

impl Rule {
    /// Reads one rule.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((word, value)) = text.split_once('=') else {
            return match text {
                "kernel_threads" => Ok(Self::KernelThreads),
                _ => Err(unknown(text)),
            };
        };
        let (word, value) = (word.trim(), value.trim());
        let glob = || Glob::new(value);
        Ok(match word {
            "namespace" => Self::Namespace(glob()?),
            "pod" => Self::Pod(glob()?),
            "pod_label" => match value.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    Self::PodLabel { key: key.to_owned(), value: Glob::new(value)? }
                }
                _ => return Err("names no label: write pod_label=KEY=VALUE, for example pod_label=app=web".to_owned()),
            },
            "container" => Self::Container { name: glob()?, id: is_id(value).then(|| value.to_owned()) },
            "cgroup" if !value.starts_with(['/', '*']) => {
                return Err("is no path of a cgroup: it begins with /, for example cgroup=/system.slice".to_owned());
            }
            "cgroup" => Self::Cgroup(Glob::new(if value == "/" { value } else { value.trim_end_matches('/') })?),
            "executable" if !value.starts_with(['/', '*']) => {
                return Err("is no path: write executable=/usr/bin/NAME, or executable=*/NAME".to_owned());
            }
            "executable" => Self::Executable(glob()?),
            "comm" => Self::Comm(glob()?),
            "service" => Self::Service(glob()?),
            "unit" => Self::Unit(glob()?),
            "kernel_threads" => return Err("takes no value: write kernel_threads".to_owned()),
            _ => return Err(unknown(word)),
        })
    }

    /// Whether it can only be judged where the name of a pod's or container's is known.
    pub(crate) fn needs_names(&self) -> bool {
        match self {
            Self::Namespace(_) | Self::Pod(_) | Self::PodLabel { .. } | Self::Service(_) => true,
            Self::Container { .. } => true,
            Self::Cgroup(_) | Self::Executable(_) | Self::Comm(_) | Self::Unit(_) | Self::KernelThreads => false,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(glob) => write!(f, "namespace={glob}"),
            Self::Pod(glob) => write!(f, "pod={glob}"),
            Self::PodLabel { key, value } => write!(f, "pod_label={key}={value}"),
            Self::Container { name, .. } => write!(f, "container={name}"),
            Self::Cgroup(glob) => write!(f, "cgroup={glob}"),
            Self::Executable(glob) => write!(f, "executable={glob}"),
            Self::Comm(glob) => write!(f, "comm={glob}"),
            Self::Service(glob) => write!(f, "service={glob}"),
            Self::Unit(glob) => write!(f, "unit={glob}"),
            Self::KernelThreads => f.write_str("kernel_threads"),
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() >= MIN_ID_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn unknown(word: &str) -> String {
    match nearest(word, WORDS) {
        Some(near) => format!("is no rule: there is no `{word}`; did you mean `{near}`?"),
        None => format!("is no rule: write one of {}, followed by =VALUE", WORDS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        for text in [
            "namespace=shop",
            "pod=web-*",
            "pod_label=app.kubernetes.io/name=web=1",
            "container=0123456789ab",
            "container=app",
            "cgroup=/system.slice",
            "cgroup=/",
            "executable=/usr/bin/x*",
            "comm=foo bar",
            "service=cart",
            "unit=nginx.service",
            "kernel_threads",
        ] {
            let rule = Rule::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(rule.to_string(), text);
            assert_eq!(Rule::parse(&rule.to_string()), Ok(rule));
        }
        assert_eq!(Rule::parse(" cgroup = /a/ ").unwrap().to_string(), "cgroup=/a");
    }

    #[test]
    fn a_containers_id_is_told_from_a_name() {
        let id = |text: &str| match Rule::parse(text) {
            Ok(Rule::Container { id, .. }) => id,
            other => panic!("{other:?}"),
        };
        assert_eq!(id("container=0123456789ab").as_deref(), Some("0123456789ab"));
        assert_eq!(
            (id("container=cafe"), id("container=0123456789a*"), id("container=istio-proxy-1")),
            (None, None, None)
        );
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (text, want) in [
            ("namespce=x", "did you mean `namespace`?"),
            ("shop", "write one of namespace, pod,"),
            ("", "write one of"),
            ("namespace=", "nothing after `=`"),
            ("pod_label=app", "pod_label=KEY=VALUE"),
            ("pod_label==x", "pod_label=KEY=VALUE"),
            ("cgroup=system.slice", "begins with /"),
            ("executable=nginx", "executable=*/NAME"),
            ("kernel_threads=true", "takes no value"),
        ] {
            let error = Rule::parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
