//! Call frame information: which functions there are, and the row for one address.
//!
//! **In**: a section's bytes, hostile. **Out**: an index ([`build_index`]), a [`Rule`] ([`Cfi::rule`]), a caller's
//! registers ([`Cfi::evaluate`]). **Units**: ELF addresses. **Limits**: [`MAX_ROWS`] functions, [`MAX_CIE_BYTES`] and
//! [`MAX_FDE_BYTES`] for one entry: larger entries count as absent, so that no lookup is slow.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, Encoding, EndianSlice, LittleEndian,
    RegisterRule, UnwindContext, UnwindOffset, UnwindSection,
};
use profile::UserRegisters;
use rustc_hash::FxHashMap;

use crate::arch::{PlainRow, native};
use crate::blob::{Blob, INDEX_HEAD_BYTES, INDEX_ROW_BYTES, Section, index_head, index_row};
use crate::expression::{self, Memory, Miss};

/// Functions of one section.
const MAX_ROWS: usize = 4_000_000;
/// The largest seen in the wild has 48.
pub(crate) const MAX_CIE_BYTES: u64 = 4096;
/// The largest seen in the wild has some ten thousand.
pub(crate) const MAX_FDE_BYTES: u64 = 256 << 10;
/// Distinct common entries of one section that are kept while its index is built.
const MAX_CIES: usize = 65_536;

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// What to do at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// `framehop` does it, from `.eh_frame`, counting from the stack pointer.
    Framehop,
    /// The same, counting from the frame pointer.
    FramehopByFp,
    /// [`Cfi::evaluate`] does it.
    Evaluate,
    /// A signal frame.
    Signal,
    /// Nothing is above: the return address is undefined.
    Root,
    /// No row covers the address.
    Uncovered,
}

/// What an index says of its section.
pub(crate) struct Index {
    pub(crate) bytes: Vec<u8>,
    /// A signal frame is described.
    pub(crate) signal: bool,
}

/// Which kind of section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    EhFrame,
    DebugFrame,
}

fn eh_frame(bytes: &[u8]) -> EhFrame<Reader<'_>> {
    let mut section = EhFrame::new(bytes, LittleEndian);
    section.set_address_size(8);
    section
}

fn debug_frame(bytes: &[u8]) -> DebugFrame<Reader<'_>> {
    let mut section = DebugFrame::new(bytes, LittleEndian);
    section.set_address_size(8);
    section
}

fn bases(blob: &Blob, section: &Section) -> BaseAddresses {
    BaseAddresses::default().set_eh_frame(section.address).set_text(blob.text).set_got(blob.got)
}

/// Makes the index of a section: an `.eh_frame_hdr` of our own, so that a file's own need not be there nor be right.
///
/// Its pointers count from the blob's base, and so does the pretended address of the section: `framehop` turns them
/// into offsets again. None where the section describes no function.
pub(crate) fn build_index(kind: Kind, blob: &Blob, section: &Section) -> Option<Index> {
    let bases = bases(blob, section);
    let (mut rows, signal) = match kind {
        Kind::EhFrame => functions(&eh_frame(&section.bytes), &bases, &section.bytes, blob.base),
        Kind::DebugFrame => functions(&debug_frame(&section.bytes), &bases, &section.bytes, blob.base),
    };
    if rows.is_empty() {
        return None;
    }
    rows.sort_unstable();
    let count = u32::try_from(rows.len()).ok()?;
    let mut bytes = Vec::with_capacity(INDEX_HEAD_BYTES.saturating_add(rows.len().saturating_mul(INDEX_ROW_BYTES)));
    bytes.extend_from_slice(&index_head(blob.base, count));
    for (start, offset) in rows {
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
    }
    Some(Index { bytes, signal })
}

/// (start from the base, offset) of every usable function, and whether a signal frame is among them.
fn functions<'a, S>(section: &S, bases: &BaseAddresses, bytes: &[u8], base: u64) -> (Vec<(u32, u32)>, bool)
where
    S: UnwindSection<Reader<'a>>,
{
    let mut rows = Vec::new();
    let mut signal = false;
    let mut cies: FxHashMap<usize, CommonInformationEntry<Reader<'a>>> = FxHashMap::default();
    let mut entries = section.entries(bases);
    // An entry that does not parse ends the section: its length is not to be believed, and what came before stands.
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        if partial.entry_len() as u64 > MAX_FDE_BYTES {
            continue;
        }
        let fde = partial.parse(|section, bases, at| {
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
        let Ok(fde) = fde else { continue };
        let start = fde.initial_address().checked_sub(base).and_then(|n| u32::try_from(n).ok());
        // Address 0 marks functions that the linker left out.
        let (Some(start), Ok(offset), 1.., 1..) =
            (start, u32::try_from(fde.offset()), fde.len(), fde.initial_address())
        else {
            continue;
        };
        signal |= fde.is_signal_trampoline();
        rows.push((start, offset));
        if rows.len() >= MAX_ROWS {
            break;
        }
    }
    (rows, signal)
}

/// The length that the entry at an offset gives for itself.
pub(crate) fn entry_bytes(section: &[u8], offset: usize) -> Option<u64> {
    let word = section.get(offset..)?.first_chunk::<4>()?;
    Some(u64::from(u32::from_le_bytes(*word)))
}

/// Looks rows up. Holds nothing but memory to work in.
#[derive(Default)]
pub(crate) struct Cfi {
    context: Box<UnwindContext<usize>>,
}

impl Cfi {
    /// What to do at an ELF address.
    pub(crate) fn rule(&mut self, blob: &Blob, address: u64) -> Rule {
        self.with_row(blob, address, |row| row.rule()).unwrap_or(Rule::Uncovered)
    }

    /// Carries out the row at an ELF address, whatever its rules are. `registers` are the process's.
    ///
    /// None where there is no row or it needs a register that is not known.
    pub(crate) fn evaluate(
        &mut self,
        blob: &Blob,
        address: u64,
        registers: &UserRegisters,
        memory: &mut impl Memory,
    ) -> Option<Result<UserRegisters, Miss>> {
        self.with_row(blob, address, |row| row.evaluate(registers, memory)).flatten()
    }

    /// The ELF addresses that the function around an address covers.
    pub(crate) fn function(blob: &Blob, address: u64) -> Option<std::ops::Range<u64>> {
        let section = blob.eh_frame.as_ref()?;
        let offset = find(section, address.checked_sub(blob.base)?)?;
        let bases = bases(blob, section);
        let fde = fde(&eh_frame(&section.bytes), &bases, &section.bytes, offset, address)?;
        Some(fde.initial_address()..fde.end_address())
    }

    fn with_row<T>(&mut self, blob: &Blob, address: u64, then: impl FnOnce(Row<'_>) -> T) -> Option<T> {
        let from_base = address.checked_sub(blob.base)?;
        let mut then = Some(then);
        if let Some(section) = &blob.eh_frame
            && let Some(offset) = find(section, from_base)
        {
            let (cfi, bases) = (eh_frame(&section.bytes), bases(blob, section));
            let found = row(Kind::EhFrame, &cfi, &bases, &section.bytes, offset, address, &mut self.context, &mut then);
            if found.is_some() {
                return found;
            }
        }
        let section = blob.debug_frame.as_ref()?;
        let offset = find(section, from_base)?;
        let (cfi, bases) = (debug_frame(&section.bytes), bases(blob, section));
        row(Kind::DebugFrame, &cfi, &bases, &section.bytes, offset, address, &mut self.context, &mut then)
    }
}

/// The offset of the last function that starts at or below an address (counted from the base).
fn find(section: &Section, from_base: u64) -> Option<usize> {
    let address = u32::try_from(from_base).ok()?;
    let (rows, _) = section.index.get(INDEX_HEAD_BYTES..)?.as_chunks::<INDEX_ROW_BYTES>();
    let above = rows.partition_point(|row| index_row(row).0 <= address);
    Some(index_row(rows.get(above.checked_sub(1)?)?).1)
}

fn fde<'a, S: UnwindSection<Reader<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    bytes: &[u8],
    offset: usize,
    address: u64,
) -> Option<gimli::FrameDescriptionEntry<Reader<'a>>> {
    if entry_bytes(bytes, offset)? > MAX_FDE_BYTES {
        return None;
    }
    let fde = section.fde_from_offset(bases, S::Offset::from(offset), |section, bases, at| {
        if entry_bytes(bytes, UnwindOffset::into(at)).is_none_or(|n| n > MAX_CIE_BYTES) {
            return Err(gimli::Error::NoUnwindInfoForAddress);
        }
        section.cie_from_offset(bases, at)
    });
    fde.ok().filter(|fde| fde.contains(address))
}

#[expect(clippy::too_many_arguments, reason = "one generic body for both kinds of section")]
fn row<'a, S: UnwindSection<Reader<'a>>, T>(
    kind: Kind,
    section: &S,
    bases: &BaseAddresses,
    bytes: &[u8],
    offset: usize,
    address: u64,
    context: &mut UnwindContext<usize>,
    then: &mut Option<impl FnOnce(Row<'_>) -> T>,
) -> Option<T> {
    let fde = fde(section, bases, bytes, offset, address)?;
    let row = fde.unwind_info_for_address(section, bases, context, address).ok()?;
    let row = Row {
        kind,
        signal: fde.is_signal_trampoline(),
        encoding: fde.cie().encoding(),
        section: *section.section(),
        cfa: row.cfa().clone(),
        fp: row.register(native::FP),
        ra: row.register(native::RA),
    };
    then.take().map(|then| then(row))
}

/// The rules for one address, as far as they are followed.
struct Row<'a> {
    kind: Kind,
    signal: bool,
    encoding: Encoding,
    section: Reader<'a>,
    cfa: CfaRule<usize>,
    fp: Option<RegisterRule<usize>>,
    ra: Option<RegisterRule<usize>>,
}

impl Row<'_> {
    fn rule(&self) -> Rule {
        if self.signal {
            return Rule::Signal;
        }
        match self.ra {
            Some(RegisterRule::Undefined) => return Rule::Root,
            None if native::CALL_PUSHES => return Rule::Root,
            _ => {}
        }
        let CfaRule::RegisterAndOffset { register, offset } = self.cfa else { return Rule::Evaluate };
        let (Some(fp), Some(ra)) = (saved_at(self.fp.as_ref()), saved_at(self.ra.as_ref())) else {
            return Rule::Evaluate;
        };
        let plain = PlainRow { cfa_register: register, cfa_offset: offset, fp, ra };
        if self.kind == Kind::DebugFrame || !native::framehop_can(&plain) {
            Rule::Evaluate
        } else if register == native::FP {
            Rule::FramehopByFp
        } else {
            Rule::Framehop
        }
    }

    fn evaluate(&self, now: &UserRegisters, memory: &mut impl Memory) -> Option<Result<UserRegisters, Miss>> {
        // `?` on the inside leaves with "cannot", the memory's own misses leave with "not in the snapshot".
        let mut run = || -> Result<Option<UserRegisters>, Miss> {
            let cfa = match &self.cfa {
                CfaRule::RegisterAndOffset { register, offset } => {
                    expression::register(now, *register).map(|r| r.wrapping_add_signed(*offset))
                }
                CfaRule::Expression(e) => {
                    expression::evaluate(self.section, e, self.encoding, now, None, memory).transpose()?
                }
            };
            let Some(cfa) = cfa else { return Ok(None) };
            let pc = match (&self.ra, native::CALL_PUSHES) {
                (None | Some(RegisterRule::SameValue), false) => Some(now.lr),
                (rule, _) => self.value(rule.as_ref(), cfa, now.pc, now, memory)?,
            };
            let Some(pc) = pc else { return Ok(None) };
            let Some(fp) = self.value(self.fp.as_ref(), cfa, now.fp, now, memory)? else { return Ok(None) };
            Ok(Some(UserRegisters { pc, sp: cfa, fp, lr: if native::CALL_PUSHES { 0 } else { pc } }))
        };
        run().transpose()
    }

    /// A register's value in the caller; none where it cannot be told.
    fn value(
        &self,
        rule: Option<&RegisterRule<usize>>,
        cfa: u64,
        same: u64,
        now: &UserRegisters,
        memory: &mut impl Memory,
    ) -> Result<Option<u64>, Miss> {
        let mut run = |e| expression::evaluate(self.section, e, self.encoding, now, Some(cfa), memory).transpose();
        Ok(match rule {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(same),
            Some(RegisterRule::Offset(n)) => Some(memory.read(cfa.wrapping_add_signed(*n))?),
            Some(RegisterRule::ValOffset(n)) => Some(cfa.wrapping_add_signed(*n)),
            Some(RegisterRule::Register(r)) => expression::register(now, *r),
            Some(RegisterRule::Expression(e)) => match run(e)? {
                Some(at) => Some(memory.read(at)?),
                None => None,
            },
            Some(RegisterRule::ValExpression(e)) => run(e)?,
            Some(_) => None,
        })
    }
}

/// Where a register is saved, from the canonical frame address. Outer none: not told by an offset.
#[expect(clippy::option_option, reason = "not saved, and saved in a way that is no offset, are two answers")]
fn saved_at(rule: Option<&RegisterRule<usize>>) -> Option<Option<i64>> {
    match rule {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(None),
        Some(RegisterRule::Offset(n)) => Some(Some(*n)),
        Some(_) => None,
    }
}
