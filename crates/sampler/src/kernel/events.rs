//! One timer per CPU, and how often it should have fired.
//!
//! **In**: the program to run, the rate, the list of CPUs; the times at which events were started and found gone.
//! **Out**: attached events; expected ticks per CPU.
//! **Units**: nanoseconds of `CLOCK_MONOTONIC`, on which the kernel's timers run; ticks.
//! **Limits**: one event per CPU.
//!
//! A timer fires first one period after it was started, then every period. So `ticks(end - start)` is what one stretch of time
//! brings, and a CPU's expectation is the sum over its stretches: one for each time that it was online.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{cpus, error::KernelError, sys};

/// Above this difference between the clock and the event's own one, the event is looked at twice. It must be more than a read
/// takes; a smaller value costs nothing but a second read.
const SUSPICIOUS_NS: u64 = 1_000_000;

/// What a look at the CPUs has changed.
#[derive(Debug, Default)]
pub struct HotplugReport {
    /// CPUs that have an event now and had none before.
    pub attached: Vec<u32>,
    /// CPUs whose event was let go.
    pub detached: Vec<u32>,
    /// CPUs that are online and could not be attached. They are tried again next time.
    pub failed: Vec<(u32, KernelError)>,
}

/// The events of all CPUs.
#[derive(Debug)]
pub(super) struct Events {
    rate_hz: u32,
    period_ns: u64,
    cpus: BTreeMap<u32, Cpu>,
    online: usize,
}

#[derive(Debug, Default)]
struct Cpu {
    running: Option<Running>,
    /// Ticks of the stretches that have ended.
    ended_ticks: u64,
}

#[derive(Debug)]
struct Running {
    event: OwnedFd,
    started: u64,
    /// When the event was last seen alive, and what its own clock said then.
    seen: u64,
    seen_enabled: u64,
}

impl Running {
    /// When the event's CPU went, if it has.
    ///
    /// The kernel takes an event off its CPU when that goes offline, and does not put it back: its own clock then stands still. That
    /// clock may drift against ours by NTP's doing, so only what it did since the last look is used.
    fn gone(&self) -> Option<u64> {
        let enabled = sys::enabled_ns(self.event.as_fd()).ok()?;
        let now = sys::now_mono_ns();
        let alive_for = enabled.saturating_sub(self.seen_enabled);
        if now.saturating_sub(self.seen).saturating_sub(alive_for) < SUSPICIOUS_NS {
            return None;
        }
        let again = sys::enabled_ns(self.event.as_fd()).ok()?;
        (again == enabled).then(|| self.seen.saturating_add(alive_for))
    }

    fn look(&mut self) -> Option<u64> {
        if let Some(end) = self.gone() {
            return Some(end);
        }
        if let Ok(enabled) = sys::enabled_ns(self.event.as_fd()) {
            self.seen_enabled = enabled;
            self.seen = sys::now_mono_ns();
        }
        None
    }
}

impl Events {
    pub(super) fn new(rate_hz: u32) -> Self {
        Self { rate_hz, period_ns: sys::period_ns(rate_hz), cpus: BTreeMap::new(), online: 0 }
    }

    /// Opens and starts an event on every online CPU that has none.
    pub(super) fn attach_all(&mut self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        let online = cpus::online().map_err(KernelError::Cpus)?;
        self.online = online.len();
        let mut opened = Vec::new();
        for cpu in online {
            if self.is_attached(cpu) {
                continue;
            }
            match self.open(cpu, program) {
                Ok(event) => opened.push((cpu, event)),
                Err(error) if has_just_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // All are ready before the first starts, so that they start close to each other.
        for (cpu, event) in opened {
            match self.start(cpu, event) {
                Err(error) if !has_just_gone(&error) => return Err(error),
                _ => {}
            }
        }
        if self.attached() == 0 { Err(KernelError::NoCpu) } else { Ok(()) }
    }

    /// Attaches CPUs that came, lets those go that went, also where one did both since the last look.
    pub(super) fn hotplug(&mut self, program: BorrowedFd<'_>) -> HotplugReport {
        let mut report = HotplugReport::default();
        let Ok(online) = cpus::online() else { return report };
        self.online = online.len();
        for (number, cpu) in &mut self.cpus {
            let Some(running) = &mut cpu.running else { continue };
            let end = match running.look() {
                None if online.binary_search(number).is_ok() => continue,
                None => sys::now_mono_ns(),
                Some(end) => end,
            };
            cpu.ended_ticks += ticks(running.started, end, self.period_ns);
            cpu.running = None;
            report.detached.push(*number);
        }
        for cpu in online {
            if self.is_attached(cpu) {
                continue;
            }
            match self.open(cpu, program).and_then(|event| self.start(cpu, event)) {
                Ok(()) => report.attached.push(cpu),
                Err(error) if has_just_gone(&error) => {}
                Err(error) => report.failed.push((cpu, error)),
            }
        }
        report
    }

    /// Stops and closes all events.
    pub(super) fn detach_all(&mut self) {
        for cpu in self.cpus.values_mut() {
            let Some(running) = cpu.running.take() else { continue };
            let end = running.gone().unwrap_or_else(|| {
                // Without an answer, closing it below stops it all the same.
                let _ = sys::disable(running.event.as_fd());
                sys::now_mono_ns()
            });
            cpu.ended_ticks += ticks(running.started, end, self.period_ns);
        }
    }

    /// Every CPU that ever had an event, with the ticks that it should have brought until now.
    pub(super) fn expected(&self) -> Vec<(u32, u64)> {
        let of = |cpu: &Cpu| {
            let running = cpu.running.as_ref().map_or(0, |running| {
                let end = running.gone().unwrap_or_else(sys::now_mono_ns);
                ticks(running.started, end, self.period_ns)
            });
            cpu.ended_ticks + running
        };
        self.cpus.iter().map(|(number, cpu)| (*number, of(cpu))).collect()
    }

    /// CPUs with an event.
    pub(super) fn attached(&self) -> usize {
        self.cpus.values().filter(|cpu| cpu.running.is_some()).count()
    }

    /// CPUs online at the last look.
    pub(super) fn online(&self) -> usize {
        self.online
    }

    fn is_attached(&self, cpu: u32) -> bool {
        self.cpus.get(&cpu).is_some_and(|cpu| cpu.running.is_some())
    }

    fn open(&self, cpu: u32, program: BorrowedFd<'_>) -> Result<OwnedFd, KernelError> {
        let event = sys::open_cpu_clock(cpu, self.rate_hz)
            .map_err(|source| KernelError::from_event(cpu, self.rate_hz, source))?;
        sys::set_program(event.as_fd(), program).map_err(|source| KernelError::Event { cpu, source })?;
        Ok(event)
    }

    fn start(&mut self, cpu: u32, event: OwnedFd) -> Result<(), KernelError> {
        let started = sys::now_mono_ns();
        sys::enable(event.as_fd()).map_err(|source| KernelError::Event { cpu, source })?;
        let seen_enabled = sys::enabled_ns(event.as_fd()).map_err(|source| KernelError::Event { cpu, source })?;
        let seen = sys::now_mono_ns();
        self.cpus.entry(cpu).or_default().running = Some(Running { event, started, seen, seen_enabled });
        Ok(())
    }
}

/// Ticks of a timer that runs from `start` to `end`.
fn ticks(start: u64, end: u64, period_ns: u64) -> u64 {
    end.saturating_sub(start) / period_ns.max(1)
}

/// A CPU may go between reading the list and opening its event.
fn has_just_gone(error: &KernelError) -> bool {
    matches!(error, KernelError::Event { source, .. }
        if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) || source.kind() == io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_stretch() {
        let period = sys::period_ns(99);
        assert_eq!(period, 10_101_010);
        assert_eq!(ticks(5, 5, period), 0);
        assert_eq!(ticks(5, 4, period), 0);
        assert_eq!(ticks(5, 5 + period - 1, period), 0);
        assert_eq!(ticks(5, 5 + period, period), 1);
        assert_eq!(ticks(0, 1_000_000_000, period), 99);
    }
}
