//! What the kernel says of a profiler's eBPF programs and maps, ours or another's: how long they ran, what they hold.
//!
//! **In**: a list of what was there before the profiler started ([`Before`]); what came later counts as the profiler's, so nobody
//! else may load programs meanwhile. **Out**: [`Runs`], bytes, keys. **Units**: nanoseconds, bytes. **Limits**: needs root.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, loaded_maps};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use aya_obj::generated::bpf_prog_type;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Has the kernel measure the programs' run time, until the descriptor is closed.
///
/// # Errors
/// Without the right to.
pub fn measure_runs() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("the kernel's statistics of eBPF programs cannot be switched on")
}

/// The programs and maps that were there at one moment.
pub struct Before {
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

/// How often programs ran, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Runs {
    /// Runs of programs that a timer starts: tail calls belong to the run that made them.
    pub count: f64,
    /// Nanoseconds of these.
    pub ns: f64,
    /// Nanoseconds of all other programs.
    pub other_ns: f64,
}

impl Runs {
    /// What was added since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self { count: self.count - before.count, ns: self.ns - before.ns, other_ns: self.other_ns - before.other_ns }
    }
}

impl Before {
    /// What is there now.
    ///
    /// # Errors
    /// Without the right to see it.
    pub fn now() -> Result<Self> {
        let programs = loaded_programs().map(|p| Ok(p?.id())).collect::<Result<_>>();
        let maps = loaded_maps().map(|m| Ok(m?.id())).collect::<Result<_>>();
        Ok(Self { programs: programs.context("eBPF programs")?, maps: maps.context("eBPF maps")? })
    }

    /// How often the programs that came since ran, and how long.
    #[must_use]
    pub fn runs(&self) -> Runs {
        let mut runs = Runs::default();
        // One that goes while it is looked at is not there.
        for program in loaded_programs().flatten().filter(|p| !self.programs.contains(&p.id())) {
            let ns = program.run_time().as_nanos() as f64;
            if program.program_type() == bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT {
                runs.count += program.run_count() as f64;
                runs.ns += ns;
            } else {
                runs.other_ns += ns;
            }
        }
        runs
    }

    /// Whether programs that a timer starts came since.
    #[must_use]
    pub fn timers_since(&self) -> bool {
        loaded_programs()
            .flatten()
            .any(|p| p.program_type() == bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT && !self.programs.contains(&p.id()))
    }

    /// Bytes of kernel memory of the maps that came since, and their number.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn map_bytes(&self) -> Result<(f64, u64)> {
        let (mut bytes, mut count) = (0.0, 0);
        for map in loaded_maps().flatten().filter(|m| !self.maps.contains(&m.id())) {
            let Ok(fd) = map.fd() else { continue };
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
            let locked =
                info.lines().find_map(|l| l.strip_prefix("memlock:")).context("fdinfo of a map: no memlock")?;
            bytes += locked.trim().parse::<f64>()?;
            count += 1;
        }
        Ok((bytes, count))
    }

    /// The keys of the hash map of this name among those that came since; none where there is no such map.
    ///
    /// # Errors
    /// When it is not a map from a `u32` to [`PROCESS_WORDS`] words.
    pub fn published(&self) -> Result<Option<Vec<(u32, u64)>>> {
        let mut mine = loaded_maps().flatten().filter(|m| !self.maps.contains(&m.id()));
        let Some(info) = mine.find(|m| m.name_as_str() == Some(PROCESSES)) else { return Ok(None) };
        let size = size_of::<[u64; PROCESS_WORDS]>();
        ensure!(info.value_size() as usize == size, "{PROCESSES} holds {} bytes, not {size}", info.value_size());
        let map = Map::HashMap(MapData::from_id(info.id())?);
        let map: HashMap<_, u32, [u64; PROCESS_WORDS]> = map.try_into()?;
        // An entry may go while the map is read.
        Ok(Some(map.iter().flatten().map(|(tgid, [start, ..])| (tgid, start)).collect()))
    }
}

/// The map of processes that the program may walk, by process id.
const PROCESSES: &str = "PROCESSES";
/// Its values: the leader's start time first.
const PROCESS_WORDS: usize = 3;

/// Sets another rate on the timers of a running profiler, beyond what it takes itself; returns how many timers.
///
/// # Errors
/// When it has none, or the kernel refuses.
pub fn hasten(pid: u32, hz: u32) -> Result<u32> {
    let process = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
    let process = pidfd_open(process, PidfdFlags::empty()).context("pidfd_open")?;
    let mut timers = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        if !fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:[perf_event]") {
            continue;
        }
        let number: i32 = entry.file_name().to_string_lossy().parse()?;
        let Ok(event) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let period_ns = 1_000_000_000 / u64::from(hz);
        // SAFETY: the descriptor is open, and the call reads one u64, which outlives it. Where the descriptor is no perf event it
        // fails.
        let done = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_PERIOD, &raw const period_ns) };
        match nix::errno::Errno::result(done) {
            Ok(_) => timers += 1,
            // An event that only carries records has no period.
            Err(nix::errno::Errno::EINVAL) => {}
            Err(error) => bail!("the rate of a timer cannot be changed: {error}"),
        }
    }
    ensure!(timers > 0, "process {pid} has no timers");
    Ok(timers)
}

/// `_IOW('$', 4, u64)`.
const PERF_EVENT_IOC_PERIOD: libc::c_ulong = 0x4008_2404;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added() {
        let early = Runs { count: 2.0, ns: 10.0, other_ns: 1.0 };
        let late = Runs { count: 5.0, ns: 40.0, other_ns: 1.5 };
        assert_eq!(late.since(&early), Runs { count: 3.0, ns: 30.0, other_ns: 0.5 });
    }
}
