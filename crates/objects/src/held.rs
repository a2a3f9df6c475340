//! Which tables the worker of this generation holds. No I/O.
//!
//! **In**: loads and uses. **Out**: what to forget. **Units**: bytes.
//! **Limits**: a budget for tables for unwinding (the worker's memory) and one for tables for naming (mapped). What
//! the request at hand uses is not forgotten for more; a single table larger than the budget is taken alone.
//! [`MAX_HELD`] objects.

use profile::ObjectId;
use rustc_hash::FxHashMap;

/// Objects that a worker holds at the most, whatever their size.
const MAX_HELD: usize = 8192;

/// One kind of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// For unwinding.
    Unwind,
    /// For naming.
    Symbols,
}

/// Whether another table fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It does.
    Fits,
    /// Perhaps, once this object is forgotten: the least recently used that the request at hand does not use.
    AfterForgetting(ObjectId),
    /// The request at hand uses everything.
    Full,
}

/// Budgets, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budgets {
    pub(crate) unwind: u64,
    pub(crate) symbols: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    unwind: Option<u64>,
    symbols: Option<u64>,
    used: u64,
}

impl Holding {
    fn has(&self, part: Part) -> bool {
        match part {
            Part::Unwind => self.unwind.is_some(),
            Part::Symbols => self.symbols.is_some(),
        }
    }
}

/// What one worker holds.
#[derive(Debug)]
pub(crate) struct Held {
    budgets: Budgets,
    objects: FxHashMap<ObjectId, Holding>,
    unwind_bytes: u64,
    symbol_bytes: u64,
    request: u64,
    /// The request before which unused tables were asked for.
    asked: u64,
}

impl Held {
    pub(crate) fn new(budgets: Budgets) -> Self {
        Self { budgets, objects: FxHashMap::default(), unwind_bytes: 0, symbol_bytes: 0, request: 1, asked: 0 }
    }

    /// A new request begins: what was used before may be forgotten.
    pub(crate) fn begin(&mut self) {
        self.request += 1;
    }

    /// Whether the worker holds it.
    pub(crate) fn has(&self, object: ObjectId, part: Part) -> bool {
        self.objects.get(&object).is_some_and(|holding| holding.has(part))
    }

    /// Whether the worker holds it; if so, it counts as used by the request at hand.
    pub(crate) fn uses(&mut self, object: ObjectId, part: Part) -> bool {
        let request = self.request;
        self.objects.get_mut(&object).is_some_and(|holding| {
            if holding.has(part) {
                holding.used = request;
            }
            holding.has(part)
        })
    }

    /// The worker has loaded it.
    pub(crate) fn loaded(&mut self, object: ObjectId, part: Part, bytes: u64) {
        let holding = self.objects.entry(object).or_default();
        holding.used = self.request;
        let (slot, sum) = match part {
            Part::Unwind => (&mut holding.unwind, &mut self.unwind_bytes),
            Part::Symbols => (&mut holding.symbols, &mut self.symbol_bytes),
        };
        *sum = sum.saturating_sub(slot.replace(bytes).unwrap_or(0)).saturating_add(bytes);
    }

    /// The worker is to forget it.
    pub(crate) fn forgotten(&mut self, object: ObjectId) {
        if let Some(holding) = self.objects.remove(&object) {
            self.unwind_bytes = self.unwind_bytes.saturating_sub(holding.unwind.unwrap_or(0));
            self.symbol_bytes = self.symbol_bytes.saturating_sub(holding.symbols.unwrap_or(0));
        }
    }

    /// What the worker holds and no request has used since this was asked for the last time.
    pub(crate) fn unused(&mut self) -> Vec<ObjectId> {
        let asked = std::mem::replace(&mut self.asked, self.request);
        let unused = self.objects.iter().filter(|(_, holding)| holding.used <= asked);
        unused.map(|(object, _)| *object).collect()
    }

    /// How `bytes` more of a part can be made to fit.
    pub(crate) fn room(&self, part: Part, bytes: u64) -> Room {
        let (sum, budget) = match part {
            Part::Unwind => (self.unwind_bytes, self.budgets.unwind),
            Part::Symbols => (self.symbol_bytes, self.budgets.symbols),
        };
        let is_crowded = self.objects.len() >= MAX_HELD;
        if !is_crowded && (sum == 0 || sum.saturating_add(bytes) <= budget) {
            return Room::Fits;
        }
        let oldest = self
            .objects
            .iter()
            .filter(|(_, holding)| holding.used < self.request && (is_crowded || holding.has(part)))
            .min_by_key(|(object, holding)| (holding.used, **object));
        oldest.map_or(Room::Full, |(object, _)| Room::AfterForgetting(*object))
    }

    #[cfg(test)]
    fn sums(&self) -> (u64, u64) {
        let sum = |of: fn(&Holding) -> Option<u64>| self.objects.values().filter_map(of).sum();
        (sum(|holding| holding.unwind), sum(|holding| holding.symbols))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_goes_first_and_the_request_at_hand_keeps_what_it_uses() {
        let mut held = Held::new(Budgets { unwind: 10, symbols: 10 });
        held.loaded(ObjectId(1), Part::Unwind, 4);
        held.begin();
        held.loaded(ObjectId(2), Part::Unwind, 4);
        assert_eq!(held.room(Part::Unwind, 2), Room::Fits);
        assert_eq!(held.room(Part::Unwind, 3), Room::AfterForgetting(ObjectId(1)));
        assert!(held.uses(ObjectId(1), Part::Unwind));
        assert_eq!(held.room(Part::Unwind, 3), Room::Full, "both are in use");
        held.begin();
        assert!(held.uses(ObjectId(2), Part::Unwind));
        assert_eq!(held.room(Part::Unwind, 3), Room::AfterForgetting(ObjectId(1)));
        held.forgotten(ObjectId(1));
        assert!(!held.uses(ObjectId(1), Part::Unwind));
        assert_eq!(held.room(Part::Unwind, 6), Room::Fits);
    }

    #[test]
    fn a_table_larger_than_the_budget_is_taken_alone() {
        let mut held = Held::new(Budgets { unwind: 10, symbols: 10 });
        assert_eq!(held.room(Part::Symbols, 11), Room::Fits);
        held.loaded(ObjectId(1), Part::Symbols, 11);
        assert_eq!(held.room(Part::Symbols, 1), Room::Full);
        held.begin();
        assert_eq!(held.room(Part::Symbols, 1), Room::AfterForgetting(ObjectId(1)));
    }

    #[test]
    fn many_small_tables_are_bounded_too() {
        let mut held = Held::new(Budgets { unwind: u64::MAX, symbols: u64::MAX });
        for object in 0..9_000 {
            held.begin();
            while let Room::AfterForgetting(old) = held.room(Part::Unwind, 1) {
                held.forgotten(old);
            }
            held.loaded(ObjectId(object), Part::Unwind, 1);
            assert!(held.objects.len() <= MAX_HELD);
        }
        assert!(held.uses(ObjectId(8_999), Part::Unwind));
        assert!(!held.uses(ObjectId(0), Part::Unwind));
    }

    proptest! {
        #[test]
        fn between_requests_the_budget_holds(steps in proptest::collection::vec((0_u64..20, any::<bool>(), 1_u64..40), 1..200)) {
            let mut held = Held::new(Budgets { unwind: 100, symbols: 60 });
            for (object, unwind, bytes) in steps {
                let part = if unwind { Part::Unwind } else { Part::Symbols };
                held.begin();
                if !held.uses(ObjectId(object), part) {
                    while let Room::AfterForgetting(old) = held.room(part, bytes) {
                        held.forgotten(old);
                    }
                    prop_assert_eq!(held.room(part, bytes), Room::Fits);
                    held.loaded(ObjectId(object), part, bytes);
                }
                prop_assert_eq!(held.sums(), (held.unwind_bytes, held.symbol_bytes));
                prop_assert!(held.unwind_bytes <= 100 && held.symbol_bytes <= 60);
            }
        }
    }
}
