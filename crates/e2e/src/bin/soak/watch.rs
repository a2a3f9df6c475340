//! What was seen, and what of it must not be.
//!
//! **In**: [`Look`]s, in order. **Out**: lines for people, faults. **Limits**: a look every few seconds of a day at most.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

/// So much of the time is warm-up: files are met for the first time, tables are compiled.
const WARM_UP_SHARE: u32 = 3;
/// Memory of the last third may be so much above that of the second: shares of it, and MB that are noise.
const GROWTH: f64 = 1.05;
const NOISE_MB: f64 = 2.0;
/// A process that is dead and still published at so many looks in a row was forgotten.
const LOOKS: usize = 3;
/// One look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) at: Duration,
    /// Why the ledger does not hold, where it does not.
    pub(crate) ledger: Option<String>,
    pub(crate) agent_mb: f64,
    pub(crate) worker_mb: f64,
    /// Kernel memory of maps.
    pub(crate) maps_mb: f64,
    /// Processes that the kernel side may walk; none where there is no such map.
    pub(crate) published: Option<usize>,
    /// Of these, the dead: process id and start time.
    pub(crate) dead: HashSet<(u32, u64)>,
    pub(crate) processes: f64,
    pub(crate) restarts: f64,
    pub(crate) dropped: f64,
    pub(crate) taken: f64,
    pub(crate) walked: f64,
    pub(crate) evicted: f64,
    /// Tables in the kernel.
    pub(crate) tables_mb: f64,
    /// Tables that are held of files.
    pub(crate) held_mb: f64,
}

/// All looks.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    looks: Vec<Look>,
}

/// A figure of a look.
type Of = fn(&Look) -> f64;
/// What must be flat.
const MEMORY: [(&str, Of); 3] = [
    ("RSS of agent and worker", |look| look.agent_mb + look.worker_mb),
    ("kernel memory of maps", |look| look.maps_mb),
    ("memory of files' tables", |look| look.held_mb),
];

impl Watch {
    pub(crate) fn add(&mut self, look: Look) {
        self.looks.push(look);
    }

    /// A line for each minute or so, and the sums.
    pub(crate) fn report(&self) -> Vec<String> {
        let mut lines =
            vec!["| s | agent MB | worker MB | maps MB | tables MB | files' tables MB | processes | published | dead | samples | walked | dropped | files left |".to_owned()];
        let step = (self.looks.len() / 12).max(1);
        let last = self.looks.len().saturating_sub(1);
        for (i, look) in self.looks.iter().enumerate().filter(|(i, _)| i % step == 0 || *i == last) {
            let published = look.published.map_or_else(|| "?".to_owned(), |count| count.to_string());
            lines.push(format!(
                "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {published} | {} | {:.0} | {:.0} | {:.0} | {:.0} |{}",
                look.at.as_secs(),
                look.agent_mb,
                look.worker_mb,
                look.maps_mb,
                look.tables_mb,
                look.held_mb,
                look.processes,
                look.dead.len(),
                look.taken,
                look.walked,
                look.dropped,
                look.evicted,
                if i == last { " at the end" } else { "" },
            ));
        }
        lines
    }

    /// What must not be, in a run of this length.
    pub(crate) fn faults(&self, lasting: Duration) -> Vec<String> {
        let mut faults: Vec<String> = self
            .looks
            .iter()
            .filter_map(|look| Some(format!("the ledger at {} s: {}", look.at.as_secs(), look.ledger.as_ref()?)))
            .collect();
        for (what, of) in MEMORY {
            let third = lasting / WARM_UP_SHARE;
            let most = |from: Duration, to: Duration| {
                let inside = self.looks.iter().filter(|look| look.at > from && look.at <= to);
                inside.map(of).fold(0.0, f64::max)
            };
            let (middle, last) = (most(third, third * 2), most(third * 2, lasting));
            if last > middle * GROWTH + NOISE_MB {
                faults.push(format!(
                    "{what} grows: at most {middle:.1} MB in the second third, {last:.1} MB in the last"
                ));
            }
        }
        for looks in self.looks.windows(LOOKS) {
            let Some((first, rest)) = looks.split_first() else { continue };
            let forgotten = first.dead.iter().filter(|process| rest.iter().all(|look| look.dead.contains(*process)));
            let count = forgotten.count();
            if count > 0 {
                let at = first.at.as_secs();
                faults.push(format!("{count} processes that were dead at {at} s stay published for {LOOKS} looks"));
            }
        }
        if let Some(last) = self.looks.last().filter(|last| last.restarts > 0.0) {
            faults.push(format!("the worker was replaced {:.0} times", last.restarts));
        }
        faults
    }
}

/// Whether the process lives that has this id and began at this time of the monotonic clock, or before: one that began later is
/// another, which got the id anew.
pub(crate) fn alive(tgid: u32, start_mono_ns: u64) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{tgid}/stat")) else { return false };
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // A zombie has no memory any more that could be walked, and the kernel has told of its end.
    let living = fields.first().is_some_and(|state| !matches!(*state, "Z" | "X"));
    // /proc counts in hundredths of a second of the boot clock, rounded down. That is the monotonic one where the machine never slept; where it
    // did, only the process id is compared.
    let start = fields.get(19).and_then(|ticks| ticks.parse::<u64>().ok()).map(|ticks| ticks * 10_000_000);
    living && (start.is_some_and(|start| start <= start_mono_ns) || slept())
}

/// Whether boot clock and monotonic clock differ.
fn slept() -> bool {
    use nix::time::{ClockId, clock_gettime};
    let read = |clock: ClockId| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    read(ClockId::CLOCK_BOOTTIME).abs_diff(read(ClockId::CLOCK_MONOTONIC)) > Duration::from_millis(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A look every second of a minute.
    fn watch(look: impl Fn(u64) -> Look) -> Watch {
        Watch { looks: (1..=60).map(|s| Look { at: Duration::from_secs(s), ..look(s) }).collect() }
    }

    #[test]
    fn memory_that_grows_after_the_warm_up() {
        let check = |mb: fn(u64) -> f64, faults: usize| {
            let all = watch(|s| Look { agent_mb: mb(s), maps_mb: 10.0, ..Look::default() }).faults(MINUTE);
            assert_eq!(all.len(), faults, "{all:?}");
        };
        check(|_| 30.0, 0);
        // While it warms up it may.
        check(|s| if s < 20 { s as f64 } else { 30.0 }, 0);
        check(|s| 10.0 + s as f64 / 2.0, 1);
        check(|s| if s > 55 { 40.0 } else { 30.0 }, 1);
    }

    #[test]
    fn a_dead_process_that_stays_published() {
        let check = |dead: fn(u64) -> Vec<(u32, u64)>, faulty: bool| {
            let all = watch(|s| Look { dead: dead(s).into_iter().collect(), ..Look::default() }).faults(MINUTE);
            assert_eq!(!all.is_empty(), faulty, "{all:?}");
        };
        // Another one at each look: they have just died.
        check(|s| vec![(u32::try_from(s).unwrap_or(0), 1)], false);
        check(|s| if (10..12).contains(&s) { vec![(7, 1)] } else { Vec::new() }, false);
        check(|s| if (10..14).contains(&s) { vec![(7, 1)] } else { Vec::new() }, true);
    }

    #[test]
    fn a_ledger_that_does_not_hold_once() {
        let look = |s: u64| Look { ledger: (s == 30).then(|| "one is missing".to_owned()), ..Look::default() };
        assert_eq!(watch(look).faults(MINUTE), ["the ledger at 30 s: one is missing"]);
        assert_eq!(watch(|_| Look { restarts: 1.0, ..Look::default() }).faults(MINUTE).len(), 1);
    }

    #[test]
    fn this_process_lives() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse::<u64>().unwrap();
        assert!(alive(std::process::id(), ticks * 10_000_000));
        assert!(!alive(std::process::id(), ticks * 10_000_000 - 1) || slept());
        assert!(!alive(u32::MAX >> 1, 0));
    }
}
