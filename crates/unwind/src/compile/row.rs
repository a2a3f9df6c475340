//! One row of call frame information as a [`Rule`].

use gimli::{
    CfaRule, Encoding, EndianSlice, LittleEndian, Operation, Register, RegisterRule, UnwindExpression, UnwindTableRow,
};
use unwind_table::{Aarch64, Arch, Kind, Rule, Slot, X86_64};

use super::context::Storage;

pub(super) type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// The numbers that DWARF gives a machine's registers.
pub(crate) trait Numbers: Arch {
    /// Stack pointer.
    const SP: Register;
    /// Frame pointer.
    const FP: Register;
    /// Return address.
    const RA: Register;
}

impl Numbers for X86_64 {
    const SP: Register = gimli::X86_64::RSP;
    const FP: Register = gimli::X86_64::RBP;
    const RA: Register = gimli::X86_64::RA;
}

impl Numbers for Aarch64 {
    const SP: Register = gimli::AArch64::SP;
    const FP: Register = gimli::AArch64::X29;
    const RA: Register = gimli::AArch64::X30;
}

/// Why a row is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Register(Register),
    Expression,
    Fp,
    Ra,
    Number,
}

/// The operations of an expression that is short enough.
const MAX_OPERATIONS: usize = 12;

/// The rule that a row comes to.
pub(super) fn rule<M: Numbers>(
    row: &UnwindTableRow<usize, Storage>,
    section: Reader<'_>,
    encoding: Encoding,
) -> Result<Rule, Why> {
    let ra = match row.register(M::RA) {
        Some(RegisterRule::Undefined) => return Ok(Rule::END),
        None if M::CALL_PUSHES => return Ok(Rule::END),
        None | Some(RegisterRule::SameValue) if !M::CALL_PUSHES => None,
        Some(RegisterRule::Offset(n)) => Some(n),
        _ => return Err(Why::Ra),
    };
    let fp = match row.register(M::FP) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Slot::Kept,
        Some(RegisterRule::Offset(n)) => Slot::Cfa(n),
        Some(RegisterRule::Expression(e)) => match operations(section, &e, encoding).as_deref() {
            Some(&[Operation::RegisterOffset { register, offset, .. }]) if register == M::FP => Slot::Fp(offset),
            _ => return Err(Why::Fp),
        },
        Some(_) => return Err(Why::Fp),
    };
    let made = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let kind = match *register {
                r if r == M::SP => Kind::SP,
                r if r == M::FP => Kind::FP,
                r if M::CALL_PUSHES && ra == Some(-8) && r.0 < 16 => {
                    return Rule::register(r.0, *offset, fp).ok_or(Why::Number);
                }
                r => return Err(Why::Register(r)),
            };
            // A slot below the stack pointer is one that was popped: the compiler does not say so, the register has it again.
            let popped = matches!(fp, Slot::Cfa(n) if kind == Kind::SP && offset.saturating_add(n) < 0);
            Rule::new(kind, *offset, if popped { Slot::Kept } else { fp }, ra)
        }
        CfaRule::Expression(e) => {
            // The kinds below have no room to say where the return address is.
            if !M::CALL_PUSHES || ra != Some(-8) {
                return Err(Why::Ra);
            }
            expression::<M>(&operations(section, e, encoding).ok_or(Why::Expression)?, fp)?
        }
    };
    made.ok_or(Why::Number)
}

/// What linkers write for PLT entries, and compilers and assembly for stacks that were aligned or exchanged.
fn expression<M: Numbers>(operations: &[Operation<Reader<'_>>], fp: Slot) -> Result<Option<Rule>, Why> {
    use Operation::{And, Deref, Ge, Plus, PlusConstant, RegisterOffset, Shl, UnsignedConstant};
    let number = |n: u64| i64::try_from(n).map_err(|_| Why::Number);
    match *operations {
        [
            RegisterOffset { register: sp, offset, .. },
            RegisterOffset { register: pc, offset: 0, .. },
            UnsignedConstant { value: 15 },
            And,
            UnsignedConstant { value: threshold @ 0..16 },
            Ge,
            UnsignedConstant { value: 3 },
            Shl,
            Plus,
        ] if sp == M::SP && pc == M::RA && fp == Slot::Kept => {
            Ok(Rule::plt(offset, u8::try_from(threshold).map_err(|_| Why::Number)?))
        }
        [RegisterOffset { register, offset, .. }, Deref { size: 8, space: false, .. }, ref plus @ ..]
            if register == M::FP || register == M::SP =>
        {
            let plus = match *plus {
                [] => 0,
                [PlusConstant { value }] => number(value)?,
                _ => return Err(Why::Expression),
            };
            let kind = if register == M::FP { Kind::FP_DEREF } else { Kind::SP_DEREF };
            Ok(Rule::deref(kind, offset, plus, fp))
        }
        _ => Err(Why::Expression),
    }
}

fn operations<'a>(
    section: Reader<'a>,
    expression: &UnwindExpression<usize>,
    encoding: Encoding,
) -> Option<Vec<Operation<Reader<'a>>>> {
    let end = expression.offset.checked_add(expression.length)?;
    let mut bytes = EndianSlice::new(section.slice().get(expression.offset..end)?, LittleEndian);
    let mut out = Vec::new();
    while !bytes.is_empty() {
        if out.len() >= MAX_OPERATIONS {
            return None;
        }
        out.push(Operation::parse(&mut bytes, encoding).ok()?);
    }
    Some(out)
}
