//! Entries of `.eh_frame` and `.debug_frame`, and their rows.
//!
//! **Limits**: those of `cfi` for one entry; [`MAX_CIES`] common entries are kept.

use std::ops::Range;

use gimli::{
    BaseAddresses, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry, LittleEndian,
    UnwindOffset, UnwindSection, Vendor,
};
use rustc_hash::FxHashMap;
use unwind_table::{Aarch64, Arch, Rule};

use super::context::Context;
use super::row::{self, Numbers, Reader, Why};
use crate::blob::{Blob, Section};
use crate::cfi::{Kind, MAX_CIE_BYTES, MAX_FDE_BYTES, entry_bytes};

const MAX_CIES: usize = 65_536;

/// One section.
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    bases: BaseAddresses,
    section: Either<'a>,
}

enum Either<'a> {
    Eh(One<'a, EhFrame<Reader<'a>>>),
    Debug(One<'a, DebugFrame<Reader<'a>>>),
}

struct One<'a, S> {
    section: S,
    /// By their offset.
    cies: FxHashMap<usize, CommonInformationEntry<Reader<'a>>>,
}

impl<'a> Frames<'a> {
    pub(super) fn new<M: Numbers>(kind: Kind, blob: &Blob, section: &'a Section) -> Self {
        let bases = BaseAddresses::default().set_eh_frame(section.address).set_text(blob.text).set_got(blob.got);
        let bytes = &*section.bytes;
        let vendor = if M::MACHINE == Aarch64::MACHINE { Vendor::AArch64 } else { Vendor::Default };
        let section = match kind {
            Kind::EhFrame => {
                let mut section = EhFrame::new(bytes, LittleEndian);
                section.set_address_size(8);
                section.set_vendor(vendor);
                Either::Eh(One { section, cies: FxHashMap::default() })
            }
            Kind::DebugFrame => {
                let mut section = DebugFrame::new(bytes, LittleEndian);
                section.set_address_size(8);
                section.set_vendor(vendor);
                Either::Debug(One { section, cies: FxHashMap::default() })
            }
        };
        Self { bytes, bases, section }
    }

    /// The ELF addresses that the entry at an offset covers.
    pub(super) fn range(&mut self, at: u32) -> Option<Range<u64>> {
        match &mut self.section {
            Either::Eh(one) => one.fde(self.bytes, &self.bases, at).map(|fde| fde.initial_address()..fde.end_address()),
            Either::Debug(one) => {
                one.fde(self.bytes, &self.bases, at).map(|fde| fde.initial_address()..fde.end_address())
            }
        }
    }

    /// Calls back with each row of the entry at an offset: where it starts, and its rule. Returns whether all of them
    /// could be read, and how many bytes that took.
    pub(super) fn rows<M: Numbers>(
        &mut self,
        at: u32,
        context: &mut Context,
        each: impl FnMut(u64, Result<Rule, Why>) -> bool,
    ) -> (bool, u64) {
        match &mut self.section {
            Either::Eh(one) => one.rows::<M>(self.bytes, &self.bases, at, context, each),
            Either::Debug(one) => one.rows::<M>(self.bytes, &self.bases, at, context, each),
        }
    }
}

impl<'a, S: UnwindSection<Reader<'a>>> One<'a, S> {
    fn fde(&mut self, bytes: &[u8], bases: &BaseAddresses, at: u32) -> Option<FrameDescriptionEntry<Reader<'a>>> {
        let at = at as usize;
        if entry_bytes(bytes, at)? > MAX_FDE_BYTES {
            return None;
        }
        let cies = &mut self.cies;
        let fde = self.section.fde_from_offset(bases, S::Offset::from(at), |section, bases, at| {
            let key = UnwindOffset::into(at);
            if let Some(cie) = cies.get(&key) {
                return Ok(cie.clone());
            }
            if entry_bytes(bytes, key).is_none_or(|n| n > MAX_CIE_BYTES) {
                return Err(gimli::Error::NoUnwindInfoForAddress);
            }
            let cie = section.cie_from_offset(bases, at)?;
            if cies.len() < MAX_CIES {
                cies.insert(key, cie.clone());
            }
            Ok(cie)
        });
        fde.ok()
    }

    fn rows<M: Numbers>(
        &mut self,
        bytes: &[u8],
        bases: &BaseAddresses,
        at: u32,
        context: &mut Context,
        mut each: impl FnMut(u64, Result<Rule, Why>) -> bool,
    ) -> (bool, u64) {
        let Some(fde) = self.fde(bytes, bases, at) else { return (false, 0) };
        let cost = (fde.entry_len() as u64).saturating_add(fde.cie().entry_len() as u64);
        if fde.is_signal_trampoline() {
            each(fde.initial_address(), Ok(Rule::SIGNAL));
            return (true, cost);
        }
        let (slice, encoding) = (EndianSlice::new(bytes, LittleEndian), fde.cie().encoding());
        let Ok(mut table) = fde.rows(&self.section, bases, context) else { return (false, cost) };
        let mut read = fde.initial_address();
        loop {
            match table.next_row() {
                Ok(Some(row)) => {
                    read = row.end_address();
                    if !each(row.start_address(), row::rule::<M>(row, slice, encoding)) {
                        return (true, cost);
                    }
                }
                Ok(None) => return (true, cost),
                Err(_) => {
                    each(read, Ok(Rule::GAP));
                    return (false, cost);
                }
            }
        }
    }
}
