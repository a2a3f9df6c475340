//! A file's function symbols.
//!
//! **In**: a file of a target, hostile. **Out**: ranges and names that point into it. **Units**: ELF addresses.
//! **Limits**: [`Limits`]; [`MAX_RAW_NAME_BYTES`] of a name, [`MAX_SECTIONS`]. What is broken is left out.

use std::cell::Cell;

use object::elf::{self, FileHeader64, SectionHeader64, Sym64};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::read::{ReadRef, StringTable};

use crate::gopclntab;
use crate::pick::Preference;
use crate::plt;
use crate::ranges::{Candidate, Settled, settle};
use crate::table::{Limits, TableError};

pub(crate) type Endian = object::LittleEndian;

/// Bytes of a name; longer ones are cut, and so not demangled.
const MAX_RAW_NAME_BYTES: usize = 16 << 10;
/// Section headers looked at.
const MAX_SECTIONS: usize = 65_536;

/// An ELF file's sections.
pub(crate) struct Elf<'data, R: ReadRef<'data>> {
    pub(crate) file: R,
    pub(crate) endian: Endian,
    pub(crate) machine: u16,
    pub(crate) sections: &'data [SectionHeader64<Endian>],
    names: StringTable<'data, R>,
    string_bytes: u64,
}

/// Settled ranges of all functions of a file.
pub(crate) fn symbols<'data, R: ReadRef<'data>>(file: R, limits: &Limits) -> Result<Vec<Settled<'data>>, TableError> {
    let elf = Elf::parse(file, limits)?;
    let dynamic = elf.symbol_table(elf::SHT_DYNSYM, limits)?;
    let mut candidates = match elf.symbol_table(elf::SHT_SYMTAB, limits)? {
        Some(table) => elf.functions(&table),
        None => Vec::new(),
    };
    if candidates.is_empty() {
        candidates = gopclntab::functions(&elf, limits);
        candidates.extend(dynamic.iter().flat_map(|table| elf.functions(table)));
    }
    if let Some(table) = &dynamic {
        candidates.extend(plt::entries(&elf, table, limits.symbols));
    }
    Ok(settle(candidates))
}

/// A symbol table and its names.
pub(crate) struct SymbolTable<'data> {
    pub(crate) symbols: &'data [Sym64<Endian>],
    strings: &'data [u8],
    budget: NameBudget,
}

/// How many bytes of names may still be looked at: symbols may share one endless name.
pub(crate) struct NameBudget(Cell<usize>);

impl NameBudget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Cell::new(limits.name_bytes))
    }

    /// The name at the start of some bytes; none where it is empty or the budget is spent.
    pub(crate) fn take<'data>(&self, bytes: &'data [u8]) -> Option<&'data [u8]> {
        let bytes = bytes.get(..MAX_RAW_NAME_BYTES).unwrap_or(bytes);
        let name = bytes.get(..self.0.get()).unwrap_or(bytes).split(|&b| b == 0).next()?;
        self.0.set(self.0.get().saturating_sub(name.len()));
        (!name.is_empty()).then_some(name)
    }
}

impl<'data> SymbolTable<'data> {
    /// A symbol's name; none where it is empty or lies outside.
    pub(crate) fn name(&self, symbol: &Sym64<Endian>, endian: Endian) -> Option<&'data [u8]> {
        self.budget.take(self.strings.get(usize::try_from(symbol.st_name(endian)).ok()?..)?)
    }
}

impl<'data, R: ReadRef<'data>> Elf<'data, R> {
    fn parse(file: R, limits: &Limits) -> Result<Self, TableError> {
        let header = FileHeader64::<Endian>::parse(file)?;
        let endian = header.endian()?;
        let sections = header.section_headers(endian, file)?;
        let names = header.section_strings(endian, file, sections).unwrap_or_default();
        let sections = sections.get(..MAX_SECTIONS).unwrap_or(sections);
        let machine = header.e_machine(endian).0;
        Ok(Self { file, endian, machine, sections, names, string_bytes: limits.string_bytes })
    }

    pub(crate) fn section(&self, name: &[u8]) -> Option<&'data SectionHeader64<Endian>> {
        self.sections.iter().find(|s| s.name(self.endian, self.names).is_ok_and(|n| n == name))
    }

    /// The executable section that an address lies in, from its start to its end.
    pub(crate) fn code_around(&self, address: u64) -> Option<(u64, u64)> {
        let executable = |s: &&SectionHeader64<Endian>| s.sh_flags(self.endian).0 & elf::SHF_EXECINSTR.0 != 0;
        let range = |s: &SectionHeader64<Endian>| {
            let start = s.sh_addr(self.endian);
            (start, start.saturating_add(s.sh_size(self.endian)))
        };
        self.sections.iter().filter(executable).map(range).find(|r| r.0 <= address && address < r.1)
    }

    fn symbol_table(&self, kind: elf::SectionType, limits: &Limits) -> Result<Option<SymbolTable<'data>>, TableError> {
        let Some(section) = self.sections.iter().find(|s| s.sh_type(self.endian) == kind) else { return Ok(None) };
        let count = section.sh_size(self.endian) / size_of::<Sym64<Endian>>() as u64;
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(limits.symbols);
        let strings = usize::try_from(section.sh_link(self.endian)).ok().and_then(|i| self.sections.get(i));
        let Some(strings) = strings.filter(|s| s.sh_type(self.endian) == elf::SHT_STRTAB) else { return Ok(None) };
        let (found, limit) = (strings.sh_size(self.endian), self.string_bytes);
        if found > limit {
            return Err(TableError::TooLarge { found, limit });
        }
        // Where the table's own size is a lie, what it describes is none.
        let symbols = self.file.read_slice_at(section.sh_offset(self.endian), count);
        let strings = self.file.read_bytes_at(strings.sh_offset(self.endian), found);
        let (Ok(symbols), Ok(strings)) = (symbols, strings) else { return Ok(None) };
        Ok(Some(SymbolTable { symbols, strings, budget: NameBudget::new(limits) }))
    }

    fn functions(&self, table: &SymbolTable<'data>) -> Vec<Candidate<'data>> {
        // The end of each executable section, by its index.
        let ends: Vec<Option<(u64, u64)>> = self
            .sections
            .iter()
            .map(|s| {
                let executable = s.sh_flags(self.endian).0 & elf::SHF_EXECINSTR.0 != 0;
                let start = s.sh_addr(self.endian);
                executable.then(|| (start, start.saturating_add(s.sh_size(self.endian))))
            })
            .collect();
        let candidate = |symbol: &Sym64<Endian>| {
            let kind = symbol.st_type();
            let function = matches!(kind, elf::STT_FUNC | elf::STT_GNU_IFUNC);
            if !function && kind != elf::STT_NOTYPE {
                return None;
            }
            let (start, section_end) = (*ends.get(usize::from(symbol.st_shndx(self.endian).index()?))?)?;
            let address = symbol.st_value(self.endian);
            let name = table.name(symbol, self.endian)?;
            // `$x` and its like mark where code and data change in arm's files, `.L` what a compiler numbered.
            let marker = !function && (name.starts_with(b"$") || name.starts_with(b".L"));
            if marker || address < start || address >= section_end {
                return None;
            }
            let bytes = symbol.st_size(self.endian);
            let binding = match symbol.st_bind() {
                elf::STB_LOCAL => 0,
                elf::STB_WEAK => 1,
                _ => 2,
            };
            let preference = Preference::new(bytes > 0, binding, function, name);
            Some(Candidate { start: address, bytes, section_end, preference, name, plt: false })
        };
        table.symbols.iter().filter_map(candidate).collect()
    }
}
