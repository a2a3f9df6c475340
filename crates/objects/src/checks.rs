//! What the agent takes from the worker, and what it does not.
//!
//! The worker reads bytes of targets, so its replies are checked as if a target had written them. Each check either
//! passes or ends the worker; nothing is mended.
//!
//! **In**: decoded replies (hostile). **Out**: the same, or [`WireError::Malformed`]. **Limits**: those of `protocol`.

use std::os::fd::OwnedFd;

use profile::{SymbolName, UserFrame, UserStack};

use crate::client::{Batch, StoredTables};
use crate::protocol::{
    Extracted, MAX_BUILD_ID_CHARS, MAX_FRAMES, MAX_NAME_BYTES, MAX_REASON_BYTES, MAX_SEGMENTS, SampleMeta,
};
use crate::wire::WireError;

/// Takes the tables that came with an identity.
pub(crate) fn stored(memfd: OwnedFd, extracted: &Extracted) -> Result<StoredTables, WireError> {
    StoredTables::new(memfd, extracted.unwind_bytes, extracted.symbol_bytes)
        .map_err(|_| WireError::Malformed("not a sealed table"))
}

/// Whether an identity is within its limits.
pub(crate) fn extracted(extracted: &Extracted) -> Result<(), WireError> {
    let text = |text: &str, limit: usize| text.len() <= limit && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut fine = text(&extracted.htlhash, 32) && extracted.problem.len() <= MAX_REASON_BYTES;
    if let Some(elf) = &extracted.elf {
        fine &= text(&elf.gnu, MAX_BUILD_ID_CHARS) && text(&elf.go, MAX_BUILD_ID_CHARS);
        fine &= elf.segments.len() <= MAX_SEGMENTS;
    }
    if fine { Ok(()) } else { Err(WireError::Malformed("identity")) }
}

/// Whether a stack may be an answer to its sample.
pub(crate) fn stack(stack: &UserStack, sample: &SampleMeta, batch: &Batch<'_>) -> Result<(), WireError> {
    if stack.frames.len() > MAX_FRAMES {
        return Err(WireError::Malformed("number of frames"));
    }
    let process = usize::try_from(sample.process).ok();
    let maps = process.and_then(|process| batch.processes.get(process)).map(AsRef::as_ref).unwrap_or_default();
    // Neighbouring frames are mostly of one object.
    let mut last = None;
    for frame in &stack.frames {
        if let UserFrame::Object { object, .. } = frame
            && last != Some(*object)
        {
            if !maps.iter().any(|map| map.object == Some(*object)) {
                return Err(WireError::Malformed("frame of an object that is not mapped"));
            }
            last = Some(*object);
        }
    }
    Ok(())
}

/// Whether names may be the answer to so many addresses.
pub(crate) fn names(names: &[Option<SymbolName>], addresses: usize) -> Result<(), WireError> {
    let fits = |name: &SymbolName| {
        !name.name.is_empty() && name.name.len() <= MAX_NAME_BYTES && name.system_name.len() <= MAX_NAME_BYTES
    };
    if names.len() == addresses && names.iter().flatten().all(fits) {
        Ok(())
    } else {
        Err(WireError::Malformed("names"))
    }
}
