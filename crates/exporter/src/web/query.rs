//! What a request asks for, checked.
//!
//! **In**: the query of a URL. **Out**: a time range, a filter, a grouping. **Units**: times in Unix nanoseconds.

use std::time::Duration;

use serde::Deserialize;

use super::filter::{FilterQuery, MAX_TEXT_BYTES};
use super::tree::Grouping;
use crate::store::Store;

/// The range that is shown where none is asked for.
const DEFAULT_LAST: Duration = Duration::from_secs(60);

/// The longest `seconds`.
const MAX_LAST_S: u64 = 24 * 60 * 60;

/// The query of the page's requests, as text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RangeQuery {
    /// The last so many seconds before the newest window's end.
    pub(super) seconds: Option<String>,
    /// Or from here, Unix nanoseconds;
    pub(super) from: Option<String>,
    /// to here, exclusive.
    pub(super) to: Option<String>,
    /// What stands below the root: see [`RangeQuery::grouping`].
    pub(super) group: Option<String>,
    /// Whose stacks.
    #[serde(flatten)]
    pub(super) filter: FilterQuery,
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("{name} must be a whole number from {min} to {max}, not {given:?}")]
    Number { name: &'static str, min: u64, max: u64, given: String },
    #[error("from must lie before to")]
    Backwards,
    #[error("either seconds or from and to, not both")]
    Both,
    #[error("from and to go together")]
    Half,
    #[error("group must be program, process, thread, container, pod, service or none, not {0:?}")]
    Group(String),
    #[error("{name} is longer than {MAX_TEXT_BYTES} bytes")]
    Long { name: &'static str },
}

/// Reads a whole number within bounds.
pub(super) fn number(name: &'static str, text: &str, min: u64, max: u64) -> Result<u64, QueryError> {
    let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.filter(|n| (min..=max).contains(n)).ok_or_else(|| {
        let given = text.chars().take(40).collect();
        QueryError::Number { name, min, max, given }
    })
}

impl RangeQuery {
    /// From (inclusive) and to (exclusive).
    pub(super) fn range(&self, store: &Store) -> Result<(u64, u64), QueryError> {
        let nanoseconds = |name, text| number(name, text, 0, u64::MAX);
        match (&self.seconds, &self.from, &self.to) {
            (None, Some(from), Some(to)) => {
                let (from, to) = (nanoseconds("from", from)?, nanoseconds("to", to)?);
                if from < to { Ok((from, to)) } else { Err(QueryError::Backwards) }
            }
            (None, Some(_), None) | (None, None, Some(_)) => Err(QueryError::Half),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(QueryError::Both),
            (seconds, None, None) => {
                let last = match seconds {
                    Some(text) => number("seconds", text, 1, MAX_LAST_S)?,
                    None => DEFAULT_LAST.as_secs(),
                };
                let end = store.newest().map_or(0, |p| p.span.to_unix_ns);
                Ok((end.saturating_sub(last.saturating_mul(1_000_000_000)), end))
            }
        }
    }

    /// How the tree is grouped.
    pub(super) fn grouping(&self) -> Result<Grouping, QueryError> {
        match self.group.as_deref() {
            None | Some("program") => Ok(Grouping::Program),
            Some("process") => Ok(Grouping::Process),
            Some("thread") => Ok(Grouping::Thread),
            Some("container") => Ok(Grouping::Container),
            Some("pod") => Ok(Grouping::Pod),
            Some("service") => Ok(Grouping::Service),
            Some("none") => Ok(Grouping::Merged),
            Some(other) => Err(QueryError::Group(other.chars().take(40).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use profile::{Profile, Span};

    use super::*;
    use crate::store::StoreSettings;

    fn query(pairs: &[(&str, &str)]) -> RangeQuery {
        let find = |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        RangeQuery {
            seconds: find("seconds"),
            from: find("from"),
            to: find("to"),
            group: find("group"),
            filter: FilterQuery::default(),
        }
    }

    #[test]
    fn ranges() {
        let store = Store::new(StoreSettings::default());
        assert_eq!(query(&[]).range(&store), Ok((0, 0)), "nothing published yet");
        let span = Span { to_unix_ns: 1_000_000_000_000, ..Span::default() };
        store.publish(std::sync::Arc::new(Profile { span, ..Profile::default() }));
        assert_eq!(query(&[]).range(&store), Ok((940_000_000_000, 1_000_000_000_000)));
        assert_eq!(query(&[("seconds", "5")]).range(&store), Ok((995_000_000_000, 1_000_000_000_000)));
        assert_eq!(query(&[("from", "7"), ("to", "9")]).range(&store), Ok((7, 9)));
        assert_eq!(query(&[("from", "9"), ("to", "9")]).range(&store), Err(QueryError::Backwards));
        assert_eq!(query(&[("from", "9")]).range(&store), Err(QueryError::Half));
        assert_eq!(query(&[("seconds", "5"), ("to", "9")]).range(&store), Err(QueryError::Both));
        for bad in ["0", "-1", "+1", "1.5", "abc", "", "99999999999999999999", "86401"] {
            let error = query(&[("seconds", bad)]).range(&store).unwrap_err();
            assert_eq!(error.to_string(), format!("seconds must be a whole number from 1 to 86400, not {bad:?}"));
        }
    }

    #[test]
    fn groups() {
        assert_eq!(query(&[("group", "thread")]).grouping(), Ok(Grouping::Thread));
        assert_eq!(query(&[("group", "pod")]).grouping(), Ok(Grouping::Pod));
        assert!(query(&[("group", "x")]).grouping().is_err());
    }
}
