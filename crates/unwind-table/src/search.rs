//! From an address to its mapping, and from there to its rule.
//!
//! **Limits**: [`MAPPING_PROBES`] and [`ROW_PROBES`]; both suffice for everything that fits in the format.

use crate::format::{Anchor, BLOCK_BITS, MAPPING_BYTES, MAX_MAPPINGS, PENDING, Place, low};
use crate::step::Memory;
use crate::walk::{End, Walk};

/// Halvings of [`MAX_MAPPINGS`] until one is left.
const MAPPING_PROBES: u32 = MAX_MAPPINGS.ilog2();
/// Halvings of as many rows as the positions of a block can number.
const ROW_PROBES: u32 = 15;

/// All ones where `a <= b`, else 0; both below 2^31. No comparison, so no branch: each would double the ways that the verifier goes.
#[inline(always)]
const fn mask_where_not_above(a: u32, b: u32) -> u32 {
    ((a.wrapping_sub(b).wrapping_sub(1)).cast_signed() >> 31).cast_unsigned()
}

/// Finds the mapping of an address; its offset is then in [`Walk::found`].
#[inline(always)]
pub fn find<M: Memory>(walk: &mut Walk, memory: &mut M, address: u64) -> bool {
    let place = Place(walk.mappings);
    let mut count = walk.mapping_count;
    // The upper half of the addresses is the kernel's (and the mapping `[vsyscall]`), and the arithmetic below is of signed
    // numbers.
    if count == 0 || count > MAX_MAPPINGS || address >> 63 != 0 {
        return false;
    }
    let Some(shard) = memory.shard(place.shard()) else { return false };
    let first = place.offset();
    let mut index = 0u32;
    for _ in 0..MAPPING_PROBES {
        if count <= 1 {
            break;
        }
        let half = count >> 1;
        let start = memory.load64(shard, first.wrapping_add(index.wrapping_add(half).wrapping_mul(MAPPING_BYTES)));
        let below = low(!((address.wrapping_sub(start) | start).cast_signed() >> 63).cast_unsigned());
        index = index.wrapping_add(half & below);
        count = count.wrapping_sub(half);
    }
    let at = first.wrapping_add(index.wrapping_mul(MAPPING_BYTES));
    let start = memory.load64(shard, at);
    let pages = memory.load32(shard, at.wrapping_add(16));
    walk.found = at;
    address.wrapping_sub(start) < (pages as u64) << 12
}

/// Makes the mapping at [`Walk::found`] the walk's.
#[inline(always)]
pub(crate) fn enter<M: Memory>(walk: &mut Walk, memory: &mut M) {
    let Some(shard) = memory.shard(Place(walk.mappings).shard()) else { return };
    let at = walk.found;
    walk.start = memory.load64(shard, at);
    walk.base = memory.load64(shard, at.wrapping_add(8));
    walk.bytes = (memory.load32(shard, at.wrapping_add(16)) as u64) << 12;
    walk.blocks = memory.load32(shard, at.wrapping_add(20));
    walk.anchors = memory.load32(shard, at.wrapping_add(24));
    walk.rules = memory.load32(shard, at.wrapping_add(28));
}

/// Finds the rule for an address in the walk's mapping; it is then in [`Walk::rule`]. [`End::GOING_ON`]: found.
/// [`End::NO_TABLE`]: the mapping has no table.
#[inline(always)]
pub fn rule<M: Memory>(walk: &mut Walk, memory: &mut M, address: u64) -> End {
    let anchors = Place(walk.anchors);
    if walk.anchors == 0 {
        return if walk.rules == PENDING { End::PENDING } else { End::NO_TABLE };
    }
    walk.rule = 0;
    let inside = address.wrapping_sub(walk.base);
    let block = inside >> BLOCK_BITS;
    if block >= walk.blocks as u64 {
        return End::GOING_ON;
    }
    let Some(shard) = memory.shard(anchors.shard()) else { return End::NO_SHARD };
    let anchor = Anchor(memory.load32(shard, anchors.offset().wrapping_add(low(block).wrapping_mul(4))));
    if anchor.0 == 0 {
        return End::PENDING;
    }
    let Some(shard) = memory.shard(anchor.place().shard()) else { return End::NO_SHARD };
    let number = row(memory, shard, anchor, low(inside) & 0xffff);
    let rules = Place(walk.rules);
    let Some(shard) = memory.shard(rules.shard()) else { return End::NO_SHARD };
    walk.rule = memory.load64(shard, rules.offset().wrapping_add(number.wrapping_mul(8)));
    End::GOING_ON
}

/// The number of the rule at an offset in a block.
#[inline(always)]
fn row<M: Memory>(memory: &M, shard: M::Shard, anchor: Anchor, inside: u32) -> u32 {
    let (block, bits) = (anchor.place().offset(), anchor.page_bits());
    let head = block.wrapping_add((inside >> bits).wrapping_mul(2));
    let (first, next) = (memory.load16(shard, head), memory.load16(shard, head.wrapping_add(2)));
    // The lowest bit: rows of two halves, where the page's rules need more bits than are left.
    let wide = first & 1;
    let shift = 16u32.wrapping_sub(bits) & wide.wrapping_sub(1);
    let key = (inside & (1u32 << bits).wrapping_sub(1)).wrapping_add(1).wrapping_shl(shift).wrapping_sub(1);
    let rows = block.wrapping_add((first >> 1).wrapping_mul(2));
    let mut count = (next >> 1).wrapping_sub(first >> 1) >> wide;
    let mut index = 0u32;
    for _ in 0..ROW_PROBES {
        if count <= 1 {
            break;
        }
        let half = count >> 1;
        let at = rows.wrapping_add(index.wrapping_add(half).wrapping_shl(wide).wrapping_mul(2));
        index = index.wrapping_add(half & mask_where_not_above(memory.load16(shard, at), key));
        count = count.wrapping_sub(half);
    }
    let at = rows.wrapping_add(index.wrapping_shl(wide).wrapping_add(wide).wrapping_mul(2));
    let all = 0u32.wrapping_sub(wide) & 0xffff;
    memory.load16(shard, at) & (1u32.wrapping_shl(shift).wrapping_sub(1) | all)
}
