//! Reading one file: what it is, and its tables.
//!
//! **In**: a descriptor of a target's file (hostile, may change while it is read). **Out**: [`Extracted`], and a
//! sealed memfd unless both tables are empty. **Limits**: those of `file`, `identity`, `tables` and of the tools.

use std::os::fd::OwnedFd;

use object::read::ReadCache;

use crate::file::BoundedFile;
use crate::identity;
use crate::protocol::{Extracted, MAX_REASON_BYTES, cut};
use crate::tables;
use crate::tools::Tools;

/// Reads one file. What goes wrong is told in [`Extracted::problem`]; the good part is kept.
pub(super) fn extract(tools: &impl Tools, descriptor: OwnedFd) -> (Extracted, Option<OwnedFd>) {
    let mut extracted = Extracted::default();
    let mut problems = Vec::new();
    let memfd = read(tools, descriptor, &mut extracted, &mut problems).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    if memfd.is_none() {
        (extracted.unwind_bytes, extracted.symbol_bytes) = (0, 0);
    }
    extracted.problem = cut(problems.join("; "), MAX_REASON_BYTES);
    (extracted, memfd)
}

fn read(
    tools: &impl Tools,
    descriptor: OwnedFd,
    extracted: &mut Extracted,
    problems: &mut Vec<String>,
) -> Result<Option<OwnedFd>, String> {
    let mut file = BoundedFile::new(descriptor).map_err(|error| error.to_string())?;
    extracted.htlhash = identity::htlhash(&mut file).map_err(|error| format!("hash: {error}"))?;

    // What was read stays in a cache's memory: a new one for each step.
    let cache = ReadCache::new(file);
    extracted.elf = Some(identity::elf(&cache).map_err(|error| error.to_string())?);
    let cache = ReadCache::new(cache.into_inner());
    let unwind = tools.extract_unwind(&cache).unwrap_or_else(|problem| {
        problems.push(format!("unwind table: {problem}"));
        Vec::new()
    });
    let cache = ReadCache::new(cache.into_inner());
    let symbols = tools.extract_symbols(&cache).unwrap_or_else(|problem| {
        problems.push(format!("symbols: {problem}"));
        Vec::new()
    });

    if let Err(error) = cache.into_inner().check_unchanged() {
        // Tables of two states of a file would name one by the other.
        extracted.elf = None;
        return Err(error.to_string());
    }
    if unwind.is_empty() && symbols.is_empty() {
        return Ok(None);
    }
    let memfd = tables::write(&unwind, &symbols).map_err(|error| error.to_string())?;
    extracted.unwind_bytes = u64::try_from(unwind.len()).unwrap_or(u64::MAX);
    extracted.symbol_bytes = u64::try_from(symbols.len()).unwrap_or(u64::MAX);
    Ok(Some(memfd))
}

/// Gives freed memory back to the system: a large file leaves much of it, and the next may be far away.
pub(super) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; the process has one thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
