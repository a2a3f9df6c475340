//! What a file is: its hash, and what an ELF file's headers say.
//!
//! **In**: a target's file (hostile). **Out**: [`ElfIdentity`], `htlhash`. **Units**: file offsets, ELF addresses.
//! **Limits**: [`MAX_SEGMENTS`] load segments, the constants below; what is past them is left out, or makes the file
//! one that is not understood.

use std::io;

use object::elf::{FileHeader32, FileHeader64, NT_GNU_BUILD_ID, NoteType, PF_X, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, FileKind, ReadRef};
use profile::Segment;
use sha2::{Digest as _, Sha256};

use crate::file::BoundedFile;
use crate::protocol::{ElfIdentity, MAX_BUILD_ID_CHARS, MAX_DEBUG_LINK_BYTES, MAX_SEGMENTS};

/// Program headers looked at.
const MAX_PROGRAM_HEADERS: u32 = 4096;
/// Bytes of notes read of one header; larger ones are left out.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Notes looked at.
const MAX_NOTES: usize = 256;
/// Note type of Go's build id, under the name "Go".
const NT_GO_BUILD_ID: NoteType = NoteType(4);
/// The section with the name of the debug file, and a checksum that is not used: the build id tells.
const DEBUG_LINK: &[u8] = b".gnu_debuglink";
const MAX_DEBUG_LINK_SECTION_BYTES: u64 = 512;
/// Sections looked at.
const MAX_SECTIONS: usize = 4096;
/// Bytes at either end of a file that its hash covers.
const HASHED_BYTES: u64 = 4096;

/// Why a file's identity is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Another kind of file.
    #[error("not an ELF file")]
    NotElf,
    /// The headers make no sense.
    #[error("ELF headers: {0}")]
    Headers(#[from] object::read::Error),
    /// More than is looked at.
    #[error("{count} program headers are more than the limit of {MAX_PROGRAM_HEADERS}")]
    TooManyHeaders {
        /// How many.
        count: u32,
    },
}

/// OpenTelemetry's `htlhash`: the first 16 bytes of SHA-256 over the file's first and last 4096 bytes and its size.
pub(crate) fn htlhash(file: &mut BoundedFile) -> io::Result<String> {
    let bytes = file.bytes();
    let mut hash = Sha256::new();
    let part_bytes = bytes.min(HASHED_BYTES);
    let mut part = vec![0; usize::try_from(part_bytes).unwrap_or_default()];
    for start in [0, bytes - part_bytes] {
        file.read_at(&mut part, start)?;
        hash.update(&part);
    }
    hash.update(bytes.to_be_bytes());
    let digest = hash.finalize();
    Ok(hex(digest.get(..16).unwrap_or_default()))
}

/// What the headers of an ELF file say.
pub(crate) fn elf<'data>(data: impl ReadRef<'data>) -> Result<ElfIdentity, IdentityError> {
    match FileKind::parse(data) {
        Ok(FileKind::Elf64) => headers::<FileHeader64<Endianness>>(data),
        Ok(FileKind::Elf32) => headers::<FileHeader32<Endianness>>(data),
        _ => Err(IdentityError::NotElf),
    }
}

fn headers<'data, Elf>(data: impl ReadRef<'data>) -> Result<ElfIdentity, IdentityError>
where
    Elf: FileHeader<Endian = Endianness>,
{
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    let count = header.phnum(endian, data)?;
    if count > MAX_PROGRAM_HEADERS {
        return Err(IdentityError::TooManyHeaders { count });
    }
    let mut identity = ElfIdentity::default();
    let mut notes_left = MAX_NOTES;
    for program in header.program_headers(endian, data)? {
        match program.p_type(endian) {
            PT_LOAD if identity.segments.len() < MAX_SEGMENTS => identity.segments.push(Segment {
                elf_address: program.p_vaddr(endian).into(),
                file_offset: program.p_offset(endian).into(),
                file_bytes: program.p_filesz(endian).into(),
                executable: program.p_flags(endian).0 & PF_X.0 != 0,
            }),
            PT_NOTE if program.p_filesz(endian).into() <= MAX_NOTE_BYTES => {
                // A broken note ends the search in its header; the rest of the file may be fine.
                let Ok(Some(mut notes)) = program.notes(endian, data) else { continue };
                while let Ok(Some(note)) = notes.next() {
                    let Some(left) = notes_left.checked_sub(1) else { break };
                    notes_left = left;
                    match (note.name(), note.n_type(endian)) {
                        (b"GNU", NT_GNU_BUILD_ID) if identity.gnu.is_empty() => {
                            identity.gnu = gnu_build_id(note.desc());
                        }
                        (b"Go", NT_GO_BUILD_ID) if identity.go.is_empty() => identity.go = go_build_id(note.desc()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    identity.segments.sort_by_key(|segment| segment.file_offset);
    Ok(identity)
}

/// The name of an ELF file's debug file (`.gnu_debuglink`), if it names one.
pub(crate) fn debug_link<'data>(data: impl ReadRef<'data>) -> Option<String> {
    match FileKind::parse(data) {
        Ok(FileKind::Elf64) => debug_link_of::<FileHeader64<Endianness>>(data),
        Ok(FileKind::Elf32) => debug_link_of::<FileHeader32<Endianness>>(data),
        _ => None,
    }
}

fn debug_link_of<'data, Elf>(data: impl ReadRef<'data>) -> Option<String>
where
    Elf: FileHeader<Endian = Endianness>,
{
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.section_headers(endian, data).ok()?;
    let names = header.section_strings(endian, data, sections).ok()?;
    let is_link = |section: &&Elf::SectionHeader| section.name(endian, names) == Ok(DEBUG_LINK);
    let section = sections.get(..MAX_SECTIONS).unwrap_or(sections).iter().find(is_link)?;
    let bytes = section.sh_size(endian).into().min(MAX_DEBUG_LINK_SECTION_BYTES);
    let content = data.read_bytes_at(section.sh_offset(endian).into(), bytes).ok()?;
    let name = std::str::from_utf8(content.split(|&byte| byte == 0).next()?).ok()?;
    let fits = (1..=MAX_DEBUG_LINK_BYTES).contains(&name.len());
    (fits && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')).then(|| name.to_owned())
}

fn gnu_build_id(bytes: &[u8]) -> String {
    if bytes.len() * 2 <= MAX_BUILD_ID_CHARS { hex(bytes) } else { String::new() }
}

fn go_build_id(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    match std::str::from_utf8(text) {
        Ok(text) if text.len() <= MAX_BUILD_ID_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic()) => text.into(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 15)).copied().unwrap_or('0');
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::process::Command;

    use object::read::ReadCache;
    use proptest::prelude::*;

    use super::*;

    fn bounded(path: &str) -> BoundedFile {
        BoundedFile::new(File::open(path).unwrap().into()).unwrap()
    }

    /// Our own executable: built by a linker that we did not write.
    fn own() -> String {
        std::env::current_exe().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_build_id_is_the_one_that_readelf_shows() {
        for path in [own(), "/bin/bash".to_owned(), "/proc/self/exe".to_owned()] {
            let path = fs::canonicalize(path).unwrap();
            let path = path.to_str().unwrap();
            let text = Command::new("readelf").args(["-n", path]).output().unwrap();
            let text = String::from_utf8_lossy(&text.stdout).into_owned();
            let expected = text.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap_or_default();
            let identity = elf(&ReadCache::new(bounded(path))).unwrap();
            assert_eq!(identity.gnu, expected, "{path}");
        }
    }

    #[test]
    fn segments_are_those_that_readelf_shows() {
        let path = own();
        let text = Command::new("readelf").args(["-lW", &path]).output().unwrap();
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        let expected: Vec<(u64, u64, u64, bool)> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("LOAD"))
            .map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                (number(columns[0]), number(columns[1]), number(columns[3]), columns[5..].concat().contains('E'))
            })
            .collect();
        let identity = elf(&ReadCache::new(bounded(&path))).unwrap();
        let found: Vec<_> = identity
            .segments
            .iter()
            .map(|segment| (segment.file_offset, segment.elf_address, segment.file_bytes, segment.executable))
            .collect();
        assert!(!found.is_empty());
        assert_eq!(found, expected);
    }

    #[test]
    fn the_hash_is_that_of_head_tail_and_size() {
        for bytes in [0_usize, 1, 4095, 4096, 4097, 8192, 10_000] {
            let content: Vec<u8> = (0..=250).cycle().take(bytes).collect();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&content).unwrap();
            let mut covered = content[..bytes.min(4096)].to_vec();
            covered.extend_from_slice(&content[bytes.saturating_sub(4096)..]);
            covered.extend_from_slice(&(bytes as u64).to_be_bytes());
            let mut input = tempfile::NamedTempFile::new().unwrap();
            input.write_all(&covered).unwrap();
            let sum = Command::new("sha256sum").arg(input.path()).output().unwrap();
            let expected = String::from_utf8_lossy(&sum.stdout)[..32].to_owned();
            assert_eq!(htlhash(&mut bounded(file.path().to_str().unwrap())).unwrap(), expected, "{bytes} bytes");
        }
    }

    #[test]
    fn other_files_are_not_elf() {
        for content in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", b"MZ\x90\0", &[0; 64]] {
            assert!(elf(content).is_err(), "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(content in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = elf(&content[..]);
        }

        #[test]
        fn nor_do_damaged_headers(
            cut in 0_usize..8192,
            changes in proptest::collection::vec((0_usize..1024, any::<u8>()), 0..24),
        ) {
            let mut content = fs::read("/bin/sh").unwrap();
            content.truncate(cut.max(64));
            for (at, value) in changes {
                if let Some(byte) = content.get_mut(at) {
                    *byte = value;
                }
            }
            if let Ok(identity) = elf(&content[..]) {
                prop_assert!(identity.segments.len() <= MAX_SEGMENTS);
                prop_assert!(identity.gnu.len() <= MAX_BUILD_ID_CHARS && identity.go.len() <= MAX_BUILD_ID_CHARS);
            }
        }
    }
}
