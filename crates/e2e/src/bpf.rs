//! What the kernel says of a profiler's eBPF programs and maps, ours or another's: how long they ran, what they hold.
//!
//! **In**: whose they are ([`Whose`]). **Out**: [`Runs`], bytes, keys. **Units**: nanoseconds, bytes. **Limits**: needs root.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, MapInfo, loaded_maps};
use aya::programs::{ProgramInfo, loaded_programs};
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

/// Numbers of programs and of maps.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

impl Ids {
    /// All that are loaded now.
    fn all() -> Result<Self> {
        let programs = loaded_programs().map(|p| Ok(p?.id())).collect::<Result<_>>();
        let maps = loaded_maps().map(|m| Ok(m?.id())).collect::<Result<_>>();
        Ok(Self { programs: programs.context("eBPF programs")?, maps: maps.context("eBPF maps")? })
    }

    /// Those that a process has descriptors of.
    fn held_by(pid: u32) -> Result<Self> {
        let mut ids = Self::default();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed while they are looked at.
            let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
            let number = |key: &str| info.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u32>().ok());
            ids.programs.extend(number("prog_id:"));
            ids.maps.extend(number("map_id:"));
        }
        Ok(ids)
    }
}

/// Whose programs and maps are looked at.
#[derive(Clone, Debug)]
pub enum Whose {
    /// A process's, which keeps descriptors of all that is its own. Ours does.
    Process(u32),
    /// Everything that came after these: for a profiler that keeps no descriptors of maps in maps. Nobody else may load any meanwhile.
    After(Ids),
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

impl Whose {
    /// What will be loaded from now on.
    ///
    /// # Errors
    /// Without the right to see what is loaded.
    pub fn from_now() -> Result<Self> {
        Ok(Self::After(Ids::all()?))
    }

    fn programs(&self) -> Result<Vec<ProgramInfo>> {
        // One that goes while it is looked at is not there.
        let all = loaded_programs().flatten();
        Ok(match self {
            Self::Process(pid) => {
                let held = Ids::held_by(*pid)?;
                all.filter(|p| held.programs.contains(&p.id())).collect()
            }
            Self::After(before) => all.filter(|p| !before.programs.contains(&p.id())).collect(),
        })
    }

    fn maps(&self) -> Result<Vec<MapInfo>> {
        let all = loaded_maps().flatten();
        Ok(match self {
            Self::Process(pid) => {
                let held = Ids::held_by(*pid)?;
                all.filter(|m| held.maps.contains(&m.id())).collect()
            }
            Self::After(before) => all.filter(|m| !before.maps.contains(&m.id())).collect(),
        })
    }

    /// How often the programs ran, and how long.
    ///
    /// # Errors
    /// When the process is not there.
    pub fn runs(&self) -> Result<Runs> {
        let mut runs = Runs::default();
        for program in self.programs()? {
            let ns = program.run_time().as_nanos() as f64;
            if program.program_type() == bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT {
                runs.count += program.run_count() as f64;
                runs.ns += ns;
            } else {
                runs.other_ns += ns;
            }
        }
        Ok(runs)
    }

    /// Whether there are programs that a timer starts.
    ///
    /// # Errors
    /// When the process is not there.
    pub fn have_timers(&self) -> Result<bool> {
        Ok(self.programs()?.iter().any(|p| p.program_type() == bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT))
    }

    /// Bytes of kernel memory of the maps, and their number.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn map_bytes(&self) -> Result<(f64, u64)> {
        let (mut bytes, mut count) = (0.0, 0);
        for map in self.maps()? {
            let Ok(fd) = map.fd() else { continue };
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
            let locked =
                info.lines().find_map(|l| l.strip_prefix("memlock:")).context("fdinfo of a map: no memlock")?;
            bytes += locked.trim().parse::<f64>()?;
            count += 1;
        }
        Ok((bytes, count))
    }

    /// The processes that the kernel side may walk, with their leaders' start times; none where there is no map of them.
    ///
    /// # Errors
    /// When the map is not of the shape that is known.
    pub fn published(&self) -> Result<Option<Vec<(u32, u64)>>> {
        let maps = self.maps()?;
        let Some(info) = maps.iter().find(|m| m.name_as_str() == Some(PROCESSES)) else { return Ok(None) };
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
