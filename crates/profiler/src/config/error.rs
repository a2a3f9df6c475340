//! What can be wrong with a configuration, each as one line that names the place and the mend.

use std::fmt;
use std::path::PathBuf;

/// A place in a configuration file. Line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file.
    pub(crate) file: PathBuf,
    /// The line.
    pub(crate) line: usize,
    /// The column, in characters.
    pub(crate) column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Something that can not be configured like this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A value that is not one: where it came from (a flag, a variable, a place in a file), the value, and what a good
    /// one looks like.
    #[error("{origin}: `{value}` {problem}")]
    Value {
        /// A flag, a variable, or a place in a file.
        origin: String,
        /// The value as given.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The same, for values that are secret.
    #[error("{origin}: {problem}")]
    Secret {
        /// A flag, a variable, or a place in a file.
        origin: String,
        /// What is wrong, without the value.
        problem: String,
    },
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML, or YAML that is not used here.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// What.
        problem: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`{}{}", in_section(section), did_you_mean(nearest))]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The section that it stands in; empty at the top.
        section: String,
        /// The existing key that looks most like it.
        nearest: Option<String>,
    },
}

fn in_section(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(" in `{section}`") }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean `{n}`?"))
}

/// The candidate that looks most like `word`, if any is near enough to be worth a question.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const ENOUGH: f64 = 0.7;
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(word, c), c))
        .filter(|(score, _)| *score >= ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_leaves_strangers_alone() {
        let keys = ["frequency", "window", "snapshot_bytes"];
        assert_eq!(nearest("frequenzy", keys).as_deref(), Some("frequency"));
        assert_eq!(nearest("snapshot_byte", keys).as_deref(), Some("snapshot_bytes"));
        assert_eq!(nearest("zzz", keys), None);
    }
}
