//! The table of one file, as it is kept on disk and before it is placed.
//!
//! **In**: what [`crate::Builder`] made, or bytes of a cache, which a worker that had a hostile file before it has written:
//! checked. **Out**: blocks, anchors, rules. **Units**: little-endian; ELF addresses. **Limits**: those of the format;
//! [`MAX_DATA_BYTES`].

use crate::format::{Anchor, BLOCK_BITS, MAX_BLOCKS, MAX_PAGE_BITS, MAX_RULES, MIN_PAGE_BITS, PLACE_BYTES};
use crate::rule::Rule;

const MAGIC: u64 = u64::from_le_bytes(*b"unwtbl\0\x02");
const HEAD_WORDS: usize = 9;
/// Blocks of one file, in bytes. An anchor of a file counts units of 16 bytes in 28 bits, so more could not be told.
const MAX_DATA_BYTES: usize = 256 << 20;

/// Why bytes are no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Another format, or another version of this one.
    #[error("not a table of this version")]
    Version,
    /// The checksum is not that of the bytes.
    #[error("a damaged table")]
    Checksum,
    /// A part of it is wrong.
    #[error("a malformed table: {0}")]
    Malformed(&'static str),
}

/// The table of one file. Its anchors count from its own blocks; [`crate::Arena`] places it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTable {
    machine: u16,
    base: u64,
    rows: u64,
    unsupported_rows: u64,
    anchors: Vec<u32>,
    rules: Vec<Rule>,
    data: Vec<u8>,
}

/// A block in [`FileTable::data`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) page_bits: u32,
}

impl FileTable {
    /// `rows`: all of them, and those whose rule has no compact form.
    pub(crate) fn new(
        machine: u16,
        base: u64,
        rows: (u64, u64),
        anchors: Vec<u32>,
        rules: Vec<Rule>,
        data: Vec<u8>,
    ) -> Self {
        let (rows, unsupported_rows) = rows;
        Self { machine, base, rows, unsupported_rows, anchors, rules, data }
    }

    /// `e_machine` of the file.
    #[must_use]
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// The ELF address that the first block covers.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Rows that were pushed; for statistics.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Of these, rows whose rule has no compact form: a walk ends there. For statistics.
    #[must_use]
    pub fn unsupported_rows(&self) -> u64 {
        self.unsupported_rows
    }

    /// Bytes that it takes when it is placed, without the gaps between blocks.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len() + self.anchors.len() * 4 + self.rules.len() * 8
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn blocks(&self) -> u32 {
        u32::try_from(self.anchors.len()).unwrap_or(MAX_BLOCKS)
    }

    /// The block of each 64 KiB of code.
    pub(crate) fn each_block(&self) -> impl Iterator<Item = Option<Block>> {
        self.anchors.iter().map(|&anchor| self.block(anchor))
    }

    pub(crate) fn data(&self, block: Block) -> &[u8] {
        self.data.get(block.start..block.start.saturating_add(block.bytes)).unwrap_or_default()
    }

    fn block(&self, anchor: u32) -> Option<Block> {
        let page_bits = Anchor(anchor).page_bits();
        let start = (Anchor(anchor).place().0.checked_sub(1)? as usize).checked_mul(PLACE_BYTES as usize)?;
        let pages = 1usize << BLOCK_BITS.checked_sub(page_bits)?;
        let end = self.half(start.checked_add(pages.checked_mul(2)?)?)?;
        Some(Block { start, bytes: usize::from(end >> 1) * 2, page_bits })
    }

    fn half(&self, at: usize) -> Option<u16> {
        self.data.get(at..)?.first_chunk::<2>().map(|half| u16::from_le_bytes(*half))
    }

    /// The table as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.bytes());
        body.extend(self.rules.iter().flat_map(|rule| rule.0.to_le_bytes()));
        body.extend(self.anchors.iter().flat_map(|anchor| anchor.to_le_bytes()));
        body.extend_from_slice(&self.data);
        let mut head = [
            MAGIC,
            u64::from(self.machine),
            self.base,
            self.rows,
            self.unsupported_rows,
            self.rules.len() as u64,
            self.anchors.len() as u64,
            self.data.len() as u64,
            0,
        ];
        head[HEAD_WORDS - 1] = checksum(&head[..HEAD_WORDS - 1], &body);
        let mut out: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        out.append(&mut body);
        out
    }

    /// A table from its bytes.
    ///
    /// # Errors
    /// Whatever [`FileTable::to_bytes`] would not have made.
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        let (words, rest) = bytes.as_chunks::<8>();
        let (Some(head), true) = (words.first_chunk::<HEAD_WORDS>(), rest.len() < 8) else {
            return Err(TableError::Version);
        };
        let head = head.map(u64::from_le_bytes);
        let body = bytes.get(HEAD_WORDS * 8..).unwrap_or_default();
        let [magic, machine, base, rows, unsupported_rows, rules, anchors, data, sum] = head;
        if magic != MAGIC {
            return Err(TableError::Version);
        }
        let size = |n: u64, limit: usize| {
            usize::try_from(n).ok().filter(|&n| n <= limit).ok_or(TableError::Malformed("a size"))
        };
        let (rules, anchors) = (size(rules, MAX_RULES as usize)?, size(anchors, MAX_BLOCKS as usize)?);
        let data = size(data, MAX_DATA_BYTES)?;
        if body.len() != rules * 8 + anchors * 4 + data {
            return Err(TableError::Malformed("its length"));
        }
        if checksum(&head[..HEAD_WORDS - 1], body) != sum {
            return Err(TableError::Checksum);
        }
        let (rule_bytes, body) = body.split_at_checked(rules * 8).unwrap_or_default();
        let (anchor_bytes, data) = body.split_at_checked(anchors * 4).unwrap_or_default();
        let table = Self {
            machine: u16::try_from(machine).map_err(|_| TableError::Malformed("its machine"))?,
            base,
            rows,
            unsupported_rows,
            anchors: anchor_bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect(),
            rules: rule_bytes.as_chunks::<8>().0.iter().map(|word| Rule(u64::from_le_bytes(*word))).collect(),
            data: data.to_vec(),
        };
        table.check()?;
        Ok(table)
    }

    /// The walk wraps whatever it is given; but only of these tables may it be said what it finds.
    fn check(&self) -> Result<(), TableError> {
        if self.base & ((1 << BLOCK_BITS) - 1) != 0 {
            return Err(TableError::Malformed("its base"));
        }
        let mut checked = u32::MAX;
        for &anchor in &self.anchors {
            // The same block again, as code without rows has it.
            if anchor == checked {
                continue;
            }
            self.check_block(anchor).ok_or(TableError::Malformed("a block"))?;
            checked = anchor;
        }
        Ok(())
    }

    fn check_block(&self, anchor: u32) -> Option<()> {
        let block = self.block(anchor)?;
        if !(MIN_PAGE_BITS..=MAX_PAGE_BITS).contains(&block.page_bits) || self.data(block).len() != block.bytes {
            return None;
        }
        let pages = 1usize << (BLOCK_BITS - block.page_bits);
        let mut least = pages + 1;
        for page in 0..pages {
            let (first, next) = (self.half(block.start + page * 2)?, self.half(block.start + page * 2 + 2)?);
            let (from, to) = (usize::from(first >> 1), usize::from(next >> 1));
            // At least one row, and whole ones.
            let step = 1 + usize::from(first & 1);
            if from < least || to < from + step || !(to - from).is_multiple_of(step) {
                return None;
            }
            least = to;
        }
        Some(())
    }
}

/// Tells damaged bytes, not forged ones.
fn checksum(head: &[u64], body: &[u8]) -> u64 {
    let (words, rest) = body.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let words = words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
    head.iter()
        .copied()
        .chain(words)
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, word| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}
