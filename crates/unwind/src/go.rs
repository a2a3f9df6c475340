//! How far Go code has moved the stack pointer, from the table that Go's runtime unwinds by.
//!
//! Go has frame pointers, but its small functions have no frame and its prologues not yet one: there the frame
//! pointer is the caller's, and following it would leave the caller out. The runtime's table (`pcsp`, Go 1.18 and
//! later) tells for each pc how far the stack pointer is from the return address. Only leaves need it. It also marks the
//! functions that go over to another stack, as `runtime.systemstack` does: what they call runs there, and only their frame
//! pointer leads back.
//!
//! **In**: a hostile file. **Out**: rows of (start from the blob's base, [`Place`]), sorted. **Units**: bytes.
//! **Limits**: [`MAX_TABLE_BYTES`], [`MAX_ROWS`], [`MAX_FUNCTION_ROWS`]; what is above them has no rows.

use std::ops::Range;

use object::elf::{self, Rela64};
use object::read::ReadRef;
use object::read::elf::{Rela, SectionHeader};

use crate::blob::{INDEX_ROW_BYTES, index_row};
use crate::extract::Elf;

const MAX_TABLE_BYTES: u64 = 256 << 20;
/// Of the table's head.
const HEAD_BYTES: u64 = 9 * 8;
const MAX_ROWS: usize = 4_000_000;
const MAX_FUNCTION_ROWS: usize = 4096;
const MAX_RELOCATIONS: u64 = 4 << 20;
/// Of Go 1.18 and 1.20: the magic, and where a function's description holds its flags.
const VERSIONS: [(u32, usize); 2] = [(0xffff_fff0, 37), (0xffff_fff1, 41)];
/// Where `runtime.moduledata` holds the start of Go's text, in Go 1.20 and later.
const MODULE_TEXT: u64 = 22 * 8;
/// Where a function's description holds the offset of its `pcsp`.
const PCSP: usize = 16;
/// `FuncFlagTopFrame`: nothing called the function.
const TOP: u8 = 1 << 0;
/// `FuncFlagSPWrite`: the function sets the stack pointer to something that is no sum.
const SETS_SP: u8 = 1 << 1;
/// Not known: behind a function's end.
const UNKNOWN: u32 = u32::MAX;
/// In a row, beside the distance.
const SWITCHES: u32 = 1 << 31;

/// What Go's table tells of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// How far the stack pointer is below the return address, if it was not set to another stack before.
    pub(crate) distance: u32,
    /// The function goes over to another stack.
    pub(crate) switches: bool,
}

/// The rows of a Go program; empty where it is not one.
pub(crate) fn rows<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, base: u64) -> Vec<u8> {
    let mut rows = read(elf, base).unwrap_or_default();
    rows.sort_by_key(|row| row.0);
    rows.dedup_by(|later, earlier| later.1 == earlier.1);
    let mut bytes = Vec::with_capacity(rows.len().saturating_mul(INDEX_ROW_BYTES));
    for (start, distance) in rows {
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&distance.to_le_bytes());
    }
    bytes
}

/// What is told of an ELF address.
pub(crate) fn place(rows: &[u8], from_base: u64) -> Option<Place> {
    let address = u32::try_from(from_base).ok()?;
    let (rows, _) = rows.as_chunks::<INDEX_ROW_BYTES>();
    let above = rows.partition_point(|row| index_row(row).0 <= address);
    of_row(rows.get(above.checked_sub(1)?)?).1
}

/// Where a row starts, and what it tells; none behind a function's end.
pub(crate) fn of_row(row: &[u8; INDEX_ROW_BYTES]) -> (u32, Option<Place>) {
    let (start, told) = index_row(row);
    let told = u32::try_from(told).ok().filter(|&told| told != UNKNOWN);
    (start, told.map(|told| Place { distance: told & !SWITCHES, switches: told & SWITCHES != 0 }))
}

fn read<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, base: u64) -> Option<Vec<(u32, u32)>> {
    let section = elf.section(b".gopclntab").or_else(|| elf.section(b".data.rel.ro.gopclntab"))?;
    let size = section.sh_size(elf.endian);
    if size > MAX_TABLE_BYTES || section.sh_type(elf.endian) == elf::SHT_NOBITS {
        return None;
    }
    // Not the whole of it: half of these tables, which may be tens of megabytes, are names and lines.
    let read = |range: Range<u64>| {
        let offset = section.sh_offset(elf.endian).checked_add(range.start)?;
        elf.file.read_bytes_at(offset, range.end.min(size).checked_sub(range.start)?).ok()
    };
    let head = read(0..HEAD_BYTES)?;
    // Magic, two zeros, the smallest instruction's bytes, a pointer's bytes.
    let quantum = u32::from(*head.get(6)?);
    let magic = number(head, 0)?;
    let &(_, flags_at) = VERSIONS.iter().find(|version| version.0 == magic)?;
    if *head.get(7)? != 8 {
        return None;
    }
    let words: Vec<u64> = (1..9).map(|i| word(head, i * 8)).collect::<Option<_>>()?;
    let &[count, _, text, _, _, _, distances, functions] = words.as_slice() else { return None };
    let text = if text == 0 { text_of_module(elf)? } else { text };
    let text = u32::try_from(text.checked_sub(base)?).ok()?;
    let distances = read(distances..if distances < functions { functions } else { size })?;
    let functions = read(functions..size)?;
    let mut out = Vec::new();
    for i in 0..usize::try_from(count).ok()? {
        let at = i.checked_mul(8)?;
        // One row more than there are functions: the end of the last.
        let Some((start, place, end)) = row_at(functions, at) else { break };
        let (start, end) = (text.checked_add(start)?, text.checked_add(end)?);
        let pcsp = place.checked_add(PCSP).and_then(|at| number(functions, at)).filter(|&n| n != 0);
        let flags = place.checked_add(flags_at).and_then(|at| functions.get(at)).copied().unwrap_or_default();
        let mark = if flags & (SETS_SP | TOP) == SETS_SP { SWITCHES } else { 0 };
        if let Some(bytes) = pcsp.and_then(|n| distances.get(n as usize..)) {
            function(bytes, (start..end, quantum), mark, &mut out);
        }
        out.push((end, UNKNOWN));
        if out.len() >= MAX_ROWS {
            break;
        }
    }
    Some(out)
}

/// Pairs of varints: by how much the distance changes (zigzag, from -1), and for how many quanta it holds. `mark` comes into
/// every row.
fn function(mut bytes: &[u8], (code, quantum): (Range<u32>, u32), mark: u32, out: &mut Vec<(u32, u32)>) {
    let (mut pc, mut distance) = (code.start, -1i32);
    for _ in 0..MAX_FUNCTION_ROWS {
        let Some(change) = varint(&mut bytes) else { return };
        if change == 0 && pc != code.start {
            return;
        }
        let Some(quanta) = varint(&mut bytes) else { return };
        let change = (change >> 1).cast_signed() ^ (change & 1).cast_signed().wrapping_neg();
        distance = distance.wrapping_add(change);
        // A negative one is none.
        out.push((pc, u32::try_from(distance).map_or(UNKNOWN, |distance| distance | mark)));
        pc = pc.saturating_add(quanta.saturating_mul(quantum));
        if pc >= code.end {
            return;
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Start, place of the description, and the next function's start.
fn row_at(functions: &[u8], at: usize) -> Option<(u32, usize, u32)> {
    let description = number(functions, at.checked_add(4)?)? as usize;
    Some((number(functions, at)?, description, number(functions, at.checked_add(8)?)?))
}

/// The start of Go's text as the runtime's own description of the module has it: since Go 1.26 the table does not.
/// In a position-independent program the file may have 0 there and a relocation that says what comes in.
fn text_of_module<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>) -> Option<u64> {
    let module = elf.section(b".go.module")?;
    let offset = module.sh_offset(elf.endian).checked_add(MODULE_TEXT)?;
    let text = word(elf.file.read_bytes_at(offset, 8).ok()?, 0)?;
    if text != 0 {
        return Some(text);
    }
    let place = module.sh_addr(elf.endian).checked_add(MODULE_TEXT)?;
    let section = elf.section(b".rela.dyn").or_else(|| elf.section(b".rela"))?;
    let count = section.sh_size(elf.endian) / size_of::<Rela64<object::LittleEndian>>() as u64;
    let count = usize::try_from(count.min(MAX_RELOCATIONS)).ok()?;
    let offset = section.sh_offset(elf.endian);
    let relocations = elf.file.read_slice_at::<Rela64<object::LittleEndian>>(offset, count).ok()?;
    let found = relocations.iter().find(|r| r.r_offset(elf.endian) == place)?;
    u64::try_from(found.r_addend(elf.endian)).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_function_with_a_frame() {
        // 0 for 4 bytes, 24 for 300, 0 for 1: changes of +1, +24, -24 in zigzag.
        let bytes = [2, 4, 48, 0xac, 2, 47, 1, 0];
        let mut rows = Vec::new();
        function(&bytes, (100..405, 1), 0, &mut rows);
        assert_eq!(rows, [(100, 0), (104, 24), (404, 0)]);
        rows.push((405, UNKNOWN));
        function(&bytes, (500..805, 1), SWITCHES, &mut rows);
        let bytes: Vec<u8> = rows.iter().flat_map(|r| [r.0.to_le_bytes(), r.1.to_le_bytes()]).flatten().collect();
        let told = |distance, switches| Some(Place { distance, switches });
        let check = |address, want| assert_eq!(place(&bytes, address), want, "{address}");
        check(99, None);
        check(100, told(0, false));
        check(104, told(24, false));
        check(403, told(24, false));
        check(404, told(0, false));
        check(405, None);
        check(504, told(24, true));
        check(u64::MAX, None);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), start: u32, end: u32, quantum: u32) {
            let mut rows = Vec::new();
            function(&bytes, (start..end, quantum), SWITCHES, &mut rows);
            prop_assert!(rows.len() <= MAX_FUNCTION_ROWS);
        }
    }
}
