//! The loaded kernel side as one value.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use sampler_abi::{CONTROL_FOLLOW_CHILDREN, Control, MAX_VERDICTS};
use unwind_table::SHARDS;

use super::{
    MAX_RATE_HZ, MAX_RING_BYTES, MIN_RING_BYTES,
    cgroups::CgroupIds,
    counters::{CountersHandle, Shared},
    cpus,
    error::{KernelError, errno},
    events::{Events, HotplugReport},
    load::{self, Loaded, Sizes},
    record::RawSample,
    tables::TablesHandle,
    verdicts::{self, OwnTgidsHandle, VerdictsHandle},
};

/// What the kernel side is asked for.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Ticks a second on each CPU, 1 to [`MAX_RATE_HZ`].
    pub rate_hz: u32,
    /// What to take; may be changed later.
    pub control: Control,
    /// Processes that are listed from the start.
    pub tgids: Vec<u32>,
    /// The profiler's own processes, left out where the control says so; may be changed later.
    pub own_tgids: Vec<u32>,
    /// How many verdicts there may be, at most [`MAX_VERDICTS`]. That memory is taken at once: 0 where there will be none.
    pub max_verdicts: u32,
    /// How many shards of unwind tables there may be, each of [`unwind_table::SHARD_BYTES`]; 0: no tables. Memory is taken for those
    /// that are added ([`TablesHandle::add_shard`]), and 2 MB at once.
    pub max_shards: u32,
    /// The size of the ring buffer; a power of two from [`MIN_RING_BYTES`] to [`MAX_RING_BYTES`].
    pub ring_bytes: u32,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct ControlValue(Control);

// SAFETY: `repr(transparent)` over a `repr(C)` struct of integers without padding.
unsafe impl aya::Pod for ControlValue {}

/// The loaded program and everything attached. Dropping it stops everything.
pub struct KernelSide {
    ebpf: Ebpf,
    control: Array<MapData, ControlValue>,
    tgids: HashMap<MapData, u32, u32>,
    ring: RingBuf<MapData>,
    ring_bytes: u32,
    shared: Arc<Shared>,
    verdicts: VerdictsHandle,
    own_tgids: OwnTgidsHandle,
    cgroup_ids: CgroupIds,
    /// The name of the timer's program.
    sample: &'static str,
    tables: Option<TablesHandle>,
    without_tables: Option<KernelError>,
    map_bytes: u64,
    follow_children: bool,
    /// What came of it, once it was tried.
    children: Option<Result<(), KernelError>>,
}

impl std::fmt::Debug for KernelSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelSide").field("ring_bytes", &self.ring_bytes).finish_non_exhaustive()
    }
}

impl KernelSide {
    /// Fits the program to this kernel and loads it. Nothing runs yet.
    ///
    /// # Errors
    /// [`KernelError`]: limits, privileges, BTF, or the verifier's refusal.
    pub fn load(config: &KernelConfig) -> Result<Self, KernelError> {
        if !(1..=MAX_RATE_HZ).contains(&config.rate_hz) {
            return Err(KernelError::Rate(config.rate_hz));
        }
        if !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&config.ring_bytes) || !config.ring_bytes.is_power_of_two() {
            return Err(KernelError::RingBytes(config.ring_bytes));
        }
        if config.max_verdicts > MAX_VERDICTS {
            return Err(KernelError::MaxVerdicts(config.max_verdicts));
        }
        if config.max_shards > SHARDS {
            return Err(KernelError::MaxShards(config.max_shards));
        }
        let KernelConfig { ring_bytes, max_verdicts, max_shards, .. } = *config;
        let Loaded { mut ebpf, cgroup_ids, sample, without_tables, map_bytes } =
            load::load(Sizes { ring_bytes, max_verdicts, max_shards })?;
        let tables = if max_shards > 0 && without_tables.is_none() {
            let (outer, processes) = (take(&mut ebpf, "SHARDS")?, take(&mut ebpf, "PROCESSES")?);
            Some(TablesHandle::new(outer, processes, max_shards, map_bytes))
        } else {
            None
        };
        let counters: PerCpuArray<_, _> = take(&mut ebpf, "COUNTERS")?;
        let possible = cpus::possible().map_err(KernelError::Cpus)?;
        let mut side = Self {
            control: take(&mut ebpf, "CONTROL")?,
            tgids: take(&mut ebpf, "TGIDS")?,
            ring: take(&mut ebpf, "RING")?,
            ring_bytes: config.ring_bytes,
            shared: Arc::new(Shared::new(counters, possible, Events::new(config.rate_hz), config.ring_bytes)),
            verdicts: VerdictsHandle::new(take(&mut ebpf, "VERDICTS")?, config.max_verdicts as usize),
            own_tgids: OwnTgidsHandle::new(take(&mut ebpf, "OWN_TGIDS")?),
            cgroup_ids,
            sample,
            tables,
            without_tables,
            map_bytes,
            follow_children: false,
            children: None,
            ebpf,
        };
        for tgid in &config.tgids {
            side.add_tgid(*tgid)?;
        }
        side.own_tgids.set(&config.own_tgids)?;
        side.set_control(config.control)?;
        Ok(side)
    }

    /// Starts a timer on every online CPU; where the control asks for it, follows children first.
    ///
    /// That children cannot be followed is not an error here: see [`KernelSide::children_error`].
    ///
    /// # Errors
    /// [`KernelError`] where a CPU cannot be attached. CPUs attached before stay so until the value is dropped.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        if self.follow_children && self.children.is_none() {
            self.children = Some(load::follow_children(&mut self.ebpf));
        }
        let program = program(&self.ebpf, self.sample)?;
        self.shared.events().attach_all(program)
    }

    /// Why the kernel side does not list children at fork although the control asks for it. User space then has to, by
    /// [`KernelSide::add_tgid`].
    #[must_use]
    pub fn children_error(&self) -> Option<&KernelError> {
        self.children.as_ref()?.as_ref().err()
    }

    /// Looks for CPUs that came or went. To be called once a second.
    pub fn hotplug(&mut self) -> HotplugReport {
        match program(&self.ebpf, self.sample) {
            Ok(program) => self.shared.events().hotplug(program),
            Err(_) => HotplugReport::default(),
        }
    }

    /// Hands out what waits in the ring buffer, at most one ring's size of it, and frees it. Returns how many samples it gave out.
    ///
    /// Call it again until it returns 0 to be sure that the ring was empty.
    pub fn drain(&mut self, mut each: impl FnMut(RawSample<'_>)) -> usize {
        let mut samples = 0;
        let mut budget = self.ring_bytes as usize;
        while budget > 0 {
            let Some(item) = self.ring.next() else { break };
            budget = budget.saturating_sub(item.len());
            match RawSample::parse(&item) {
                Ok(sample) => {
                    samples += 1;
                    each(sample);
                }
                Err(_) => self.shared.count_malformed(),
            }
        }
        samples
    }

    /// Readable when the program has woken the reader (`Control::wakeup_bytes` wait). Less than that waits silently: drain now and
    /// then as well.
    #[must_use]
    pub fn ring_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// A reader of the counters for any thread. It stays valid when the kernel side is gone.
    #[must_use]
    pub fn counters(&self) -> CountersHandle {
        CountersHandle::new(Arc::clone(&self.shared))
    }

    /// Sets verdicts, from any thread.
    #[must_use]
    pub fn verdicts(&self) -> VerdictsHandle {
        self.verdicts.clone()
    }

    /// Changes which processes are the profiler's own, from any thread.
    #[must_use]
    pub fn own_tgids(&self) -> OwnTgidsHandle {
        self.own_tgids.clone()
    }

    /// What fills the tables; once, and only where tables were asked for and the kernel takes what they need.
    #[must_use]
    pub fn take_tables(&mut self) -> Option<TablesHandle> {
        self.tables.take()
    }

    /// Why there are no tables although they were asked for: all samples have snapshots then.
    #[must_use]
    pub fn tables_error(&self) -> Option<&KernelError> {
        self.without_tables.as_ref()
    }

    /// What the kernel has allocated for the maps that are there from the start, in bytes, as it accounts for them. See
    /// [`TablesHandle::kernel_bytes`] for all.
    #[must_use]
    pub fn kernel_bytes(&self) -> u64 {
        self.map_bytes
    }

    /// What the cgroup ids of samples stand for.
    #[must_use]
    pub fn cgroup_ids(&self) -> CgroupIds {
        self.cgroup_ids
    }

    /// Changes what is taken, from the next tick on. [`CONTROL_FOLLOW_CHILDREN`] must be set before [`KernelSide::attach`] to have
    /// an effect.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn set_control(&mut self, control: Control) -> Result<(), KernelError> {
        self.follow_children = control.flags & CONTROL_FOLLOW_CHILDREN != 0;
        self.control.set(0, ControlValue(control), 0).map_err(|source| KernelError::Map { name: "CONTROL", source })
    }

    /// Changes how many walked samples carry a snapshot too ([`Control::check_every`]), from the next tick on.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn set_check_every(&mut self, check_every: u32) -> Result<(), KernelError> {
        let control = self.control.get(&0, 0).map_err(|source| KernelError::Map { name: "CONTROL", source })?.0;
        self.set_control(Control { check_every, ..control })
    }

    /// Lists a process.
    ///
    /// # Errors
    /// [`KernelError::FilterFull`], [`KernelError::Map`].
    pub fn add_tgid(&mut self, tgid: u32) -> Result<(), KernelError> {
        self.tgids.insert(tgid, 1, 0).map_err(|source| match errno(&source) {
            Some(libc::E2BIG) => KernelError::FilterFull,
            _ => KernelError::Map { name: "TGIDS", source },
        })
    }

    /// Takes a process off the list; it need not be there.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn remove_tgid(&mut self, tgid: u32) -> Result<(), KernelError> {
        match self.tgids.remove(&tgid) {
            Ok(()) => Ok(()),
            Err(error) if verdicts::is_absent(&error) => Ok(()),
            Err(source) => Err(KernelError::Map { name: "TGIDS", source }),
        }
    }

    /// The listed processes, in no order.
    #[must_use]
    pub fn listed(&self) -> Vec<u32> {
        self.tgids.keys().filter_map(Result::ok).collect()
    }

    /// How many instructions the verifier went through for the timer's program; none where the kernel does not tell (before 5.16).
    #[must_use]
    pub fn verified_instructions(&self) -> Option<u32> {
        match self.ebpf.program(self.sample)? {
            aya::programs::Program::PerfEvent(program) => program.info().ok()?.verified_instruction_count(),
            _ => None,
        }
    }

    /// Stops all timers: when this returns, no tick is under way. The ring can still be drained.
    pub fn detach(&mut self) {
        self.shared.events().detach_all();
    }
}

impl Drop for KernelSide {
    /// Handles may outlive it and would keep the timers alive.
    fn drop(&mut self) {
        self.detach();
    }
}

fn program<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, KernelError> {
    let program = ebpf.program(name).ok_or(KernelError::Missing(name))?;
    Ok(program.fd().map_err(KernelError::from_load)?.as_fd())
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Missing(name))?;
    T::try_from(map).map_err(|source| KernelError::Map { name, source })
}
