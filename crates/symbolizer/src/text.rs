//! Texts of targets, made fit to be shown in one line.
//!
//! **In**: bytes or text from a target. **Out**: text without control characters, at most so long. What was replaced
//! stays visible as U+FFFD; what was cut off, as an ellipsis. Markup is not escaped: that is for whoever shows it.

use std::borrow::Cow;

/// Bytes of a name that is shown; longer ones are cut.
pub(crate) const MAX_NAME_BYTES: usize = 4096;

/// Bytes as text: invalid UTF-8 and control characters become U+FFFD.
pub(crate) fn from_bytes(bytes: &[u8], limit: usize) -> String {
    let (bytes, cut) = match bytes.get(..limit) {
        Some(head) if head.len() < bytes.len() => (head, true),
        _ => (bytes, false),
    };
    let mut text = clean(&String::from_utf8_lossy(bytes)).into_owned();
    if cut {
        text.push('…');
    }
    text
}

/// Text without control characters, and without those that turn the direction of what follows.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Cow::Borrowed(text);
    }
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    Cow::Owned(text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect())
}

/// Text that is clean and not too long.
pub(crate) fn shown(text: &str, limit: usize) -> Cow<'_, str> {
    let clean = clean(text);
    if clean.len() <= limit {
        return clean;
    }
    let end = (0..=limit).rev().find(|&i| clean.is_char_boundary(i)).unwrap_or(0);
    Cow::Owned(format!("{}…", clean.get(..end).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor() {
        let check = |raw: &[u8], want: &str| assert_eq!(from_bytes(raw, 12), want);
        check(b"main", "main");
        check(b"a\nb\0c\x1b[", "a\u{fffd}b\u{fffd}c\u{fffd}[");
        check(b"\xff\xfe", "\u{fffd}\u{fffd}");
        check("ü→\u{202e}x".as_bytes(), "ü→\u{fffd}x");
        check(b"0123456789abcdef", "0123456789ab…");
        assert_eq!(shown("ää", 3), "ä…");
        assert_eq!(shown("ää", 4), "ää");
    }
}
