//! Messages over the socket between agent and worker: a head, a postcard value, raw bytes, at most one descriptor.
//!
//! The raw bytes (snapshots) are not part of the value so that they are copied once and wiped after use.
//!
//! **In**: bytes and descriptors from the other side; the agent takes the worker for hostile. **Out**: [`Message`].
//! **Units**: bytes. **Limits**: [`MAX_META_BYTES`] and [`MAX_BULK_BYTES`] (less where the caller says so); a message
//! past them, or with more than one descriptor, is an error that ends the connection.

#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::secret::Secret;

/// The largest postcard value of a message.
pub(crate) const MAX_META_BYTES: usize = 16 << 20;
/// The most raw bytes behind it.
pub(crate) const MAX_BULK_BYTES: usize = 16 << 20;

/// "PRW1", first in every head.
const MAGIC: u32 = 0x3157_5250;
const HEAD_BYTES: usize = 16;
/// Slices handed to one `sendmsg` (IOV_MAX is 1024).
const MAX_SLICES: usize = 512;
/// How long one wait lasts before patience is asked again.
const WAIT_STEP: Duration = Duration::from_millis(200);

/// Why a message did not come through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The other side closed its end.
    #[error("the other side is gone")]
    Closed,
    /// The other side took too long.
    #[error("no answer in {:.1} s", .waited.as_secs_f64())]
    TimedOut {
        /// Time since the request was begun.
        waited: Duration,
    },
    /// The bytes make no sense.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The system refused.
    #[error("the socket failed")]
    Io(#[from] io::Error),
}

impl From<Errno> for WireError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

/// Says whether to go on waiting for the other side.
pub(crate) trait Patience {
    /// How long the next wait may last.
    ///
    /// # Errors
    /// Waiting is over.
    fn next_wait(&mut self) -> Result<Duration, WireError>;
}

/// Waits for ever; the worker's patience with the agent.
pub(crate) struct Forever;

impl Patience for Forever {
    fn next_wait(&mut self) -> Result<Duration, WireError> {
        Ok(Duration::from_secs(3600))
    }
}

/// Waits until a moment; asks `extend` once the moment has come whether the other side deserves more time.
pub(crate) struct Until<F> {
    started: Instant,
    limit: Duration,
    extend: F,
}

impl<F: FnMut(Duration) -> bool> Until<F> {
    /// Patience for `limit` from now on; `extend` gets the time waited.
    pub(crate) fn new(limit: Duration, extend: F) -> Self {
        Self { started: Instant::now(), limit, extend }
    }
}

impl<F: FnMut(Duration) -> bool> Patience for Until<F> {
    fn next_wait(&mut self) -> Result<Duration, WireError> {
        let waited = self.started.elapsed();
        match self.limit.checked_sub(waited) {
            Some(left) if !left.is_zero() => Ok(left.min(WAIT_STEP)),
            _ if (self.extend)(waited) => Ok(WAIT_STEP),
            _ => Err(WireError::TimedOut { waited }),
        }
    }
}

/// One message.
pub(crate) struct Message<T> {
    /// The value.
    pub(crate) meta: T,
    /// Raw bytes, wiped when dropped.
    pub(crate) bulk: Secret,
    /// The descriptor that came with it.
    pub(crate) descriptor: Option<OwnedFd>,
}

/// One end of the socket pair.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Whether nothing waits to be read and the other side has not gone: the state between two requests.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// Sends one message.
    pub(crate) fn send<T: Serialize>(
        &self,
        meta: &T,
        bulk: &[&[u8]],
        descriptor: Option<BorrowedFd<'_>>,
        patience: &mut impl Patience,
    ) -> Result<(), WireError> {
        let meta = postcard::to_stdvec(meta).map_err(|_| WireError::Malformed("value cannot be encoded"))?;
        let bulk_bytes: usize = bulk.iter().map(|part| part.len()).sum();
        if meta.len() > MAX_META_BYTES || bulk_bytes > MAX_BULK_BYTES {
            return Err(WireError::Malformed("message too large to send"));
        }
        let head = head(meta.len(), bulk_bytes, usize::from(descriptor.is_some()))?;
        self.send_all(&[&head], descriptor, patience)?;
        self.send_all(&[&meta], None, patience)?;
        for parts in bulk.chunks(MAX_SLICES) {
            self.send_all(parts, None, patience)?;
        }
        Ok(())
    }

    /// Receives one message; values larger than `max_meta` or raw bytes beyond `max_bulk` are errors.
    pub(crate) fn receive<T: DeserializeOwned>(
        &self,
        max_meta: usize,
        max_bulk: usize,
        patience: &mut impl Patience,
    ) -> Result<Message<T>, WireError> {
        let (head, descriptor) = self.receive_head(patience)?;
        let [magic, meta_bytes, bulk_bytes, descriptors] = split_head(&head);
        let size = |value: u32| usize::try_from(value).map_err(|_| WireError::Malformed("size"));
        let (meta_bytes, bulk_bytes) = (size(meta_bytes)?, size(bulk_bytes)?);
        if magic != MAGIC {
            return Err(WireError::Malformed("magic number"));
        }
        if meta_bytes > max_meta.min(MAX_META_BYTES) || bulk_bytes > max_bulk.min(MAX_BULK_BYTES) {
            return Err(WireError::Malformed("message too large"));
        }
        if descriptors != u32::from(descriptor.is_some()) {
            return Err(WireError::Malformed("number of descriptors"));
        }
        let mut meta = vec![0; meta_bytes];
        self.receive_all(&mut meta, patience)?;
        let mut bulk = Secret::zeroes(bulk_bytes);
        self.receive_all(bulk.as_mut_slice(), patience)?;
        let value = match postcard::take_from_bytes(&meta) {
            Ok((value, [])) => value,
            Ok(_) => return Err(WireError::Malformed("bytes behind the value")),
            Err(_) => return Err(WireError::Malformed("value")),
        };
        Ok(Message { meta: value, bulk, descriptor })
    }

    fn wait(&self, events: PollFlags, patience: &mut impl Patience) -> Result<(), WireError> {
        let wait = patience.next_wait()?;
        let timeout = Timespec::try_from(wait).map_err(|_| WireError::Malformed("timeout"))?;
        let mut fds = [PollFd::new(&self.socket, events)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends all bytes of `parts`; the descriptor goes with the first byte.
    fn send_all(
        &self,
        parts: &[&[u8]],
        mut descriptor: Option<BorrowedFd<'_>>,
        patience: &mut impl Patience,
    ) -> Result<(), WireError> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut slices = slices.as_mut_slice();
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let fds = descriptor.map(|fd| [fd]);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if let Some(fds) = &fds
                && !control.push(SendAncillaryMessage::ScmRights(fds))
            {
                return Err(WireError::Malformed("no room for a descriptor"));
            }
            match sendmsg(self.socket.as_fd(), slices, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    descriptor = None;
                    IoSlice::advance_slices(&mut slices, sent);
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, patience)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives a head and the descriptor that comes with its first byte. Descriptors past the first are closed.
    fn receive_head(&self, patience: &mut impl Patience) -> Result<([u8; HEAD_BYTES], Option<OwnedFd>), WireError> {
        let mut head = [0; HEAD_BYTES];
        let mut received = 0;
        let mut descriptor = None;
        while received < HEAD_BYTES {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let Some(rest) = head.get_mut(received..) else { break };
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            match recvmsg(self.socket.as_fd(), &mut [IoSliceMut::new(rest)], &mut control, flags) {
                Ok(message) => {
                    for part in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = part {
                            for fd in fds {
                                if descriptor.replace(fd).is_some() {
                                    return Err(WireError::Malformed("more than one descriptor"));
                                }
                            }
                        }
                    }
                    if message.flags.contains(ReturnFlags::CTRUNC) {
                        return Err(WireError::Malformed("more than one descriptor"));
                    }
                    if message.bytes == 0 {
                        return Err(WireError::Closed);
                    }
                    received += message.bytes;
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, patience)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((head, descriptor))
    }

    /// Receives exactly so many bytes. Descriptors that come with them are closed by the kernel.
    fn receive_all(&self, buffer: &mut [u8], patience: &mut impl Patience) -> Result<(), WireError> {
        let mut received = 0;
        while let Some(rest) = buffer.get_mut(received..)
            && !rest.is_empty()
        {
            match recv(self.socket.as_fd(), rest, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(WireError::Closed),
                Ok((_, bytes)) => received += bytes,
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, patience)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn head(meta: usize, bulk: usize, descriptors: usize) -> Result<[u8; HEAD_BYTES], WireError> {
    let mut head = [0; HEAD_BYTES];
    let mut words = head.chunks_exact_mut(4);
    for value in [usize::try_from(MAGIC).unwrap_or_default(), meta, bulk, descriptors] {
        let value = u32::try_from(value).map_err(|_| WireError::Malformed("message too large to send"))?;
        if let Some(word) = words.next() {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(head)
}

fn split_head(head: &[u8; HEAD_BYTES]) -> [u32; 4] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = *head;
    [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]].map(u32::from_le_bytes)
}
