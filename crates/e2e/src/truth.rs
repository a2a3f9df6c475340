//! What a workload wrote down about itself: how much CPU time each of its two functions had, by its own thread's clock.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// CPU time so far, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mark {
    unix_ns: f64,
    alpha_ns: f64,
    beta_ns: f64,
}

/// The log of a `split` workload.
pub struct Truth {
    marks: Vec<Mark>,
    path: PathBuf,
}

impl Truth {
    /// Reads a log; a last line that is not whole yet is left out.
    ///
    /// # Errors
    /// When there is no whole line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let marks: Vec<Mark> = text.lines().filter_map(mark).collect();
        ensure!(!marks.is_empty(), "{} has no line yet", path.display());
        Ok(Self { marks, path: path.to_owned() })
    }

    fn at(&self, unix_ns: f64) -> Result<Mark> {
        let after = self.marks.partition_point(|m| m.unix_ns < unix_ns);
        let (Some(b), Some(a)) = (self.marks.get(after), self.marks.get(after.saturating_sub(1))) else {
            anyhow::bail!("{} does not reach to {unix_ns}", self.path.display());
        };
        ensure!(after > 0 || b.unix_ns <= unix_ns, "{} begins after {unix_ns}", self.path.display());
        let part = (unix_ns - a.unix_ns) / (b.unix_ns - a.unix_ns).max(1.0);
        let between = |x: f64, y: f64| x + (y - x) * part;
        Ok(Mark { unix_ns, alpha_ns: between(a.alpha_ns, b.alpha_ns), beta_ns: between(a.beta_ns, b.beta_ns) })
    }

    /// CPU seconds of alpha and of beta between two moments.
    ///
    /// # Errors
    /// When the log does not cover them.
    #[expect(clippy::cast_precision_loss, reason = "a clock's nanoseconds: a double is good to a microsecond")]
    pub fn seconds(&self, from_unix_ns: u64, to_unix_ns: u64) -> Result<(f64, f64)> {
        let (a, b) = (self.at(from_unix_ns as f64)?, self.at(to_unix_ns as f64)?);
        Ok(((b.alpha_ns - a.alpha_ns) / 1e9, (b.beta_ns - a.beta_ns) / 1e9))
    }

    /// Alpha's part of the two, in percent, between two moments.
    ///
    /// # Errors
    /// When the log does not cover them.
    pub fn percent(&self, from_unix_ns: u64, to_unix_ns: u64) -> Result<f64> {
        let (alpha, beta) = self.seconds(from_unix_ns, to_unix_ns)?;
        ensure!(alpha + beta > 0.0, "{}: no CPU time between the two moments", self.path.display());
        Ok(100.0 * alpha / (alpha + beta))
    }
}

fn mark(line: &str) -> Option<Mark> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let number = |key: &str| value.get(key)?.as_f64();
    Some(Mark { unix_ns: number("unix_ns")?, alpha_ns: number("alpha_ns")?, beta_ns: number("beta_ns")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_part_between_two_moments() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "{\"unix_ns\":1000,\"alpha_ns\":0,\"beta_ns\":0}\n{\"unix_ns\":2000,\"alpha_ns\":900,\"beta_ns\":100}\n\
                    {\"unix_ns\":3000,\"alpha_ns\":900,\"beta_ns\":1100}\n{\"unix_ns\":40";
        std::fs::write(file.path(), text).unwrap();
        let truth = Truth::read(file.path()).unwrap();
        assert_eq!(truth.percent(1000, 2000).unwrap(), 90.0);
        assert_eq!(truth.percent(2000, 3000).unwrap(), 0.0);
        assert_eq!(truth.percent(1500, 2500).unwrap(), 45.0);
        assert!(truth.percent(500, 1500).is_err());
        assert!(truth.percent(1500, 3500).is_err());
    }
}
