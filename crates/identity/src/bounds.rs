//! Names, images and labels as others give them, within bounds.
//!
//! **In**: texts of others. **Out**: texts, or none. **Limits**: the constants below; a label or annotation too many or too long is
//! left out.

use std::sync::Arc;

/// The longest id or name, in bytes. Kubernetes' own limit of a name is 253.
const MAX_NAME: usize = 253;
/// The most labels of a pod, and the most annotations.
const MAX_PAIRS: usize = 64;
/// The longest key of a label or annotation, in bytes: Kubernetes' own limit.
const MAX_PAIR_KEY: usize = 317;
/// The longest value of a label or annotation, in bytes. Those of labels may have 63 in Kubernetes.
const MAX_PAIR_VALUE: usize = 256;

/// An id or a name; none if it cannot be one.
pub(crate) fn name(text: &str) -> Option<Arc<str>> {
    let fit = !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(|c| c.is_control() || c == '/');
    fit.then(|| text.into())
}

/// The reference of an image; none if it cannot be one.
pub(crate) fn image(text: &str) -> Option<Arc<str>> {
    let fit = !text.is_empty() && text.len() <= 1024 && !text.chars().any(char::is_control);
    fit.then(|| text.into())
}

/// Labels or annotations, sorted, each key once.
pub(crate) fn pairs(all: impl IntoIterator<Item = (String, String)>) -> Vec<(Arc<str>, Arc<str>)> {
    let fit = |(key, value): &(String, String)| {
        !key.is_empty() && key.len() <= MAX_PAIR_KEY && !value.is_empty() && value.len() <= MAX_PAIR_VALUE
    };
    let mut kept: Vec<(Arc<str>, Arc<str>)> =
        all.into_iter().filter(fit).map(|(key, value)| (key.into(), value.into())).collect();
    kept.sort();
    kept.dedup_by(|a, b| a.0 == b.0);
    // Which ones is arbitrary, but always the same: services' names come before what tools leave behind.
    kept.sort_by_key(|(key, _)| {
        !key.starts_with("resource.opentelemetry.io/") && !key.starts_with("app.kubernetes.io/")
    });
    kept.truncate(MAX_PAIRS);
    kept.sort();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_labels_leave_those_that_name_services() {
        let many = (0..200).map(|i| (format!("a{i}"), "x".to_owned()));
        let named = ("resource.opentelemetry.io/service.name".to_owned(), "shop".to_owned());
        let kept = pairs(many.chain([named, ("long".into(), "x".repeat(999)), (String::new(), "x".into())]));
        assert_eq!(kept.len(), MAX_PAIRS);
        assert!(kept.iter().any(|(k, _)| &**k == "resource.opentelemetry.io/service.name"));
        assert!(kept.is_sorted());
    }
}
