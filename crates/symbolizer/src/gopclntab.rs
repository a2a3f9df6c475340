//! Functions of Go programs whose symbol table was stripped: the runtime's own table stays, since Go needs it.
//!
//! The table of Go 1.18 and later: a header with offsets, then for each function where it starts (from the start of
//! Go's text) and where its description is, which begins with the start again and the offset of its name.
//!
//! **In**: a hostile file. **Out**: symbols whose names point into it. **Units**: ELF addresses. **Limits**:
//! [`MAX_TABLE_BYTES`], [`Limits`]. What is broken is left out.

use std::ops::Range;

use object::elf::{self, Rela64};
use object::read::ReadRef;
use object::read::elf::{Rela, SectionHeader};

use crate::build::{Elf, Endian, NameBudget};
use crate::pick::Preference;
use crate::ranges::Candidate;
use crate::table::Limits;

const MAX_TABLE_BYTES: u64 = 256 << 20;
/// Of the table's head.
const HEAD_BYTES: u64 = 9 * 8;
const MAX_RELOCATIONS: u64 = 4 << 20;
/// Go 1.18 and 1.20.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Where `runtime.moduledata` holds the start of Go's text, in Go 1.20 and later.
const MODULE_TEXT: u64 = 22 * 8;

/// The functions of a Go program; none where it is not one.
pub(crate) fn functions<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, limits: &Limits) -> Vec<Candidate<'data>> {
    read(elf, limits).unwrap_or_default()
}

fn read<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, limits: &Limits) -> Option<Vec<Candidate<'data>>> {
    let section = elf.section(b".gopclntab").or_else(|| elf.section(b".data.rel.ro.gopclntab"))?;
    let size = section.sh_size(elf.endian);
    if size > MAX_TABLE_BYTES || section.sh_type(elf.endian) == elf::SHT_NOBITS {
        return None;
    }
    // Not the whole of it: most of these tables, which may be tens of megabytes, is about lines.
    let read = |range: Range<u64>| {
        let offset = section.sh_offset(elf.endian).checked_add(range.start)?;
        elf.file.read_bytes_at(offset, range.end.min(size).checked_sub(range.start)?).ok()
    };
    let head = read(0..HEAD_BYTES)?;
    // Magic, two zeros, the smallest instruction's bytes, a pointer's bytes.
    if !MAGICS.contains(&number(head, 0)?) || *head.get(7)? != 8 {
        return None;
    }
    let words: Vec<u64> = (1..9).map(|i| word(head, i * 8)).collect::<Option<_>>()?;
    let &[count, _, text, names, units, files, lines, functions] = words.as_slice() else { return None };
    let text = if text == 0 { text_of_module(elf)? } else { text };
    let (text_start, text_end) = elf.code_around(text)?;
    let count = usize::try_from(count).ok()?.min(limits.symbols);
    let budget = NameBudget::new(limits);
    let behind = [units, files, lines, functions].into_iter().filter(|&at| at > names).min();
    let names = read(names..behind.unwrap_or(size))?;
    let functions = read(functions..size)?;
    let mut out = Vec::with_capacity(count.min(functions.len() / 8));
    for i in 0..count {
        // One row more than there are functions: the end of the last.
        let row = i.checked_mul(8)?;
        let Some((start, at, end)) = row_at(functions, row) else { break };
        let (start, end) = (text.checked_add(u64::from(start))?, text.checked_add(u64::from(end))?);
        let name = at.checked_add(4).and_then(|at| number(functions, at)).and_then(|name| names.get(name as usize..));
        let Some(name) = name.and_then(|bytes| budget.take(bytes)) else { continue };
        if start < end && start >= text_start && end <= text_end {
            let preference = Preference::new(true, 0, true, name);
            out.push(Candidate {
                start,
                bytes: end.abs_diff(start),
                section_end: text_end,
                preference,
                name,
                plt: false,
            });
        }
    }
    Some(out)
}

/// Start, place of the description, and the next function's start.
fn row_at(functions: &[u8], at: usize) -> Option<(u32, usize, u32)> {
    let description = usize::try_from(number(functions, at.checked_add(4)?)?).ok()?;
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
    let count = (section.sh_size(elf.endian) / size_of::<Rela64<Endian>>() as u64).min(MAX_RELOCATIONS);
    let count = usize::try_from(count).ok()?;
    let relocations = elf.file.read_slice_at::<Rela64<Endian>>(section.sh_offset(elf.endian), count).ok()?;
    let found = relocations.iter().find(|r| r.r_offset(elf.endian) == place)?;
    u64::try_from(found.r_addend(elf.endian)).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}
