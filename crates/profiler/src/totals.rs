//! The table of functions over the agent's whole life, for `--print`: counts only, no stacks.
//!
//! **In**: profiles. **Out**: text. **Units**: samples. **Limits**: [`MAX_ROWS`] functions of processes; what is seen
//! first beyond them is added to one row of its own.

use std::collections::HashMap;

use exporter::table::{self, Row};
use profile::Profile;

/// Functions of processes that are told apart.
const MAX_ROWS: usize = 100_000;
/// The row of all others.
const OTHERS: &str = "[others]";

/// Counts so far.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    rows: HashMap<(u32, String, String, String), (u64, u64)>,
    samples: u64,
}

impl Totals {
    /// Adds a profile.
    pub(crate) fn add(&mut self, profile: &Profile) {
        self.samples += profile.samples();
        for row in table::top(profile, usize::MAX) {
            let mut key = (row.tgid, row.process, row.function, row.binary);
            if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
                key = (0, OTHERS.to_owned(), OTHERS.to_owned(), String::new());
            }
            let sums = self.rows.entry(key).or_default();
            sums.0 += row.count;
            sums.1 += row.total;
        }
    }

    /// The rows with the highest counts, as text.
    pub(crate) fn render(&self, rows: usize) -> String {
        let mut all: Vec<_> = self.rows.iter().collect();
        all.sort_by(|(k, (count, total)), (l, (d, u))| d.cmp(count).then(u.cmp(total)).then(k.cmp(l)));
        let rows: Vec<Row> = all
            .into_iter()
            .filter(|(_, (count, _))| *count > 0)
            .take(rows)
            .map(|((tgid, process, function, binary), &(count, total))| Row {
                count,
                total,
                share: share(count, self.samples),
                total_share: share(total, self.samples),
                tgid: *tgid,
                process: process.clone(),
                function: function.clone(),
                binary: binary.clone(),
            })
            .collect();
        table::render(&rows)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share is shown with two digits")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use profile::named::{Entry, Function, Line, Location, LocationKind};
    use profile::{Owner, ProcessKey};

    use super::*;

    fn profile(tgid: u32, function: &str, count: u64) -> Profile {
        Profile {
            strings: vec!["".into(), function.into()],
            functions: vec![Function { name: 1, system_name: 1, file: 0 }],
            locations: vec![Location {
                mapping: None,
                address: 1,
                lines: std::iter::once(Line { function: 0, line: 0 }).collect(),
                kind: LocationKind::Native,
                named: true,
            }],
            stacks: vec![Box::new([0])],
            owners: vec![Arc::new(Owner {
                process: ProcessKey { tgid, leader_start_mono_ns: 1 },
                process_name: "proc".into(),
                ..Owner::default()
            })],
            owner_mappings: vec![None],
            entries: vec![Entry { owner: 0, stack: 0, count, times_unix_ns: Vec::new() }],
            ..Profile::default()
        }
    }

    #[test]
    fn windows_add_up() {
        let mut totals = Totals::default();
        totals.add(&profile(7, "hot", 30));
        totals.add(&profile(7, "hot", 45));
        totals.add(&profile(8, "hot", 25));
        let text = totals.render(10);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("75") && lines[1].contains("75.00%") && lines[1].contains('7'), "{text}");
        assert!(lines[2].contains("25.00%"), "{text}");
        assert_eq!(totals.render(1).lines().count(), 2);
    }
}
