//! The system calls that neither `aya` nor `nix` offers in the form needed: perf events of one CPU, maps that are written as memory,
//! and the clock.
//!
//! **In**: CPU numbers and rates. **Out**: descriptors, times. **Units**: nanoseconds. **Limits**: none of its own.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{
    PERF_EVENT_IOC_DISABLE, PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_SET_BPF, PERF_FLAG_FD_CLOEXEC, perf_event_attr,
    perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK, perf_type_id::PERF_TYPE_SOFTWARE,
};

/// The bit of `perf_event_attr.read_format`; not among aya's bindings.
const PERF_FORMAT_TOTAL_TIME_ENABLED: u64 = 1;

/// Now, on `CLOCK_MONOTONIC`.
pub(super) fn now_mono_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// The kernel's period for a rate: whole nanoseconds, rounded down (`perf_swevent_init_hrtimer`).
pub(super) fn period_ns(rate_hz: u32) -> u64 {
    1_000_000_000 / u64::from(rate_hz.max(1))
}

/// A disabled cpu-clock event for every task on one CPU.
pub(super) fn open_cpu_clock(cpu: u32, rate_hz: u32) -> io::Result<OwnedFd> {
    let cpu = i32::try_from(cpu).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: plain old data, for which zero is "nothing asked".
    let mut attr = unsafe { std::mem::zeroed::<perf_event_attr>() };
    attr.type_ = PERF_TYPE_SOFTWARE as u32;
    attr.config = PERF_COUNT_SW_CPU_CLOCK as u64;
    attr.size = u32::try_from(size_of::<perf_event_attr>()).unwrap_or(0);
    attr.__bindgen_anon_1.sample_freq = u64::from(rate_hz);
    attr.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED;
    attr.set_freq(1);
    attr.set_disabled(1);
    let (every_task, no_group) = (-1, -1);
    // SAFETY: the attributes outlive the call, which only reads them; it returns a descriptor or -1.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attr, every_task, cpu, no_group, PERF_FLAG_FD_CLOEXEC)
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has a program run at each overflow of an event.
pub(super) fn set_program(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    ioctl(event, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd())
}

/// Starts an event.
pub(super) fn enable(event: BorrowedFd<'_>) -> io::Result<()> {
    ioctl(event, PERF_EVENT_IOC_ENABLE, 0)
}

/// Stops an event: when this returns, it has fired for the last time.
pub(super) fn disable(event: BorrowedFd<'_>) -> io::Result<()> {
    ioctl(event, PERF_EVENT_IOC_DISABLE, 0)
}

fn ioctl(event: BorrowedFd<'_>, request: u32, argument: i32) -> io::Result<()> {
    // SAFETY: these requests take an integer and touch no memory of ours.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), libc::c_ulong::from(request), argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// For how long an event has been able to fire, in nanoseconds: the kernel stops this clock when its CPU goes.
pub(super) fn enabled_ns(event: BorrowedFd<'_>) -> io::Result<u64> {
    let mut values = [0u64; 2];
    // SAFETY: reads at most the size of `values` into `values`.
    let got = unsafe { libc::read(event.as_raw_fd(), values.as_mut_ptr().cast(), size_of_val(&values)) };
    match usize::try_from(got) {
        Ok(got) if got == size_of_val(&values) => Ok(values[1]),
        Ok(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The size of a page of memory.
pub(super) fn page_bytes() -> u32 {
    // SAFETY: a system call without effects.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

/// Writes into the one value of a map that can be mapped, which has room for it. Only the pages that are written are mapped, and
/// only for the time of the call.
pub(super) fn write_mapped(map: BorrowedFd<'_>, offset: u32, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let before = offset % page_bytes();
    let start = libc::off_t::from(offset - before);
    let inside = usize::try_from(before).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = inside.checked_add(bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping wherever the kernel likes; the descriptor is open. The kernel refuses what is beyond the value.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, map.as_raw_fd(), start) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `inside + bytes.len()` bytes were mapped, writable; nobody else in this process has that mapping. What the kernel's
    // programs read at the same time is for them to bear.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapped.cast::<u8>().add(inside), bytes.len()) };
    // SAFETY: the mapping from above, which nobody uses any more.
    unsafe { libc::munmap(mapped, length) };
    Ok(())
}

/// Asks for as much locked memory as we may have. Only kernels before 5.11 charge BPF maps to that limit; a refusal shows
/// itself there when the maps are made.
pub(super) fn raise_memlock() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads one rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } == 0 {
        return;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: reads one rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// Gives memory back to the kernel. Reading the kernel's types takes tens of megabytes, in our reader and in aya's loader, once; the
/// allocator would keep them.
pub(super) fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free pages back; touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
