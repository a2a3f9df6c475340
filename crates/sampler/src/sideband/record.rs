//! One side-band record, from the kernel's bytes.
//!
//! **In**: the bytes of one record of a perf ring, written by the kernel (trusted in shape, yet checked); paths and
//! names inside are the target's (hostile). **Out**: [`Record`]. **Units**: `CLOCK_MONOTONIC` nanoseconds, host pids,
//! addresses of the process. **Limits**: a record is at most 64 KiB by its header; nothing is allocated but its path.

use objects::MappedFile;

use crate::comm::Comm;
use crate::proc_scan::ScannedProcess;

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_MMAP2: u32 = 10;
const RECORD_CGROUP: u32 = 19;
const MISC_COMM_EXEC: u16 = 1 << 13;
const PROT_EXEC: u32 = 4;
/// Type, misc and size.
pub(super) const HEADER_BYTES: usize = 8;
/// `sample_id` with `PERF_SAMPLE_TIME` alone: one number at the record's end.
const TRAILER_BYTES: usize = 8;

/// Something that happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// When.
    pub(crate) time_mono_ns: u64,
    /// The CPU whose ring it came from.
    pub(crate) cpu: u32,
    /// What.
    pub(crate) kind: Kind,
}

/// What happened. All ids are of the initial pid namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A task began: a thread where the process is its own parent, else a process.
    Fork { tgid: u32, tid: u32, parent_tgid: u32 },
    /// A task ended: one thread, not always the process.
    Exit { tgid: u32, tid: u32 },
    /// The leader got a new name (`exec`: with a new program).
    Comm { tgid: u32, comm: Comm, exec: bool },
    /// Executable memory was mapped.
    Map { tgid: u32, map: Box<MapRecord> },
    /// A cgroup of version 2 was made: its number, and its path from the hierarchy's root.
    Cgroup { number: u64, path: Box<[u8]> },
    /// So many records were lost before this one.
    Lost { records: u64 },
    /// Not of the kernel: what /proc said of a process at this time.
    Scanned(Box<ScannedProcess>),
}

/// One executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapRecord {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The file's byte at `start`.
    pub(crate) offset: u64,
    pub(crate) file: MappedFile,
}

impl Record {
    /// What the record holds in memory, for bounds.
    pub(crate) fn cost_bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.kind {
                Kind::Map { map, .. } => size_of::<MapRecord>() + map.file.path.capacity(),
                Kind::Scanned(process) => process.cost_bytes(),
                Kind::Cgroup { path, .. } => path.len(),
                _ => 0,
            }
    }
}

/// A parsed record, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// One to keep.
    Record(Record),
    /// One that says nothing of use here.
    Skipped,
    /// Bytes that are no record.
    Malformed,
}

/// Parses one whole record (`bytes` begins with its header and is as long as the header says).
pub(super) fn parse(bytes: &[u8], cpu: u32) -> Parsed {
    parse_checked(bytes, cpu).unwrap_or(Parsed::Malformed)
}

fn parse_checked(bytes: &[u8], cpu: u32) -> Option<Parsed> {
    let kind = u32_at(bytes, 0)?;
    let misc = u16_at(bytes, 4)?;
    let body = bytes.get(HEADER_BYTES..bytes.len().checked_sub(TRAILER_BYTES)?)?;
    let trailer = u64_at(bytes, bytes.len().checked_sub(TRAILER_BYTES)?)?;
    let (time_mono_ns, kind) = match kind {
        RECORD_FORK => {
            let (tgid, parent_tgid, tid) = (u32_at(body, 0)?, u32_at(body, 4)?, u32_at(body, 8)?);
            (u64_at(body, 16)?, Kind::Fork { tgid, tid, parent_tgid })
        }
        RECORD_EXIT => (u64_at(body, 16)?, Kind::Exit { tgid: u32_at(body, 0)?, tid: u32_at(body, 8)? }),
        RECORD_COMM => {
            let (tgid, tid) = (u32_at(body, 0)?, u32_at(body, 4)?);
            let exec = misc & MISC_COMM_EXEC != 0;
            if tid != tgid && !exec {
                // A sample carries the name of its thread; only the leader's is needed beside it.
                return Some(Parsed::Skipped);
            }
            (trailer, Kind::Comm { tgid, comm: Comm::from_bytes(body.get(8..)?), exec })
        }
        RECORD_MMAP2 => {
            let tgid = u32_at(body, 0)?;
            let (start, length, offset) = (u64_at(body, 8)?, u64_at(body, 16)?, u64_at(body, 24)?);
            let (major, minor) = (u32_at(body, 32)?, u32_at(body, 36)?);
            let (inode, generation) = (u64_at(body, 40)?, u64_at(body, 48)?);
            if u32_at(body, 56)? & PROT_EXEC == 0 || tgid == 0 || tgid == u32::MAX || length == 0 {
                return Some(Parsed::Skipped);
            }
            let path = until_nul(body.get(64..)?).to_vec();
            let map = MapRecord {
                start,
                end: start.checked_add(length)?,
                offset,
                file: MappedFile { major, minor, inode, generation, path },
            };
            (trailer, Kind::Map { tgid, map: Box::new(map) })
        }
        RECORD_CGROUP => {
            let path = until_nul(body.get(8..)?).into();
            (trailer, Kind::Cgroup { number: u64_at(body, 0)?, path })
        }
        RECORD_LOST => (trailer, Kind::Lost { records: u64_at(body, 8)? }),
        _ => return Some(Parsed::Skipped),
    };
    Some(Parsed::Record(Record { time_mono_ns, cpu, kind }))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record as the kernel lays it out (`include/uapi/linux/perf_event.h`).
    fn bytes(kind: u32, misc: u16, body: &[u8], time: u64) -> Vec<u8> {
        let size = u16::try_from(HEADER_BYTES + body.len() + TRAILER_BYTES).unwrap();
        let mut out = Vec::new();
        out.extend(kind.to_ne_bytes());
        out.extend(misc.to_ne_bytes());
        out.extend(size.to_ne_bytes());
        out.extend(body);
        out.extend(time.to_ne_bytes());
        out
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn record(time_mono_ns: u64, kind: Kind) -> Parsed {
        Parsed::Record(Record { time_mono_ns, cpu: 3, kind })
    }

    #[test]
    fn fork_and_exit_carry_their_own_time() {
        let mut body = words(&[10, 4, 10, 5]);
        body.extend(77u64.to_ne_bytes());
        let fork = Kind::Fork { tgid: 10, tid: 10, parent_tgid: 4 };
        assert_eq!(parse(&bytes(RECORD_FORK, 0, &body, 78), 3), record(77, fork));
        assert_eq!(parse(&bytes(RECORD_EXIT, 0, &body, 78), 3), record(77, Kind::Exit { tgid: 10, tid: 10 }));
    }

    #[test]
    fn comm_keeps_the_exec_flag_and_skips_threads() {
        let body = |tid: u32| [words(&[10, tid]), b"bash\0\0\0\0".to_vec()].concat();
        let comm = |exec| Kind::Comm { tgid: 10, comm: Comm::from_bytes(b"bash"), exec };
        assert_eq!(parse(&bytes(RECORD_COMM, MISC_COMM_EXEC, &body(10), 9), 3), record(9, comm(true)));
        assert_eq!(parse(&bytes(RECORD_COMM, 0, &body(10), 9), 3), record(9, comm(false)));
        assert_eq!(parse(&bytes(RECORD_COMM, 0, &body(11), 9), 3), Parsed::Skipped);
    }

    #[test]
    fn mmap2_gives_range_file_and_path_bytes() {
        let mut body = words(&[10, 11]);
        for word in [0x1000u64, 0x2000, 0x3000] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(words(&[253, 1]));
        body.extend(42u64.to_ne_bytes());
        body.extend(6u64.to_ne_bytes());
        body.extend(words(&[5, 2]));
        body.extend(b"/x\xff\ny\0\0\0");
        let map = MapRecord {
            start: 0x1000,
            end: 0x3000,
            offset: 0x3000,
            file: MappedFile { major: 253, minor: 1, inode: 42, generation: 6, path: b"/x\xff\ny".to_vec() },
        };
        assert_eq!(parse(&bytes(RECORD_MMAP2, 0, &body, 5), 3), record(5, Kind::Map { tgid: 10, map: Box::new(map) }));
        body[56] = 1;
        assert_eq!(parse(&bytes(RECORD_MMAP2, 0, &body, 5), 3), Parsed::Skipped, "not executable");
    }

    #[test]
    fn lost_counts() {
        let mut body = 1u64.to_ne_bytes().to_vec();
        body.extend(19_933u64.to_ne_bytes());
        assert_eq!(parse(&bytes(RECORD_LOST, 0, &body, 5), 3), record(5, Kind::Lost { records: 19_933 }));
    }

    #[test]
    fn a_new_cgroup_has_its_number_and_path() {
        let body = [42u64.to_ne_bytes().as_slice(), b"/docker/\xff\n\0\0\0\0\0\0"].concat();
        let kind = Kind::Cgroup { number: 42, path: (*b"/docker/\xff\n").into() };
        assert_eq!(parse(&bytes(RECORD_CGROUP, 0, &body, 5), 3), record(5, kind));
        assert_eq!(parse(&bytes(RECORD_CGROUP, 0, &[0; 4], 5), 3), Parsed::Malformed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(kind in 0u32..22, misc: u16, body: Vec<u8>, cut in 0usize..80) {
            let all = bytes(kind, misc, &body, 1);
            parse(&all[..all.len().saturating_sub(cut)], 0);
        }
    }
}
