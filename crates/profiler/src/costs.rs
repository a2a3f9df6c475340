//! What the agent and its worker cost: CPU time and number of threads per thread name, memory, descriptors.
//!
//! **In**: /proc of the agent's own processes. **Out**: [`ProcessReading`], for the exporter, which reads no files.
//! **Units**: nanoseconds of CPU time, as exact as the kernel's clock ticks; bytes. **Limits**: at most [`MAX_TASKS`] threads are
//! read and [`MAX_THREAD_NAMES`] names kept; the rest is told as one, `other`.
//!
//! The kernel forgets a thread's time when it ends, and the worker's when it is replaced; a counter must not. So what is
//! published is a sum of increments ([`CpuAccount`]), and what threads used up after they were last seen is told as
//! `exited`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use exporter::metrics::{CpuTime, MAX_THREAD_NAMES, ProcessReading, Processes, ThreadReading};
use procfs::process::{LimitValue, Process, Stat};
use rustc_hash::FxHashMap;

/// More threads than this are not read; their time shows as `exited`.
const MAX_TASKS: usize = 4096;

const OTHER: &str = "other";
const EXITED: &str = "exited";

/// One thread or process, as /proc shows it.
#[derive(Clone, Debug)]
struct Task {
    /// Its id and start time: ids are reused.
    key: (i32, u64),
    name: String,
    time: CpuTime,
}

impl Task {
    fn of(stat: &Stat) -> Self {
        Self { key: (stat.pid, stat.starttime), name: stat.comm.clone(), time: cpu_time(stat) }
    }
}

/// What is known of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    time: CpuTime,
    /// Alive at the last reading.
    threads: u64,
}

/// Adds increments up per name, so that nothing is lost or goes back when a task ends.
#[derive(Debug, Default)]
struct CpuAccount {
    sums: BTreeMap<String, Sum>,
    seen: FxHashMap<(i32, u64), CpuTime>,
}

impl CpuAccount {
    /// Takes one reading of all tasks alive.
    fn update(&mut self, tasks: &[Task]) {
        self.sums.values_mut().for_each(|sum| sum.threads = 0);
        let mut seen = FxHashMap::default();
        for task in tasks.iter().take(MAX_TASKS) {
            let before = self.seen.get(&task.key).copied().unwrap_or_default();
            let name = stem(&task.name);
            let known = self.sums.contains_key(name) || self.sums.len() < MAX_THREAD_NAMES;
            let sum = self.sums.entry(if known { name } else { OTHER }.to_owned()).or_default();
            sum.time = plus(sum.time, since(task.time, before));
            sum.threads += 1;
            seen.insert(task.key, at_least(task.time, before));
        }
        self.seen = seen;
    }

    /// Gives what is missing to `total` to the name `exited`.
    fn settle(&mut self, total: CpuTime) {
        let told = self.sums.iter().filter(|(n, _)| *n != EXITED);
        let told = told.fold(CpuTime::default(), |all, (_, sum)| plus(all, sum.time));
        let exited = self.sums.entry(EXITED.to_owned()).or_default();
        exited.time = at_least(exited.time, since(total, told));
    }

    fn told(&self) -> Vec<ThreadReading> {
        let told =
            |(name, sum): (&String, &Sum)| ThreadReading { name: name.clone(), threads: sum.threads, cpu: sum.time };
        self.sums.iter().map(told).collect()
    }

    fn total(&self) -> CpuTime {
        self.sums.values().fold(CpuTime::default(), |all, sum| plus(all, sum.time))
    }
}

fn cpu_time(stat: &Stat) -> CpuTime {
    let tick_ns = 1_000_000_000 / procfs::ticks_per_second().max(1);
    CpuTime { user_ns: stat.utime.saturating_mul(tick_ns), system_ns: stat.stime.saturating_mul(tick_ns) }
}

fn since(now: CpuTime, earlier: CpuTime) -> CpuTime {
    CpuTime {
        user_ns: now.user_ns.saturating_sub(earlier.user_ns),
        system_ns: now.system_ns.saturating_sub(earlier.system_ns),
    }
}

fn plus(time: CpuTime, more: CpuTime) -> CpuTime {
    CpuTime {
        user_ns: time.user_ns.saturating_add(more.user_ns),
        system_ns: time.system_ns.saturating_add(more.system_ns),
    }
}

fn at_least(time: CpuTime, other: CpuTime) -> CpuTime {
    CpuTime { user_ns: time.user_ns.max(other.user_ns), system_ns: time.system_ns.max(other.system_ns) }
}

/// A thread's name without the number behind it: `reader-3` and `reader-12` are both `reader`.
fn stem(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', '#', '.', ' ']);
    if stem.is_empty() { name } else { stem }
}

/// Reads both processes and keeps the accounts.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    agent: CpuAccount,
    worker: CpuAccount,
}

impl Processes for Costs {
    fn read(&self, worker_pid: u32) -> ProcessReading {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = ProcessReading { start_time_unix_s: start_time_unix_s(), ..ProcessReading::default() };
        if let Ok(agent) = Process::myself() {
            accounts.read_agent(&agent, &mut out);
        }
        let worker = i32::try_from(worker_pid).ok().filter(|&pid| pid > 0);
        if let Some(worker) = worker.and_then(|pid| Process::new(pid).ok()) {
            accounts.read_worker(&worker, &mut out);
        }
        out.worker = accounts.worker.total();
        out.threads = accounts.agent.told();
        out
    }
}

impl Accounts {
    fn read_agent(&mut self, agent: &Process, out: &mut ProcessReading) {
        if let Ok(tasks) = agent.tasks() {
            let tasks: Vec<Task> =
                tasks.take(MAX_TASKS).filter_map(|t| t.ok()?.stat().ok()).map(|stat| Task::of(&stat)).collect();
            self.agent.update(&tasks);
        }
        // After the threads: the whole is never less than its parts.
        if let Ok(stat) = agent.stat() {
            out.agent = cpu_time(&stat);
            out.agent_rss_bytes = stat.rss.saturating_mul(procfs::page_size());
            out.virtual_bytes = stat.vsize;
            self.agent.settle(out.agent);
        }
        out.agent_open_fds = agent.fd_count().map_or(0, |n| n as u64);
        out.max_fds = match agent.limits().map(|l| l.max_open_files.soft_limit) {
            Ok(LimitValue::Value(n)) => n,
            Ok(LimitValue::Unlimited) => u64::MAX >> 11,
            Err(_) => 0,
        };
    }

    fn read_worker(&mut self, worker: &Process, out: &mut ProcessReading) {
        let Ok(stat) = worker.stat() else { return };
        self.worker.update(&[Task::of(&stat)]);
        out.worker_rss_bytes = stat.rss.saturating_mul(procfs::page_size());
        out.worker_threads = u64::try_from(stat.num_threads).unwrap_or(0);
        out.worker_open_fds = worker.fd_count().map_or(0, |n| n as u64);
    }
}

/// When the agent started, in seconds since the Unix epoch; 0 where /proc does not say.
fn start_time_unix_s() -> u64 {
    let ticks = Process::myself().and_then(|p| p.stat()).map(|s| s.starttime);
    match (procfs::boot_time_secs(), ticks) {
        (Ok(boot), Ok(ticks)) => boot.saturating_add(ticks / procfs::ticks_per_second().max(1)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(user_ns: u64, system_ns: u64) -> CpuTime {
        CpuTime { user_ns, system_ns }
    }

    fn run(id: i32, name: &str, user: u64) -> Task {
        Task { key: (id, 7), name: name.to_owned(), time: time(user, 1) }
    }

    fn told(account: &CpuAccount) -> Vec<(String, u64, CpuTime)> {
        account.told().into_iter().map(|t| (t.name, t.threads, t.cpu)).collect()
    }

    fn row(name: &str, threads: u64, user: u64, system: u64) -> (String, u64, CpuTime) {
        (name.to_owned(), threads, time(user, system))
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
        assert_eq!(told(&account), [row("drain", 2, 30, 2), row("exited", 0, 0, 0), row("web", 1, 5, 1)]);
        // Thread 2 ended after 4 more ticks; its id now belongs to another thread.
        account.update(&[run(1, "drain-0", 11), Task { key: (2, 99), name: "web".to_owned(), time: time(1, 0) }]);
        account.settle(time(41, 3));
        assert_eq!(told(&account), [row("drain", 1, 31, 2), row("exited", 0, 4, 0), row("web", 1, 6, 1)]);
        assert_eq!(account.total(), time(41, 3));
    }

    #[test]
    fn names_are_bounded() {
        let mut account = CpuAccount::default();
        let tasks: Vec<Task> = (0..500).map(|i| run(i, &format!("{}x", "n".repeat(i as usize % 200 + 1)), 1)).collect();
        account.update(&tasks);
        assert!(account.told().len() <= MAX_THREAD_NAMES + 1);
        assert_eq!(account.total(), time(500, 500));
        assert_eq!(account.told().iter().map(|t| t.threads).sum::<u64>(), 500);
    }

    #[test]
    fn this_very_process_is_read() {
        let costs = Costs::default();
        let reading = costs.read(std::process::id());
        assert!(reading.agent_rss_bytes > 1 << 20);
        assert!(reading.worker_rss_bytes > 0 && reading.worker_threads >= 1 && reading.worker_open_fds >= 3);
        assert!(reading.agent_open_fds >= 3 && reading.max_fds >= reading.agent_open_fds);
        assert!(reading.threads.iter().map(|t| t.threads).sum::<u64>() >= 1);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 3600..=now + 1).contains(&reading.start_time_unix_s));
        // A worker that is gone is no error, and its account stays.
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let later = costs.read(gone.id());
        assert_eq!((later.worker_rss_bytes, later.worker_threads, later.worker), (0, 0, reading.worker));
    }

    #[test]
    fn a_thread_shows_by_its_name_and_its_time() {
        let costs = Costs::default();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("spinner-7".to_owned()).spawn(move || {
            let began = std::time::Instant::now();
            while began.elapsed() < std::time::Duration::from_millis(200) {
                std::hint::spin_loop();
            }
            ready.send(()).unwrap();
            let _ = stopped.recv();
        });
        is_ready.recv().unwrap();
        let spinner = |reading: &ProcessReading| reading.threads.iter().find(|t| t.name == "spinner").cloned();
        let alive = spinner(&costs.read(0)).unwrap();
        assert!(alive.threads == 1 && alive.cpu.user_ns >= 10_000_000, "{alive:?}");
        drop(stop);
        thread.unwrap().join().unwrap();
        let ended = spinner(&costs.read(0)).unwrap();
        assert!(ended.threads == 0 && ended.cpu.user_ns >= alive.cpu.user_ns, "{ended:?}");
    }
}
