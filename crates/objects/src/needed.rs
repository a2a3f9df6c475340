//! Which objects a walk over a snapshot may need. No I/O.
//!
//! Loading all tables of all files that a process maps would cost the worker memory for many that no stack ever goes
//! through. A walk can only come to code that a register or a word of the snapshot points to.
//!
//! **In**: mappings (trusted), registers and snapshots (hostile). **Out**: objects. **Units**: addresses of the
//! process.

use profile::{MapEntry, ObjectId, UserRegisters};

/// Signed return addresses carry their signature above the address on 64-bit ARM.
const ADDRESS_MASK: u64 = if cfg!(target_arch = "aarch64") { 0x0000_ffff_ffff_ffff } else { u64::MAX };

/// Calls `found` with the object of each mapping that a register or a word of the snapshot points into; the same
/// object may come more than once. `maps` are sorted by start and do not overlap.
pub(crate) fn needed(maps: &[MapEntry], registers: &UserRegisters, stack: &[u8], mut found: impl FnMut(ObjectId)) {
    let (Some(first), Some(last)) = (maps.first(), maps.last()) else { return };
    let mut look = |word: u64| {
        let address = word & ADDRESS_MASK;
        // A return address may lie just behind the mapping of the call.
        if first.start <= address && address <= last.end {
            let behind = maps.partition_point(|map| map.start < address);
            let map = behind.checked_sub(1).and_then(|at| maps.get(at)).filter(|map| address <= map.end);
            let starting = maps.get(behind).filter(|map| map.start == address);
            for map in [map, starting].into_iter().flatten() {
                map.object.into_iter().for_each(&mut found);
            }
        }
    };
    look(registers.pc);
    look(registers.lr);
    // Words are aligned in the process's memory, not in the snapshot.
    let skip = usize::try_from(registers.sp.wrapping_neg() % 8).unwrap_or(0);
    for word in stack.get(skip..).unwrap_or_default().chunks_exact(8) {
        if let Ok(word) = word.try_into() {
            look(u64::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn map(start: u64, end: u64, object: u64) -> MapEntry {
        MapEntry { start, end, file_offset: 0, object: Some(ObjectId(object)) }
    }

    fn collect(maps: &[MapEntry], registers: &UserRegisters, stack: &[u8]) -> BTreeSet<ObjectId> {
        let mut objects = BTreeSet::new();
        needed(maps, registers, stack, |object| {
            objects.insert(object);
        });
        objects
    }

    #[test]
    fn words_are_aligned_to_the_process_not_to_the_snapshot() {
        let maps = [map(0x1000, 0x2000, 1), map(0x5000, 0x6000, 2)];
        let mut stack = vec![0; 4];
        stack.extend_from_slice(&0x5800_u64.to_le_bytes());
        let registers = UserRegisters { pc: 0x1100, sp: 0x7ffc, fp: 0, lr: 0 };
        assert_eq!(collect(&maps, &registers, &stack), BTreeSet::from([ObjectId(1), ObjectId(2)]));
        let registers = UserRegisters { sp: 0x8000, ..registers };
        assert_eq!(collect(&maps, &registers, &stack), BTreeSet::from([ObjectId(1)]));
    }

    proptest! {
        #[test]
        fn is_what_a_linear_search_finds(
            gaps in proptest::collection::vec((0_u64..4, 1_u64..4), 0..12),
            words in proptest::collection::vec(0_u64..80, 0..20),
            pc in 0_u64..80,
        ) {
            let mut maps = Vec::new();
            let mut at = 1;
            for (number, (gap, length)) in (0..).zip(gaps) {
                maps.push(map(at + gap, at + gap + length, number));
                at += gap + length;
            }
            let stack: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let registers = UserRegisters { pc, ..UserRegisters::default() };
            let expected: BTreeSet<_> = maps
                .iter()
                .filter(|map| words.iter().chain([&pc, &0]).any(|word| map.start <= *word && *word <= map.end))
                .filter_map(|map| map.object)
                .collect();
            prop_assert_eq!(collect(&maps, &registers, &stack), expected);
        }
    }
}
