//! What every sink can be brought to: stacks of names, leaf first, with counts. Sinks are compared in this shape.

use std::collections::BTreeMap;

/// How the name of a frame begins that says why a stack was cut.
pub const MARKER: &str = "[cut: ";

/// One stack of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The process's name, as the sink tells it.
    pub process: String,
    /// Its pid, where the sink tells it.
    pub pid: Option<u64>,
    /// The thread's name, where the sink tells it.
    pub comm: Option<String>,
    /// What else the sink tells of it in words, by the sink's own keys.
    pub labels: BTreeMap<String, String>,
    /// The innermost frame is the kernel's, where the sink tells frames apart.
    pub kernel: bool,
    /// There are frames of user space, where the sink tells frames apart.
    pub user: bool,
    /// The outermost frame is where programs and threads begin, where the sink tells (see [`crate::roots`]).
    pub root: bool,
    /// Names of functions, leaf first.
    pub frames: Vec<String>,
    /// Samples.
    pub count: u64,
}

/// A sink's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacks {
    /// When it begins, in nanoseconds since the Unix epoch; 0 where unknown.
    pub from_unix_ns: u64,
    /// When it ends; 0 where unknown.
    pub to_unix_ns: u64,
    /// The stacks, in no order.
    pub rows: Vec<Row>,
}

impl Row {
    /// Frames whose name contains `name`.
    #[must_use]
    pub fn frames_of(&self, name: &str) -> usize {
        self.frames.iter().filter(|f| f.contains(name)).count()
    }

    /// Why the stack was cut, if it was: the text of its marker frame.
    #[must_use]
    pub fn cut(&self) -> Option<&str> {
        self.frames.last()?.strip_prefix(MARKER)?.strip_suffix(']')
    }
}

impl Stacks {
    /// Samples in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.rows.iter().map(|r| r.count).sum()
    }

    /// Only the rows that `keep` says.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Row) -> bool) -> Self {
        Self { rows: self.rows.iter().filter(|r| keep(r)).cloned().collect(), ..*self }
    }

    /// Only one process, by name.
    #[must_use]
    pub fn of(&self, process: &str) -> Self {
        self.only(|r| r.process == process)
    }

    /// Only one process, by pid.
    #[must_use]
    pub fn of_pid(&self, pid: u32) -> Self {
        self.only(|r| r.pid == Some(pid.into()))
    }

    /// Samples with a frame whose name contains `name`.
    #[must_use]
    pub fn with(&self, name: &str) -> u64 {
        self.rows.iter().filter(|r| r.frames.iter().any(|f| f.contains(name))).map(|r| r.count).sum()
    }

    /// Samples for which `says` is true.
    #[must_use]
    pub fn count(&self, says: impl Fn(&Row) -> bool) -> u64 {
        self.rows.iter().filter(|r| says(r)).map(|r| r.count).sum()
    }

    /// Samples by how their stack ends: `root`; the reason of the cut; that there is nothing of user space; or the outermost frame,
    /// where that is none that a stack begins in.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<String, u64> {
        let mut ends = BTreeMap::new();
        for row in &self.rows {
            let end = match row.cut() {
                Some(reason) => reason.to_owned(),
                None if !row.user => "no user half".to_owned(),
                None if row.root => "root".to_owned(),
                None => format!("false root: {}", row.frames.last().map_or("", |f| f)),
            };
            *ends.entry(end).or_default() += row.count;
        }
        ends
    }

    /// Percent of samples with `name`, of those with `name` or `other`.
    #[must_use]
    pub fn percent(&self, name: &str, other: &str) -> f64 {
        percent(self.with(name), self.with(name) + self.with(other))
    }

    /// Samples by process and stack: equal maps are equal profiles. pids and thread names are left out.
    #[must_use]
    pub fn by_stack(&self) -> BTreeMap<(String, Vec<String>), u64> {
        let mut map = BTreeMap::new();
        for row in &self.rows {
            *map.entry((row.process.clone(), row.frames.clone())).or_default() += row.count;
        }
        map
    }

    /// The heaviest stacks as text, for messages.
    #[must_use]
    pub fn heaviest(&self, n: usize) -> String {
        let mut rows: Vec<_> = self.by_stack().into_iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let lines =
            rows.into_iter().take(n).map(|((p, frames), count)| format!("{count:>6} {p}: {}", frames.join(" < ")));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// `part` of `whole` in percent; nothing of nothing is 0.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "samples or nanoseconds: a double is good to far below a percent")]
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// Where two sinks differ, for messages: the first few stacks that have other counts.
#[must_use]
pub fn differences(a: &Stacks, b: &Stacks) -> Vec<String> {
    let (left, right) = (a.by_stack(), b.by_stack());
    let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let count = |map: &BTreeMap<_, u64>, key| map.get(key).copied().unwrap_or(0);
    let differ = keys.into_iter().filter(|k| count(&left, *k) != count(&right, *k));
    differ.map(|k| format!("{}: {} and {}: {}", k.0, count(&left, k), count(&right, k), k.1.join(" < "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(process: &str, frames: &[&str], count: u64) -> Row {
        Row { process: process.into(), frames: frames.iter().map(|&f| f.into()).collect(), count, ..Row::default() }
    }

    #[test]
    fn shares_and_differences() {
        let a = Stacks {
            rows: vec![row("p", &["alpha", "main"], 30), row("p", &["beta", "main"], 10)],
            ..Stacks::default()
        };
        assert_eq!(a.percent("alpha", "beta"), 75.0);
        assert_eq!(percent(30 << 40, 40 << 40), 75.0);
        let mut b = a.clone();
        b.rows.push(row("p", &["beta", "main"], 1));
        assert_eq!(differences(&a, &a), Vec::<String>::new());
        assert_eq!(differences(&a, &b).len(), 1);
        assert_eq!(b.of("q").total(), 0);
    }
}
