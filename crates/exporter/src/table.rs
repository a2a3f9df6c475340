//! A profile as a table: which functions of which processes burn the CPU.

use profile::Profile;

/// One function of one process.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Samples in which the function was the innermost.
    pub count: u64,
    /// Samples in which the function was anywhere on the stack, each counted once.
    pub total: u64,
    /// `count` as a part of all samples, 0 to 1.
    pub share: f64,
    /// `total` as a part of all samples, 0 to 1.
    pub total_share: f64,
    /// The process.
    pub tgid: u32,
    /// The process's name.
    pub process: String,
    /// The function's shown name.
    pub function: String,
    /// The file name of the mapping; empty where there is none.
    pub binary: String,
}

/// The `n` rows with the highest counts.
#[must_use]
pub fn top(profile: &Profile, n: usize) -> Vec<Row> {
    let _ = (profile, n);
    Vec::new()
}

/// The rows as lines of text, aligned, with a head; control characters of names are replaced.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let _ = rows;
    String::new()
}
