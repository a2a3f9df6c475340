//! Headers and resource attributes as one text: `name=value,name=value`, values percent-encoded.
//!
//! **In**: text from a variable or a file; header values are secrets. **Out**: pairs. Errors never show a value.

use percent_encoding::percent_decode_str;

/// Reads headers for requests.
///
/// # Errors
/// What is wrong, by number of the entry.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (name, value) in pairs(text)? {
        let (name, value) = check(&name, &value)?;
        out.retain(|(n, _)| *n != name);
        out.push((name, value));
    }
    Ok(out)
}

/// One header: the name in lower case, if both may stand in a request.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(name: &str, value: &str) -> Result<(String, String), String> {
    let good = http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a header's name"))?;
    http::HeaderValue::from_str(value)
        .map_err(|_| format!("the value of header `{good}` has characters that a header may not have"))?;
    Ok((good.as_str().to_owned(), value.to_owned()))
}

/// Splits `name=value,...`; white space around names and values does not count, a later name wins.
///
/// # Errors
/// Which entry has no `=`, no name, or a value that is not UTF-8 when decoded.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (i, entry) in text.split(',').enumerate() {
        if entry.trim().is_empty() {
            continue;
        }
        let number = i + 1;
        let Some((name, value)) = entry.split_once('=') else {
            return Err(format!("entry {number} has no `=`: write name=value,name=value"));
        };
        let decode = |part: &str| percent_decode_str(part.trim()).decode_utf8().map(std::borrow::Cow::into_owned);
        let (Ok(name), Ok(value)) = (decode(name), decode(value)) else {
            return Err(format!("entry {number} is not UTF-8 once its % escapes are decoded"));
        };
        if name.is_empty() {
            return Err(format!("entry {number} has no name before `=`"));
        }
        out.retain(|(n, _)| *n != name);
        out.push((name, value));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_specifications_examples() {
        assert_eq!(
            parse("api-key=key,other-config-value=value"),
            Ok(vec![p("api-key", "key"), p("other-config-value", "value")])
        );
        assert_eq!(
            parse("Authorization=Basic%20dXNlcg==, X = a%2Cb ,"),
            Ok(vec![p("authorization", "Basic dXNlcg=="), p("x", "a,b")])
        );
        assert_eq!(parse("a=1,A=2"), Ok(vec![p("a", "2")]));
        assert_eq!(parse("a="), Ok(vec![p("a", "")]));
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn wrong_ones_are_named_without_their_value() {
        for text in ["secret", "=secret", "a b=secret", "x=%ff%fesecret", "x=secret%0Ay"] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "\\PC*") {
            let _ = (parse(&text), pairs(&text));
        }
    }
}
