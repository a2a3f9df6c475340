//! The text of `OTEL_RESOURCE_ATTRIBUTES`: `key=value,key=value`, percent-encoded.
//!
//! As OpenTelemetry specifies it: `,` and `=` inside are encoded, all values are strings, and where anything is wrong the
//! whole text is discarded.
//!
//! **In**: the variable's bytes (hostile). **Out**: decoded pairs. **Limits**: [`MAX_ATTRIBUTES`], [`MAX_KEY_BYTES`],
//! [`MAX_VALUE_BYTES`]; what is past them is left out.

use std::sync::Arc;

/// Attributes of one process.
const MAX_ATTRIBUTES: usize = 64;
/// Bytes of a key, decoded.
const MAX_KEY_BYTES: usize = 128;
/// Bytes of a value, decoded.
const MAX_VALUE_BYTES: usize = 1024;

/// The attributes in their order, each key once with its last value. None where the text is not valid.
pub(super) fn parse(text: &[u8]) -> Option<Vec<(Arc<str>, Arc<str>)>> {
    let mut attributes: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for item in text.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()) {
        let mut parts = item.split(|&b| b == b'=').map(<[u8]>::trim_ascii);
        let (key, value) = (decode(parts.next()?)?, decode(parts.next()?)?);
        if parts.next().is_some() || key.is_empty() {
            return None;
        }
        if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            continue;
        }
        if let Some((_, known)) = attributes.iter_mut().find(|(known, _)| **known == *key) {
            *known = value.into();
        } else if attributes.len() < MAX_ATTRIBUTES {
            attributes.push((key.into(), value.into()));
        }
    }
    Some(attributes)
}

fn decode(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        if first == b'%' {
            let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
            bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
            rest = behind.get(2..)?;
        } else {
            bytes.push(first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8], expected: Option<&[(&str, &str)]>) {
        let found = parse(text);
        let found: Option<Vec<(&str, &str)>> = found.as_ref().map(|a| a.iter().map(|(k, v)| (&**k, &**v)).collect());
        assert_eq!(found.as_deref(), expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn pairs_are_decoded() {
        check(b"", Some(&[]));
        check(
            b"service.version=1.2,deployment.environment.name=prod",
            Some(&[("service.version", "1.2"), ("deployment.environment.name", "prod")]),
        );
        check(b" a = b , c=%2C%3d%20%C3%A4,", Some(&[("a", "b"), ("c", ",= \u{e4}")]));
        check(b"a%2eb=c", Some(&[("a.b", "c")]));
        check(b"a=1,b=2,a=3", Some(&[("a", "3"), ("b", "2")]));
        check(b"a=", Some(&[("a", "")]));
    }

    #[test]
    fn what_is_not_valid_is_ignored_whole() {
        for text in
            [&b"a=1,b"[..], b"a=1,=2", b"a=1,b=%", b"a=1,b=%4", b"a=1,b=%zz", b"a=1,b=c=d", b"a=1,b=\xff", b"a=1,b=%ff"]
        {
            check(text, None);
        }
    }

    #[test]
    fn bounds() {
        let many: String = (0..1000).map(|i| format!("k{i}=v,")).collect();
        assert_eq!(parse(many.as_bytes()).unwrap().len(), MAX_ATTRIBUTES);
        let long = format!("a={},{}=b,c=d", "x".repeat(MAX_VALUE_BYTES + 1), "k".repeat(MAX_KEY_BYTES + 1));
        check(long.as_bytes(), Some(&[("c", "d")]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(text: Vec<u8>) {
            parse(&text);
        }

        #[test]
        fn encoding_is_undone(pairs in proptest::collection::btree_map("[a-z.]{1,20}", "\\PC{0,40}", 0..20)) {
            let encode = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
            let text: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
            let found = parse(text.join(",").as_bytes()).unwrap();
            let found: Vec<_> = found.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            prop_assert_eq!(found, pairs.into_iter().collect::<Vec<_>>());
        }
    }
}
