//! What the tests need around a kernel side: privileges, busy processes, what /proc says of them.

use std::{
    fs,
    ops::Range,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sampler::kernel::{KernelConfig, KernelSide, RawSample};
use sampler_abi::{CONTROL_ONLY_LISTED, Control};

const LOOK: Duration = Duration::from_millis(50);

/// These tests count ticks: one at a time. None where the kernel would refuse.
pub(crate) fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    // SAFETY: a system call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: eBPF programs need root");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn config(rate_hz: u32, flags: u32, tgids: &[u32]) -> KernelConfig {
    KernelConfig {
        rate_hz,
        control: Control {
            flags,
            snapshot_bytes: sampler_abi::DEFAULT_SNAPSHOT_BYTES,
            wakeup_bytes: 1 << 18,
            max_user_frames: sampler_abi::DEFAULT_USER_FRAMES,
            check_every: 0,
        },
        tgids: tgids.to_vec(),
        own_tgids: vec![std::process::id()],
        max_verdicts: 16,
        max_shards: 0,
        ring_bytes: 1 << 23,
    }
}

pub(crate) fn attached(config: &KernelConfig) -> KernelSide {
    let mut side = KernelSide::load(config).unwrap_or_else(|error| panic!("{error}"));
    side.attach().unwrap_or_else(|error| panic!("{error}"));
    side
}

/// Drains until `enough` says so, at most a minute.
pub(crate) fn drain_until(
    side: &mut KernelSide,
    mut each: impl FnMut(RawSample<'_>),
    mut enough: impl FnMut() -> bool,
) {
    let end = Instant::now() + Duration::from_secs(60);
    while !enough() {
        assert!(Instant::now() < end, "not enough samples in a minute: {:?}", side.counters().read());
        thread::sleep(LOOK);
        side.drain(&mut each);
    }
}

/// Samples of one process, at least `count`; checks that no other process's were among them.
pub(crate) struct Taken {
    pub(crate) head: sampler_abi::SampleHead,
    pub(crate) kernel: Vec<u64>,
    pub(crate) stack: Vec<u8>,
}

pub(crate) fn samples_of(tgid: u32, rate_hz: u32, count: usize) -> Vec<Taken> {
    let mut side = attached(&config(rate_hz, CONTROL_ONLY_LISTED, &[tgid]));
    let taken = std::cell::RefCell::new(Vec::new());
    drain_until(
        &mut side,
        |sample| {
            assert_eq!(sample.head.tgid, tgid);
            taken.borrow_mut().push(Taken {
                head: sample.head,
                kernel: sample.kernel_frames().collect(),
                stack: sample.stack.to_vec(),
            });
        },
        || taken.borrow().len() >= count,
    );
    taken.into_inner()
}

/// A process that ends with the test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        Self::start_with(program, arguments, &[])
    }

    pub(crate) fn start_with(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let process = Self(child);
        // Past exec and the dynamic linker.
        thread::sleep(Duration::from_millis(100));
        process
    }

    /// Burns the CPU in user mode.
    pub(crate) fn burning() -> Self {
        Self::start("sh", &["-c", "while :; do :; done"])
    }

    /// Spends its time in system calls.
    pub(crate) fn copying() -> Self {
        Self::start("dd", &["if=/dev/zero", "of=/dev/null", "bs=256k"])
    }

    pub(crate) fn tgid(&self) -> u32 {
        self.0.id()
    }

    /// Closes its standard input.
    pub(crate) fn close_input(&mut self) {
        drop(self.0.stdin.take());
    }

    /// Waits for it, if it has ended.
    pub(crate) fn reap(&mut self) {
        let _ = self.0.try_wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of /proc/PID/maps.
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    pub(crate) executable: bool,
    /// In the file.
    pub(crate) offset: u64,
    pub(crate) name: String,
}

pub(crate) fn mappings(tgid: u32) -> Vec<Mapping> {
    let text = fs::read_to_string(format!("/proc/{tgid}/maps")).unwrap();
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let executable = words.next().unwrap().contains('x');
            let offset = hex(words.next().unwrap());
            Mapping {
                range: hex(start)..hex(end),
                executable,
                offset,
                name: words.nth(2).unwrap_or_default().to_owned(),
            }
        })
        .collect()
}

/// A thread of this process that spins over a large, touched part of its stack.
pub(crate) struct Spinning {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pub(crate) tid: u32,
}

impl Spinning {
    pub(crate) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (say, hear) = std::sync::mpsc::channel();
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let stack = std::hint::black_box([0x5au8; 160 * 1024]);
                // SAFETY: a system call without arguments.
                say.send(unsafe { libc::gettid() }).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box(&stack);
                }
            }
        });
        let tid = u32::try_from(hear.recv().unwrap()).unwrap();
        Self { stop, thread: Some(thread), tid }
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One burning process for each CPU. (Some virtual machines do not wake an idle CPU for its timer.)
pub(crate) fn every_cpu_busy() -> Vec<Process> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    (0..cpus)
        .map(|cpu| Process::start("taskset", &["-c", &cpu.to_string(), "sh", "-c", "while :; do :; done"]))
        .collect()
}

/// Takes every capability from this thread.
pub(crate) fn drop_capabilities() {
    // `_LINUX_CAPABILITY_VERSION_3`, this thread; then three sets in two halves.
    let (header, sets) = ([0x2008_0522u32, 0], [0u32; 6]);
    // SAFETY: the kernel reads the header and the sets of that version's size.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0);
}
