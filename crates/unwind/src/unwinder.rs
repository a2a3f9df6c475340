//! The objects that are known, and how a row of theirs is carried out.
//!
//! `framehop` thinks of one process whose modules lie at addresses. Here it serves all processes at once: each object
//! gets 4 GiB of made-up addresses for itself, once and never again, and a frame is asked for by its made-up address.
//! So an object is loaded once for all processes that map it, a rule is cached once for all of them, and
//! `framehop`'s cache, which tells sets of modules apart by 16 bits, can never answer for another object.
//!
//! **In**: what [`crate::extract`] made; snapshots. **Out**: frames. **Units**: made-up addresses are
//! `slot << 32 | (ELF address - base)`. **Limits**: [`MAX_OBJECTS`], [`MAX_FRAMES`].

use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder as _};
use profile::{MapEntry, ObjectId, StackEnd, UserFrame, UserRegisters};
use rustc_hash::FxHashMap;

use crate::UnwindError;
use crate::arch::native;
use crate::blob::{Blob, Part, Section};
use crate::cfi::{Cfi, Rule};
use crate::expression::{Memory, Miss};
use crate::go;
use crate::walk::Walk;

/// Frames of one stack; those above end as [`StackEnd::TooManyFrames`].
pub const MAX_FRAMES: usize = 1024;
/// Objects known at a time; more are refused.
pub const MAX_OBJECTS: usize = 65_536;

/// `framehop`'s cache has 509 rules; so many of them.
const CACHES: usize = 16;
/// Addresses whose rule is kept; a power of two.
const RULES: usize = 1 << 14;

/// Unwinds snapshots of any number of processes.
pub struct Unwinder {
    framehop: native::Unwinder<Part>,
    caches: Vec<native::Cache>,
    objects: FxHashMap<ObjectId, Loaded>,
    next_slot: u32,
    cfi: Cfi,
    /// By made-up address, which is never 0.
    rules: Vec<(u64, Rule)>,
}

/// An object and its made-up addresses.
pub(crate) struct Loaded {
    slot: u32,
    pub(crate) blob: Blob,
}

/// How a step went that a row of a table led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The caller's registers.
    Caller(UserRegisters),
    /// There is no caller.
    Root,
    /// A word that it needed is not there.
    Missing(Miss),
    /// The row makes no sense for these registers.
    Bad,
    /// The row needs what is not known here.
    Unknown,
}

impl Default for Unwinder {
    fn default() -> Self {
        Self::new()
    }
}

impl Unwinder {
    /// Knows no object yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            framehop: native::Unwinder::new(),
            caches: std::iter::repeat_with(native::Cache::default).take(CACHES).collect(),
            objects: FxHashMap::default(),
            next_slot: 1,
            cfi: Cfi::default(),
            rules: vec![(0, Rule::Uncovered); RULES],
        }
    }

    /// Makes an object known by what [`crate::extract`] gave for it; replaces what was known under that number. The
    /// bytes are not copied, and few of them are looked at before they are needed: they may be mapped memory. They must
    /// not change.
    ///
    /// # Errors
    /// The bytes are not what [`crate::extract`] gives, or [`MAX_OBJECTS`] are known.
    pub fn load(
        &mut self,
        object: ObjectId,
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Result<(), UnwindError> {
        let blob = Blob::parse(bytes)?;
        self.forget(object);
        let found = self.objects.len();
        if found >= MAX_OBJECTS || self.next_slot == u32::MAX {
            return Err(UnwindError::TooLarge { what: "objects", found: found as u64, limit: MAX_OBJECTS as u64 });
        }
        let slot = self.next_slot;
        self.next_slot = slot.saturating_add(1);
        if let Some(section) = &blob.eh_frame {
            self.framehop.add_module(module(slot, &blob, section));
        }
        self.objects.insert(object, Loaded { slot, blob });
        Ok(())
    }

    /// Forgets an object.
    pub fn forget(&mut self, object: ObjectId) {
        if let Some(loaded) = self.objects.remove(&object) {
            self.framehop.remove_module(slot_start(loaded.slot));
        }
    }

    /// Unwinds one snapshot. `maps` are the executable mappings, sorted and not overlapping; `stack` is memory from
    /// `registers.sp` upwards. Appends to `frames`, leaf first.
    pub fn unwind(
        &mut self,
        maps: &[MapEntry],
        registers: &UserRegisters,
        stack: &[u8],
        frames: &mut Vec<UserFrame>,
    ) -> StackEnd {
        if maps.is_empty() {
            return StackEnd::UnknownProcess;
        }
        Walk::new(maps, registers, stack).run(self, frames)
    }

    pub(crate) fn object(&self, object: ObjectId) -> Option<&Loaded> {
        self.objects.get(&object)
    }

    /// What to do at an ELF address of an object, from the cache if it is there.
    pub(crate) fn rule(&mut self, object: ObjectId, address: u64) -> Rule {
        let Some(loaded) = self.objects.get(&object) else { return Rule::Uncovered };
        let Some(key) = loaded.made_up(address) else { return Rule::Uncovered };
        let Some(entry) = self.rules.get_mut(spread(key) % RULES) else { return Rule::Uncovered };
        if entry.0 != key {
            *entry = (key, self.cfi.rule(&loaded.blob, address));
        }
        entry.1
    }

    /// What Go's table tells of an ELF address of an object.
    pub(crate) fn go(&self, object: ObjectId, address: u64) -> Option<go::Place> {
        let blob = &self.objects.get(&object)?.blob;
        go::place(&blob.distances, address.checked_sub(blob.base)?)
    }

    /// Carries out a rule of an object's tables. `lookup` is the ELF address that the rule stands at; `exact`: it is
    /// the pc itself and not a return address minus one.
    pub(crate) fn step(
        &mut self,
        rule: Rule,
        (object, lookup): (ObjectId, u64),
        exact: bool,
        registers: &UserRegisters,
        memory: &mut impl Memory,
    ) -> Step {
        let Some(loaded) = self.objects.get(&object) else { return Step::Unknown };
        if rule == Rule::Evaluate {
            return match self.cfi.evaluate(&loaded.blob, lookup, registers, memory) {
                Some(Ok(caller)) => Step::Caller(caller),
                Some(Err(miss)) => Step::Missing(miss),
                None => Step::Unknown,
            };
        }
        let Some(made_up) = loaded.made_up(lookup) else { return Step::Unknown };
        let address = match made_up.checked_add(1).and_then(FrameAddress::from_return_address) {
            Some(address) if !exact => address,
            _ => FrameAddress::InstructionPointer(made_up),
        };
        let Some(cache) = self.caches.get_mut(spread(made_up) / RULES % CACHES) else { return Step::Unknown };
        let mut missing = None;
        let mut read = |address| {
            memory.read(address).map_err(|miss| {
                missing.get_or_insert(miss);
            })
        };
        let mut regs = native::to_framehop(registers);
        match self.framehop.unwind_frame(address, &mut regs, cache, &mut read) {
            Ok(Some(pc)) => Step::Caller(native::from_framehop(&regs, pc)),
            Ok(None) => Step::Root,
            Err(framehop::Error::CouldNotReadStack(_)) => Step::Missing(missing.unwrap_or(Miss::Above)),
            Err(_) => Step::Bad,
        }
    }
}

impl Loaded {
    /// The made-up address of an ELF address; none where it is not one of the 4 GiB.
    fn made_up(&self, address: u64) -> Option<u64> {
        let inside = u32::try_from(address.checked_sub(self.blob.base)?).ok()?;
        Some(slot_start(self.slot) | u64::from(inside))
    }
}

fn slot_start(slot: u32) -> u64 {
    u64::from(slot) << 32
}

/// Spreads neighbouring addresses over a table.
fn spread(key: u64) -> usize {
    usize::try_from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0)
}

fn module(slot: u32, blob: &Blob, section: &Section) -> Module<Part> {
    let start = slot_start(slot);
    let sections = ExplicitModuleSectionInfo {
        base_svma: blob.base,
        text_svma: Some(blob.text..blob.text),
        got_svma: Some(blob.got..blob.got),
        eh_frame_svma: Some(section.address..section.address),
        eh_frame: Some(section.bytes.clone()),
        // The index's pointers count from the base: see `cfi::build_index`.
        eh_frame_hdr_svma: Some(blob.base..blob.base),
        eh_frame_hdr: Some(section.index.clone()),
        ..ExplicitModuleSectionInfo::default()
    };
    Module::new(String::new(), start..start.saturating_add(1 << 32), start, sections)
}
