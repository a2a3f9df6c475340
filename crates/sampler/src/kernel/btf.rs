//! Where members of kernel structures lie, and what its enumerators stand for, from the kernel's BTF.
//!
//! **In**: `/sys/kernel/btf/vmlinux`: the kernel's own, trusted, but of kernels that we do not know yet.
//! **Out**: byte offsets, numbers. **Units**: bytes (BTF's own bit offsets are turned into bytes; a bit-field has none).
//! **Limits**: [`MAX_BTF_BYTES`]; anonymous members are followed [`MAX_NESTING`] deep. A kind of type that we do not know ends
//! the reading: what came before stays usable.

use std::{fs, io, io::Read as _};

/// Today's kernels have 4 to 12 MB.
const MAX_BTF_BYTES: u64 = 128 * 1024 * 1024;
/// How deep unnamed structs and unions may lie within each other.
const MAX_NESTING: u32 = 8;
/// How many typedefs and qualifiers may lie between a member and its struct.
const MAX_MODIFIERS: u32 = 16;
const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

const ENUMERATOR_BYTES: usize = 8;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;

/// What is wrong with the BTF.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is none, or it cannot be read.
    #[error("{PATH}: {0}")]
    Read(#[source] io::Error),
    /// Not BTF of this machine's byte order, or cut off.
    #[error("{PATH}: not BTF, or cut off at its {part}")]
    Malformed {
        /// Where reading ended.
        part: &'static str,
    },
    /// A type or a member is not there.
    #[error("{PATH} has no `{of}` with a member `{member}`")]
    NotFound {
        /// The struct or enumeration.
        of: String,
        /// The member.
        member: String,
    },
}

/// The kernel's types, indexed by their ids.
pub(super) struct Btf {
    data: Vec<u8>,
    /// Where each type begins in `data`; id 1 is the first.
    types: Vec<usize>,
    strings: usize,
}

impl Btf {
    /// Of the running kernel.
    pub(super) fn of_kernel() -> Result<Self, BtfError> {
        let file = fs::File::open(PATH).map_err(BtfError::Read)?;
        let mut data = Vec::new();
        file.take(MAX_BTF_BYTES).read_to_end(&mut data).map_err(BtfError::Read)?;
        Self::parse(data)
    }

    fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let malformed = |part| BtfError::Malformed { part };
        let header = |at| u32_at(&data, at).ok_or(malformed("header"));
        let magic = data.get(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err(malformed("magic number"));
        }
        let header_bytes = header(4)?;
        let section = |offset_at, length_at| -> Result<(usize, usize), BtfError> {
            let start = u64::from(header_bytes) + u64::from(header(offset_at)?);
            let end = start + u64::from(header(length_at)?);
            match (usize::try_from(start), usize::try_from(end)) {
                (Ok(start), Ok(end)) if end <= data.len() => Ok((start, end)),
                _ => Err(malformed("sections")),
            }
        };
        let (mut at, types_end) = section(8, 12)?;
        let (strings, _) = section(16, 20)?;
        let mut types = Vec::new();
        while at < types_end {
            let info = u32_at(&data, at + 4).ok_or(malformed("types"))?;
            let Some(extra) = extra_bytes(kind(info), vlen(info)) else { break };
            types.push(at);
            at += TYPE_BYTES + extra;
        }
        Ok(Self { data, types, strings })
    }

    /// The offset of a member of a struct, in bytes; unnamed members are looked into.
    pub(super) fn offset(&self, of: &str, member: &str) -> Result<u32, BtfError> {
        let not_found = || BtfError::NotFound { of: of.to_owned(), member: member.to_owned() };
        self.named(STRUCT, of)
            .find_map(|at| self.member_bits(at, member, MAX_NESTING))
            .filter(|bits| bits % 8 == 0)
            .map(|bits| bits / 8)
            .ok_or_else(not_found)
    }

    /// The size of a struct, in bytes.
    pub(super) fn size(&self, of: &str) -> Result<u32, BtfError> {
        let not_found = || BtfError::NotFound { of: of.to_owned(), member: String::new() };
        self.named(STRUCT, of).find_map(|at| u32_at(&self.data, at + 8)).ok_or_else(not_found)
    }

    /// The number of an enumerator.
    pub(super) fn enumerator(&self, of: &str, enumerator: &str) -> Result<u32, BtfError> {
        let number = |at: usize| {
            let count = vlen(u32_at(&self.data, at + 4)?);
            (0..count).map(|index| at + TYPE_BYTES + index * ENUMERATOR_BYTES).find_map(|here| {
                self.name_is(u32_at(&self.data, here)?, enumerator).then(|| u32_at(&self.data, here + 4))?
            })
        };
        let not_found = || BtfError::NotFound { of: of.to_owned(), member: enumerator.to_owned() };
        self.named(ENUM, of).find_map(number).ok_or_else(not_found)
    }

    /// Where the types of this kind and name begin.
    fn named<'a>(&'a self, wanted: u32, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.types.iter().copied().filter(move |at| {
            u32_at(&self.data, at + 4).is_some_and(|info| kind(info) == wanted)
                && u32_at(&self.data, *at).is_some_and(|offset| self.name_is(offset, name))
        })
    }

    fn member_bits(&self, at: usize, member: &str, nesting: u32) -> Option<u32> {
        let info = u32_at(&self.data, at + 4)?;
        // With this flag, the offset's upper 8 bits are a bit-field's size.
        let packed = info >> 31 != 0;
        for index in 0..vlen(info) {
            let here = at + TYPE_BYTES + index * MEMBER_BYTES;
            let name = u32_at(&self.data, here)?;
            let type_id = u32_at(&self.data, here + 4)?;
            let raw = u32_at(&self.data, here + 8)?;
            let bits = if packed { raw & 0x00ff_ffff } else { raw };
            if self.name_is(name, member) {
                let bit_field = packed && raw >> 24 != 0;
                return (!bit_field).then_some(bits);
            }
            if self.name_is(name, "")
                && nesting > 0
                && let Some(inner) = self.aggregate(type_id)
                && let Some(inner_bits) = self.member_bits(inner, member, nesting - 1)
            {
                return bits.checked_add(inner_bits);
            }
        }
        None
    }

    /// The struct or union behind typedefs and qualifiers.
    fn aggregate(&self, mut id: u32) -> Option<usize> {
        for _ in 0..MAX_MODIFIERS {
            let at = *self.types.get(usize::try_from(id).ok()?.checked_sub(1)?)?;
            match kind(u32_at(&self.data, at + 4)?) {
                STRUCT | UNION => return Some(at),
                // typedef, volatile, const, restrict, type tag
                8..=11 | 18 => id = u32_at(&self.data, at + 8)?,
                _ => return None,
            }
        }
        None
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let Ok(offset) = usize::try_from(offset) else { return false };
        let Some(bytes) = self.strings.checked_add(offset).and_then(|start| self.data.get(start..)) else {
            return false;
        };
        bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

fn vlen(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// What follows a type's first 12 bytes; none for a kind that we do not know.
fn extra_bytes(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // integer, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // struct, union, data section, 64-bit enumeration
        STRUCT | UNION | 15 | 19 => vlen * 12,
        // enumeration, function prototype
        ENUM | 13 => vlen * ENUMERATOR_BYTES,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: &[u8] = b"\0task\0inner\0pid\0flags\0bits\0ids\0first\0second\0";
    const TASK: u32 = 1;
    const PID: u32 = 12;
    const FLAGS: u32 = 16;
    const BITS: u32 = 22;
    const IDS: u32 = 27;
    const FIRST: u32 = 31;
    const SECOND: u32 = 37;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn build(types: &[u32]) -> Vec<u8> {
        let types = words(types);
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        let types_len = u32::try_from(types.len()).unwrap();
        data.extend(words(&[24, 0, types_len, types_len, u32::try_from(STRINGS.len()).unwrap()]));
        data.extend(types);
        data.extend(STRINGS);
        data
    }

    /// 1: int; 2: union { pid at 4 bytes }; 3: const 2; 4: struct task { flags: 8 bytes; unnamed 3 at 16; bits:3 };
    /// 5: enum ids { first = 0, second = 7 }.
    fn sample() -> Vec<u8> {
        let info = |kind: u32, vlen: u32, flag: u32| kind << 24 | vlen | flag << 31;
        build(&[
            0,
            info(1, 0, 0),
            4,
            32, //
            0,
            info(UNION, 1, 0),
            8,
            PID,
            1,
            32, //
            0,
            info(10, 0, 0),
            2, //
            TASK,
            info(STRUCT, 3, 1),
            32,
            FLAGS,
            1,
            64,
            0,
            3,
            128,
            BITS,
            1,
            3 << 24 | 200, //
            IDS,
            info(ENUM, 2, 0),
            4,
            FIRST,
            0,
            SECOND,
            7,
        ])
    }

    #[test]
    fn finds_members_and_looks_into_unnamed_ones() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("task", "flags").unwrap(), 8);
        assert_eq!(btf.offset("task", "pid").unwrap(), 20);
        assert_eq!(btf.size("task").unwrap(), 32);
        assert!(matches!(btf.size("tas"), Err(BtfError::NotFound { .. })));
        assert!(matches!(btf.offset("task", "bits"), Err(BtfError::NotFound { .. })));
        assert!(matches!(btf.offset("task", "none"), Err(BtfError::NotFound { .. })));
        assert!(matches!(btf.offset("tas", "pid"), Err(BtfError::NotFound { .. })));
    }

    #[test]
    fn finds_enumerators() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.enumerator("ids", "first").unwrap(), 0);
        assert_eq!(btf.enumerator("ids", "second").unwrap(), 7);
        assert!(matches!(btf.enumerator("ids", "third"), Err(BtfError::NotFound { .. })));
        assert!(matches!(btf.enumerator("task", "flags"), Err(BtfError::NotFound { .. })), "a struct");
    }

    #[test]
    fn an_unknown_kind_ends_the_reading() {
        let mut data = sample();
        let at = 24 + 16 + 24 + 12 + 4;
        data[at + 3] = 31;
        let btf = Btf::parse(data).unwrap();
        assert_eq!(btf.types.len(), 3);
        assert!(btf.offset("task", "flags").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_without_panic(
            cut in 0usize..260,
            change in proptest::collection::vec((0usize..260, proptest::num::u8::ANY), 0..8),
        ) {
            let mut data = sample();
            for (at, byte) in change {
                if let Some(here) = data.get_mut(at) {
                    *here = byte;
                }
            }
            data.truncate(cut);
            if let Ok(btf) = Btf::parse(data) {
                let _ = btf.offset("task", "pid");
                let _ = btf.offset("task", "bits");
                let _ = btf.enumerator("ids", "second");
            }
        }
    }

    #[test]
    fn this_kernel() {
        let Ok(btf) = Btf::of_kernel() else {
            println!("skipped: this kernel has no BTF");
            return;
        };
        let flags = btf.offset("task_struct", "flags").unwrap();
        let pid = btf.offset("task_struct", "pid").unwrap();
        assert_eq!(btf.offset("task_struct", "tgid").unwrap(), pid + 4);
        assert!(flags > 0 && flags < pid);
        // Through the unnamed struct or union of each.
        assert!(btf.offset("sock_common", "skc_daddr").is_ok());
    }
}
