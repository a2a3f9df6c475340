//! Names for the entries of a procedure linkage table: `memcpy@plt`.
//!
//! An entry is a jump through a word of the global offset table, and the relocation of that word names the function.
//! x86-64 only: there the jump says which word.
//!
//! **In**: a hostile file. **Out**: symbols. **Limits**: [`MAX_PLT_BYTES`], [`MAX_RELOCATIONS`], and as many entries
//! as the caller allows.

use object::elf::{self, Rela64, Sym64};
use object::read::ReadRef;
use object::read::elf::{Rela, SectionHeader};
use rustc_hash::FxHashMap;

use crate::build::{Elf, Endian, SymbolTable};
use crate::pick::Preference;
use crate::ranges::Candidate;

const MAX_PLT_BYTES: u64 = 4 << 20;
const MAX_RELOCATIONS: u64 = 1 << 20;
const EM_X86_64: u16 = 62;
const ENTRY_BYTES: usize = 16;

/// The entries of all procedure linkage tables of a file.
pub(crate) fn entries<'data, R: ReadRef<'data>>(
    elf: &Elf<'data, R>,
    dynamic: &SymbolTable<'data>,
    limit: usize,
) -> Vec<Candidate<'data>> {
    if elf.machine != EM_X86_64 {
        return Vec::new();
    }
    let slots = slots(elf, dynamic);
    let mut out = Vec::new();
    for name in [b".plt".as_slice(), b".plt.sec", b".plt.got"] {
        let Some(section) = elf.section(name).filter(|s| s.sh_size(elf.endian) <= MAX_PLT_BYTES) else { continue };
        let Ok(bytes) = section.data(elf.endian, elf.file) else { continue };
        let mut start = section.sh_addr(elf.endian);
        // `.plt.got` may have entries of 8.
        let size = if name == b".plt.got" && section.sh_entsize(elf.endian) == 8 { 8 } else { ENTRY_BYTES };
        for entry in bytes.chunks_exact(size) {
            let target = jump(entry, start).and_then(|slot| slots.get(&slot));
            if let Some(&name) = target
                && out.len() < limit
            {
                let preference = Preference::new(true, 0, true, name);
                let bytes = entry.len() as u64;
                let section_end = start.saturating_add(bytes);
                out.push(Candidate { start, bytes, section_end, preference, name, plt: true });
            }
            start = start.saturating_add(size as u64);
        }
    }
    out
}

/// The word that an entry jumps through: `jmp *disp(%rip)`, perhaps after `endbr64` or a prefix.
fn jump(entry: &[u8], start: u64) -> Option<u64> {
    let at = entry.windows(2).take(8).position(|w| w == [0xff, 0x25])?.checked_add(2)?;
    let disp = i32::from_le_bytes(*entry.get(at..)?.first_chunk::<4>()?);
    Some(start.wrapping_add(at as u64).wrapping_add(4).wrapping_add_signed(i64::from(disp)))
}

/// Which function each word of the global offset table is for.
fn slots<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, dynamic: &SymbolTable<'data>) -> FxHashMap<u64, &'data [u8]> {
    let mut out = FxHashMap::default();
    for name in [b".rela.plt".as_slice(), b".rela.dyn"] {
        let Some(section) = elf.section(name) else { continue };
        let count = (section.sh_size(elf.endian) / size_of::<Rela64<Endian>>() as u64).min(MAX_RELOCATIONS);
        let Ok(count) = usize::try_from(count) else { continue };
        let offset = section.sh_offset(elf.endian);
        let Ok(relocations) = elf.file.read_slice_at::<Rela64<Endian>>(offset, count) else { continue };
        for relocation in relocations {
            let kind = relocation.r_type(elf.endian, false);
            if kind != elf::R_X86_64_JUMP_SLOT && kind != elf::R_X86_64_GLOB_DAT {
                continue;
            }
            let symbol = usize::try_from(relocation.r_sym(elf.endian, false)).ok();
            let symbol: Option<&Sym64<Endian>> = symbol.and_then(|i| dynamic.symbols.get(i));
            if let Some(name) = symbol.and_then(|s| dynamic.name(s, elf.endian)) {
                out.insert(relocation.r_offset(elf.endian), name);
            }
        }
    }
    out
}
