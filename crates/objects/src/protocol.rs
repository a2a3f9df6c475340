//! What agent and worker say to each other: one request, then its replies, then the next request.
//!
//! **In / Out**: plain values, encoded by postcard. The worker trusts the agent's numbers but not the bytes of
//! targets; the agent checks every reply as if it came from a target.
//! **Limits**: the constants; whatever is past them makes a reply malformed, and the worker is replaced.

use std::borrow::Cow;

use profile::{MapEntry, ObjectId, Segment, SymbolName, UserRegisters, UserStack};
use serde::{Deserialize, Serialize};

use crate::Fingerprint;
use crate::fingerprint::{Covered, Run};
use crate::tables::Sizes;

/// Both sides are the same binary; a binary replaced on disk while it runs is still `/proc/self/exe`. So any
/// difference is an error.
pub(crate) const VERSION: u32 = 2;

/// Frames of one user stack.
pub(crate) const MAX_FRAMES: usize = 2048;
/// Samples of one unwind request.
pub(crate) const MAX_BATCH_SAMPLES: usize = 256;
/// Bytes of snapshots of one unwind request.
pub(crate) const MAX_BATCH_BYTES: usize = 8 << 20;
/// Bytes of one snapshot.
pub(crate) const MAX_STACK_BYTES: usize = 256 << 10;
/// Executable mappings of one process in an unwind request; those at higher addresses are left out.
pub(crate) const MAX_MAPS: usize = 16 * 1024;
/// Stacks of one reply, so that what was done before a worker died is kept.
pub(crate) const STACKS_PER_REPLY: u32 = 16;
/// Addresses of one request for names.
pub(crate) const MAX_NAMES: usize = 1024;
/// Bytes of one name, both its forms.
pub(crate) const MAX_NAME_BYTES: usize = 4096;
/// Load segments of one file.
pub(crate) const MAX_SEGMENTS: usize = 256;
/// Characters of a build id as text.
pub(crate) const MAX_BUILD_ID_CHARS: usize = 256;
/// Bytes of a debug file's name.
pub(crate) const MAX_DEBUG_LINK_BYTES: usize = 255;
/// Characters of a reason.
pub(crate) const MAX_REASON_BYTES: usize = 512;

/// The largest encoded reply to anything but [`Request::Names`].
pub(crate) const MAX_REPLY_BYTES: usize = 1 << 20;
/// The largest encoded reply to [`Request::Names`].
pub(crate) const MAX_NAMES_REPLY_BYTES: usize = MAX_NAMES * (2 * MAX_NAME_BYTES + 40);

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    /// Read the file whose descriptor comes along. Reply: [`Reply::Extracted`].
    Extract,
    /// Take tables of an object from the sealed memfd that comes along. Reply: [`Reply::Loaded`].
    Load {
        /// The object.
        object: ObjectId,
        /// Its tables for unwinding.
        unwind: bool,
        /// Its tables for naming.
        symbols: bool,
    },
    /// Forget an object's tables. Reply: [`Reply::Loaded`].
    Forget {
        /// The object.
        object: ObjectId,
    },
    /// Unwind the snapshots that follow as raw bytes, one behind the other. Replies: [`Reply::Stacks`] until there is
    /// one for every sample.
    Unwind {
        /// Stacks of one reply.
        stacks_per_reply: u32,
        /// The executable mappings of each process.
        processes: Vec<Cow<'a, [MapEntry]>>,
        /// The samples.
        samples: Vec<SampleMeta>,
    },
    /// Name addresses of a loaded object. Reply: [`Reply::Names`].
    Names {
        /// The object.
        object: ObjectId,
        /// ELF addresses.
        addresses: Cow<'a, [u64]>,
    },
    /// Say what the file is whose descriptor comes along. Reply: [`Reply::Identified`].
    Identify,
    /// Read the debug file whose descriptor comes along, for the next [`Request::Extract`]. Reply: [`Reply::Loaded`].
    Debug {
        /// The GNU build id that it must have.
        build_id: Cow<'a, str>,
    },
    /// Hash runs of blocks of the file whose descriptor comes along. Reply: [`Reply::Fingerprint`].
    Fingerprint {
        /// The runs.
        runs: Cow<'a, [Run]>,
    },
}

/// One sample of [`Request::Unwind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SampleMeta {
    /// Index into the request's processes.
    pub(crate) process: u32,
    /// The registers.
    pub(crate) registers: UserRegisters,
    /// Bytes of its snapshot.
    pub(crate) stack_bytes: u32,
}

/// Samples of one [`Request::Unwind`], on the agent's side.
pub(crate) struct Batch<'a> {
    /// The executable mappings of each process.
    pub(crate) processes: Vec<Cow<'a, [MapEntry]>>,
    /// The samples.
    pub(crate) samples: Vec<SampleMeta>,
    /// Their snapshots.
    pub(crate) stacks: Vec<&'a [u8]>,
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// First, unasked.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// What of the sandbox could be had.
        sandbox: SandboxReport,
    },
    /// What a file is; its tables come along as a sealed memfd unless all are empty.
    Extracted(Extracted),
    /// An object was loaded, or not, with the reason.
    Loaded(Result<(), String>),
    /// The next stacks, in the samples' order.
    Stacks(Vec<UserStack>),
    /// One for every address.
    Names(Vec<Option<SymbolName>>),
    /// The request could not be served; the worker is well.
    Refused(String),
    /// What a file is, without tables.
    Identified(Extracted),
    /// The fingerprint; none where the file has no such runs, or cannot be read.
    Fingerprint(Option<Fingerprint>),
}

/// What a file is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extracted {
    /// OpenTelemetry's `htlhash`.
    pub(crate) htlhash: String,
    /// What its headers say, if it is an ELF file.
    pub(crate) elf: Option<ElfIdentity>,
    /// Bytes of its tables.
    pub(crate) sizes: Sizes,
    /// What went wrong; empty where nothing did.
    pub(crate) problem: String,
    /// The name of its debug file as it says itself, without a path; empty where it does not, or is not asked.
    pub(crate) debug_link: String,
    /// What all this is made of; none where another file cannot be known to be the same.
    pub(crate) covered: Option<Covered>,
}

/// What an ELF file's headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ElfIdentity {
    /// GNU build id, lower-case hex; empty where there is none.
    pub(crate) gnu: String,
    /// Go's build id; empty where there is none.
    pub(crate) go: String,
    /// Load segments.
    pub(crate) segments: Vec<Segment>,
}

/// Which walls of the sandbox stand. The worker works with any; the agent logs what is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxReport {
    /// No capability in any set.
    pub no_capabilities: bool,
    /// `no_new_privs` is set.
    pub no_new_privileges: bool,
    /// Runs as nobody, without groups.
    pub nobody: bool,
    /// In a network namespace of its own, without interfaces that are up.
    pub own_network: bool,
    /// No file can be opened any more (Landlock).
    pub no_files: bool,
    /// All resource limits are set.
    pub limits: bool,
    /// Ends with the agent.
    pub dies_with_agent: bool,
    /// Its memory cannot be read by others, nor dumped.
    pub not_dumpable: bool,
    /// Any system call that it does not need ends it (seccomp).
    pub system_calls: bool,
}

impl SandboxReport {
    /// The names of the walls that are missing.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        [
            (self.no_capabilities, "no_capabilities"),
            (self.no_new_privileges, "no_new_privileges"),
            (self.nobody, "nobody"),
            (self.own_network, "own_network"),
            (self.no_files, "no_files"),
            (self.limits, "limits"),
            (self.dies_with_agent, "dies_with_agent"),
            (self.not_dumpable, "not_dumpable"),
            (self.system_calls, "system_calls"),
        ]
        .into_iter()
        .filter_map(|(stands, name)| (!stands).then_some(name))
        .collect()
    }
}

/// Cuts a text to so many bytes at a character's border.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_characters() {
        for (text, bytes, expected) in [("abc", 5, "abc"), ("abc", 2, "ab"), ("aä", 2, "a"), ("ä", 0, ""), ("", 3, "")]
        {
            assert_eq!(cut(text.to_owned(), bytes), expected);
        }
    }

    #[test]
    fn the_largest_replies_fit() {
        use profile::{StackEnd, UserFrame};
        let frame = UserFrame::Object { object: ObjectId(u64::MAX), address: u64::MAX };
        let stack = UserStack { frames: vec![frame; MAX_FRAMES], end: StackEnd::TooManyFrames };
        let stacks = Reply::Stacks(vec![stack; STACKS_PER_REPLY as usize]);
        assert!(postcard::to_stdvec(&stacks).unwrap().len() <= MAX_REPLY_BYTES);
        let name = "x".repeat(MAX_NAME_BYTES);
        let names = Reply::Names(vec![
            Some(SymbolName {
                name: name.clone(),
                system_name: name,
                addresses: u64::MAX - 1..u64::MAX
            });
            MAX_NAMES
        ]);
        assert!(postcard::to_stdvec(&names).unwrap().len() <= MAX_NAMES_REPLY_BYTES);
        let max = Segment { elf_address: u64::MAX, file_offset: u64::MAX, file_bytes: u64::MAX, executable: true };
        let text = "x".repeat(MAX_BUILD_ID_CHARS);
        let elf = ElfIdentity { gnu: text.clone(), go: text, segments: vec![max; MAX_SEGMENTS] };
        let run = Run { first: u64::MAX, blocks: u64::MAX };
        let fingerprint = crate::fingerprint::Trace::default().covered(0).unwrap().fingerprint;
        let covered = Covered { bytes: u64::MAX, runs: vec![run; crate::fingerprint::MAX_RUNS], fingerprint };
        let extracted = Extracted { elf: Some(elf), covered: Some(covered), ..Extracted::default() };
        assert!(postcard::to_stdvec(&Reply::Extracted(extracted)).unwrap().len() <= MAX_REPLY_BYTES);
    }
}
