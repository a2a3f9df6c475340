//! DWARF expressions of call frame information, as far as compilers use them there.
//!
//! **In**: an expression of a hostile file, the registers that are known, memory by callback. **Out**: an address.
//! **Limits**: [`MAX_OPERATIONS`], [`MAX_DEPTH`]; no jumps, so no loops. What goes beyond is "cannot be told".

use gimli::{Encoding, EndianSlice, LittleEndian, Operation, Register, UnwindExpression};
use profile::UserRegisters;

use crate::arch::native;

/// PLT entries have 9, realigned stacks 2.
const MAX_OPERATIONS: usize = 64;
const MAX_DEPTH: usize = 16;

/// The memory of a snapshot.
pub(crate) trait Memory {
    /// Eight bytes.
    fn read(&mut self, address: u64) -> Result<u64, Miss>;
}

/// A word that is not in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// It lies below the snapshot.
    Below,
    /// It lies above its end.
    Above,
}

/// A register's value, if it is one of those that are known.
pub(crate) fn register(registers: &UserRegisters, register: Register) -> Option<u64> {
    match register {
        native::SP => Some(registers.sp),
        native::FP => Some(registers.fp),
        native::RA => Some(if native::CALL_PUSHES { registers.pc } else { registers.lr }),
        _ => None,
    }
}

/// The value of an expression. None: it uses what is not known here.
pub(crate) fn evaluate(
    section: EndianSlice<'_, LittleEndian>,
    expression: &UnwindExpression<usize>,
    encoding: Encoding,
    registers: &UserRegisters,
    first: Option<u64>,
    memory: &mut impl Memory,
) -> Option<Result<u64, Miss>> {
    let start = expression.offset;
    let mut bytes = section;
    bytes.truncate_to(start, expression.length)?;
    let mut stack = Stack { values: [0; MAX_DEPTH], depth: 0 };
    if let Some(first) = first {
        stack.push(first)?;
    }
    for _ in 0..MAX_OPERATIONS {
        if bytes.is_empty() {
            return stack.pop().map(Ok);
        }
        match step(Operation::parse(&mut bytes, encoding).ok()?, &mut stack, registers, memory)? {
            Ok(()) => {}
            Err(miss) => return Some(Err(miss)),
        }
    }
    None
}

trait Truncate {
    fn truncate_to(&mut self, offset: usize, length: usize) -> Option<()>;
}

impl Truncate for EndianSlice<'_, LittleEndian> {
    fn truncate_to(&mut self, offset: usize, length: usize) -> Option<()> {
        let bytes = self.slice().get(offset..offset.checked_add(length)?)?;
        *self = EndianSlice::new(bytes, LittleEndian);
        Some(())
    }
}

fn step(
    operation: Operation<EndianSlice<'_, LittleEndian>>,
    stack: &mut Stack,
    registers: &UserRegisters,
    memory: &mut impl Memory,
) -> Option<Result<(), Miss>> {
    match operation {
        Operation::RegisterOffset { register: r, offset, .. } => {
            stack.push(register(registers, r)?.wrapping_add_signed(offset))?;
        }
        Operation::UnsignedConstant { value } => stack.push(value)?,
        Operation::SignedConstant { value } => stack.push(value.cast_unsigned())?,
        Operation::PlusConstant { value } => {
            let a = stack.pop()?;
            stack.push(a.wrapping_add(value))?;
        }
        Operation::Deref { size: 8, space: false, .. } => match memory.read(stack.pop()?) {
            Ok(value) => stack.push(value)?,
            Err(miss) => return Some(Err(miss)),
        },
        Operation::Drop => {
            stack.pop()?;
        }
        Operation::Pick { index: 0 } => {
            let a = stack.pop()?;
            stack.push(a)?;
            stack.push(a)?;
        }
        Operation::Nop => {}
        other => {
            let (b, a) = (stack.pop()?, stack.pop()?);
            stack.push(binary(&other, a, b)?)?;
        }
    }
    Some(Ok(()))
}

fn binary(operation: &Operation<EndianSlice<'_, LittleEndian>>, a: u64, b: u64) -> Option<u64> {
    let (signed_a, signed_b) = (a.cast_signed(), b.cast_signed());
    Some(match operation {
        Operation::Plus => a.wrapping_add(b),
        Operation::Minus => a.wrapping_sub(b),
        Operation::And => a & b,
        Operation::Or => a | b,
        Operation::Xor => a ^ b,
        Operation::Shl => u32::try_from(b).ok().and_then(|n| a.checked_shl(n)).unwrap_or(0),
        Operation::Shr => u32::try_from(b).ok().and_then(|n| a.checked_shr(n)).unwrap_or(0),
        Operation::Mul => a.wrapping_mul(b),
        Operation::Ge => u64::from(signed_a >= signed_b),
        Operation::Gt => u64::from(signed_a > signed_b),
        Operation::Le => u64::from(signed_a <= signed_b),
        Operation::Lt => u64::from(signed_a < signed_b),
        Operation::Eq => u64::from(a == b),
        Operation::Ne => u64::from(a != b),
        _ => return None,
    })
}

struct Stack {
    values: [u64; MAX_DEPTH],
    depth: usize,
}

impl Stack {
    fn push(&mut self, value: u64) -> Option<()> {
        *self.values.get_mut(self.depth)? = value;
        self.depth = self.depth.saturating_add(1);
        Some(())
    }

    fn pop(&mut self) -> Option<u64> {
        self.depth = self.depth.checked_sub(1)?;
        self.values.get(self.depth).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Words(u64, Vec<u64>);

    impl Memory for Words {
        fn read(&mut self, address: u64) -> Result<u64, Miss> {
            let at = address.checked_sub(self.0).ok_or(Miss::Below)? / 8;
            usize::try_from(at).ok().and_then(|at| self.1.get(at)).copied().ok_or(Miss::Above)
        }
    }

    fn run(bytes: &[u8], registers: &UserRegisters) -> Option<Result<u64, Miss>> {
        let expression = UnwindExpression { offset: 0, length: bytes.len() };
        let encoding = Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 5 };
        let section = EndianSlice::new(bytes, LittleEndian);
        evaluate(section, &expression, encoding, registers, None, &mut Words(0x1000, vec![11, 22, 33]))
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_linkers_and_compilers_write() {
        let at = |pc| UserRegisters { pc, sp: 0x1000, fp: 0x1010, lr: 0 };
        // breg7+8, breg16+0, lit15, and, lit11, ge, lit3, shl, plus: a PLT entry before and after its push.
        let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        assert_eq!(run(&plt, &at(0x5_0000)), Some(Ok(0x1008)));
        assert_eq!(run(&plt, &at(0x5_000b)), Some(Ok(0x1010)));
        // breg6-8, deref: a realigned stack keeps its frame's address below the frame pointer.
        assert_eq!(run(&[0x76, 0x78, 0x06], &at(0)), Some(Ok(22)));
        assert_eq!(run(&[0x76, 0x08, 0x06], &at(0)), Some(Err(Miss::Above)));
        // A register that is not known; a jump; an empty stack; nothing at all.
        assert_eq!(run(&[0x73, 0], &at(0)), None);
        assert_eq!(run(&[0x2f, 0xfd, 0xff], &at(0)), None);
        assert_eq!(run(&[0x22], &at(0)), None);
        assert_eq!(run(&[], &at(0)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200), sp: u64, fp: u64) {
            let _ = run(&bytes, &UserRegisters { pc: 1, sp, fp, lr: 0 });
        }
    }
}
