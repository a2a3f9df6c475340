//! A profile as a table: which functions of which processes burn the CPU.
//!
//! **In**: names from targets, which may hold anything. **Out**: rows, or aligned lines of text without control
//! characters. **Units**: samples. **Limits**: the caller's number of rows; names are cut for display at
//! [`MAX_NAME_CHARS`].

use std::cmp::Reverse;
use std::fmt::Write as _;

use profile::Profile;
use rustc_hash::{FxHashMap, FxHashSet};

/// The longest name that [`render`] shows.
pub const MAX_NAME_CHARS: usize = 120;

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

/// Of one process: its key, its name (a process that called exec is another program since), the function's name (an
/// index) and the mapping's path (an index, 0 where there is none).
type Key<'a> = (profile::ProcessKey, &'a str, u32, u32);

/// The `n` rows with the highest counts; equal counts by total, then by pid and names.
#[must_use]
pub fn top(profile: &Profile, n: usize) -> Vec<Row> {
    let mut rows: FxHashMap<Key<'_>, (u64, u64)> = FxHashMap::default();
    let mut seen = FxHashSet::default();
    for e in &profile.entries {
        let (Some(owner), Some(stack)) = (profile.owners.get(e.owner as usize), profile.stacks.get(e.stack as usize))
        else {
            continue;
        };
        seen.clear();
        let mut innermost = true;
        for location in stack.iter().filter_map(|&l| profile.locations.get(l as usize)) {
            let path = location.mapping.and_then(|m| profile.mappings.get(m as usize)).map_or(0, |m| m.path);
            for f in location.lines.iter().filter_map(|x| profile.functions.get(x.function as usize)) {
                let key = (owner.process, &*owner.process_name, f.name, path);
                if seen.insert(key) {
                    let row = rows.entry(key).or_default();
                    row.0 += if innermost { e.count } else { 0 };
                    row.1 += e.count;
                }
                innermost = false;
            }
        }
    }
    let samples = profile.samples();
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|&((process, name, function, path), (count, total))| {
        (Reverse(count), Reverse(total), process, name, profile.text(function), profile.text(path))
    });
    rows.truncate(n);
    rows.into_iter()
        .map(|((process, name, function, path), (count, total))| Row {
            count,
            total,
            share: share(count, samples),
            total_share: share(total, samples),
            tgid: process.tgid,
            process: name.to_owned(),
            function: profile.text(function).to_owned(),
            binary: profile.text(path).rsplit('/').next().unwrap_or_default().to_owned(),
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share is shown with two digits")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The rows as lines of text, aligned, with a head; control characters of names are replaced.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let head = ["SAMPLES", "SHARE", "TOTAL", "PID", "PROCESS", "FUNCTION", "BINARY"].map(str::to_owned);
    let cells: Vec<[String; 7]> = std::iter::once(head)
        .chain(rows.iter().map(|r| {
            [
                r.count.to_string(),
                format!("{:.2}%", r.share * 100.0),
                format!("{:.2}%", r.total_share * 100.0),
                r.tgid.to_string(),
                shown(&r.process),
                shown(&r.function),
                if r.binary.is_empty() { "-".into() } else { shown(&r.binary) },
            ]
        }))
        .collect();
    let widths: [usize; 7] =
        std::array::from_fn(|i| cells.iter().map(|row| row[i].chars().count()).max().unwrap_or_default());
    let mut out = String::new();
    for row in &cells {
        let mut line = String::new();
        for (i, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Numbers to the right, names to the left. Writing to a string cannot fail.
            let _ = if i < 4 { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A name for a terminal: no control characters, not longer than [`MAX_NAME_CHARS`].
fn shown(name: &str) -> String {
    let mut out: String = name.chars().take(MAX_NAME_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect();
    if name.chars().nth(MAX_NAME_CHARS).is_some() {
        out.pop();
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Builder, sample};

    #[test]
    fn self_and_total_by_process() {
        let rows = top(&sample(0), 100);
        let brief: Vec<_> =
            rows.iter().map(|r| (r.count, r.total, r.tgid, r.function.as_str(), r.binary.as_str())).take(6).collect();
        assert_eq!(
            brief,
            [
                (60, 60, 10, "work", "app"),
                (20, 20, 11, "work", "app"),
                (10, 10, 10, "read", "[kernel]"),
                (7, 7, 12, "runtime.mcall", "gosrv"),
                (3, 3, 2, "worker_thread", "[kernel]"),
                (0, 70, 10, "_start", "app"),
            ]
        );
        assert_eq!(rows.iter().map(|r| r.count).sum::<u64>(), 100);
        assert!((rows[0].share - 0.6).abs() < 1e-9 && (rows[5].total_share - 0.7).abs() < 1e-9);
        assert_eq!(top(&sample(0), 2).len(), 2);
        assert!(top(&Profile::default(), 5).is_empty());
    }

    #[test]
    fn a_process_that_calls_exec_is_another_program_since() {
        let p = Builder::window(0).row(1, "/bin/cargo", &["fork"], 1).row(1, "/bin/rustc", &["parse"], 9).build();
        let rows = top(&p, 9);
        let brief: Vec<_> = rows.iter().map(|r| (r.process.as_str(), r.function.as_str(), r.count)).collect();
        assert_eq!(brief, [("rustc", "parse", 9), ("cargo", "fork", 1)]);
    }

    #[test]
    fn a_recursion_counts_once() {
        let p = Builder::window(0).row(1, "/bin/r", &["f", "f", "f", "main"], 4).build();
        let rows = top(&p, 9);
        assert_eq!((rows[0].function.as_str(), rows[0].count, rows[0].total), ("f", 4, 4));
    }

    #[test]
    fn the_text_is_aligned_and_harmless() {
        let long = "x".repeat(500);
        let p = Builder::window(0).row(1, "/bin/e", &["a\x1b[31m\nb"], 3).row(22, "/bin/long", &[&long], 1).build();
        let text = render(&top(&p, 10));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0].find("FUNCTION"), lines[1].find("a?[31m?b"), "{text}");
        assert!(lines[1].trim_start().starts_with("3  75.00%  75.00%    1  e"), "{text}");
        assert!(lines[2].contains("xxx…") && lines[2].chars().count() < 200);
        assert!(!text.contains('\x1b'));
    }
}
