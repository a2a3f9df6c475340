//! Which parts of the shards are free.
//!
//! **Units**: 16 bytes ([`PLACE_BYTES`]), counted over all shards. **Limits**: an extent lies in one shard.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::{PLACE_BYTES, Place, SHARD_BYTES, SHARDS};

const SHARD_UNITS: u32 = SHARD_BYTES / PLACE_BYTES;

/// Some units of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) start: u32,
    pub(super) units: u32,
}

impl Extent {
    pub(super) fn place(self) -> Place {
        Place(self.start)
    }

    /// The place so many bytes behind the start.
    pub(super) fn place_at(self, bytes: usize) -> Place {
        Place(self.start.saturating_add(u32::try_from(bytes / PLACE_BYTES as usize).unwrap_or(0)))
    }
}

/// The units that so many bytes take.
pub(super) fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PLACE_BYTES as usize)).unwrap_or(u32::MAX)
}

/// The free extents. Neighbours are one.
#[derive(Debug)]
pub(super) struct Space {
    by_start: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    free: u64,
    total: u64,
    shards: u32,
}

impl Space {
    /// So many shards, all free.
    pub(super) fn new(shards: u32) -> Self {
        let mut space = Self { by_start: BTreeMap::new(), by_size: BTreeSet::new(), free: 0, total: 0, shards: 0 };
        while space.shards < shards && space.add_shard() {}
        space
    }

    /// One more shard, all free but for the unit that would be nowhere. False where no place could name it.
    pub(super) fn add_shard(&mut self) -> bool {
        if self.shards >= SHARDS {
            return false;
        }
        let nowhere = u32::from(self.shards == 0);
        let extent = Extent { start: self.shards * SHARD_UNITS + nowhere, units: SHARD_UNITS - nowhere };
        self.insert(extent);
        self.total += u64::from(extent.units);
        self.shards += 1;
        true
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> u32 {
        self.shards
    }

    /// Free units.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// All units.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Takes units from the smallest extent that has so many.
    pub(super) fn take(&mut self, units: u32) -> Option<Extent> {
        let units = units.max(1);
        let &(size, start) = self.by_size.range((units, 0)..).next()?;
        self.remove(Extent { start, units: size });
        if size > units {
            self.insert(Extent { start: start + units, units: size - units });
        }
        Some(Extent { start, units })
    }

    /// Gives units back.
    pub(super) fn give(&mut self, extent: Extent) {
        let mut extent = extent;
        let before = self.by_start.range(..extent.start).next_back().map(|(&start, &units)| Extent { start, units });
        if let Some(before) = before
            && before.start + before.units == extent.start
            && !extent.start.is_multiple_of(SHARD_UNITS)
        {
            self.remove(before);
            extent = Extent { start: before.start, units: before.units + extent.units };
        }
        let end = extent.start + extent.units;
        if let Some(&behind) = self.by_start.get(&end)
            && !end.is_multiple_of(SHARD_UNITS)
        {
            self.remove(Extent { start: end, units: behind });
            extent.units += behind;
        }
        self.insert(extent);
    }

    fn insert(&mut self, extent: Extent) {
        self.by_start.insert(extent.start, extent.units);
        self.by_size.insert((extent.units, extent.start));
        self.free += u64::from(extent.units);
    }

    fn remove(&mut self, extent: Extent) {
        self.by_start.remove(&extent.start);
        self.by_size.remove(&(extent.units, extent.start));
        self.free -= u64::from(extent.units);
    }
}
