//! Functions that tables say nothing about: where a process and its threads start, and where signal handlers return.
//!
//! C libraries mark most of them in their tables (an undefined return address, augmentation `S`). musl and Go do not:
//! there the ELF entry address, a few names, and the restorer's instructions tell.
//!
//! **In**: a hostile file. **Out**: [`Blob::roots`], [`Blob::restorers`]. **Limits**: `Limits::symbols`,
//! `Limits::searched_text_bytes`, [`MAX_ROOTS`], [`MAX_RESTORERS`]; what is above them is not looked at.

use object::elf::{self, Sym64};
use object::read::ReadRef;
use object::read::elf::{SectionHeader, Sym};

use crate::arch::native;
use crate::blob::{Blob, MAX_RESTORERS, MAX_ROOTS, MAX_SECTION_BYTES, RootFunction};
use crate::cfi::Cfi;
use crate::extract::Elf;

/// Bytes of an entry function whose size nothing tells; musl's has 22.
const ENTRY_BYTES: u64 = 64;
/// Bytes of a function that is believed to be an entry or a root, at most.
const MAX_ROOT_BYTES: u64 = 4096;

/// The first functions of processes and threads. They count as roots only where no row leads on from them.
const ROOTS: &[&[u8]] = &[
    b"_start_c",
    b"_dlstart_c",
    LIBC_START,
    b"libc_start_main_stage2",
    b"start",
    b"start_c11",
    b"__clone",
    b"clone",
    b"__clone3",
    b"clone3",
    b"runtime.goexit",
    b"runtime.goexit.abi0",
    b"runtime.mstart",
    b"runtime.mstart.abi0",
    b"runtime.rt0_go",
    b"runtime.rt0_go.abi0",
];

/// musl's has 57 bytes.
const CLONE_BYTES: u64 = 64;

/// Those of them that threads begin in.
const CLONES: &[&[u8]] = &[b"__clone", b"clone"];

const LIBC_START: &[u8] = b"__libc_start_main";
/// musl's has a second stage, whose name strip takes away, right before it.
const SECOND_STAGE_BYTES: u64 = 128;
/// Executable bytes of a library that is searched whatever it is.
const SMALL_TEXT_BYTES: u64 = 16 << 10;

/// Where handlers return to.
const RESTORERS: &[&[u8]] = &[b"__restore_rt", b"runtime.sigreturn__sigaction", b"runtime.sigreturn__sigaction.abi0"];

/// Finds them and adds them to the blob. `signal`: the tables describe a signal frame.
pub(crate) fn find<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, blob: &mut Blob, signal: bool) {
    let covered = (elf.entry != 0).then(|| Cfi::function(blob, elf.entry)).flatten();
    let entry = elf.is_code(elf.entry) && elf.entry != 0;
    if let Some(function) = &covered {
        let end = function.end.min(elf.entry.saturating_add(MAX_ROOT_BYTES));
        blob.roots.push(RootFunction { range: elf.entry..end, always: true });
    }
    // A file whose own start has a row, or a library with tables, comes from a compiler that tells the rest too;
    // but the vDSO of arm64, a library of one page, holds the restorer and no row for it.
    let tells = covered.is_some() || (!entry && blob.eh_frame.is_some());
    if tells {
        if !entry && !signal {
            search_restorers(elf, blob, SMALL_TEXT_BYTES);
        }
        return;
    }
    let mut entry_end = elf.entry.saturating_add(ENTRY_BYTES);
    each_symbol(elf, |name, address, size| {
        if size > 0 && address == elf.entry {
            entry_end = address.saturating_add(size.min(MAX_ROOT_BYTES));
        }
        if ROOTS.contains(&name) && size > 0 && blob.roots.len() < MAX_ROOTS.saturating_sub(1) {
            let before = if name == LIBC_START { SECOND_STAGE_BYTES } else { 0 };
            let range = address.saturating_sub(before)..address.saturating_add(size.min(MAX_ROOT_BYTES));
            blob.roots.push(RootFunction { range, always: false });
        }
        if CLONES.contains(&name) && blob.roots.len() < MAX_ROOTS.saturating_sub(1) {
            blob.roots.extend(thread_call(elf, address, size));
        }
        if RESTORERS.contains(&name) && blob.restorers.len() < MAX_RESTORERS {
            blob.restorers.push(address);
        }
    });
    if entry {
        blob.roots.push(RootFunction { range: elf.entry..entry_end, always: true });
    }
    if !signal && blob.restorers.is_empty() {
        search_restorers(elf, blob, elf.limits.searched_text_bytes);
    }
    blob.restorers.sort_unstable();
    blob.restorers.dedup();
}

/// The call that a thread begins with. musl's own debug information tells of this code as if somebody had called it in the
/// thread too; of the rest of the function that is right.
fn thread_call<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, address: u64, size: u64) -> Option<RootFunction> {
    // The size is mostly not told.
    let bytes = elf.code_at(address, size.clamp(CLONE_BYTES, MAX_ROOT_BYTES))?;
    let at = bytes.windows(native::THREAD_CALL.len()).position(|window| window == native::THREAD_CALL)?;
    let start = address.checked_add(at as u64)?;
    Some(RootFunction { range: start..start.checked_add(native::THREAD_CALL_BYTES)?, always: true })
}

fn search_restorers<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, blob: &mut Blob, limit: u64) {
    for (start, bytes) in elf.text(limit) {
        for pattern in native::RESTORERS {
            let found = bytes.windows(pattern.len()).enumerate().filter(|(_, w)| w == pattern);
            let room = MAX_RESTORERS.saturating_sub(blob.restorers.len());
            blob.restorers.extend(found.take(room).map(|(at, _)| start.saturating_add(at as u64)));
        }
    }
}

/// Calls back with (name, ELF address, size) of every function symbol.
fn each_symbol<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, mut each: impl FnMut(&[u8], u64, u64)) {
    let of_type = |wanted| elf.sections.iter().find(|s| s.sh_type(elf.endian) == wanted);
    let Some(table) = of_type(elf::SHT_SYMTAB).or_else(|| of_type(elf::SHT_DYNSYM)) else { return };
    let count = (table.sh_size(elf.endian) / size_of::<Sym64<object::LittleEndian>>() as u64).min(elf.limits.symbols);
    let strings = usize::try_from(table.sh_link(elf.endian)).ok().and_then(|i| elf.sections.get(i));
    let (Ok(count), Some(strings)) = (usize::try_from(count), strings) else { return };
    let size = strings.sh_size(elf.endian);
    if size > MAX_SECTION_BYTES {
        return;
    }
    let symbols = elf.file.read_slice_at::<Sym64<object::LittleEndian>>(table.sh_offset(elf.endian), count);
    let strings = elf.file.read_bytes_at(strings.sh_offset(elf.endian), size);
    let (Ok(symbols), Ok(strings)) = (symbols, strings) else { return };
    for symbol in symbols {
        if !matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_NOTYPE) || symbol.is_undefined(elf.endian) {
            continue;
        }
        let name = usize::try_from(symbol.st_name(elf.endian)).ok().and_then(|at| strings.get(at..));
        // No name that matters is longer.
        let name = name.map(|n| n.get(..48).unwrap_or(n)).and_then(|n| n.split(|&b| b == 0).next());
        if let Some(name) = name {
            each(name, symbol.st_value(elf.endian), symbol.st_size(elf.endian));
        }
    }
}
