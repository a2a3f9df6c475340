//! Texts of others, made fit for attributes.
//!
//! **In**: any text. **Out**: short text without control characters. **Limits**: [`MAX_KEY`] and [`MAX_VALUE`] bytes.

use std::borrow::Cow;

/// The longest key of an attribute, in bytes.
pub(crate) const MAX_KEY: usize = 128;
/// The longest value of an attribute, in bytes.
pub(crate) const MAX_VALUE: usize = 256;

/// The text without surrounding blanks, at most `max` bytes of it, control characters replaced.
pub(crate) fn clean(text: &str, max: usize) -> Cow<'_, str> {
    let text = cut(text.trim(), max);
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    // The replacement is longer than what it replaces.
    let replaced: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    Cow::Owned(cut(&replaced, max).to_owned())
}

/// At most `max` bytes of it, whole characters only.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// A key as semantic conventions make them: letters, digits, `_` and `.`, not at either end a dot.
pub(crate) fn is_plain_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= MAX_KEY
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
        && key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && !key.ends_with('.')
}

/// The key with `_` for whatever no store refuses.
pub(crate) fn plain_key(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '_' }).collect()
}

/// Whether a text fits a pattern, in which `*` stands for any text.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b) if text.get(t) == Some(b) => {
                p += 1;
                t += 1;
            }
            _ => {
                // Give the last `*` one byte more.
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_short_and_printable() {
        assert_eq!(clean("  shop ", 9), "shop");
        assert_eq!(clean("a\nb\u{7}", 9), "a\u{fffd}b\u{fffd}");
        assert_eq!(clean("a\nb\u{7}", 7), "a\u{fffd}b");
        assert_eq!(clean("ééé", 5), "éé");
        assert_eq!(clean("\n\n", 9), "");
    }

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("app", "app", true),
            ("app", "apps", false),
            ("*", "", true),
            ("*", "anything/at.all", true),
            ("app.kubernetes.io/*", "app.kubernetes.io/name", true),
            ("app.kubernetes.io/*", "app.kubernetes.io", false),
            ("*/name", "app.kubernetes.io/name", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("", "", true),
            ("", "a", false),
            ("**", "a", true),
        ] {
            assert_eq!(fits(pattern, text), want, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text(text in ".*", pattern in "[a*.]{0,8}", max in 0usize..40) {
            let cleaned = clean(&text, max);
            prop_assert!(cleaned.len() <= max && !cleaned.chars().any(char::is_control));
            prop_assert_eq!(plain_key(&text).chars().count(), text.chars().count());
            let _ = (fits(&pattern, &text), is_plain_key(&text));
            prop_assert!(fits("*", &text) && fits(&text.replace('*', ""), &text.replace('*', "")));
        }
    }
}
