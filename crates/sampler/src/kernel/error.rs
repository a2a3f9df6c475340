//! What can go wrong with the kernel side, said so that the reader knows what to do.

use std::{error::Error, fs, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use super::{MAX_RATE_HZ, MAX_RING_BYTES, MIN_RING_BYTES, btf::BtfError};

/// Why the kernel side does not work.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A rate outside the limits, in ticks a second.
    #[error("a rate of {0} Hz: possible are 1 to {MAX_RATE_HZ}")]
    Rate(u32),
    /// A ring buffer outside the limits, in bytes.
    #[error("a ring buffer of {0} bytes: possible are {MIN_RING_BYTES} to {MAX_RING_BYTES}, a power of two")]
    RingBytes(u32),
    /// The kernel's type information does not tell what is needed.
    #[error("{0}; a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed (5.10 or newer)")]
    Btf(#[from] BtfError),
    /// The kernel refuses eBPF to this process.
    #[error("loading eBPF programs is not permitted: {reason}")]
    LoadDenied {
        /// What is missing.
        reason: String,
        /// The kernel's answer.
        source: Box<EbpfError>,
    },
    /// The object, its maps or its programs did not load. The source's text carries the verifier's log.
    #[error("the kernel did not take the eBPF program: {}", chain(.0.as_ref()))]
    Load(#[source] Box<EbpfError>),
    /// A map could not be read or written.
    #[error("eBPF map {name}: {}", chain(.source))]
    Map {
        /// The map.
        name: &'static str,
        /// The kernel's answer.
        source: MapError,
    },
    /// The embedded object has no program or map of this name.
    #[error("the embedded eBPF object has no `{0}`: it was built from other sources")]
    Missing(&'static str),
    /// The kernel refuses perf events to this process.
    #[error("opening a perf event is not permitted: {reason}")]
    EventDenied {
        /// What is missing.
        reason: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The administrator's limit is lower than the rate.
    #[error(
        "a rate of {rate_hz} Hz is above kernel.perf_event_max_sample_rate ({limit}): lower the rate or raise the limit"
    )]
    RateRefused {
        /// As asked.
        rate_hz: u32,
        /// As the kernel has it.
        limit: u32,
    },
    /// A perf event could not be opened or started.
    #[error("perf event on CPU {cpu}: {source}")]
    Event {
        /// The CPU.
        cpu: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The list of CPUs cannot be read.
    #[error("list of CPUs: {0}")]
    Cpus(#[source] io::Error),
    /// No CPU of the list could be attached.
    #[error("no CPU is online")]
    NoCpu,
    /// The filter is full.
    #[error("the filter holds at most {} processes", sampler_abi::MAX_FILTERED_TGIDS)]
    FilterFull,
    /// More verdicts than the kernel side can hold.
    #[error("{0} verdicts: possible are at most {max}", max = sampler_abi::MAX_VERDICTS)]
    MaxVerdicts(u32),
    /// More processes of the profiler's own than the kernel side can leave out.
    #[error("{0} processes of the profiler's own: possible are at most {max}", max = sampler_abi::MAX_OWN_TGIDS)]
    TooManyOwn(usize),
    /// More shards than the kernel side can hold, or none at all where it walks no tables.
    #[error("{0} shards for tables: possible are at most {max}", max = unwind_table::SHARDS)]
    MaxShards(u32),
    /// As many shards as were asked for.
    #[error("all {0} shards for tables are there already")]
    ShardsFull(u32),
    /// A shard could not be mapped into this process's memory to be written.
    #[error("a shard of unwind tables cannot be written: {0}")]
    Shard(#[source] io::Error),
    /// The kernel side cannot forget a process's tables when it executes another program: it walks none then.
    #[error("the kernel does not tell the program of executions: {}", chain(.0))]
    Executions(#[source] ProgramError),
    /// The kernel side cannot list children at fork: user space has to.
    #[error("children cannot be followed in the kernel: {}", chain(.0))]
    Children(#[source] ProgramError),
}

impl KernelError {
    /// Tells a refusal from a failure.
    pub(super) fn from_load(error: impl Into<EbpfError>) -> Self {
        let source = Box::new(error.into());
        match os_error(source.as_ref()) {
            // Kernels before 5.11 say EPERM too where locked memory runs out.
            Some(libc::EPERM | libc::EACCES) if !has_verifier_log(&source) => {
                Self::LoadDenied { reason: refusal(Refused::Bpf), source }
            }
            _ => Self::Load(source),
        }
    }

    /// Explains why an event could not be opened.
    pub(super) fn from_event(cpu: u32, rate_hz: u32, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::EventDenied { reason: refusal(Refused::PerfEvent), source },
            Some(libc::EINVAL) => match max_sample_rate() {
                Some(limit) if limit < rate_hz => Self::RateRefused { rate_hz, limit },
                _ => Self::Event { cpu, source },
            },
            _ => Self::Event { cpu, source },
        }
    }
}

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Bpf,
    PerfEvent,
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The most likely reason for a refusal, and what would mend it.
pub(super) fn refusal(what: Refused) -> String {
    let effective = effective_capabilities().unwrap_or(0);
    let has = |capability: u32| effective & (1 << capability) != 0 || effective & (1 << CAP_SYS_ADMIN) != 0;
    if what == Refused::Bpf && !has(CAP_BPF) {
        return "CAP_BPF is missing (run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE)".to_owned();
    }
    if !has(CAP_PERFMON) {
        let paranoid = read_number("/proc/sys/kernel/perf_event_paranoid");
        return format!(
            "CAP_PERFMON is missing (run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE; kernel.perf_event_paranoid is {})",
            paranoid.map_or_else(|| "unknown".to_owned(), |level| level.to_string())
        );
    }
    match lockdown() {
        Some(mode) if mode != "none" => {
            format!("the kernel is locked down ({mode}), which forbids reading memory by eBPF")
        }
        _ if what == Refused::Bpf => {
            "a security module or a seccomp filter forbids bpf(2), or RLIMIT_MEMLOCK is too low on a \
             kernel before 5.11 (in a container: privileged, or an own seccomp profile)"
                .to_owned()
        }
        _ => "a security module or a seccomp filter forbids perf_event_open(2) (in a container: privileged, or an own \
             seccomp profile)"
            .to_owned(),
    }
}

/// `CapEff` of this thread.
pub(super) fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether this process has a capability, or all of them.
pub(super) fn has_bpf_and_perfmon(effective: u64) -> bool {
    let has = |capability: u32| effective & (1 << capability) != 0;
    has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON)
}

/// The lockdown mode in force; none where the kernel has no lockdown.
pub(super) fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

/// `kernel.perf_event_max_sample_rate`.
pub(super) fn max_sample_rate() -> Option<u32> {
    read_number("/proc/sys/kernel/perf_event_max_sample_rate").and_then(|rate| u32::try_from(rate).ok())
}

/// A sysctl that is a number.
pub(super) fn read_number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The error number at the end of a chain of errors.
fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        // Some of these hold the io::Error without saying that it is their source.
        match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::LoadError { io_error, .. }) => return io_error.raw_os_error(),
            Some(ProgramError::SyscallError(syscall)) => return syscall.io_error.raw_os_error(),
            _ => {}
        }
        match error.downcast_ref::<MapError>() {
            Some(MapError::CreateError { io_error, .. }) => return io_error.raw_os_error(),
            Some(MapError::SyscallError(syscall)) => return syscall.io_error.raw_os_error(),
            _ => {}
        }
        next = error.source();
    }
    None
}

/// The kernel's error number, where there is one.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        _ => None,
    }
}

fn has_verifier_log(error: &EbpfError) -> bool {
    matches!(error, EbpfError::ProgramError(ProgramError::LoadError { verifier_log, .. }) if !verifier_log.to_string().is_empty())
}

/// An error's text with those of its sources.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_cannot_be_opened() {
        let of = |code| KernelError::from_event(3, 19, io::Error::from_raw_os_error(code));
        assert!(matches!(of(libc::EACCES), KernelError::EventDenied { .. }));
        assert!(matches!(of(libc::EPERM), KernelError::EventDenied { .. }));
        assert!(matches!(of(libc::ENODEV), KernelError::Event { cpu: 3, .. }));
        assert!(matches!(of(libc::EINVAL), KernelError::Event { .. }), "19 Hz is below every limit");
        let refused = KernelError::from_event(0, u32::MAX, io::Error::from_raw_os_error(libc::EINVAL));
        assert!(matches!(refused, KernelError::RateRefused { rate_hz: u32::MAX, .. }), "{refused}");
    }

    #[test]
    fn numbers_at_the_end_of_a_chain() {
        let error = EbpfError::MapError(MapError::CreateError {
            name: "RING".to_owned(),
            io_error: io::Error::from_raw_os_error(libc::EPERM),
        });
        assert_eq!(os_error(&error), Some(libc::EPERM));
        assert!(matches!(KernelError::from_load(error), KernelError::LoadDenied { .. }));
        let error = EbpfError::MapError(MapError::CreateError {
            name: "RING".to_owned(),
            io_error: io::Error::from_raw_os_error(libc::ENOMEM),
        });
        let text = KernelError::from_load(error).to_string();
        assert!(text.contains("RING") && text.contains("memory"), "{text}");
    }
}
