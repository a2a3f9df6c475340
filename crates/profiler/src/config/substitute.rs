//! Environment variables in the scalars of a configuration file, as the OpenTelemetry data model says.
//!
//! **In**: one scalar's text, as written by whoever administers the machine. **Out**: the text with `${NAME}`,
//! `${env:NAME}` and `${NAME:-default}` replaced; `$$` is one dollar. The result is never looked at again, so a
//! variable's value can not refer to another one. **Limits**: a reference that is not one is an error, not a guess.

/// Replaces references. `lookup` gives a variable's value; unset and empty are the same.
///
/// # Errors
/// What is wrong with the first bad reference.
pub(crate) fn substitute(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = from.strip_prefix("${") {
            let Some(end) = after.find('}') else {
                return Err(format!("`{from}` has no closing brace"));
            };
            let (reference, tail) = after.split_at(end);
            out.push_str(&resolve(reference, lookup)?);
            rest = tail.strip_prefix('}').unwrap_or(tail);
        } else {
            out.push('$');
            rest = from.strip_prefix('$').unwrap_or_default();
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(reference: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let name = name.strip_prefix("env:").unwrap_or(name);
    let mut chars = name.chars();
    let good = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good {
        return Err(format!(
            "`${{{reference}}}` is not a reference to an environment variable (write ${{NAME}}, ${{NAME:-default}}, or $$ for a dollar)"
        ));
    }
    Ok(lookup(name).filter(|v| !v.is_empty()).or_else(|| default.map(str::to_owned)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("value".into()),
            "EMPTY" => Some(String::new()),
            "REF" => Some("${A}".into()),
            _ => None,
        }
    }

    #[test]
    fn the_specifications_table() {
        for (text, want) in [
            ("plain", "plain"),
            ("${A}", "value"),
            ("${env:A}", "value"),
            ("x${A}y${A}z", "xvalueyvaluez"),
            ("${NONE}", ""),
            ("${NONE:-fallback}", "fallback"),
            ("${EMPTY:-fallback}", "fallback"),
            ("${A:-fallback}", "value"),
            ("${NONE:-http://h:1/a-b}", "http://h:1/a-b"),
            ("$${A}", "${A}"),
            ("$$${A}", "$value"),
            ("$$$${A}", "$${A}"),
            ("$A $", "$A $"),
            ("${REF}", "${A}"),
        ] {
            assert_eq!(substitute(text, &env).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn bad_references_are_errors() {
        for text in ["${1A}", "${A", "${}", "${A?x}", "${sys:A}", "${:-x}"] {
            assert!(substitute(text, &env).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_dollars_survive_escaping(text in "\\PC*") {
            let _ = substitute(&text, &env);
            let escaped = text.replace('$', "$$");
            prop_assert_eq!(substitute(&escaped, &env), Ok(text));
        }
    }
}
