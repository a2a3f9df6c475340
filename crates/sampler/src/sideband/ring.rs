//! One CPU's perf ring: opening, mapping, reading.
//!
//! **In**: the kernel's shared page and ring. **Out**: the bytes of whole records. **Units**: bytes.
//! **Limits**: the ring's size; what the kernel cannot write it counts and reports as lost.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya_obj::generated::{PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_event_sample_format, perf_sw_ids, perf_type_id};

use super::record::HEADER_BYTES;

/// Where `data_head` and `data_tail` lie in the shared page (`struct perf_event_mmap_page`).
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// The reader is told when so many bytes are new: an exec's records are more, a thread's are less.
const WATERMARK_BYTES: u32 = 256;

/// A mapped ring and its event.
#[derive(Debug)]
pub(super) struct Ring {
    fd: OwnedFd,
    base: NonNull<u8>,
    page_bytes: usize,
    data_bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is used through `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Opens the dummy event of one CPU, enabled, and maps `data_bytes` (a power of two, whole pages) of ring. `cgroups`:
    /// new cgroups are recorded too, where the kernel can (5.7).
    pub(super) fn open(cpu: u32, page_bytes: usize, data_bytes: usize, cgroups: bool) -> io::Result<Self> {
        let fd = match open_event(cpu, cgroups) {
            Err(error) if cgroups && error.raw_os_error() == Some(libc::EINVAL) => open_event(cpu, false)?,
            result => result?,
        };
        let length = page_bytes + data_bytes;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the ring was mapped at address 0"))?;
        Ok(Self { fd, base, page_bytes, data_bytes })
    }

    /// Hands every record that is in the ring now to `each`, then gives its room back. Returns whether the ring's
    /// bytes made sense; where they did not, the rest of them was skipped.
    pub(super) fn drain(&mut self, scratch: &mut Vec<u8>, each: impl FnMut(&[u8])) -> bool {
        let head = self.word(DATA_HEAD).load(Ordering::Acquire);
        let tail = self.word(DATA_TAIL).load(Ordering::Relaxed);
        let filled = usize::try_from(head.wrapping_sub(tail)).unwrap_or(usize::MAX);
        if filled == 0 {
            return true;
        }
        let sound = filled <= self.data_bytes && {
            let (first, second) = self.filled(tail, filled);
            walk(first, second, scratch, each)
        };
        self.word(DATA_TAIL).store(head, Ordering::Release);
        sound
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: both places lie in the mapped first page, are aligned to 8 bytes, live as long as `self`, and are
        // only ever accessed atomically here; the kernel writes the head and reads the tail.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// The filled part of the ring, in its two pieces.
    fn filled(&self, tail: u64, filled: usize) -> (&[u8], &[u8]) {
        // The ring's size is a power of two.
        let start = usize::try_from(tail & (self.data_bytes as u64 - 1)).unwrap_or(0);
        let first = filled.min(self.data_bytes - start);
        // SAFETY: `start + first <= data_bytes`, inside the mapping. The kernel writes nothing between tail and head
        // until the tail moves, and the tail moves only after the last use of this slice (`drain` holds `&mut self`).
        let one = unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.page_bytes + start), first) };
        // SAFETY: as above; the second piece begins at the ring's first byte and ends before `start`.
        let two = unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.page_bytes), filled - first) };
        (one, two)
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `open` mapped; nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.page_bytes + self.data_bytes) };
    }
}

/// Walks the records of a ring's filled part, given in its two pieces. A record that spans both is put together in
/// `scratch`. False where the bytes are no records.
fn walk(first: &[u8], second: &[u8], scratch: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> bool {
    let total = first.len() + second.len();
    let mut at = 0;
    while at < total {
        let Some(size) = record_bytes(first, second, at) else { return false };
        let end = at + size;
        if size < HEADER_BYTES || end > total {
            return false;
        }
        if let Some(bytes) = first.get(at..end) {
            each(bytes);
        } else if at >= first.len() {
            each(second.get(at - first.len()..end - first.len()).unwrap_or_default());
        } else {
            scratch.clear();
            scratch.extend_from_slice(first.get(at..).unwrap_or_default());
            scratch.extend_from_slice(second.get(..end - first.len()).unwrap_or_default());
            each(scratch);
        }
        at = end;
    }
    true
}

/// The record's size, from bytes 6 and 7 of its header.
fn record_bytes(first: &[u8], second: &[u8], at: usize) -> Option<usize> {
    let byte = |i: usize| first.get(i).or_else(|| second.get(i.checked_sub(first.len())?)).copied();
    Some(usize::from(u16::from_ne_bytes([byte(at.checked_add(6)?)?, byte(at.checked_add(7)?)?])))
}

fn open_event(cpu: u32, cgroups: bool) -> io::Result<OwnedFd> {
    // SAFETY: the struct is plain integers and unions of integers, for which zeros are valid.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.type_ = perf_type_id::PERF_TYPE_SOFTWARE as u32;
    attr.size = u32::try_from(size_of::<perf_event_attr>()).unwrap_or(0);
    attr.config = perf_sw_ids::PERF_COUNT_SW_DUMMY as u64;
    attr.sample_type = perf_event_sample_format::PERF_SAMPLE_TIME as u64;
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_comm_exec(1);
    attr.set_task(1);
    attr.set_cgroup(u64::from(cgroups));
    attr.set_sample_id_all(1);
    attr.set_use_clockid(1);
    attr.clockid = libc::CLOCK_MONOTONIC;
    // The reader decides how soon it reads again, but it must learn early that a program begins.
    attr.set_watermark(1);
    attr.__bindgen_anon_2.wakeup_watermark = WATERMARK_BYTES;
    let cpu = i32::try_from(cpu).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (every_process, no_group): (libc::pid_t, libc::c_int) = (-1, -1);
    // SAFETY: `attr` is a valid attribute of the size that it states, and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            every_process,
            cpu,
            no_group,
            libc::c_ulong::from(PERF_FLAG_FD_CLOEXEC),
        )
    };
    let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the call just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wherever the ring wraps, the same records come out.
        #[test]
        fn records_survive_the_wrap(sizes in proptest::collection::vec(1u16..40, 0..30), cut in 0usize..2000) {
            let records: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, &words)| {
                let mut bytes = vec![u8::try_from(i).unwrap(); usize::from(words) * 8];
                let size = u16::try_from(bytes.len()).unwrap();
                bytes[6..8].copy_from_slice(&size.to_ne_bytes());
                bytes
            }).collect();
            let all = records.concat();
            let (first, second) = all.split_at(cut.min(all.len()) / 8 * 8);
            let mut seen = Vec::new();
            prop_assert!(walk(first, second, &mut Vec::new(), |r| seen.push(r.to_vec())));
            prop_assert_eq!(seen, records);
        }

        #[test]
        fn any_bytes_end(first: Vec<u8>, second: Vec<u8>) {
            walk(&first, &second, &mut Vec::new(), |_| ());
        }
    }
}
