//! Headers that the user configured, checked once.
//!
//! **In**: pairs of texts. **Out**: names in lower case and values marked as secret. **Limits**: visible ASCII,
//! blanks and tabs; names that the protocol itself sets, and binary metadata (`-bin`), are refused.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::DeliveryError;

/// Names that say how a message is framed: ours to set.
const RESERVED: [&str; 8] =
    ["connection", "content-encoding", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding"];

/// The longest header value.
const MAX_VALUE_BYTES: usize = 16 << 10;

pub(crate) fn parse(headers: &[(String, String)]) -> Result<HeaderMap, DeliveryError> {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        // The value is a secret: no error shows it.
        let err = |why: &str| DeliveryError::Header { name: name.clone(), why: why.to_owned() };
        let lower = name.trim().to_ascii_lowercase();
        if lower.ends_with("-bin") {
            return Err(err("binary metadata is not supported"));
        }
        if lower.starts_with("grpc-") || RESERVED.contains(&lower.as_str()) {
            return Err(err("the protocol sets it itself"));
        }
        let key = HeaderName::from_bytes(lower.as_bytes()).map_err(|_| err("is not a header name"))?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(err("its value is too long"));
        }
        if !value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
            return Err(err("its value holds something else than visible ASCII"));
        }
        let mut secret = HeaderValue::from_str(value.trim()).map_err(|_| err("its value cannot be sent"))?;
        secret.set_sensitive(true);
        out.append(key, secret);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<HeaderMap, String> {
        parse(&[(name.into(), value.into())]).map_err(|e| e.to_string())
    }

    #[test]
    fn any_ascii_is_taken() {
        let map = one("Authorization", " Bearer s3cr=t, \"x\" ~").unwrap();
        assert_eq!(map["authorization"], "Bearer s3cr=t, \"x\" ~");
        assert!(map["authorization"].is_sensitive());
        assert_eq!(one("x-scope-orgid", "").unwrap()["x-scope-orgid"], "");
    }

    #[test]
    fn the_rest_is_refused_without_showing_the_value() {
        for (name, value) in [
            ("trace-bin", "hunter2"),
            ("Content-Type", "hunter2"),
            ("grpc-timeout", "hunter2"),
            ("a b", "hunter2"),
            ("", "hunter2"),
            ("ok", "hunter2\r\nx: y"),
            ("ok", "hunter2\u{e9}"),
        ] {
            let error = one(name, value).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains(name), "{error}");
        }
    }
}
