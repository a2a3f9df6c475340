//! Places, anchors and mappings: integers that both sides read and write.

/// Bytes of a shard: one value of one map.
pub const SHARD_BYTES: u32 = 1 << 20;
/// Shards that a [`Place`] can name.
pub const SHARDS: u32 = 1 << SHARD_BITS;
/// Everything in a shard starts at a multiple of this.
pub const PLACE_BYTES: u32 = 16;
/// Code that one block covers, in bytes.
pub const BLOCK_BYTES: u64 = 1 << BLOCK_BITS;
/// The same as a power of two.
pub const BLOCK_BITS: u32 = 16;
/// Blocks of one file: 4 GiB of code. Its anchors fit a shard.
pub const MAX_BLOCKS: u32 = 64 << 10;
/// The smallest page of a block is `1 << MIN_PAGE_BITS` bytes of code.
pub const MIN_PAGE_BITS: u32 = 8;
/// The largest is the whole block.
pub const MAX_PAGE_BITS: u32 = BLOCK_BITS;
/// Rules of one file. What needs more is [`crate::Kind::UNSUPPORTED`].
pub const MAX_RULES: u32 = 8192;
/// Executable mappings of one process. Those above are left out.
pub const MAX_MAPPINGS: u32 = 4096;
/// Bytes of a [`Mapping`] in a shard.
pub const MAPPING_BYTES: u32 = 32;

const UNIT_BITS: u32 = SHARD_BYTES.trailing_zeros() - PLACE_BYTES.trailing_zeros();
const SHARD_BITS: u32 = 28 - UNIT_BITS;

/// A shard and an offset in it, in 28 bits. 0 is nowhere: the first bytes of the first shard stay empty.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u32);

impl Place {
    /// Nothing is there.
    pub const NOWHERE: Self = Self(0);

    /// The place at an offset that is a multiple of [`PLACE_BYTES`]. Numbers beyond the limits are cut.
    #[must_use]
    pub const fn new(shard: u32, offset: u32) -> Self {
        Self(((shard & (SHARDS - 1)) << UNIT_BITS) | ((offset & (SHARD_BYTES - 1)) / PLACE_BYTES))
    }

    /// The shard.
    #[inline(always)]
    #[must_use]
    pub const fn shard(self) -> u32 {
        (self.0 >> UNIT_BITS) & (SHARDS - 1)
    }

    /// The offset in it, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> u32 {
        (self.0 & ((1 << UNIT_BITS) - 1)) * PLACE_BYTES
    }
}

/// Where a block is, and how large its pages are. 0: the block is not here (yet).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Anchor(pub u32);

impl Anchor {
    /// The block is not loaded.
    pub const ABSENT: Self = Self(0);

    /// `page_bits` is between [`MIN_PAGE_BITS`] and [`MAX_PAGE_BITS`].
    #[must_use]
    pub const fn new(place: Place, page_bits: u32) -> Self {
        Self(((page_bits.wrapping_sub(1) & 0xf) << 28) | (place.0 & 0x0fff_ffff))
    }

    /// The block.
    #[inline(always)]
    #[must_use]
    pub const fn place(self) -> Place {
        Place(self.0 & 0x0fff_ffff)
    }

    /// A page covers `1 << page_bits` bytes of code. Between 1 and 16, whatever the anchor is.
    #[inline(always)]
    #[must_use]
    pub const fn page_bits(self) -> u32 {
        (self.0 >> 28) + 1
    }
}

/// The lower half of a number.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
pub(crate) const fn low(number: u64) -> u32 {
    number as u32
}

/// `Mapping::rules` where `Mapping::anchors` is nowhere: nothing is known of this code (anonymous memory, a file without
/// tables).
pub const NO_TABLE: u32 = 0;
/// `Mapping::rules` where `Mapping::anchors` is nowhere: the file has a table that is not loaded.
pub const PENDING: u32 = 1;

/// One executable mapping of a process, as it lies in a shard.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address in the process that the file's first block covers. May be below `start`, and wraps.
    pub base: u64,
    /// Size in pages of 4 KiB.
    pub pages: u32,
    /// How many anchors there are.
    pub blocks: u32,
    /// [`Place`] of the anchors; nowhere: see [`NO_TABLE`] and [`PENDING`].
    pub anchors: u32,
    /// [`Place`] of the rules.
    pub rules: u32,
}

const _: () = assert!(size_of::<Mapping>() == MAPPING_BYTES as usize);
const _: () = assert!(
    MAX_MAPPINGS * MAPPING_BYTES <= SHARD_BYTES && MAX_RULES * 8 <= SHARD_BYTES && MAX_BLOCKS * 4 <= SHARD_BYTES
);

impl Mapping {
    /// The mapping as words of little-endian machines, which eBPF's are here.
    #[must_use]
    pub const fn words(&self) -> [u64; 4] {
        [
            self.start,
            self.base,
            self.pages as u64 | ((self.blocks as u64) << 32),
            self.anchors as u64 | ((self.rules as u64) << 32),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        for (shard, offset) in [(0, 16), (1, 0), (SHARDS - 1, SHARD_BYTES - 16), (77, 4096)] {
            let place = Place::new(shard, offset);
            assert_eq!((place.shard(), place.offset()), (shard, offset));
            for bits in MIN_PAGE_BITS..=MAX_PAGE_BITS {
                let anchor = Anchor::new(place, bits);
                assert_eq!((anchor.place(), anchor.page_bits()), (place, bits));
            }
        }
        assert_eq!(Place::NOWHERE, Place::new(0, 0));
    }
}
