//! x86-64.

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use gimli::{Register, X86_64};
use profile::UserRegisters;

use super::{PlainRow, SignalFrame};

pub(crate) type Unwinder<D> = UnwinderX86_64<D>;
pub(crate) type Cache = CacheX86_64;
pub(crate) type Registers = UnwindRegsX86_64;

/// `e_machine`.
pub(crate) const MACHINE: u16 = 62;
pub(crate) const SP: Register = X86_64::RSP;
pub(crate) const FP: Register = X86_64::RBP;
pub(crate) const RA: Register = X86_64::RA;

/// A caller's stack pointer is always above its callee's: the call pushed the return address.
pub(crate) const CALL_PUSHES: bool = true;

/// `struct rt_sigframe` without its first word, which the handler's return has popped: `uc_mcontext` at 40.
pub(crate) const SIGNAL: SignalFrame = SignalFrame { pc: 168, sp: 160, fp: 120, lr: None };

/// `mov $15, %rax; syscall`, as C libraries write it and as Go does.
pub(crate) const RESTORERS: &[&[u8]] =
    &[&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];

/// The longest of [`RESTORERS`]: a pc this far behind its start is still in it.
pub(crate) const RESTORER_BYTES: u64 = 9;

/// `call *%r9`, and the thread's exit: where musl's threads begin.
pub(crate) const THREAD_CALL: &[u8] = &[0x41, 0xff, 0xd1, 0x89, 0xc7, 0x31, 0xc0, 0xb0, 60, 0x0f, 0x05];

/// Bytes of the call in it.
pub(crate) const THREAD_CALL_BYTES: u64 = 3;

pub(crate) fn to_framehop(registers: &UserRegisters) -> Registers {
    UnwindRegsX86_64::new(registers.pc, registers.sp, registers.fp)
}

pub(crate) fn from_framehop(registers: &Registers, pc: u64) -> UserRegisters {
    UserRegisters { pc, sp: registers.sp(), fp: registers.bp(), lr: 0 }
}

/// Whether `framehop` carries the row out as it stands: no rounding, no overflow, no guess.
pub(crate) fn framehop_can(row: &PlainRow) -> bool {
    let whole = |n: i64| n % 8 == 0 && n.unsigned_abs() < 1 << 17;
    if row.ra != Some(-8) || !whole(row.cfa_offset) || !row.fp.is_none_or(whole) {
        return false;
    }
    if row.cfa_register == SP {
        row.cfa_offset >= 8
    } else {
        row.cfa_register == FP && row.cfa_offset == 16 && row.fp == Some(-16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_come_out_exactly() {
        let check = |cfa_register, cfa_offset, fp, ra, want| {
            let row = PlainRow { cfa_register, cfa_offset, fp, ra };
            assert_eq!(framehop_can(&row), want, "{cfa_register:?} {cfa_offset} {fp:?} {ra:?}");
        };
        check(SP, 8, None, Some(-8), true);
        check(SP, 48, Some(-16), Some(-8), true);
        check(FP, 16, Some(-16), Some(-8), true);
        check(SP, 0, None, Some(-8), false);
        check(SP, 12, None, Some(-8), false);
        check(SP, -8, None, Some(-8), false);
        check(SP, 16, Some(-12), Some(-8), false);
        check(SP, i64::MAX, None, Some(-8), false);
        check(SP, 8, Some(i64::MIN), Some(-8), false);
        check(SP, 8, None, Some(-16), false);
        check(SP, 8, None, None, false);
        check(FP, 32, Some(-16), Some(-8), false);
        check(X86_64::RBX, 16, None, Some(-8), false);
    }
}
