//! What the thread "drain" does: empty the rings, and never wait for anything else.
//!
//! **In**: the ring of samples, the side-band rings. **Out**: [`Batch`]es. **Units**: monotonic nanoseconds. **Limits**:
//! what does not fit into the inbox is dropped here and counted ([`DropReason::MergeFull`]).

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use profile::DropReason;
use sampler_abi::FLAG_WALKED;

use crate::checks::CheckRate;
use crate::clock;
use crate::family::{Change, Family};
use crate::inbox::Batch;
use crate::kernel::{CountersHandle, KernelSide, RawSample, online_cpus};
use crate::pipeline::Shared;
use crate::sideband::{Kind, Record, SideBand};

/// At most so long do samples and records lie in their rings.
const TIMEOUT_MS: u16 = 200;
/// Rings are drained at most this often, so that a flood of samples costs only a part of a CPU.
const MIN_INTERVAL: Duration = Duration::from_millis(5);
/// The same where records alone wake: whoever begins programs all the time costs this many wake-ups a second, and no more.
const RECORDS_INTERVAL: Duration = Duration::from_millis(30);
/// A program that begins maps its libraries within this, mostly: they come with it.
const GATHER: Duration = Duration::from_millis(10);
/// How often CPUs are looked for.
const HOTPLUG_INTERVAL_NS: u64 = 1_000_000_000;
/// Descriptors told of by one wait.
const EVENTS: usize = 64;
/// Tokens of descriptors; a side-band ring has its CPU's number.
const STOP: u64 = u64::MAX;
const RING: u64 = u64::MAX - 1;

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Drainer {
    kernel: KernelSide,
    sideband: SideBand,
    shared: Arc<Shared>,
    epoll: Epoll,
    /// Only what does not wait: samples, and the end.
    urgent: Epoll,
    counters: CountersHandle,
    malformed: u64,
    /// The listed processes, where user space has to keep the list.
    family: Option<Family>,
    checks: CheckRate,
    /// Walked samples since it was asked last.
    walked: u64,
    next_hotplug_mono_ns: u64,
    /// CPUs whose records were not read for a while, and that nobody knows of yet.
    blind: bool,
    is_done: bool,
}

impl Drainer {
    /// Everything is open and attached; `family` is given where the kernel side does not keep the list itself. `checks` says how many
    /// walked samples are compared. `stop` must outlive the drainer.
    pub(crate) fn new(
        kernel: KernelSide,
        sideband: SideBand,
        shared: Arc<Shared>,
        stop: &EventFd,
        family: Option<Family>,
        checks: CheckRate,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let urgent = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for epoll in [&epoll, &urgent] {
            epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
            epoll.add(kernel.ring_fd(), EpollEvent::new(EpollFlags::EPOLLIN, RING))?;
        }
        for (cpu, fd) in sideband.fds() {
            watch(&epoll, cpu, fd)?;
        }
        let counters = kernel.counters();
        Ok(Self {
            kernel,
            sideband,
            shared,
            epoll,
            urgent,
            counters,
            malformed: 0,
            family,
            checks,
            walked: 0,
            next_hotplug_mono_ns: 0,
            blind: false,
            is_done: false,
        })
    }

    /// Drains until told to stop; then detaches and drains what is left.
    pub(crate) fn run(mut self) {
        let mut last = Instant::now();
        while !self.wait(last) {
            thread::sleep(MIN_INTERVAL.saturating_sub(last.elapsed()));
            last = Instant::now();
            let began = clock::now().mono_ns;
            let mut batch = Batch::new(began, false);
            self.samples(&mut batch);
            self.records(&mut batch);
            self.shared.inbox.put(batch);
            if began >= self.next_hotplug_mono_ns {
                self.next_hotplug_mono_ns = began + HOTPLUG_INTERVAL_NS;
                self.hotplug();
                self.count_malformed();
                self.adjust_checks(began);
            }
        }
        self.kernel.detach();
        let mut batch = Batch::new(clock::now().mono_ns, true);
        while self.samples(&mut batch) > 0 {}
        self.records(&mut batch);
        self.count_malformed();
        self.shared.inbox.put(batch);
        self.is_done = true;
    }

    /// Waits for something to do; true when told to stop. Records alone are left to gather for a while.
    fn wait(&self, last: Instant) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::from(TIMEOUT_MS)).unwrap_or(0);
        let (mut stop, mut samples) = (false, false);
        for event in events.iter().take(count) {
            stop |= event.data() == STOP;
            samples |= event.data() == RING;
            // A CPU that has gone leaves a descriptor that would wake for ever.
            if event.events().intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
                && let Some(fd) = u32::try_from(event.data()).ok().and_then(|cpu| self.sideband.fd(cpu))
            {
                // Should this fail, the loop only turns faster.
                let _ = self.epoll.delete(fd);
            }
        }
        if count == 0 || stop || samples {
            return stop;
        }
        let pause = RECORDS_INTERVAL.saturating_sub(last.elapsed()).max(GATHER);
        let pause = u16::try_from(pause.as_millis()).unwrap_or(TIMEOUT_MS);
        let count = self.urgent.wait(&mut events, EpollTimeout::from(pause)).unwrap_or(0);
        events.iter().take(count).any(|event| event.data() == STOP)
    }

    fn samples(&mut self, batch: &mut Batch) -> usize {
        let shared = &self.shared;
        let (mut read, mut refused, mut walked) = (0, 0, 0);
        let count = self.kernel.drain(|raw: RawSample<'_>| {
            read += 1;
            walked += u64::from(raw.head.flags & FLAG_WALKED != 0);
            let sample = shared.pool.fill(raw.head, raw.kernel_frames(), raw.user_frames(), raw.stack);
            if shared.inbox.admit(sample.cost_bytes()) {
                batch.samples.push(sample);
            } else {
                refused += 1;
                shared.pool.give_back(std::iter::once(sample));
            }
        });
        shared.ledger.read(read);
        shared.ledger.dropped(DropReason::MergeFull, refused);
        self.walked += walked;
        count
    }

    /// About as many samples are compared in the next second as are wanted.
    fn adjust_checks(&mut self, now_mono_ns: u64) {
        if let Some(every) = self.checks.adjust(std::mem::take(&mut self.walked), now_mono_ns)
            && let Err(error) = self.kernel.set_check_every(every)
        {
            tracing::warn!(error = %error, "more or fewer stacks are compared than should be");
        }
    }

    fn records(&mut self, batch: &mut Batch) {
        let (kernel, family) = (&mut self.kernel, &mut self.family);
        let drained = self.sideband.drain(|record| {
            if let (Some(family), Kind::Fork { tgid, parent_tgid, .. }) = (family.as_mut(), &record.kind) {
                let changed = match family.forked(*tgid, *parent_tgid) {
                    Some(Change::Add(tgid)) => kernel.add_tgid(tgid),
                    Some(Change::Remove(tgid)) => kernel.remove_tgid(tgid),
                    None => Ok(()),
                };
                if let Err(error) = changed {
                    tracing::warn!(tgid, error = %error, "the list of sampled processes is not as it should be");
                }
            }
            batch.record(record);
        });
        self.shared.counted.sideband_records.fetch_add(drained.records, Ordering::Relaxed);
        if std::mem::take(&mut self.blind) {
            let kind = Kind::Lost { records: 0 };
            batch.record(Record { time_mono_ns: batch.complete_to_mono_ns, cpu: 0, kind });
        }
        // Whatever was in a ring that makes no sense is lost.
        if drained.malformed > 0 {
            let kind = Kind::Lost { records: drained.malformed };
            batch.record(Record { time_mono_ns: batch.complete_to_mono_ns, cpu: 0, kind });
        }
    }

    /// Follows CPUs that come and go, both for timers and for records.
    fn hotplug(&mut self) {
        let report = self.kernel.hotplug();
        for (cpu, error) in &report.failed {
            tracing::warn!(cpu, error = %error, "a CPU came online, but its timer cannot be started");
        }
        let Ok(online) = online_cpus() else { return };
        for cpu in self.sideband.follow(&online) {
            // What was executed there since the CPU came is in no ring: only /proc tells. How many records that were
            // nobody knows.
            self.blind = true;
            if let Some(fd) = self.sideband.fd(cpu)
                && let Err(error) = watch(&self.epoll, cpu, fd)
            {
                tracing::warn!(cpu, error = %error, "the records of a CPU are read late");
            }
        }
    }

    /// Records of the ring that did not parse left the ring, but were not handed out.
    fn count_malformed(&mut self) {
        if let Ok(counters) = self.counters.read() {
            let new = counters.malformed.saturating_sub(self.malformed);
            self.malformed = counters.malformed;
            self.shared.ledger.read(new);
            self.shared.ledger.dropped(DropReason::Malformed, new);
        }
    }
}

impl Drop for Drainer {
    /// Should this thread panic, the other must not wait for ever.
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.inbox.put(Batch::new(clock::now().mono_ns, true));
        }
    }
}

fn watch(epoll: &Epoll, cpu: u32, fd: BorrowedFd<'_>) -> nix::Result<()> {
    epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(cpu)))
}
