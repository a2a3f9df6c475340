//! Reading `/metrics`: an own small parser of the Prometheus text format, and the two lines of the ledger.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// One value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The metric.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// One answer of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// All values, in order.
    pub points: Vec<Point>,
    /// The text itself.
    pub text: String,
}

impl Scrape {
    /// Reads the text format.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let points =
            lines.map(|l| point(l).with_context(|| format!("not a line of metrics: {l}"))).collect::<Result<_>>()?;
        Ok(Self { points, text: text.to_owned() })
    }

    /// All values of a metric.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Point> {
        self.points.iter().filter(move |p| p.name == name)
    }

    /// The sum over all labels.
    ///
    /// # Errors
    /// When the metric is not there.
    pub fn sum(&self, name: &str) -> Result<f64> {
        ensure!(self.all(name).next().is_some(), "{name} is not on /metrics");
        Ok(self.all(name).map(|p| p.value).sum())
    }

    /// The sum of the values that carry a label.
    #[must_use]
    pub fn with(&self, name: &str, label: &str, value: &str) -> f64 {
        self.all(name).filter(|p| p.labels.get(label).is_some_and(|v| v == value)).map(|p| p.value).sum()
    }

    /// The ledger as this scrape tells it.
    ///
    /// # Errors
    /// When a metric of it is not there.
    pub fn ledger(&self) -> Result<Ledger> {
        let ticks = |state| self.with("profiler_ticks_total", "state", state);
        self.sum("profiler_ticks_total")?;
        Ok(Ledger {
            idle: ticks("idle"),
            filtered: ticks("filtered"),
            ticks_taken: ticks("taken"),
            missed: ticks("missed"),
            taken: self.sum("profiler_samples_taken_total")?,
            exported: self.sum("profiler_samples_exported_total")?,
            held: self.sum("profiler_samples_held")?,
            least_held: self.all("profiler_samples_held").map(|p| p.value).fold(f64::INFINITY, f64::min),
            dropped: self.sum("profiler_samples_dropped_total")?,
        })
    }
}

/// The terms of the ledger, in ticks and samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ledger {
    /// Ticks on the idle task.
    pub idle: f64,
    /// Ticks that a filter refused.
    pub filtered: f64,
    /// Ticks that became samples, as the first line counts them.
    pub ticks_taken: f64,
    /// Ticks that never came.
    pub missed: f64,
    /// Samples taken, as the second line counts them.
    pub taken: f64,
    /// Samples that the primary sink has.
    pub exported: f64,
    /// Samples on their way.
    pub held: f64,
    /// The smallest of the stages: never below zero.
    pub least_held: f64,
    /// Samples dropped.
    pub dropped: f64,
}

impl Ledger {
    /// The second line, to the sample; and the same number of samples in both lines.
    ///
    /// # Errors
    /// When it does not hold: with all terms.
    pub fn check(&self) -> Result<()> {
        ensure!(self.taken == self.exported + self.held + self.dropped, "taken = exported + held + dropped: {self:?}");
        ensure!(self.least_held >= 0.0, "a stage holds less than nothing: {self:?}");
        ensure!(self.ticks_taken == self.taken, "two counts of taken: {self:?}");
        Ok(())
    }

    /// All ticks, the missed ones too.
    #[must_use]
    pub fn ticks(&self) -> f64 {
        self.idle + self.filtered + self.ticks_taken + self.missed
    }

    /// The first line, since an earlier scrape: as many ticks as so much time brings.
    ///
    /// `slack` is in ticks for all CPUs together: two a CPU, and what passes between the two clocks' readings.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn check_time(&self, since: &Self, expected: f64, slack: f64) -> Result<()> {
        let ticks = self.ticks() - since.ticks();
        ensure!((ticks - expected).abs() <= slack, "{ticks} ticks where {expected:.1} +- {slack:.1} are due: {self:?}");
        Ok(())
    }

    /// Missed ticks of all ticks, since an earlier scrape.
    #[must_use]
    pub fn missed_share(&self, since: &Self) -> f64 {
        (self.missed - since.missed) / (self.ticks() - since.ticks()).max(1.0)
    }
}

fn point(line: &str) -> Result<Point> {
    let (head, labels, rest) = match line.find('{') {
        Some(open) => {
            let mut labels = BTreeMap::new();
            let end = read_labels(line.get(open + 1..).unwrap_or(""), &mut labels)?;
            (&line[..open], labels, &line[open + 1 + end..])
        }
        None => {
            let (head, rest) = line.split_once(' ').context("no value")?;
            (head, BTreeMap::new(), rest)
        }
    };
    let value = rest.split_whitespace().next().context("no value")?.parse()?;
    Ok(Point { name: head.trim().to_owned(), labels, value })
}

/// Reads `name="value",...}` and returns the number of bytes read.
fn read_labels(text: &str, labels: &mut BTreeMap<String, String>) -> Result<usize> {
    let mut chars = text.char_indices();
    let (mut name, mut value, mut inside) = (String::new(), String::new(), false);
    while let Some((i, c)) = chars.next() {
        match (inside, c) {
            (false, '}') => return Ok(i + 1),
            (false, ',') => {}
            (false, '"') => inside = true,
            (false, '=') => {}
            (false, c) => name.push(c),
            (true, '\\') => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c)) => value.push(c),
                None => break,
            },
            (true, '"') => {
                inside = false;
                labels.insert(std::mem::take(&mut name).trim().to_owned(), std::mem::take(&mut value));
            }
            (true, c) => value.push(c),
        }
    }
    bail!("labels without an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP profiler_ticks_total Ticks\n# TYPE profiler_ticks_total counter\n\
        profiler_ticks_total{state=\"idle\",cpu=\"0\"} 5\nprofiler_ticks_total{state=\"taken\"} 7 1700000000\n\
        build_info{version=\"a\\\"b\\\\c\\nd}\"} 1\nrss 1.5e+06\n";

    #[test]
    fn reads_lines_labels_and_escapes() {
        let scrape = Scrape::parse(TEXT).unwrap();
        assert_eq!(scrape.points.len(), 4);
        assert_eq!(scrape.sum("profiler_ticks_total").unwrap(), 12.0);
        assert_eq!(scrape.with("profiler_ticks_total", "state", "taken"), 7.0);
        assert_eq!(scrape.points[2].labels["version"], "a\"b\\c\nd}");
        assert_eq!(scrape.sum("rss").unwrap(), 1.5e6);
        assert!(scrape.sum("nothing").is_err());
        assert!(Scrape::parse("broken{a=\"b\" 3\n").is_err());
    }

    #[test]
    fn a_ledger_that_loses_a_sample_is_refused() {
        let good =
            Ledger { taken: 10.0, ticks_taken: 10.0, exported: 7.0, held: 2.0, dropped: 1.0, ..Ledger::default() };
        good.check().unwrap();
        assert!(Ledger { exported: 6.0, ..good }.check().is_err());
        assert!(Ledger { least_held: -1.0, ..good }.check().is_err());
        let later = Ledger { idle: 90.0, missed: 10.0, ..good };
        later.check_time(&good, 100.0, 4.0).unwrap();
        assert!(later.check_time(&good, 105.0, 4.0).is_err());
        assert_eq!(later.missed_share(&good), 0.1);
    }
}
