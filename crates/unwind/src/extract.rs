//! From an ELF file to the bytes that unwinding needs.
//!
//! **In**: a file of a target, hostile. **Out**: [`Blob`] as bytes. **Units**: file offsets and ELF addresses.
//! **Limits**: [`Limits`]. A section that is above them, compressed, or broken counts as absent: frames of the file
//! then go by frame pointers, and stacks that cannot end as `no_table`.

use gimli::{BaseAddresses, EhFrameHdr, EndianSlice, LittleEndian, Pointer};
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::read::{ReadRef, StringTable};
use profile::Segment;

use crate::UnwindError;
use crate::arch::native;
use crate::blob::{Blob, MAX_SECTION_BYTES, MAX_SEGMENTS, Part, Section};
use crate::cfi::{self, Kind};
use crate::go;
use crate::roots;

type Endian = object::LittleEndian;

/// Bounds on what is taken out of one file.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of each unwind section.
    pub section_bytes: u64,
    /// Load segments.
    pub segments: usize,
    /// Symbols looked through for functions that are the root of a stack.
    pub symbols: u64,
    /// Bytes of executable segments searched for signal restorers; files with more are not searched.
    pub searched_text_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { section_bytes: 64 << 20, segments: MAX_SEGMENTS, symbols: 2_000_000, searched_text_bytes: 8 << 20 }
    }
}

/// Section headers looked at.
const MAX_SECTIONS: usize = 65_536;

/// Takes out of an ELF file what [`crate::Unwinder::load`] needs. Never empty: an ELF file without any unwind section
/// still gives its load segments, so that its frames get ELF addresses.
///
/// # Errors
/// No ELF file for this machine, or more load segments than allowed.
pub fn extract<'data>(file: impl ReadRef<'data>, limits: &Limits) -> Result<Vec<u8>, UnwindError> {
    let elf = Elf::parse(file, limits)?;
    let mut blob = Blob { segments: elf.segments(), base: elf.base(), ..Blob::default() };
    blob.text = elf.section(b".text").map_or(0, |s| s.sh_addr(elf.endian));
    blob.got = elf.section(b".got").map_or(0, |s| s.sh_addr(elf.endian));
    let mut signal = false;
    for (kind, found) in [
        (Kind::EhFrame, elf.bytes_of(b".eh_frame").or_else(|| elf.eh_frame_without_sections())),
        (Kind::DebugFrame, elf.bytes_of(b".debug_frame")),
    ] {
        let Some((address, bytes)) = found else { continue };
        let mut section = Section { address, bytes: Part::all(bytes.to_vec()), index: Part::default() };
        let Some(index) = cfi::build_index(kind, &blob, &section) else { continue };
        section.index = Part::all(index.bytes);
        signal |= index.signal;
        match kind {
            Kind::EhFrame => blob.eh_frame = Some(section),
            Kind::DebugFrame => blob.debug_frame = Some(section),
        }
    }
    blob.distances = Part::all(go::rows(&elf, blob.base));
    roots::find(&elf, &mut blob, signal);
    Ok(blob.to_bytes())
}

/// Takes out of a separate debug file what [`crate::compile`] can use of it: its `.debug_frame`. Empty where it has none.
///
/// # Errors
/// No ELF file for this machine, or more load segments than allowed.
pub fn extract_debug<'data>(file: impl ReadRef<'data>, limits: &Limits) -> Result<Vec<u8>, UnwindError> {
    let elf = Elf::parse(file, limits)?;
    let mut blob = Blob { segments: elf.segments(), base: elf.base(), ..Blob::default() };
    let Some((address, bytes)) = elf.bytes_of(b".debug_frame") else { return Ok(Vec::new()) };
    let mut section = Section { address, bytes: Part::all(bytes.to_vec()), index: Part::default() };
    let Some(index) = cfi::build_index(Kind::DebugFrame, &blob, &section) else { return Ok(Vec::new()) };
    section.index = Part::all(index.bytes);
    blob.debug_frame = Some(section);
    Ok(blob.to_bytes())
}

/// An ELF file's headers.
pub(crate) struct Elf<'data, R: ReadRef<'data>> {
    pub(crate) file: R,
    pub(crate) endian: Endian,
    pub(crate) entry: u64,
    pub(crate) limits: Limits,
    loads: Vec<&'data ProgramHeader64<Endian>>,
    eh_frame_hdr: Option<&'data ProgramHeader64<Endian>>,
    pub(crate) sections: &'data [SectionHeader64<Endian>],
    names: StringTable<'data, R>,
}

impl<'data, R: ReadRef<'data>> Elf<'data, R> {
    fn parse(file: R, limits: &Limits) -> Result<Self, UnwindError> {
        let header = FileHeader64::<Endian>::parse(file)?;
        let endian = header.endian()?;
        let machine = header.e_machine(endian).0;
        if machine != native::MACHINE {
            return Err(UnwindError::Machine { machine });
        }
        let programs = header.program_headers(endian, file)?;
        let limit = limits.segments.min(MAX_SEGMENTS);
        let loads: Vec<_> = programs.iter().filter(|p| p.p_type(endian) == elf::PT_LOAD).take(limit + 1).collect();
        if loads.len() > limit {
            let found = loads.len() as u64;
            return Err(UnwindError::TooLarge { what: "load segments", found, limit: limit as u64 });
        }
        // Section headers may be stripped or broken: nothing depends on them alone.
        let sections = header.section_headers(endian, file).unwrap_or_default();
        let names = header.section_strings(endian, file, sections).unwrap_or_default();
        Ok(Self {
            file,
            endian,
            entry: header.e_entry(endian),
            limits: *limits,
            loads,
            eh_frame_hdr: programs.iter().find(|p| p.p_type(endian) == elf::PT_GNU_EH_FRAME),
            sections: sections.get(..MAX_SECTIONS).unwrap_or(sections),
            names,
        })
    }

    fn segments(&self) -> Vec<Segment> {
        let segment = |p: &&ProgramHeader64<Endian>| Segment {
            elf_address: p.p_vaddr(self.endian),
            file_offset: p.p_offset(self.endian),
            file_bytes: p.p_filesz(self.endian),
            executable: p.p_flags(self.endian).0 & elf::PF_X.0 != 0,
        };
        self.loads.iter().map(segment).collect()
    }

    /// 0, where 32 bits suffice for all addresses; else the lowest page.
    fn base(&self) -> u64 {
        let end = |p: &&ProgramHeader64<Endian>| p.p_vaddr(self.endian).saturating_add(p.p_memsz(self.endian));
        let lowest = self.loads.iter().map(|p| p.p_vaddr(self.endian)).min().unwrap_or(0);
        let highest = self.loads.iter().map(end).max().unwrap_or(0);
        if u32::try_from(highest).is_ok() { 0 } else { lowest & !0xfff }
    }

    pub(crate) fn section(&self, name: &[u8]) -> Option<&'data SectionHeader64<Endian>> {
        self.sections.iter().find(|s| s.name(self.endian, self.names).is_ok_and(|n| n == name))
    }

    /// A section's address and bytes, where the file has them as they are.
    fn bytes_of(&self, name: &[u8]) -> Option<(u64, &'data [u8])> {
        let section = self.section(name)?;
        let size = section.sh_size(self.endian);
        let limit = self.limits.section_bytes.min(MAX_SECTION_BYTES);
        let compressed = section.sh_flags(self.endian).0 & elf::SHF_COMPRESSED.0 != 0;
        if section.sh_type(self.endian) == elf::SHT_NOBITS || compressed || size == 0 || size > limit {
            return None;
        }
        let bytes = self.file.read_bytes_at(section.sh_offset(self.endian), size).ok()?;
        Some((section.sh_addr(self.endian), bytes))
    }

    /// `.eh_frame` where only program headers are left: `.eh_frame_hdr` says where it starts, a zero where it ends.
    fn eh_frame_without_sections(&self) -> Option<(u64, &'data [u8])> {
        const HEAD_BYTES: u64 = 32;
        let hdr = self.eh_frame_hdr?;
        let size = hdr.p_filesz(self.endian).min(HEAD_BYTES);
        let bytes = self.file.read_bytes_at(hdr.p_offset(self.endian), size).ok()?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(hdr.p_vaddr(self.endian));
        let parsed = EhFrameHdr::from(EndianSlice::new(bytes, LittleEndian)).parse(&bases, 8).ok()?;
        let Pointer::Direct(address) = parsed.eh_frame_ptr() else { return None };
        let load = self.loads.iter().find(|p| {
            let from = p.p_vaddr(self.endian);
            address.checked_sub(from).is_some_and(|n| n < p.p_filesz(self.endian))
        })?;
        let inside = address.checked_sub(load.p_vaddr(self.endian))?;
        let offset = load.p_offset(self.endian).checked_add(inside)?;
        let size = load.p_filesz(self.endian).checked_sub(inside)?;
        let size = size.min(self.limits.section_bytes.min(MAX_SECTION_BYTES));
        Some((address, self.file.read_bytes_at(offset, size).ok()?))
    }

    /// The bytes of the executable segments, unless they are more than are to be searched.
    pub(crate) fn text(&self, limit: u64) -> Vec<(u64, &'data [u8])> {
        let executable = || self.loads.iter().filter(|p| p.p_flags(self.endian).0 & elf::PF_X.0 != 0);
        let total = executable().fold(0u64, |n, p| n.saturating_add(p.p_filesz(self.endian)));
        if total > limit {
            return Vec::new();
        }
        executable().filter_map(|p| Some((p.p_vaddr(self.endian), p.data(self.endian, self.file).ok()?))).collect()
    }

    /// Bytes of code at an ELF address.
    pub(crate) fn code_at(&self, address: u64, bytes: u64) -> Option<&'data [u8]> {
        let inside = |p: &&&ProgramHeader64<Endian>| address.checked_sub(p.p_vaddr(self.endian));
        let mut executable = self.loads.iter().filter(|p| p.p_flags(self.endian).0 & elf::PF_X.0 != 0);
        let load =
            executable.find(|p| inside(p).is_some_and(|n| n.saturating_add(bytes) <= p.p_filesz(self.endian)))?;
        let offset = load.p_offset(self.endian).checked_add(inside(&load)?)?;
        self.file.read_bytes_at(offset, bytes).ok()
    }

    /// Whether an ELF address is code.
    pub(crate) fn is_code(&self, address: u64) -> bool {
        self.loads.iter().any(|p| {
            let inside = address.checked_sub(p.p_vaddr(self.endian));
            p.p_flags(self.endian).0 & elf::PF_X.0 != 0 && inside.is_some_and(|n| n < p.p_filesz(self.endian))
        })
    }
}
