//! One line of the table: a figure of ours, the other profiler's beside it, and what it should be.

/// What a figure should be at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// So much.
    Most(f64),
    /// Such a part of the other profiler's figure, in the same run.
    Part(f64),
}

/// A figure and what is to be said of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Which of the five points it belongs to.
    pub(crate) point: &'static str,
    /// What was measured, with its unit.
    pub(crate) what: String,
    ours: String,
    theirs: String,
    goal: String,
    floor: String,
    verdict: String,
    /// The floor is broken.
    pub(crate) broken: bool,
}

/// A figure without a unit: `decimals` digits after the point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// Ours.
    pub(crate) ours: f64,
    /// The other profiler's, where it ran.
    pub(crate) theirs: Option<f64>,
    /// Digits after the point.
    pub(crate) decimals: usize,
}

impl Line {
    /// A figure that is compared with nothing but the other profiler's.
    pub(crate) fn stated(point: &'static str, what: impl Into<String>, figure: Figure) -> Self {
        Self::judged(point, what, figure, None, None)
    }

    /// A figure with what it should be, and what it must not be above.
    pub(crate) fn judged(
        point: &'static str,
        what: impl Into<String>,
        figure: Figure,
        goal: Option<Goal>,
        floor: Option<f64>,
    ) -> Self {
        let Figure { ours, theirs, decimals } = figure;
        let number = |value: f64| format!("{value:.decimals$}");
        let wanted = goal.and_then(|goal| match goal {
            Goal::Most(most) => Some(most),
            Goal::Part(part) => theirs.map(|theirs| theirs * part),
        });
        let broken = floor.is_some_and(|floor| ours > floor);
        let verdict = match wanted {
            _ if broken => "**floor broken**".to_owned(),
            Some(wanted) if ours <= wanted => "reached".to_owned(),
            Some(wanted) => format!("{} over", percent(ours / wanted.max(f64::MIN_POSITIVE) - 1.0)),
            None if goal.is_some() => "not compared".to_owned(),
            None => String::new(),
        };
        let goal = match goal {
            Some(Goal::Most(most)) => number(most),
            Some(Goal::Part(part)) => format!("{} of theirs", percent(part)),
            None => String::new(),
        };
        Self {
            point,
            what: what.into(),
            ours: number(ours),
            theirs: theirs.map(number).unwrap_or_default(),
            goal,
            floor: floor.map(number).unwrap_or_default(),
            verdict,
            broken,
        }
    }

    /// Words in place of a figure.
    pub(crate) fn words(point: &'static str, what: impl Into<String>, ours: impl Into<String>) -> Self {
        Self { point, what: what.into(), ours: ours.into(), ..Self::default() }
    }

    /// What could not be measured: it fails the run.
    pub(crate) fn failed(point: &'static str, what: impl Into<String>, error: &anyhow::Error) -> Self {
        // A cell of a table: one line, no bars.
        let why = format!("not measured: {error:#}").replace(['\n', '|'], " ");
        Self { broken: true, ..Self::words(point, what, why) }
    }

    /// As a row of Markdown.
    pub(crate) fn row(&self) -> String {
        let Self { point, what, ours, theirs, goal, floor, verdict, .. } = self;
        format!("| {point} | {what} | {ours} | {theirs} | {goal} | {floor} | {verdict} |")
    }
}

/// A part of one in percent, without digits that say nothing.
pub(crate) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent.abs() < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_and_floors_beside_the_figures() {
        let check = |ours: f64, theirs: Option<f64>, goal: Option<Goal>, floor: Option<f64>, row: &str| {
            let line = Line::judged("1", "x", Figure { ours, theirs, decimals: 1 }, goal, floor);
            assert_eq!(line.row(), row);
            assert_eq!(line.broken, row.contains("floor broken"), "{row}");
        };
        check(4.0, Some(20.0), Some(Goal::Part(0.25)), None, "| 1 | x | 4.0 | 20.0 | 25 % of theirs |  | reached |");
        check(6.0, Some(20.0), Some(Goal::Part(0.25)), None, "| 1 | x | 6.0 | 20.0 | 25 % of theirs |  | 20 % over |");
        check(6.0, None, Some(Goal::Part(0.25)), None, "| 1 | x | 6.0 |  | 25 % of theirs |  | not compared |");
        check(50.0, None, Some(Goal::Most(40.0)), Some(64.0), "| 1 | x | 50.0 |  | 40.0 | 64.0 | 25 % over |");
        check(65.0, None, Some(Goal::Most(40.0)), Some(64.0), "| 1 | x | 65.0 |  | 40.0 | 64.0 | **floor broken** |");
        check(1.0, Some(2.0), None, None, "| 1 | x | 1.0 | 2.0 |  |  |  |");
    }
}
