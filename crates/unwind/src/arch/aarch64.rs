//! arm64.

use framehop::aarch64::{CacheAarch64, PtrAuthMask, UnwindRegsAarch64, UnwinderAarch64};
use gimli::{AArch64, Register};
use profile::UserRegisters;

use super::{PlainRow, SignalFrame};

pub(crate) type Unwinder<D> = UnwinderAarch64<D>;
pub(crate) type Cache = CacheAarch64;
pub(crate) type Registers = UnwindRegsAarch64;

/// `e_machine`.
pub(crate) const MACHINE: u16 = 183;
pub(crate) const SP: Register = AArch64::SP;
pub(crate) const FP: Register = AArch64::X29;
pub(crate) const RA: Register = AArch64::X30;

/// A leaf function may leave the stack pointer alone: the call wrote a register only.
pub(crate) const CALL_PUSHES: bool = false;

/// `struct rt_sigframe`: 128 bytes of siginfo, then `ucontext` with its `mcontext` at 176, registers behind its
/// first word.
pub(crate) const SIGNAL: SignalFrame = SignalFrame { pc: 568, sp: 560, fp: 544, lr: Some(552) };

/// `mov x8, #139; svc #0`.
pub(crate) const RESTORERS: &[&[u8]] = &[&[0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4]];

/// The longest of [`RESTORERS`]: a pc this far behind its start is still in it.
pub(crate) const RESTORER_BYTES: u64 = 8;

/// `blr x1`, and the thread's exit: where musl's threads begin.
pub(crate) const THREAD_CALL: &[u8] = &[0x20, 0, 0x3f, 0xd6, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0, 0, 0xd4];

/// Bytes of the call in it.
pub(crate) const THREAD_CALL_BYTES: u64 = 4;

/// Addresses of 48 bits; the rest may be a pointer authentication code.
const ADDRESS_BITS: u64 = 0x0000_ffff_ffff_ffff;

pub(crate) fn to_framehop(registers: &UserRegisters) -> Registers {
    UnwindRegsAarch64::new_with_ptr_auth_mask(PtrAuthMask(ADDRESS_BITS), registers.lr, registers.sp, registers.fp)
}

pub(crate) fn from_framehop(registers: &Registers, pc: u64) -> UserRegisters {
    UserRegisters { pc, sp: registers.sp(), fp: registers.fp(), lr: registers.lr() }
}

/// Whether `framehop` carries the row out as it stands: no rounding, no overflow, no guess.
pub(crate) fn framehop_can(row: &PlainRow) -> bool {
    let whole = |n: i64, unit: i64| n % unit == 0 && n.unsigned_abs() < 1 << 17;
    if !row.fp.is_none_or(|n| whole(n, 8)) || !row.ra.is_none_or(|n| whole(n, 8)) {
        return false;
    }
    if row.fp.is_some() && row.ra.is_none() {
        return false;
    }
    if row.cfa_register == SP {
        row.cfa_offset >= 0 && whole(row.cfa_offset, 16)
    } else {
        row.cfa_register == FP && row.cfa_offset > 0 && whole(row.cfa_offset, 8) && row.fp.is_some()
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
        check(SP, 0, None, None, true);
        check(SP, 32, Some(-32), Some(-24), true);
        check(FP, 16, Some(-16), Some(-8), true);
        check(FP, 48, Some(-48), Some(-40), true);
        check(SP, 8, None, None, false);
        check(SP, -16, None, None, false);
        check(SP, 32, Some(-32), None, false);
        check(SP, 32, Some(-30), Some(-24), false);
        check(SP, i64::MAX - 15, None, Some(i64::MIN), false);
        check(FP, 16, None, Some(-8), false);
        check(AArch64::X9, 16, Some(-16), Some(-8), false);
    }
}
