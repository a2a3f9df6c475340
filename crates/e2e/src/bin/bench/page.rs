//! docs/benchmarks.md: one table of all points, then a section for each measurement. What was not measured in this run stays as it
//! was: the page is its own memory.
//!
//! **In**: the page as it is, and what sections found. **Out**: the page. **Limits**: a page of another shape is made anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::line::Line;

/// What a section found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    /// Its lines in the table.
    pub(crate) lines: Vec<Line>,
    /// What it has to say besides, in Markdown, without headings above the third level.
    pub(crate) details: String,
}

const INTRODUCTION: &str = "# Benchmarks

Made by `cargo xtask bench --write`; `cargo xtask bench NAME --write` measures one section anew and leaves the others. The other
profiler is the OpenTelemetry eBPF profiler, where `--otel-profiler PATH` named one. It ran on the same machine under the same load
in the same run, after ours and never beside it. Points 1 to 5: time of the eBPF program, CPU time in user space, memory, tables, and
what would be on a large machine. \"Over\" says by how much a goal is missed; a floor that is broken fails the run.
";
const HEAD: &str =
    "| | what | profiler | OpenTelemetry | goal | floor | |\n| --- | --- | ---: | ---: | ---: | ---: | --- |\n";

/// The page: rows and text of each section by its name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    sections: BTreeMap<String, (Vec<String>, String)>,
}

impl Page {
    /// Reads a page.
    pub(crate) fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut parts = text.split("\n## ");
        let table = parts.next().unwrap_or_default();
        let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for row in table.lines() {
            if let Some((row, name)) = row.strip_suffix("-->").and_then(|row| row.split_once("<!--")) {
                rows.entry(name.trim()).or_default().push(row.trim_end().to_owned());
            }
        }
        for part in parts {
            let Some((heading, text)) = part.split_once('\n') else { continue };
            if let Some(rows) = rows.remove(heading.trim()) {
                page.sections.insert(heading.trim().to_owned(), (rows, text.trim().to_owned()));
            }
        }
        page
    }

    /// Puts what a section found in the place of what it found before. `under`: when and where.
    pub(crate) fn put(&mut self, name: &str, under: &str, part: &Part) {
        let rows = part.lines.iter().map(Line::row).collect();
        self.sections.insert(name.to_owned(), (rows, format!("{under}\n\n{}", part.details.trim())));
    }

    /// The whole page; sections in this order.
    pub(crate) fn text(&self, order: &[&str]) -> String {
        let mut text = format!("{INTRODUCTION}\n{HEAD}");
        let sections = || order.iter().filter_map(|name| Some((*name, self.sections.get(*name)?)));
        for (name, (rows, _)) in sections() {
            for row in rows {
                let _ = writeln!(text, "{row} <!-- {name} -->");
            }
        }
        for (name, (_, details)) in sections() {
            let _ = writeln!(text, "\n## {name}\n\n{details}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_anew_stays() {
        let part =
            |what: &str| Part { lines: vec![Line::words("1", what, "7")], details: format!("{what} took long.") };
        let order = ["samples", "tables"];
        let mut page = Page::default();
        page.put("samples", "Here.", &part("old"));
        page.put("tables", "There.", &part("kept"));
        let text = page.text(&order);
        let mut again = Page::read(&text);
        assert_eq!(again, page);
        again.put("samples", "Now.", &part("new"));
        let text = again.text(&order);
        assert!(
            text.contains("| 1 | new | 7 |") && text.contains("\n## samples\n\nNow.\n\nnew took long.\n"),
            "{text}"
        );
        assert!(
            text.contains("| 1 | kept | 7 |") && text.contains("\n## tables\n\nThere.\n\nkept took long.\n"),
            "{text}"
        );
        assert!(!text.contains("old"), "{text}");
        assert_eq!(Page::read("# Overhead\n\n| a | b |\n\n## A cgroup\n\nText"), Page::default());
    }
}
