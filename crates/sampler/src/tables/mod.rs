//! The thread "tables": which files' unwind tables are in the kernel, and which processes are walked over them.
//!
//! The thread that unwinds sends news ([`News`], by a [`Desk`]) and never waits. [`State`] decides, without I/O and clock: what is
//! placed where, who is published, which file is worth work next. [`run`] carries it out: opens files, fetches their
//! tables, waits until no walk reads any more what is to be overwritten.
//!
//! A process is published when it executes a program, or when a sample of it shows that it runs and is not published: a
//! child that was only forked executes another program soon, most often. It is published with the files that are loaded; the others
//! are pending, and samples that come through them carry snapshots and say which files they need. Nothing is compiled
//! only since it is mapped somewhere, but for a few files of a program that begins.
//!
//! What is written for a process is never changed in place, since walks may be reading it: new mappings are written elsewhere, the
//! process is published anew, and the old ones are given back once every walk that had begun is over. A file's table goes in the
//! same order: its processes are rewritten without it, walks end, then its room is free.
//!
//! **In**: news; bytes of tables, which a worker process made of hostile files: checked when they are parsed. **Out**: shards and
//! entries of processes ([`Kernel`]). **Units**: addresses of processes, ELF addresses, bytes; heat is samples, in parts of 256.
//! **Limits**: the shards that the kernel side was loaded for, [`sampler_abi::MAX_PROCESSES`], [`unwind_table::MAX_MAPPINGS`]
//! mappings of one process, [`news::MAX_NEWS`]; what is past them is counted, and has snapshots.

mod ahead;
mod counted;
mod desk;
#[cfg(test)]
mod fakes;
mod files;
mod kernel;
mod loading;
mod queue;
mod room;
mod sets;
mod shared;
mod source;
mod state;
mod thread;

#[cfg(test)]
mod tests;

pub(crate) use counted::TablesCounted;
#[cfg(test)]
pub(crate) use desk::News;
pub(crate) use desk::{Desk, Mapped, Why};
pub(crate) use kernel::Kernel;
pub(crate) use source::TableSource;
pub(crate) use state::State;
pub(crate) use thread::run;
