//! The worker process: the only place where bytes of targets are parsed.
//!
//! It serves one request after the other and keeps nothing but the tables it was given. It trusts the agent, and
//! nothing else; a panic ends the process, and the agent starts another one.
//!
//! One worker suffices: unwinding costs microseconds a sample, and what takes long (reading a file) happens once for
//! each file. Should extraction ever hold up unwinding too much, a second worker for it fits behind the same door.
//!
//! **In**: the agent's requests; bytes of targets (hostile) behind descriptors and in snapshots. **Out**: replies.
//! **Units**: bytes, ELF addresses. **Limits**: those of `protocol` and of the sandbox.

mod extract;
mod landlock;
mod memory;
mod sandbox;
mod seccomp;

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};

use profile::{MapEntry, ObjectId, StackEnd, SymbolName, UserStack};
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;

use crate::protocol::{
    MAX_BATCH_BYTES, MAX_FRAMES, MAX_NAME_BYTES, MAX_REASON_BYTES, Reply, Request, SampleMeta, VERSION, cut,
};
use crate::secret::Secret;
use crate::tables::Tables;
use crate::tools::Tools;
use crate::wire::{Channel, Forever, MAX_META_BYTES, WireError};

/// Why the worker ended other than by the agent closing the socket.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Standard input is not the agent's socket.
    #[error("standard input is not the agent's socket: the agent starts its worker itself")]
    NoSocket,
    /// The socket failed.
    #[error("the agent's socket failed")]
    Socket(#[source] io::Error),
}

/// The body of `profiler worker`: takes the socket on standard input, locks itself in, and answers requests until the
/// agent closes the socket. Must be called first thing, while the process has one thread. A panic of the tools ends
/// the process.
///
/// # Errors
/// There is no socket, or it failed.
pub fn serve(tools: impl Tools) -> Result<(), WorkerError> {
    let socket = take_socket()?;
    memory::keep_little();
    let sandbox = sandbox::enter();
    let channel = Channel::new(socket);
    let mut server = Server { tools, loaded: memory::Loaded::default(), frames: Vec::new(), debug: None };
    let result = channel
        .send(&Reply::Hello { version: VERSION, sandbox }, &[], None, &mut Forever)
        .and_then(|()| server.run(&channel));
    match result {
        Ok(()) | Err(WireError::Closed) => Ok(()),
        Err(WireError::Io(error)) => Err(WorkerError::Socket(error)),
        Err(other) => Err(WorkerError::Socket(io::Error::other(other))),
    }
}

fn take_socket() -> Result<OwnedFd, WorkerError> {
    match socket_domain(io::stdin()) {
        // SAFETY: descriptor 0 is open, as the call has shown, and `serve`, which owns it from now on, is documented
        // as its only user.
        Ok(AddressFamily::UNIX) => Ok(unsafe { OwnedFd::from_raw_fd(0) }),
        _ => Err(WorkerError::NoSocket),
    }
}

struct Server<T> {
    tools: T,
    loaded: memory::Loaded,
    frames: Vec<profile::UserFrame>,
    /// What a debug file tells of the file that is read next.
    debug: Option<Vec<u8>>,
}

impl<T: Tools> Server<T> {
    fn run(&mut self, channel: &Channel) -> Result<(), WireError> {
        loop {
            self.loaded.settle();
            let message = channel.receive::<Request<'static>>(MAX_META_BYTES, MAX_BATCH_BYTES, &mut Forever)?;
            let reply = match (message.meta, message.descriptor) {
                (Request::Extract, Some(file)) => {
                    let (extracted, memfd) = extract::extract(&self.tools, file, self.debug.take());
                    let memfd = memfd.as_ref().map(AsFd::as_fd);
                    channel.send(&Reply::Extracted(extracted), &[], memfd, &mut Forever)?;
                    memory::give_back();
                    continue;
                }
                (Request::Debug { build_id }, Some(file)) => {
                    self.debug = None;
                    let read = extract::debug(&self.tools, file, &build_id).map_err(reason);
                    Reply::Loaded(read.map(|debug| self.debug = debug))
                }
                (Request::Identify, Some(file)) => Reply::Identified(extract::identify(file)),
                (Request::Fingerprint { runs }, Some(file)) => Reply::Fingerprint(extract::fingerprint(file, &runs)),
                (Request::Load { object, unwind, symbols }, Some(memfd)) => {
                    Reply::Loaded(self.load(object, memfd, unwind, symbols).map_err(reason))
                }
                (Request::Forget { object }, None) => {
                    self.tools.forget(object);
                    self.loaded.forget(object);
                    Reply::Loaded(Ok(()))
                }
                (Request::Unwind { stacks_per_reply, processes, samples }, None) => {
                    self.unwind(channel, stacks_per_reply, &processes, &samples, message.bulk)?;
                    continue;
                }
                (Request::Names { object, addresses }, None) => Reply::Names(self.names(object, &addresses)),
                _ => Reply::Refused("a descriptor is missing, or one too many".into()),
            };
            channel.send(&reply, &[], None, &mut Forever)?;
        }
    }

    fn load(&mut self, object: ObjectId, memfd: OwnedFd, unwind: bool, symbols: bool) -> Result<(), String> {
        let tables = Tables::open(memfd).map_err(|error| error.to_string())?;
        if symbols {
            self.loaded.keep_symbols(object, tables.symbols().map_err(|error| error.to_string())?);
        }
        if unwind {
            let table = tables.unwind().map_err(|error| error.to_string())?;
            self.tools.load_unwind(object, table.clone())?;
            self.loaded.keep_unwind(object, table);
        }
        Ok(())
    }

    /// Unwinds all samples; replies after every few, so that the agent keeps what is done if one of them is deadly.
    /// When it has the last reply, nothing is left of the snapshots.
    fn unwind(
        &mut self,
        channel: &Channel,
        stacks_per_reply: u32,
        processes: &[Cow<'_, [MapEntry]>],
        samples: &[SampleMeta],
        mut snapshots: Secret,
    ) -> Result<(), WireError> {
        let chunk = usize::try_from(stacks_per_reply).unwrap_or(1).max(1);
        let mut rest = &*snapshots;
        let mut stacks = Vec::with_capacity(chunk);
        let mut left = samples.len();
        for samples in samples.chunks(chunk) {
            for sample in samples {
                let bytes = usize::try_from(sample.stack_bytes).map_err(|_| WireError::Malformed("snapshot"))?;
                let (stack, behind) = rest.split_at_checked(bytes).ok_or(WireError::Malformed("snapshot"))?;
                rest = behind;
                let maps = usize::try_from(sample.process).ok().and_then(|process| processes.get(process));
                stacks.push(self.unwind_one(maps.map(AsRef::as_ref).unwrap_or_default(), sample, stack));
            }
            left -= samples.len();
            if left == 0 {
                rest = &[];
                snapshots.wipe();
            }
            channel.send(&Reply::Stacks(std::mem::take(&mut stacks)), &[], None, &mut Forever)?;
        }
        Ok(())
    }

    fn unwind_one(&mut self, maps: &[MapEntry], sample: &SampleMeta, stack: &[u8]) -> UserStack {
        self.frames.clear();
        let mut end = self.tools.unwind(maps, &sample.registers, stack, &mut self.frames);
        if self.frames.len() > MAX_FRAMES {
            self.frames.truncate(MAX_FRAMES);
            end = StackEnd::TooManyFrames;
        }
        UserStack { frames: self.frames.clone(), end }
    }

    fn names(&self, object: ObjectId, addresses: &[u64]) -> Vec<Option<SymbolName>> {
        let symbols = self.loaded.symbols(object);
        addresses
            .iter()
            .map(|&address| {
                let name = self.tools.name(symbols, address)?;
                (!name.name.is_empty()).then(|| SymbolName {
                    name: cut(name.name, MAX_NAME_BYTES),
                    system_name: cut(name.system_name, MAX_NAME_BYTES),
                    addresses: name.addresses,
                })
            })
            .collect()
    }
}

fn reason(text: String) -> String {
    cut(text, MAX_REASON_BYTES)
}
