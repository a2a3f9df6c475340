//! The attributes of one resource, in a form that every receiver takes.
//!
//! **In**: keys and values, partly from targets and therefore hostile: one attribute that a receiver refuses costs the
//! whole request. **Out**: attributes with unique keys, none of them empty.
//! **Limits**: as many attributes as [`ResourceSettings::max_attributes`] says (which give way: [`Weight`]); values of
//! [`MAX_VALUE_BYTES`], keys of [`MAX_KEY_BYTES`] (longer ones are left out); what was left out is counted.
//!
//! Backends that make labels of attributes turn dots into underscores, and refuse a message in which two labels of
//! one name differ, or one has a name of other characters (Pyroscope; `k8s.pod.label.app.kubernetes.io/name` is such a
//! one). So keys count as equal when their labels would be, and are rewritten unless
//! [`ResourceSettings::verbatim_keys`].
//!
//! [`ResourceSettings::max_attributes`]: super::ResourceSettings::max_attributes
//! [`ResourceSettings::verbatim_keys`]: super::ResourceSettings::verbatim_keys

use std::borrow::Cow;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

/// A longer value is cut: Pyroscope refuses labels of more than 2048 bytes.
pub(crate) const MAX_VALUE_BYTES: usize = 1024;

/// An attribute with a longer key is left out.
pub(crate) const MAX_KEY_BYTES: usize = 256;

/// What stays longest where there are too many attributes; the heaviest (the last of these) give way first, and among
/// equals those whose keys come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Says which resource it is, and never gives way.
    Service,
    /// Names of where it runs: namespace, pod, container, workload, node, host; the executable.
    Name,
    /// What the operator configured for all.
    Configured,
    /// `service.*`, `deployment.*`, and the path of the executable.
    Conventional,
    /// Labels and annotations of pods and namespaces: the operator selected them.
    Label,
    /// Identifiers and versions that a person seldom selects by: UIDs, images.
    Detail,
    /// What is the same for the whole host, beside its name.
    Host,
    /// Whatever else the process declares of itself.
    Declared,
}

impl Weight {
    /// Of an attribute of an identity.
    pub(crate) fn of(key: &str) -> Self {
        let begins = |heads: &[&str]| heads.iter().any(|head| key.starts_with(head));
        if key.starts_with("k8s.") && (key.contains(".label.") || key.contains(".annotation.")) {
            Self::Label
        } else if matches!(key, "container.id" | "container.name" | "host.name" | "process.executable.name")
            || (key.starts_with("k8s.") && key.ends_with(".name"))
        {
            Self::Name
        } else if key == "process.executable.path" || begins(&["service.", "deployment."]) {
            Self::Conventional
        } else if begins(&["host.", "os."]) {
            Self::Host
        } else if begins(&["k8s.", "container.", "process.", "telemetry.", "systemd.", "cloud."]) {
            Self::Detail
        } else {
            Self::Declared
        }
    }
}

/// Attributes with unique keys: the first value of a key stays.
#[derive(Debug)]
pub(crate) struct Attributes {
    rows: Vec<(Weight, KeyValue)>,
    verbatim_keys: bool,
    left_out: u64,
}

impl Attributes {
    pub(crate) fn new(verbatim_keys: bool) -> Self {
        Self { rows: Vec::new(), verbatim_keys, left_out: 0 }
    }

    /// Adds a text; an empty one says nothing and is not added.
    pub(crate) fn text(&mut self, weight: Weight, key: &str, value: &str) {
        let end = value.floor_char_boundary(MAX_VALUE_BYTES);
        let value = value.get(..end).unwrap_or_default();
        if !value.is_empty() {
            self.put(weight, key, Value::StringValue(value.to_owned()));
        }
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, weight: Weight, key: &str, value: i64) {
        self.put(weight, key, Value::IntValue(value));
    }

    fn put(&mut self, weight: Weight, key: &str, value: Value) {
        let key = if self.verbatim_keys { Cow::Borrowed(key) } else { portable(key) };
        if key.is_empty() || key.len() > MAX_KEY_BYTES || key.starts_with("__") {
            self.left_out += 1;
            return;
        }
        if self.rows.iter().any(|(_, known)| same_label(&known.key, &key)) {
            return;
        }
        let value = Some(AnyValue { value: Some(value) });
        self.rows.push((weight, KeyValue { key: key.into_owned(), value, ..KeyValue::default() }));
    }

    /// At most `max` of them, in the order in which they came, and how many were left out.
    pub(crate) fn finish(self, max: usize) -> (Vec<KeyValue>, u64) {
        let Self { mut rows, mut left_out, .. } = self;
        if rows.len() > max {
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_by(|&a, &b| {
                let of = |i: usize| rows.get(i).map(|(weight, a)| (*weight, a.key.as_str()));
                of(a).cmp(&of(b))
            });
            let mut stays = vec![false; rows.len()];
            for &i in order.iter().take(max) {
                if let Some(stay) = stays.get_mut(i) {
                    *stay = true;
                }
            }
            left_out += (rows.len() - max) as u64;
            let mut stays = stays.into_iter();
            rows.retain(|_| stays.next().unwrap_or(false));
        }
        (rows.into_iter().map(|(_, attribute)| attribute).collect(), left_out)
    }
}

/// Whether two keys become one label: dots and underscores are the same there.
fn same_label(a: &str, b: &str) -> bool {
    let label = |byte: u8| if byte == b'.' { b'_' } else { byte };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| label(a) == label(b))
}

/// A key of letters, digits, dots and underscores that begins with no digit; everything else becomes an underscore.
fn portable(key: &str) -> Cow<'_, str> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    let digit = key.starts_with(|c: char| c.is_ascii_digit());
    if !digit && key.chars().all(good) {
        return Cow::Borrowed(key);
    }
    let head = if digit { "_" } else { "" };
    let rest = key.chars().map(|c| if good(c) { c } else { '_' });
    Cow::Owned(head.chars().chain(rest).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(attributes: Attributes, max: usize) -> (Vec<String>, u64) {
        let (rows, left_out) = attributes.finish(max);
        (rows.into_iter().map(|a| a.key).collect(), left_out)
    }

    fn all(rows: &[&str], verbatim: bool) -> Attributes {
        let mut out = Attributes::new(verbatim);
        rows.iter().for_each(|key| out.text(Weight::of(key), key, "v"));
        out
    }

    #[test]
    fn keys_that_some_refuse_are_rewritten_unless_wanted_as_they_are() {
        let hard = ["k8s.pod.label.app.kubernetes.io/name", "my-key", "9lives", "häß", "__name__", "", "\n"];
        let good = ["k8s.pod.label.app.kubernetes.io_name", "my_key", "_9lives", "h__", "_"];
        assert_eq!(keys(all(&hard, false), 99), (good.map(str::to_owned).into(), 2));
        let (verbatim, _) = keys(all(&hard, true), 99);
        assert_eq!(verbatim[..4], hard[..4]);
    }

    #[test]
    fn keys_that_become_one_label_are_one_attribute() {
        assert_eq!(keys(all(&["a.b", "a_b", "a.b", "a-b", "A.b"], false), 99).0, ["a.b", "A.b"]);
    }

    #[test]
    fn what_gives_way() {
        let rows = [
            "zone",
            "os.type",
            "k8s.pod.label.app",
            "k8s.pod.uid",
            "service.version",
            "k8s.pod.name",
            "container.id",
            "area",
            "k8s.container.name",
            "container.image.name",
        ];
        let mut attributes = all(&rows, false);
        attributes.text(Weight::Service, "service.name", "shop");
        attributes.text(Weight::Configured, "team", "a");
        let left = |max| {
            let mut attributes = all(&rows, false);
            attributes.text(Weight::Service, "service.name", "shop");
            attributes.text(Weight::Configured, "team", "a");
            keys(attributes, max).0
        };
        assert_eq!(left(99).len(), 12);
        let gone: Vec<String> = (1..12)
            .rev()
            .map(|max| {
                let (more, less) = (left(max + 1), left(max));
                more.into_iter().find(|key| !less.contains(key)).unwrap()
            })
            .collect();
        let order = [
            "zone",
            "area",
            "os.type",
            "k8s.pod.uid",
            "container.image.name",
            "k8s.pod.label.app",
            "service.version",
            "team",
            "k8s.pod.name",
            "k8s.container.name",
            "container.id",
        ];
        assert_eq!(gone, order);
        assert_eq!(left(1), ["service.name"]);
    }

    proptest! {
        /// Whatever a target calls its attributes: the labels are valid, unique, few and not too long.
        #[test]
        fn hostile_attributes(rows in prop::collection::vec(("\\PC{0,40}|[a-c._/-]{0,4}", "\\PC{0,60}"), 0..60), max in 0usize..40) {
            let mut attributes = Attributes::new(false);
            for (key, value) in &rows {
                attributes.text(Weight::of(key), key, &value.repeat(40));
            }
            let (rows, _) = attributes.finish(max);
            prop_assert!(rows.len() <= max);
            let mut labels: Vec<String> = rows.iter().map(|a| a.key.replace('.', "_")).collect();
            labels.sort_unstable();
            prop_assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", labels);
            for (label, row) in labels.iter().zip(&rows) {
                prop_assert!(!label.starts_with(|c: char| c.is_ascii_digit()) && !label.is_empty());
                prop_assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
                let Some(AnyValue { value: Some(Value::StringValue(text)) }) = &row.value else { panic!() };
                prop_assert!(!text.is_empty() && text.len() <= MAX_VALUE_BYTES);
            }
        }
    }
}
