//! What the agent and its worker cost: CPU time per thread name, memory, descriptors.
//!
//! **In**: /proc of the agent's own processes. **Out**: [`ProcessReading`]. **Units**: CPU time in clock ticks of
//! [`clock_hz`], memory in bytes. **Limits**: at most [`MAX_TASKS`] threads are read and [`MAX_THREAD_NAMES`] names kept;
//! the rest is told as one, `other`.
//!
//! The kernel forgets a thread's time when it ends, and the worker's when it is replaced; a counter must not. So what is
//! published is a sum of increments ([`CpuAccount`]), and what threads used up after they were last seen is told as
//! `exited`.

use std::collections::BTreeMap;

use procfs::process::{LimitValue, Process, Stat};
use rustc_hash::FxHashMap;

/// More names than this are told as one.
pub(crate) const MAX_THREAD_NAMES: usize = 48;

/// More threads than this are not read; their time shows as `exited`.
pub(crate) const MAX_TASKS: usize = 4096;

const OTHER: &str = "other";
const EXITED: &str = "exited";

/// CPU time in user and kernel mode, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) user: u64,
    pub(crate) system: u64,
}

impl CpuTime {
    fn of(stat: &Stat) -> Self {
        Self { user: stat.utime, system: stat.stime }
    }

    fn since(self, earlier: Self) -> Self {
        Self { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }

    fn plus(self, more: Self) -> Self {
        Self { user: self.user.saturating_add(more.user), system: self.system.saturating_add(more.system) }
    }

    fn at_least(self, other: Self) -> Self {
        Self { user: self.user.max(other.user), system: self.system.max(other.system) }
    }
}

/// One thread or process, as /proc shows it.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Its id and start time: ids are reused.
    pub(crate) key: (i32, u64),
    pub(crate) name: String,
    pub(crate) time: CpuTime,
}

/// Adds increments up per name, so that nothing is lost or goes back when a task ends.
#[derive(Debug, Default)]
pub(crate) struct CpuAccount {
    sums: BTreeMap<String, CpuTime>,
    seen: FxHashMap<(i32, u64), CpuTime>,
}

impl CpuAccount {
    /// Takes one reading of all tasks alive.
    pub(crate) fn update(&mut self, tasks: &[Task]) {
        let mut seen = FxHashMap::default();
        for task in tasks.iter().take(MAX_TASKS) {
            let before = self.seen.get(&task.key).copied().unwrap_or_default();
            let name = stem(&task.name);
            let known = self.sums.contains_key(name) || self.sums.len() < MAX_THREAD_NAMES;
            let sum = self.sums.entry(if known { name } else { OTHER }.to_owned()).or_default();
            *sum = sum.plus(task.time.since(before));
            seen.insert(task.key, task.time.at_least(before));
        }
        self.seen = seen;
    }

    /// Gives what is missing to `total` to the name `exited`.
    pub(crate) fn settle(&mut self, total: CpuTime) {
        let told =
            self.sums.iter().filter(|(n, _)| *n != EXITED).fold(CpuTime::default(), |sum, (_, &time)| sum.plus(time));
        let rest = total.since(told);
        let exited = self.sums.entry(EXITED.to_owned()).or_default();
        *exited = exited.at_least(rest);
    }

    pub(crate) fn sums(&self) -> impl Iterator<Item = (&str, CpuTime)> {
        self.sums.iter().map(|(name, &time)| (name.as_str(), time))
    }

    pub(crate) fn total(&self) -> CpuTime {
        self.sums.values().fold(CpuTime::default(), |sum, &time| sum.plus(time))
    }
}

/// A thread's name without the number behind it: `reader-3` and `reader-12` are both `reader`.
fn stem(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', '#', '.', ' ']);
    if stem.is_empty() { name } else { stem }
}

/// One reading of both processes. What could not be read is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessReading {
    /// The agent's CPU time per thread name.
    pub(crate) threads: Vec<(String, CpuTime)>,
    /// The agent's CPU time.
    pub(crate) agent: CpuTime,
    /// The CPU time of all worker processes that ran so far.
    pub(crate) worker: CpuTime,
    pub(crate) agent_rss_bytes: u64,
    pub(crate) worker_rss_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) thread_count: u64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: u64,
}

/// Reads both processes and keeps the accounts.
#[derive(Debug, Default)]
pub(crate) struct ProcessAccounts {
    agent: CpuAccount,
    worker: CpuAccount,
}

impl ProcessAccounts {
    /// Reads /proc; `worker_pid` is 0 where no worker runs.
    pub(crate) fn read(&mut self, worker_pid: u32) -> ProcessReading {
        let mut out = ProcessReading::default();
        if let Ok(agent) = Process::myself() {
            self.read_agent(&agent, &mut out);
        }
        if let Some(stat) = i32::try_from(worker_pid).ok().filter(|&pid| pid > 0).and_then(|pid| stat_of(pid).ok()) {
            out.worker_rss_bytes = stat.rss.saturating_mul(procfs::page_size());
            self.worker.update(&[task(&stat)]);
        }
        out.worker = self.worker.total();
        out.threads = self.agent.sums().map(|(name, time)| (name.to_owned(), time)).collect();
        out
    }

    fn read_agent(&mut self, agent: &Process, out: &mut ProcessReading) {
        if let Ok(tasks) = agent.tasks() {
            let tasks: Vec<Task> =
                tasks.take(MAX_TASKS).filter_map(|t| t.ok()?.stat().ok()).map(|stat| task(&stat)).collect();
            out.thread_count = tasks.len() as u64;
            self.agent.update(&tasks);
        }
        // After the threads: the whole is never less than its parts.
        if let Ok(stat) = agent.stat() {
            out.agent = CpuTime::of(&stat);
            out.agent_rss_bytes = stat.rss.saturating_mul(procfs::page_size());
            out.virtual_bytes = stat.vsize;
            self.agent.settle(out.agent);
        }
        out.open_fds = agent.fd_count().map_or(0, |n| n as u64);
        out.max_fds = match agent.limits().map(|l| l.max_open_files.soft_limit) {
            Ok(LimitValue::Value(n)) => n,
            Ok(LimitValue::Unlimited) => u64::MAX >> 11,
            Err(_) => 0,
        };
    }
}

fn stat_of(pid: i32) -> procfs::ProcResult<Stat> {
    Process::new(pid)?.stat()
}

fn task(stat: &Stat) -> Task {
    Task { key: (stat.pid, stat.starttime), name: stat.comm.clone(), time: CpuTime::of(stat) }
}

/// Clock ticks in a second of CPU time.
#[must_use]
pub(crate) fn clock_hz() -> u64 {
    procfs::ticks_per_second()
}

/// When the agent started, in seconds since the Unix epoch; 0 where /proc does not say.
#[must_use]
pub(crate) fn start_time_unix_s() -> u64 {
    let ticks = Process::myself().and_then(|p| p.stat()).map(|s| s.starttime);
    match (procfs::boot_time_secs(), ticks) {
        (Ok(boot), Ok(ticks)) => boot.saturating_add(ticks / clock_hz().max(1)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(user: u64, system: u64) -> CpuTime {
        CpuTime { user, system }
    }

    fn run(id: i32, name: &str, user: u64) -> Task {
        Task { key: (id, 7), name: name.to_owned(), time: time(user, 1) }
    }

    #[test]
    fn a_name_without_its_number() {
        for (name, want) in [
            ("reader-3", "reader"),
            ("reader12", "reader"),
            ("42", "42"),
            ("tokio-rt-worker", "tokio-rt-worker"),
            ("", ""),
        ] {
            assert_eq!(stem(name), want);
        }
    }

    #[test]
    fn sums_never_go_back_when_threads_come_and_go() {
        let mut account = CpuAccount::default();
        account.update(&[run(1, "drain-0", 10), run(2, "drain-1", 20), run(3, "web", 5)]);
        account.settle(time(35, 3));
        assert_eq!(
            account.sums().collect::<Vec<_>>(),
            [("drain", time(30, 2)), ("exited", time(0, 0)), ("web", time(5, 1))]
        );
        // Thread 2 ended after 4 more ticks; its id now belongs to another thread.
        account.update(&[run(1, "drain-0", 11), Task { key: (2, 99), name: "web".to_owned(), time: time(1, 0) }]);
        account.settle(time(41, 3));
        assert_eq!(
            account.sums().collect::<Vec<_>>(),
            [("drain", time(31, 2)), ("exited", time(4, 0)), ("web", time(6, 1))]
        );
        assert_eq!(account.total(), time(41, 3));
    }

    #[test]
    fn names_are_bounded() {
        let mut account = CpuAccount::default();
        let tasks: Vec<Task> = (0..500).map(|i| run(i, &format!("{}x", "n".repeat(i as usize % 200 + 1)), 1)).collect();
        account.update(&tasks);
        assert!(account.sums().count() <= MAX_THREAD_NAMES + 1);
        assert_eq!(account.total(), time(500, 500));
    }

    #[test]
    fn this_very_process_is_read() {
        let mut accounts = ProcessAccounts::default();
        let reading = accounts.read(std::process::id());
        assert!(reading.agent_rss_bytes > 1 << 20);
        assert!(reading.worker_rss_bytes > 0);
        assert!(reading.open_fds >= 3 && reading.max_fds >= reading.open_fds);
        assert!(reading.thread_count >= 1 && !reading.threads.is_empty());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 3600..=now + 1).contains(&start_time_unix_s()));
        // A worker that is gone is no error, and its account stays.
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let later = accounts.read(gone.id());
        assert_eq!((later.worker_rss_bytes, later.worker), (0, reading.worker));
    }
}
