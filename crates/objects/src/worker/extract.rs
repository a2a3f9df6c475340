//! Reading one file: what it is, and its tables.
//!
//! **In**: a descriptor of a target's file (hostile, may change while it is read). **Out**: [`Extracted`], and a
//! sealed memfd unless all tables are empty. **Limits**: those of `file`, `identity`, `tables` and of the tools.

use std::os::fd::OwnedFd;

use object::read::ReadCache;

use crate::Fingerprint;
use crate::file::BoundedFile;
use crate::fingerprint::Run;
use crate::identity;
use crate::protocol::{Extracted, MAX_REASON_BYTES, cut};
use crate::tables::{Sizes, Writer};
use crate::tools::Tools;

/// Reads one file. What goes wrong is told in [`Extracted::problem`]; the good part is kept.
pub(super) fn extract(tools: &impl Tools, descriptor: OwnedFd, debug: Option<Vec<u8>>) -> (Extracted, Option<OwnedFd>) {
    let mut extracted = Extracted::default();
    let mut problems = Vec::new();
    let memfd = read(tools, descriptor, debug, &mut extracted, &mut problems).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    if memfd.is_none() {
        extracted.sizes = Sizes::default();
    }
    extracted.problem = cut(problems.join("; "), MAX_REASON_BYTES);
    (extracted, memfd)
}

fn read(
    tools: &impl Tools,
    descriptor: OwnedFd,
    debug: Option<Vec<u8>>,
    extracted: &mut Extracted,
    problems: &mut Vec<String>,
) -> Result<Option<OwnedFd>, String> {
    let mut file = BoundedFile::new(descriptor).map_err(|error| error.to_string())?;
    extracted.htlhash = identity::htlhash(&mut file).map_err(|error| format!("hash: {error}"))?;

    // What was read stays in a cache's memory: a new one for each step. Each table goes to the memfd before the next
    // is made.
    let cache = ReadCache::new(file);
    extracted.elf = Some(identity::elf(&cache).map_err(|error| error.to_string())?);
    let mut writer = Writer::new().map_err(|error| error.to_string())?;
    let is_alone = debug.is_none();
    let mut step = |what: &str, result: Result<(), String>| {
        if let Err(problem) = result {
            problems.push(format!("{what}: {problem}"));
        }
    };

    let cache = ReadCache::new(cache.into_inner());
    let unwind = tools.extract_unwind(&cache);
    let cache = ReadCache::new(cache.into_inner());
    match unwind {
        Ok(unwind) => {
            step("unwind table", writer.unwind(&unwind).map_err(|error| error.to_string()));
            if !unwind.is_empty() {
                let walk = tools.compile_walk(unwind, debug);
                let result = walk.and_then(|walk| writer.walk(&walk).map_err(|error| error.to_string()));
                step("walk table", result);
            }
        }
        Err(problem) => step("unwind table", Err(problem)),
    }
    let symbols = tools.extract_symbols(&cache);
    let result = symbols.and_then(|symbols| writer.symbols(&symbols).map_err(|error| error.to_string()));
    step("symbols", result);

    let file = cache.into_inner();
    if let Err(error) = file.check_unchanged() {
        // Tables of two states of a file would name one by the other.
        extracted.elf = None;
        return Err(error.to_string());
    }
    let Some((memfd, sizes)) = writer.finish().map_err(|error| error.to_string())? else { return Ok(None) };
    extracted.sizes = sizes;
    // What a debug file told is true of the files of whoever has that one.
    extracted.covered = if is_alone { file.covered() } else { None };
    Ok(Some(memfd))
}

/// Says what a file is.
pub(super) fn identify(descriptor: OwnedFd) -> Extracted {
    let mut extracted = Extracted::default();
    let read = || -> Result<(), String> {
        let mut file = BoundedFile::new(descriptor).map_err(|error| error.to_string())?;
        extracted.htlhash = identity::htlhash(&mut file).map_err(|error| format!("hash: {error}"))?;
        let cache = ReadCache::new(file);
        extracted.elf = Some(identity::elf(&cache).map_err(|error| error.to_string())?);
        extracted.debug_link = identity::debug_link(&cache).unwrap_or_default();
        Ok(())
    };
    let problem = read().err().unwrap_or_default();
    extracted.problem = cut(problem, MAX_REASON_BYTES);
    extracted
}

/// What unwinding can use of a debug file. None where there is nothing.
pub(super) fn debug(tools: &impl Tools, descriptor: OwnedFd, build_id: &str) -> Result<Option<Vec<u8>>, String> {
    let cache = ReadCache::new(BoundedFile::new(descriptor).map_err(|error| error.to_string())?);
    let identity = identity::elf(&cache).map_err(|error| error.to_string())?;
    if identity.gnu != build_id || build_id.is_empty() {
        return Err("another file's debug file".into());
    }
    let debug = tools.extract_debug(&cache)?;
    cache.into_inner().check_unchanged().map_err(|error| error.to_string())?;
    Ok((!debug.is_empty()).then_some(debug))
}

/// The fingerprint of runs of blocks of a file. None where it has no such runs, or cannot be read.
pub(super) fn fingerprint(descriptor: OwnedFd, runs: &[Run]) -> Option<Fingerprint> {
    BoundedFile::new(descriptor).ok()?.fingerprint(runs).ok()?
}
