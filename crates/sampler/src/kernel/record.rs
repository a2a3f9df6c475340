//! One record of the ring buffer.
//!
//! **In**: bytes that the eBPF program wrote; the snapshot in them is a target's memory. **Out**: [`RawSample`], borrowed from
//! the ring. **Limits**: those of `sampler-abi`; a record that contradicts itself is an error.

use std::mem::MaybeUninit;

use sampler_abi::{MAX_KERNEL_FRAMES, MAX_SNAPSHOT_BYTES, MAX_USER_FRAMES, SampleHead};

const HEAD_BYTES: usize = size_of::<SampleHead>();

/// One sample, as it lies in the ring buffer.
#[derive(Clone, Copy, Debug)]
pub struct RawSample<'a> {
    /// The fixed part.
    pub head: SampleHead,
    kernel: &'a [u8],
    user: &'a [u8],
    /// The user stack from `head.user_sp` upwards. Holds secrets of the process.
    pub stack: &'a [u8],
}

/// Why bytes are no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than a head.
    #[error("{0} bytes are less than a head")]
    Short(usize),
    /// The head's counts are beyond the limits or do not add up to the record's length.
    #[error(
        "{kernel_frames} kernel frames, {user_frames} user frames and {snapshot_bytes} bytes of stack in a record of {bytes} bytes"
    )]
    Length {
        /// As the head says.
        kernel_frames: u32,
        /// As the head says.
        user_frames: u32,
        /// As the head says.
        snapshot_bytes: u32,
        /// The record's.
        bytes: usize,
    },
}

impl<'a> RawSample<'a> {
    /// Reads one record.
    ///
    /// # Errors
    /// [`RecordError`] where the bytes are no sample.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES).ok_or(RecordError::Short(bytes.len()))?;
        let head = head_from(head);
        let error = || RecordError::Length {
            kernel_frames: head.kernel_frames,
            user_frames: head.user_frames,
            snapshot_bytes: head.snapshot_bytes,
            bytes: bytes.len(),
        };
        let (frames, user_frames) = (head.kernel_frames as usize, head.user_frames as usize);
        if frames > MAX_KERNEL_FRAMES
            || user_frames > MAX_USER_FRAMES
            || head.snapshot_bytes as usize > MAX_SNAPSHOT_BYTES
        {
            return Err(error());
        }
        let (kernel, rest) = rest.split_at_checked(frames * size_of::<u64>()).ok_or_else(error)?;
        let (user, stack) = rest.split_at_checked(user_frames * size_of::<u64>()).ok_or_else(error)?;
        if stack.len() != head.snapshot_bytes as usize {
            return Err(error());
        }
        Ok(Self { head, kernel, user, stack })
    }

    /// The addresses of the kernel stack, leaf first.
    pub fn kernel_frames(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        words(self.kernel)
    }

    /// The lookup addresses of the user stack, leaf first: the pc of the leaf and of what a signal interrupted, else the return
    /// address minus one. Of samples with [`sampler_abi::FLAG_WALKED`]; others have none.
    pub fn user_frames(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        words(self.user)
    }

    /// The thread's name, without the NULs behind it.
    #[must_use]
    pub fn comm(&self) -> &[u8] {
        let end = self.head.comm.iter().position(|byte| *byte == 0).unwrap_or(self.head.comm.len());
        self.head.comm.get(..end).unwrap_or_default()
    }
}

fn words<'a>(bytes: &'a [u8]) -> impl ExactSizeIterator<Item = u64> + use<'a> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_ne_bytes(*word))
}

fn head_from(bytes: &[u8]) -> SampleHead {
    debug_assert_eq!(bytes.len(), HEAD_BYTES);
    let mut head = MaybeUninit::<SampleHead>::zeroed();
    let length = bytes.len().min(size_of_val(&head));
    // SAFETY: the destination is a local of at least `length` bytes, the source a slice of it; they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), head.as_mut_ptr().cast::<u8>(), length) };
    // SAFETY: `SampleHead` is `repr(C)`, made of integers and arrays of them without padding: any bytes are a value.
    unsafe { head.assume_init() }
}

#[cfg(test)]
mod tests {
    use std::mem;

    use super::*;

    fn record(kernel_frames: u32, user_frames: u32, snapshot_bytes: u32, behind: usize) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&7u64.to_ne_bytes());
        bytes[mem::offset_of!(SampleHead, kernel_frames)..][..4].copy_from_slice(&kernel_frames.to_ne_bytes());
        bytes[mem::offset_of!(SampleHead, user_frames)..][..4].copy_from_slice(&user_frames.to_ne_bytes());
        bytes[mem::offset_of!(SampleHead, snapshot_bytes)..][..4].copy_from_slice(&snapshot_bytes.to_ne_bytes());
        bytes[mem::offset_of!(SampleHead, comm)..][..3].copy_from_slice(b"abc");
        bytes.extend((0..behind).map(|at| u8::try_from(at % 251).unwrap()));
        bytes
    }

    #[test]
    fn a_whole_record() {
        let bytes = record(1, 1, 5, 21);
        let sample = RawSample::parse(&bytes).unwrap();
        assert_eq!(sample.head.time_mono_ns, 7);
        assert_eq!(sample.comm(), b"abc");
        assert_eq!(sample.kernel_frames().collect::<Vec<_>>(), [u64::from_ne_bytes([0, 1, 2, 3, 4, 5, 6, 7])]);
        assert_eq!(sample.user_frames().collect::<Vec<_>>(), [u64::from_ne_bytes([8, 9, 10, 11, 12, 13, 14, 15])]);
        assert_eq!(sample.stack, [16, 17, 18, 19, 20]);
    }

    #[test]
    fn records_that_contradict_themselves() {
        assert_eq!(RawSample::parse(&[0; 10]).unwrap_err(), RecordError::Short(10));
        for (frames, user, stack, behind) in [
            (2, 0, 5, 20),
            (1, 1, 5, 20),
            (0, 2, 5, 22),
            (128, 0, 0, 1024),
            (0, 1025, 0, 8200),
            (0, 0, 65_537, 65_537),
            (u32::MAX, 0, 0, 0),
            (0, u32::MAX, 0, 0),
            (0, 0, u32::MAX, 0),
        ] {
            assert!(
                matches!(RawSample::parse(&record(frames, user, stack, behind)), Err(RecordError::Length { .. })),
                "{frames} {user} {stack} {behind}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            if let Ok(sample) = RawSample::parse(&bytes) {
                assert_eq!(HEAD_BYTES + (sample.kernel_frames().len() + sample.user_frames().len()) * 8 + sample.stack.len(), bytes.len());
            }
        }
    }
}
