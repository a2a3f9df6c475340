//! What of the kernel side would work here, for `profiler check`.
//!
//! **In**: /proc, /sys, and tries: loading the program, opening an event. **Out**: [`KernelReport`]. Nothing stays loaded.

use std::{fmt, fs, os::unix::fs::MetadataExt as _};

use aya::{maps::MapType, sys::is_map_supported, util::KernelVersion};

use super::{
    btf::Btf,
    cpus,
    error::{self, KernelError},
    load::{self, Sizes},
    sys,
};

/// The inode of the initial pid namespace: the same in every kernel (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// What the trial loading asks for.
const TRIAL: Sizes = Sizes { ring_bytes: 64 * 1024, max_verdicts: 0, max_shards: 1 };
/// The rate that the trial event asks for.
const TRIAL_RATE_HZ: u32 = 19;

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Works.
    Good,
    /// Works with less.
    Limited,
    /// Sampling does not work because of this.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a few words.
    pub what: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What would mend it; none where nothing needs mending.
    pub remedy: Option<String>,
}

/// All that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelReport {
    /// In the order of looking.
    pub findings: Vec<Finding>,
}

impl KernelReport {
    /// Whether sampling would work.
    #[must_use]
    pub fn works(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Bad)
    }

    fn good(&mut self, what: &'static str, seen: impl fmt::Display) {
        self.add(what, Verdict::Good, seen.to_string(), None);
    }

    fn limited(&mut self, what: &'static str, seen: impl fmt::Display, remedy: &str) {
        self.add(what, Verdict::Limited, seen.to_string(), Some(remedy.to_owned()));
    }

    fn bad(&mut self, what: &'static str, seen: impl fmt::Display, remedy: &str) {
        self.add(what, Verdict::Bad, seen.to_string(), Some(remedy.to_owned()));
    }

    fn add(&mut self, what: &'static str, verdict: Verdict, seen: String, remedy: Option<String>) {
        self.findings.push(Finding { what, verdict, seen, remedy });
    }
}

impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok",
                Verdict::Limited => "limited",
                Verdict::Bad => "FAILS",
            };
            writeln!(f, "{mark:<8} {:<24} {}", finding.what, finding.seen)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "{:<8} {:<24} -> {remedy}", "", "")?;
            }
        }
        Ok(())
    }
}

/// Looks at everything that the kernel side needs.
#[must_use]
pub fn probe() -> KernelReport {
    let mut report = KernelReport::default();
    kernel_version(&mut report);
    capabilities(&mut report);
    pid_namespace(&mut report);
    match Btf::of_kernel() {
        Ok(_) => report.good("BTF", "/sys/kernel/btf/vmlinux"),
        Err(error) => report.bad("BTF", error, "run a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
    }
    sys::release_memory();
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => report.good("BPF ring buffer", "supported"),
        Ok(false) => report.bad("BPF ring buffer", "not supported", "run kernel 5.10 or newer"),
        Err(_) => report.bad("BPF ring buffer", "not permitted", &error::refusal(error::Refused::Bpf)),
    }
    match load::load(TRIAL) {
        Ok(loaded) => {
            report.good("eBPF program", "the kernel's verifier takes it");
            match &loaded.without_tables {
                None => report.good("unwind tables", "the kernel takes what they need"),
                Some(error) => {
                    report.limited("unwind tables", error, "none: stacks are unwound from snapshots, at a higher cost")
                }
            }
            match loaded.cgroup_ids.v1_controller() {
                None => report.good("cgroup ids", "of version 2"),
                Some(name) => report.good("cgroup ids", format!("of version 2 and of version 1's {name}")),
            }
        }
        Err(KernelError::LoadDenied { reason, .. }) => report.bad("eBPF program", "not permitted", &reason),
        Err(KernelError::Btf(_)) => report.bad("eBPF program", "not tried without BTF", "see BTF"),
        Err(error) => report.bad("eBPF program", error, "report this text: the program should load here"),
    }
    match load::has_task_pt_regs() {
        Ok(true) => report.good("saved user registers", "by the helper bpf_task_pt_regs"),
        Ok(false) => report.good("saved user registers", "computed from the task's stack (kernel before 5.15)"),
        Err(_) => report.limited("saved user registers", "not tried", "see eBPF program"),
    }
    events(&mut report);
    report
}

fn kernel_version(report: &mut KernelReport) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = text.trim();
    match KernelVersion::current() {
        Ok(version) if version >= KernelVersion::new(5, 10, 0) => report.good("kernel", text),
        Ok(_) => report.bad("kernel", text, "run kernel 5.10 or newer"),
        Err(error) => report.limited("kernel", error, "the version is unknown; 5.10 or newer is needed"),
    }
}

fn capabilities(report: &mut KernelReport) {
    match error::effective_capabilities() {
        Some(effective) if error::has_bpf_and_perfmon(effective) => report.good("capabilities", "CAP_BPF, CAP_PERFMON"),
        Some(effective) => report.bad(
            "capabilities",
            format!("CapEff {effective:016x}"),
            "run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE",
        ),
        None => report.limited("capabilities", "/proc/self/status cannot be read", "mount /proc"),
    }
    if let Some(mode) = error::lockdown().filter(|mode| mode != "none") {
        if mode == "confidentiality" {
            report.bad("lockdown", mode, "boot with lockdown=integrity or without it");
        } else {
            report.good("lockdown", mode);
        }
    }
}

fn pid_namespace(report: &mut KernelReport) {
    match fs::metadata("/proc/self/ns/pid") {
        Ok(namespace) if namespace.ino() == INITIAL_PID_NAMESPACE => report.good("pid namespace", "the host's"),
        Ok(namespace) => report.bad(
            "pid namespace",
            format!("pid:[{}], not the host's", namespace.ino()),
            "run in the host's pid namespace (hostPID: true, docker run --pid=host)",
        ),
        Err(error) => report.limited("pid namespace", format!("/proc/self/ns/pid: {error}"), "mount /proc"),
    }
}

fn events(report: &mut KernelReport) {
    let online = match cpus::online() {
        Ok(online) => online,
        Err(error) => return report.bad("CPUs online", error, "mount /sys"),
    };
    report.good("CPUs online", online.len());
    let failed = online.iter().find_map(|cpu| {
        let opened = sys::open_cpu_clock(*cpu, TRIAL_RATE_HZ);
        opened.err().map(|source| KernelError::from_event(*cpu, TRIAL_RATE_HZ, source))
    });
    match failed {
        None => report.good("perf events", "cpu-clock opens on every CPU"),
        Some(KernelError::EventDenied { reason, .. }) => report.bad("perf events", "not permitted", &reason),
        Some(error) => report.bad("perf events", error, "let this kernel have perf events (CONFIG_PERF_EVENTS=y)"),
    }
    match error::max_sample_rate() {
        Some(limit) if limit >= super::MAX_RATE_HZ => report.good("highest rate", format!("{} Hz", super::MAX_RATE_HZ)),
        Some(limit) => report.limited(
            "highest rate",
            format!("{limit} Hz"),
            "raise kernel.perf_event_max_sample_rate for higher rates",
        ),
        None => report.limited("highest rate", "unknown", "mount /proc"),
    }
}
