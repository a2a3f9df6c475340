//! What the agent takes from the worker, and what it does not.
//!
//! The worker reads bytes of targets, so its replies are checked as if a target had written them. Each check either
//! passes or ends the worker; nothing is mended.
//!
//! **In**: decoded replies (hostile). **Out**: the same, or [`WireError::Malformed`]. **Limits**: those of `protocol`.

use std::os::fd::OwnedFd;

use profile::{SymbolName, UserFrame, UserStack};

use crate::fingerprint::Covered;
use crate::protocol::{
    Batch, Extracted, MAX_BUILD_ID_CHARS, MAX_DEBUG_LINK_BYTES, MAX_FRAMES, MAX_NAME_BYTES, MAX_REASON_BYTES,
    MAX_SEGMENTS, SampleMeta,
};
use crate::tables::StoredTables;
use crate::wire::WireError;

/// Takes the tables that came with an identity.
pub(crate) fn stored(memfd: OwnedFd, extracted: &Extracted) -> Result<StoredTables, WireError> {
    let fingerprint = extracted.covered.as_ref().map(|covered| covered.fingerprint);
    StoredTables::new(memfd, extracted.sizes, fingerprint).map_err(|_| WireError::Malformed("not a sealed table"))
}

/// Whether an identity is within its limits.
pub(crate) fn extracted(extracted: &Extracted) -> Result<(), WireError> {
    let text = |text: &str, limit: usize| text.len() <= limit && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut fine = text(&extracted.htlhash, 32) && extracted.problem.len() <= MAX_REASON_BYTES;
    if let Some(elf) = &extracted.elf {
        fine &= text(&elf.gnu, MAX_BUILD_ID_CHARS) && text(&elf.go, MAX_BUILD_ID_CHARS);
        fine &= elf.segments.len() <= MAX_SEGMENTS;
    }
    fine &= text(&extracted.debug_link, MAX_DEBUG_LINK_BYTES) && !extracted.debug_link.contains('/');
    fine &= extracted.covered.as_ref().is_none_or(Covered::is_sound);
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

/// Whether names may be the answer to these addresses.
pub(crate) fn names(names: &[Option<SymbolName>], addresses: &[u64]) -> Result<(), WireError> {
    let fits = |(name, address): (&Option<SymbolName>, &u64)| {
        name.as_ref().is_none_or(|name| {
            !name.name.is_empty()
                && name.name.len() <= MAX_NAME_BYTES
                && name.system_name.len() <= MAX_NAME_BYTES
                && (name.addresses.is_empty() || name.addresses.contains(address))
        })
    };
    if names.len() == addresses.len() && names.iter().zip(addresses).all(fits) {
        Ok(())
    } else {
        Err(WireError::Malformed("names"))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use profile::{MapEntry, ObjectId, Segment, StackEnd, UserRegisters};

    use super::*;
    use crate::protocol::ElfIdentity;

    #[test]
    fn identities() {
        let good = Extracted {
            htlhash: "0123456789abcdef0123456789abcdef".into(),
            elf: Some(ElfIdentity { gnu: "ab".into(), go: "a/b-_".into(), segments: Vec::new() }),
            ..Extracted::default()
        };
        assert!(extracted(&good).is_ok() && extracted(&Extracted::default()).is_ok());
        let segment = Segment { elf_address: 0, file_offset: 0, file_bytes: 0, executable: false };
        let bad: [fn(&mut Extracted, Segment); 6] = [
            |it, _| it.htlhash.push('0'),
            |it, _| it.htlhash = "a\nb".into(),
            |it, _| it.problem = "x".repeat(MAX_REASON_BYTES + 1),
            |it, _| it.elf.iter_mut().for_each(|elf| elf.gnu = "\u{1b}[31m".into()),
            |it, _| it.elf.iter_mut().for_each(|elf| elf.go = "x".repeat(MAX_BUILD_ID_CHARS + 1)),
            |it, segment| it.elf.iter_mut().for_each(|elf| elf.segments = vec![segment; MAX_SEGMENTS + 1]),
        ];
        for (number, spoil) in bad.iter().enumerate() {
            let mut identity = good.clone();
            spoil(&mut identity, segment);
            assert!(extracted(&identity).is_err(), "{number}");
        }
    }

    #[test]
    fn stacks() {
        let maps = [MapEntry { start: 0, end: 9, file_offset: 0, object: Some(ObjectId(3)) }];
        let batch = Batch { processes: vec![Cow::Borrowed(&maps)], samples: Vec::new(), stacks: Vec::new() };
        let check = |process, frames: Vec<UserFrame>| {
            let sample = SampleMeta { process, registers: UserRegisters::default(), stack_bytes: 0 };
            stack(&UserStack { frames, end: StackEnd::Root }, &sample, &batch).is_ok()
        };
        let of = |object| UserFrame::Object { object: ObjectId(object), address: 1 };
        let unmapped = UserFrame::Unmapped { address: 1 };
        assert!(check(0, vec![]) && check(0, vec![of(3), unmapped, of(3)]) && check(9, vec![unmapped]));
        assert!(!check(0, vec![of(3), of(4)]), "not mapped");
        assert!(!check(9, vec![of(3)]), "no such process");
        assert!(check(0, vec![unmapped; MAX_FRAMES]) && !check(0, vec![unmapped; MAX_FRAMES + 1]));
    }

    #[test]
    fn lists_of_names() {
        let name = |name: &str| Some(SymbolName { name: name.into(), ..SymbolName::default() });
        let covers = |addresses| name("a").map(|name| SymbolName { addresses, ..name });
        assert!(names(&[], &[]).is_ok() && names(&[name("a"), None], &[7, 8]).is_ok());
        assert!(names(&[covers(5..8), covers(8..9)], &[7, 8]).is_ok());
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for bad in [
            vec![name("a")],
            vec![name("a"), name("")],
            vec![name("a"), name(&long)],
            vec![None; 3],
            vec![covers(7..8), covers(7..8)],
        ] {
            assert!(names(&bad, &[7, 8]).is_err());
        }
    }
}
