//! Patterns with `*`.
//!
//! **In**: a pattern of the configuration; texts of targets, which may hold anything. **Out**: whether they match.
//! **Limits**: a pattern has at most [`MAX_PATTERN_BYTES`]; the work is bounded by its length times the text's.

use std::fmt;

/// The longest pattern.
pub(crate) const MAX_PATTERN_BYTES: usize = 512;

/// A text in which each `*` stands for any characters, also none and also `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    /// A pattern.
    ///
    /// # Errors
    /// It is empty or too long.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("has nothing after `=`".to_owned());
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(format!("has a pattern of more than {MAX_PATTERN_BYTES} bytes"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether it matches the whole text.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(head) else { return false };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The earliest place for each piece leaves the most room for those that follow.
        for piece in middle.split('*').filter(|p| !p.is_empty()) {
            let Some((_, after)) = text.split_once(piece) else { return false };
            text = after;
        }
        text.ends_with(tail)
    }

    /// Whether it matches a path or a directory above it.
    pub(crate) fn matches_prefix(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        if self.matches(if path.is_empty() { "/" } else { path }) || self.matches("/") {
            return true;
        }
        path.match_indices('/').skip(1).any(|(at, _)| path.get(..at).is_some_and(|above| self.matches(above)))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let glob = Glob::new(pattern).unwrap();
        for text in yes {
            assert!(glob.matches(text), "{pattern} {text}");
        }
        for text in no {
            assert!(!glob.matches(text), "{pattern} {text}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        check("web", &["web"], &["", "we", "webs", "aweb"]);
        check("web-*", &["web-", "web-1", "web-*"], &["web", "a-web-1"]);
        check("*-db", &["-db", "a-db", "a-db-db"], &["db", "a-dbx"]);
        check("*", &["", "x", "\n\u{fffd}"], &[]);
        check("a*b*a", &["aba", "abba", "axbya"], &["ab", "aa", "abab"]);
        check("ab*ba", &["abba", "ab-ba"], &["aba"]);
        check("/usr/*/x*", &["/usr/bin/x", "/usr/a/b/xy"], &["/usr/x"]);
    }

    #[test]
    fn prefixes_end_where_a_directory_ends() {
        let check = |pattern: &str, path: &str| Glob::new(pattern).unwrap().matches_prefix(path);
        assert!(check("/kubepods", "/kubepods") && check("/kubepods", "/kubepods/pod1/c"));
        assert!(!check("/kubepods", "/kubepods2/c") && !check("/kubepods/pod1", "/kubepods"));
        assert!(check("/", "/") && check("/", "/a/b"));
        assert!(check("/*/pod1", "/kubepods/pod1/c") && check("/system.slice/n*", "/system.slice/nginx.service/x"));
        assert!(!check("/system.slice/n*", "/system.slice/ssh.service"));
    }

    #[test]
    fn what_is_no_pattern() {
        assert!(Glob::new("").is_err() && Glob::new(&"x".repeat(MAX_PATTERN_BYTES + 1)).is_err());
    }

    /// The definition, slow and plain.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|i| slow(rest, &text[i..])),
            Some((c, rest)) => text.split_first().is_some_and(|(t, more)| t == c && slow(rest, more)),
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(pattern in "[ab*]{1,8}", text in "[ab]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(Glob::new(&pattern).unwrap().matches(&text), slow(&chars(&pattern), &chars(&text)));
        }
    }
}
