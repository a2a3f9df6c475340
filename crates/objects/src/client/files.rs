//! Requests about a file: its descriptor goes along.
//!
//! **In**: descriptors of targets' files. **Out**: the worker's replies, checked. **Limits**: those of `protocol`; the time that
//! reading one file may take.

use std::borrow::Cow;
use std::os::fd::BorrowedFd;

use super::{Client, Fault, patience, receive};
use crate::Fingerprint;
use crate::checks;
use crate::fingerprint::Run;
use crate::protocol::{Extracted, MAX_REPLY_BYTES, Reply, Request};
use crate::tables::StoredTables;
use crate::wire::{Message, WireError};

impl Client {
    /// Has the worker read a file.
    pub(crate) fn extract(&mut self, file: BorrowedFd<'_>) -> Result<(Extracted, Option<StoredTables>), Fault> {
        let limit = self.timeouts.extract;
        self.request(|process, _| {
            let mut patience = patience(process, limit);
            process.channel().send(&Request::Extract, &[], Some(file), &mut patience)?;
            let message: Message<Reply> = process.channel().receive(MAX_REPLY_BYTES, 0, &mut patience)?;
            match (message.meta, message.descriptor) {
                (Reply::Extracted(extracted), memfd) => {
                    checks::extracted(&extracted)?;
                    let stored = memfd.map(|memfd| checks::stored(memfd, &extracted)).transpose()?;
                    if stored.is_none() && !extracted.sizes.is_empty() {
                        return Err(WireError::Malformed("tables without a descriptor"));
                    }
                    Ok(Ok((extracted, stored)))
                }
                (Reply::Refused(reason), None) => Ok(Err(reason)),
                _ => Err(WireError::Malformed("another reply than asked for")),
            }
        })
    }

    /// Has the worker say what a file is.
    pub(crate) fn identify(&mut self, file: BorrowedFd<'_>) -> Result<Extracted, Fault> {
        self.ask_of_file(&Request::Identify, file, |reply| match reply {
            Reply::Identified(identity) => checks::extracted(&identity).map(|()| identity),
            _ => Err(WireError::Malformed("another reply than asked for")),
        })
    }

    /// Has the worker read a debug file, for the file that is read next.
    pub(crate) fn debug(&mut self, file: BorrowedFd<'_>, build_id: &str) -> Result<(), Fault> {
        let request = Request::Debug { build_id: Cow::Borrowed(build_id) };
        let read = self.ask_of_file(&request, file, |reply| match reply {
            Reply::Loaded(read) => Ok(read),
            _ => Err(WireError::Malformed("another reply than asked for")),
        })?;
        read.map_err(Fault::Refused)
    }

    /// Has the worker hash runs of blocks of a file. None where it has no such runs.
    pub(crate) fn fingerprint(&mut self, file: BorrowedFd<'_>, runs: &[Run]) -> Result<Option<Fingerprint>, Fault> {
        let request = Request::Fingerprint { runs: Cow::Borrowed(runs) };
        self.ask_of_file(&request, file, |reply| match reply {
            Reply::Fingerprint(fingerprint) => Ok(fingerprint),
            _ => Err(WireError::Malformed("another reply than asked for")),
        })
    }

    fn ask_of_file<T>(
        &mut self,
        request: &Request<'_>,
        file: BorrowedFd<'_>,
        take: impl FnOnce(Reply) -> Result<T, WireError>,
    ) -> Result<T, Fault> {
        let limit = self.timeouts.extract;
        self.request(|process, _| {
            let mut patience = patience(process, limit);
            process.channel().send(request, &[], Some(file), &mut patience)?;
            match receive(process, MAX_REPLY_BYTES, &mut patience)? {
                Reply::Refused(reason) => Ok(Err(reason)),
                reply => take(reply).map(Ok),
            }
        })
    }
}
