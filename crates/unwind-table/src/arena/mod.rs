//! Which tables are in the shards, and where.
//!
//! A state machine without I/O and clock: bytes go out through [`Shards`], and what the caller hands in as a stamp is any number
//! that grows. A table is written before anybody can name its place. What is evicted stays where it is until
//! [`Arena::collect`]: walks that began before the mappings were rewritten may still read it.
//!
//! How the caller works with it: `load` what a process maps, `acquire` once for each process, `place_mappings`, publish
//! the place; when the process ends `release` and `free_mappings`. When `load` has no room: `add_shard` as long as more may be
//! had, then `make_room`, rewrite the mappings of what was evicted (their files are pending again), and after every walk that
//! was under way is over, `collect`.
//!
//! **In**: tables, mappings, how hot a file is. **Out**: places. **Units**: bytes; heat is the caller's, more is hotter.
//! **Limits**: the shards it was given; what does not fit is refused, and stays pending.

mod space;

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::format::{Anchor, MAPPING_BYTES, MAX_MAPPINGS, Mapping, PLACE_BYTES, Place, SHARD_BYTES};
use crate::table::FileTable;
use space::{Extent, Space, units};

/// Blocks are placed in runs of about this size: small enough to fill holes, large enough to be few.
const RUN_BYTES: usize = 32 << 10;

/// Where the bytes go: maps of the kernel, or memory of this process.
pub trait Shards {
    /// Writes bytes into a shard. They lie within it.
    fn write(&mut self, shard: u32, offset: u32, bytes: &[u8]);
}

/// Why something was not placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// There is no room now.
    #[error("no room for {bytes} bytes")]
    NoRoom {
        /// What it takes.
        bytes: u64,
    },
    /// It can never be placed.
    #[error("{0} is more than a shard holds")]
    TooLarge(&'static str),
}

/// Where a file's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The ELF address that the first block covers.
    pub base: u64,
    /// How many anchors there are.
    pub blocks: u32,
    /// The anchors.
    pub anchors: Place,
    /// The rules.
    pub rules: Place,
}

impl Placed {
    /// A mapping of the file: `bias` is the address in the process minus the ELF address.
    #[must_use]
    pub fn mapping(&self, start: u64, end: u64, bias: u64) -> Mapping {
        Mapping {
            blocks: self.blocks,
            anchors: self.anchors.0,
            rules: self.rules.0,
            base: self.base.wrapping_add(bias),
            ..unknown(start, end)
        }
    }
}

/// A mapping that nothing is known of.
pub(crate) fn unknown(start: u64, end: u64) -> Mapping {
    let pages = end.saturating_sub(start).div_ceil(4096);
    Mapping { start, pages: u32::try_from(pages).unwrap_or(u32::MAX), ..Mapping::default() }
}

impl Mapping {
    /// Memory that no file's table tells of.
    #[must_use]
    pub fn without_table(start: u64, end: u64) -> Self {
        unknown(start, end)
    }

    /// A file whose table is not loaded.
    #[must_use]
    pub fn pending(start: u64, end: u64) -> Self {
        Self { rules: crate::PENDING, ..unknown(start, end) }
    }
}

/// How full an arena is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Bytes of all shards.
    pub total_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes that are free after the next [`Arena::collect`].
    pub retired_bytes: u64,
    /// Files whose tables are here.
    pub files: u64,
    /// Of them those that a process uses.
    pub used_files: u64,
    /// Files that were evicted, ever.
    pub evicted: u64,
    /// Times that there was no room, ever.
    pub refused: u64,
}

#[derive(Debug)]
struct File {
    placed: Placed,
    extents: Vec<Extent>,
    users: u32,
    heat: u64,
}

/// Places tables of files and mappings of processes in shards.
#[derive(Debug)]
pub struct Arena {
    space: Space,
    files: FxHashMap<u64, File>,
    /// Mappings by their place.
    mappings: FxHashMap<u32, Extent>,
    /// Evicted, in order of their stamps.
    retired: VecDeque<(u64, Extent)>,
    retired_units: u64,
    mapping_units: u64,
    evicted: u64,
    refused: u64,
}

impl Arena {
    /// All of it free. Each shard has [`SHARD_BYTES`]; more may come ([`Arena::add_shard`]).
    #[must_use]
    pub fn new(shards: u32) -> Self {
        Self {
            space: Space::new(shards),
            files: FxHashMap::default(),
            mappings: FxHashMap::default(),
            retired: VecDeque::new(),
            retired_units: 0,
            mapping_units: 0,
            evicted: 0,
            refused: 0,
        }
    }

    /// One more shard, whose number is the number of shards before; it is there already for those who walk. False where no
    /// place could name it.
    pub fn add_shard(&mut self) -> bool {
        self.space.add_shard()
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.space.shards()
    }

    /// Where a file's table is, if it is here.
    #[must_use]
    pub fn placed(&self, file: u64) -> Option<Placed> {
        self.files.get(&file).map(|file| file.placed)
    }

    /// Places a file's table. Nobody uses it yet. A file that is here stays as it is.
    ///
    /// # Errors
    /// No room; nothing has changed then.
    pub fn load(
        &mut self,
        file: u64,
        table: &FileTable,
        heat: u64,
        shards: &mut impl Shards,
    ) -> Result<Placed, ArenaError> {
        if let Some(known) = self.files.get_mut(&file) {
            known.heat = known.heat.max(heat);
            return Ok(known.placed);
        }
        let mut extents = Vec::new();
        match self.place(table, &mut extents, shards) {
            Ok(placed) => {
                self.files.insert(file, File { placed, extents, users: 0, heat });
                Ok(placed)
            }
            Err(error) => {
                // Nobody has seen them.
                extents.into_iter().for_each(|extent| self.space.give(extent));
                self.refused += 1;
                Err(error)
            }
        }
    }

    fn place(
        &mut self,
        table: &FileTable,
        extents: &mut Vec<Extent>,
        shards: &mut impl Shards,
    ) -> Result<Placed, ArenaError> {
        let no_room = ArenaError::NoRoom { bytes: table.bytes() as u64 };
        let mut take = |space: &mut Space, bytes: usize| {
            let extent = space.take(units(bytes)).ok_or(no_room)?;
            extents.push(extent);
            Ok(extent)
        };
        let mut anchors = Vec::with_capacity(table.blocks() as usize * 4);
        let mut run: Vec<u8> = Vec::new();
        // Where blocks are, by where they were; those that wait in the run have no place yet.
        let mut places: FxHashMap<usize, Place> = FxHashMap::default();
        let mut waiting: Vec<(usize, usize)> = Vec::new();
        let mut flush = |space: &mut Space,
                         run: &mut Vec<u8>,
                         waiting: &mut Vec<(usize, usize)>,
                         places: &mut FxHashMap<usize, Place>|
         -> Result<(), ArenaError> {
            if !run.is_empty() {
                let extent = take(space, run.len())?;
                shards.write(extent.place().shard(), extent.place().offset(), run);
                places.extend(waiting.drain(..).map(|(start, at)| (start, extent.place_at(at))));
                run.clear();
            }
            Ok(())
        };
        for block in table.each_block().flatten() {
            if places.contains_key(&block.start) || waiting.iter().any(|&(start, _)| start == block.start) {
                continue;
            }
            let data = table.data(block);
            if run.len() + data.len() > RUN_BYTES {
                flush(&mut self.space, &mut run, &mut waiting, &mut places)?;
            }
            run.resize(run.len().next_multiple_of(PLACE_BYTES as usize), 0);
            waiting.push((block.start, run.len()));
            run.extend_from_slice(data);
        }
        flush(&mut self.space, &mut run, &mut waiting, &mut places)?;
        for block in table.each_block() {
            let anchor = block.and_then(|block| Some(Anchor::new(*places.get(&block.start)?, block.page_bits)));
            anchors.extend(anchor.unwrap_or(Anchor::ABSENT).0.to_le_bytes());
        }
        let rules: Vec<u8> = table.rules().iter().flat_map(|rule| rule.0.to_le_bytes()).collect();
        if anchors.len() > SHARD_BYTES as usize || rules.len() > SHARD_BYTES as usize {
            return Err(ArenaError::TooLarge("a file"));
        }
        let mut head = |bytes: &[u8]| -> Result<Place, ArenaError> {
            let extent = self.space.take(units(bytes.len())).ok_or(no_room)?;
            extents.push(extent);
            shards.write(extent.place().shard(), extent.place().offset(), bytes);
            Ok(extent.place())
        };
        let (anchors, rules) = (head(&anchors)?, head(&rules)?);
        Ok(Placed { base: table.base(), blocks: table.blocks(), anchors, rules })
    }

    /// One more process uses the file. Whether it is here.
    pub fn acquire(&mut self, file: u64) -> bool {
        self.files.get_mut(&file).map(|file| file.users = file.users.saturating_add(1)).is_some()
    }

    /// One process less uses the file. It stays until the room is needed.
    pub fn release(&mut self, file: u64) {
        if let Some(file) = self.files.get_mut(&file) {
            file.users = file.users.saturating_sub(1);
        }
    }

    /// Says how hot a file is.
    pub fn set_heat(&mut self, file: u64, heat: u64) {
        if let Some(file) = self.files.get_mut(&file) {
            file.heat = heat;
        }
    }

    /// Whether a table of so many bytes most likely finds room.
    #[must_use]
    pub fn fits(&self, bytes: u64) -> bool {
        self.space.free() >= wanted(bytes)
    }

    /// Whether it does after the next [`Arena::collect`].
    #[must_use]
    pub fn will_fit(&self, bytes: u64) -> bool {
        self.space.free() + self.retired_units >= wanted(bytes)
    }

    /// Evicts files until so many bytes are free or will be after the next [`Arena::collect`]: first those that nobody uses,
    /// then those that are colder than `heat`; the coldest first. Returns which: mappings that name them must be
    /// rewritten before the next [`Arena::collect`]. Nothing is evicted where all of that would not suffice.
    pub fn make_room(&mut self, bytes: u64, heat: u64, stamp: u64) -> Vec<u64> {
        let wanted = wanted(bytes);
        let mut room = self.space.free() + self.retired_units;
        let mut candidates: Vec<_> = self
            .files
            .iter()
            .filter(|(_, file)| file.users == 0 || file.heat < heat)
            .map(|(&key, file)| (file.users > 0, file.heat, key, size(&file.extents)))
            .collect();
        candidates.sort_unstable();
        let all: u64 = candidates.iter().map(|candidate| candidate.3).sum();
        if room + all < wanted {
            return Vec::new();
        }
        let mut evicted = Vec::new();
        for (_, _, key, units) in candidates {
            if room >= wanted {
                break;
            }
            room += units;
            self.evict(key, stamp);
            evicted.push(key);
        }
        evicted
    }

    /// Takes a file off, used or not: one that changed, or whose table was found to be wrong. Its mappings must be rewritten.
    pub fn evict(&mut self, file: u64, stamp: u64) {
        if let Some(file) = self.files.remove(&file) {
            self.evicted += 1;
            file.extents.into_iter().for_each(|extent| self.retire(extent, stamp));
        }
    }

    fn retire(&mut self, extent: Extent, stamp: u64) {
        self.retired_units += u64::from(extent.units);
        self.retired.push_back((stamp, extent));
    }

    /// What was evicted before this stamp is free: no walk reads it any more.
    pub fn collect(&mut self, before: u64) {
        while let Some(&(stamp, extent)) = self.retired.front()
            && stamp < before
        {
            self.retired.pop_front();
            self.retired_units -= u64::from(extent.units);
            self.space.give(extent);
        }
    }

    /// Places a process's mappings: sorted, not overlapping. Returns their place and number, for [`crate::Walk::begin`].
    ///
    /// # Errors
    /// More than [`MAX_MAPPINGS`], or no room.
    pub fn place_mappings(
        &mut self,
        mappings: &[Mapping],
        shards: &mut impl Shards,
    ) -> Result<(Place, u32), ArenaError> {
        let count = u32::try_from(mappings.len()).ok().filter(|&n| n <= MAX_MAPPINGS);
        let count = count.ok_or(ArenaError::TooLarge("a process"))?;
        let bytes: Vec<u8> = mappings.iter().flat_map(Mapping::words).flat_map(u64::to_le_bytes).collect();
        debug_assert_eq!(bytes.len(), mappings.len() * MAPPING_BYTES as usize);
        let Some(extent) = self.space.take(units(bytes.len())) else {
            self.refused += 1;
            return Err(ArenaError::NoRoom { bytes: bytes.len() as u64 });
        };
        shards.write(extent.place().shard(), extent.place().offset(), &bytes);
        self.mapping_units += u64::from(extent.units);
        self.mappings.insert(extent.place().0, extent);
        Ok((extent.place(), count))
    }

    /// Mappings that nobody begins a walk with any more.
    pub fn free_mappings(&mut self, place: Place, stamp: u64) {
        if let Some(extent) = self.mappings.remove(&place.0) {
            self.mapping_units -= u64::from(extent.units);
            self.retire(extent, stamp);
        }
    }

    /// Bytes of mappings that are in use.
    #[must_use]
    pub fn mapping_bytes(&self) -> u64 {
        self.mapping_units * u64::from(PLACE_BYTES)
    }

    /// Bytes that are free after the next [`Arena::collect`].
    #[must_use]
    pub fn retired_bytes(&self) -> u64 {
        self.retired_units * u64::from(PLACE_BYTES)
    }

    /// How full it is.
    #[must_use]
    pub fn stats(&self) -> ArenaStats {
        let unit = u64::from(PLACE_BYTES);
        ArenaStats {
            total_bytes: self.space.total() * unit,
            free_bytes: self.space.free() * unit,
            retired_bytes: self.retired_units * unit,
            files: self.files.len() as u64,
            used_files: self.files.values().filter(|file| file.users > 0).count() as u64,
            evicted: self.evicted,
            refused: self.refused,
        }
    }
}

/// The units that must be free for so many bytes. Holes cost something: what is asked for is seldom found in one piece.
fn wanted(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 8) / u64::from(PLACE_BYTES) + 64
}

fn size(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.units)).sum()
}
