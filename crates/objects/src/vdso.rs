//! The vDSO: the piece of code that the kernel maps into every process, as a file of our own.
//!
//! **In**: our own vDSO (the kernel's bytes, trusted). **Out**: a sealed memfd with its image. **Units**: bytes.
//! **Limits**: [`MAX_BYTES`]; a larger one is not taken.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use crate::tables::sealed_copy;

/// The path of its mapping.
pub(crate) const PATH: &str = "[vdso]";
/// It has one to four pages.
const MAX_BYTES: usize = 1 << 20;

/// A copy of our own vDSO, which is every 64-bit process's.
pub(crate) fn image() -> io::Result<OwnedFd> {
    let (start, bytes) = mapping(&fs::read_to_string("/proc/self/maps")?).ok_or(io::ErrorKind::NotFound)?;
    if start != auxiliary_start() || bytes == 0 || bytes > MAX_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel maps the vDSO of this process here, readable, never writable, for as long as it lives; both
    // the auxiliary vector and the list of mappings say so.
    let image = unsafe { std::slice::from_raw_parts(start as *const u8, bytes) };
    sealed_copy("profiler-vdso", image)
}

fn auxiliary_start() -> usize {
    // SAFETY: reads the process's auxiliary vector.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    usize::try_from(start).unwrap_or_default()
}

/// Start and size of the vDSO's mapping.
fn mapping(maps: &str) -> Option<(usize, usize)> {
    let line = maps.lines().find(|line| line.ends_with(PATH))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use object::read::ReadCache;

    use super::*;
    use crate::file::BoundedFile;

    #[test]
    fn its_image_is_an_elf_file_with_a_build_id() {
        let file = File::from(image().unwrap());
        let cache = ReadCache::new(BoundedFile::new(file.into()).unwrap());
        let identity = crate::identity::elf(&cache).unwrap();
        assert!(!identity.gnu.is_empty());
        assert!(identity.segments.iter().any(|segment| segment.executable));
    }
}
