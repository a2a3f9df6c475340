//! Rules: how a frame's caller is found, in one word.
//!
//! | bits | what |
//! | --- | --- |
//! | 0..8 | [`Kind`], and where the frame pointer's slot is counted from |
//! | 8..32 | offset of the canonical frame address (CFA), in bytes, signed |
//! | 32..48 | the frame pointer's slot in words of 8 bytes, signed; [`KEPT`] where the caller's is still in its register |
//! | 48..64 | the return address's slot in words from the CFA, signed; [`KEPT`] where it is in the link register. With [`Kind::PLT`] the threshold, with the dereferencing kinds what is added, with [`Kind::REGISTER`] the register's DWARF number; the return address is then right below the CFA |

use crate::format::low;

/// How the CFA is found, and what else a rule may be.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kind(pub u32);

impl Kind {
    /// No row covers the address: frame pointers, and for a leaf what lies on top of the stack.
    pub const GAP: Self = Self(0);
    /// CFA = sp + n.
    pub const SP: Self = Self(1);
    /// CFA = fp + n.
    pub const FP: Self = Self(2);
    /// CFA = sp + n, and 8 more where the pc's last four bits are the threshold or more.
    pub const PLT: Self = Self(3);
    /// CFA = `*(fp + n)` + m.
    pub const FP_DEREF: Self = Self(4);
    /// CFA = `*(sp + n)` + m.
    pub const SP_DEREF: Self = Self(5);
    /// The kernel's frame of a signal handler.
    pub const SIGNAL: Self = Self(6);
    /// The outermost frame.
    pub const END: Self = Self(7);
    /// For a leaf CFA = sp + n, if that gives a return address; else as a gap. What Go's runtime tells of its functions.
    pub const LEAF: Self = Self(8);
    /// There is a row, but not one that is followed: the frame pointer, where it makes sense.
    pub const UNSUPPORTED: Self = Self(9);
    /// CFA = another register + n. Known of leaves only, where the walk was given all registers; else as unsupported.
    pub const REGISTER: Self = Self(10);
    /// As [`Kind::LEAF`], in a function that goes over to another stack, as Go's `runtime.systemstack` does: the frame pointer leads
    /// back to the stack that was left, which may be anywhere.
    pub const SWITCH: Self = Self(11);
}

/// Where a register's value for the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// In its register still.
    Kept,
    /// So many bytes from the CFA.
    Cfa(i64),
    /// So many bytes from this frame's frame pointer.
    Fp(i64),
}

/// A slot that is not one.
const KEPT: i16 = i16::MIN;
const SLOT_FROM_FP: u64 = 0x80;

/// How a frame's caller is found.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule(pub u64);

impl Rule {
    /// See [`Kind::GAP`].
    pub const GAP: Self = Self(0);
    /// See [`Kind::SIGNAL`].
    pub const SIGNAL: Self = Self(Kind::SIGNAL.0 as u64);
    /// See [`Kind::END`].
    pub const END: Self = Self(Kind::END.0 as u64);
    /// See [`Kind::UNSUPPORTED`].
    pub const UNSUPPORTED: Self = Self(Kind::UNSUPPORTED.0 as u64);

    /// A rule of the kinds that have a CFA. `ra`: the return address's slot; none where it is in the link register.
    /// None where a number does not fit.
    #[must_use]
    pub fn new(kind: Kind, offset: i64, fp: Slot, ra: Option<i64>) -> Option<Self> {
        let ra = match ra {
            None => KEPT,
            Some(n) => words(n)?,
        };
        Self::encode(kind, offset, fp, ra)
    }

    /// A [`Kind::PLT`] whose CFA is 8 higher from a threshold on. None where a number does not fit.
    #[must_use]
    pub fn plt(offset: i64, threshold: u8) -> Option<Self> {
        Self::encode(Kind::PLT, offset, Slot::Kept, i16::from(threshold))
    }

    /// [`Kind::FP_DEREF`] or [`Kind::SP_DEREF`]: the CFA is what lies at an offset, and `plus`. None where a number does not fit.
    #[must_use]
    pub fn deref(kind: Kind, offset: i64, plus: i64, fp: Slot) -> Option<Self> {
        Self::encode(kind, offset, fp, i16::try_from(plus).ok()?)
    }

    /// A [`Kind::REGISTER`] that counts from the register with this DWARF number. None where a number does not fit.
    #[must_use]
    pub fn register(register: u16, offset: i64, fp: Slot) -> Option<Self> {
        let register = i16::try_from(register).ok().filter(|&n| n < 16)?;
        Self::encode(Kind::REGISTER, offset, fp, register)
    }

    fn encode(kind: Kind, offset: i64, fp: Slot, high: i16) -> Option<Self> {
        if !(-(1 << 23)..1 << 23).contains(&offset) {
            return None;
        }
        let (slot, from_fp) = match fp {
            Slot::Kept => (KEPT, 0),
            Slot::Cfa(n) => (words(n)?, 0),
            Slot::Fp(n) => (words(n)?, SLOT_FROM_FP),
        };
        let bits = |n: i16| u64::from(n.cast_unsigned());
        let offset = (offset.cast_unsigned() & 0x00ff_ffff) << 8;
        Some(Self(u64::from(kind.0) | from_fp | offset | (bits(slot) << 32) | (bits(high) << 48)))
    }

    /// The kind.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> Kind {
        Kind(low(self.0) & 0x7f)
    }

    /// What is added to the register, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> u64 {
        ((self.0 << 32).cast_signed() >> 40).cast_unsigned()
    }

    /// Whether the caller's frame pointer is in its register.
    #[inline(always)]
    #[must_use]
    pub const fn keeps_fp(self) -> bool {
        (self.0 >> 32) & 0xffff == 0x8000
    }

    /// Whether the frame pointer's slot is counted from the frame pointer, not from the CFA.
    #[inline(always)]
    #[must_use]
    pub const fn fp_from_fp(self) -> bool {
        self.0 & SLOT_FROM_FP != 0
    }

    /// The frame pointer's slot, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn fp_slot(self) -> u64 {
        (((self.0 << 16).cast_signed() >> 48) * 8).cast_unsigned()
    }

    /// Whether the return address is in the link register.
    #[inline(always)]
    #[must_use]
    pub const fn keeps_ra(self) -> bool {
        self.0 >> 48 == 0x8000
    }

    /// The return address's slot from the CFA, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn ra_slot(self) -> u64 {
        ((self.0.cast_signed() >> 48) * 8).cast_unsigned()
    }

    /// What is added to the word that a dereferencing kind reads; the threshold of [`Kind::PLT`]; the register of
    /// [`Kind::REGISTER`].
    #[inline(always)]
    #[must_use]
    pub const fn high(self) -> u64 {
        (self.0.cast_signed() >> 48).cast_unsigned()
    }
}

/// Bytes as words; none where they are not whole words, or too many.
fn words(bytes: i64) -> Option<i16> {
    let words = i16::try_from(bytes / 8).ok()?;
    (bytes % 8 == 0 && words != KEPT).then_some(words)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(kind in 0u32..16, offset in -(1i64 << 23)..1 << 23, fp in -32767i64..32767, ra in -32767i64..32767) {
            let rule = Rule::new(Kind(kind), offset, Slot::Cfa(fp * 8), Some(ra * 8)).unwrap();
            prop_assert_eq!(rule.kind(), Kind(kind));
            prop_assert_eq!(rule.offset(), offset.cast_unsigned());
            prop_assert_eq!(rule.fp_slot(), (fp * 8).cast_unsigned());
            prop_assert_eq!(rule.ra_slot(), (ra * 8).cast_unsigned());
            prop_assert!(!rule.keeps_fp() && !rule.keeps_ra() && !rule.fp_from_fp());
            let deref = Rule::deref(Kind::SP_DEREF, offset, ra, Slot::Fp(fp * 8)).unwrap();
            prop_assert_eq!(deref.high(), ra.cast_unsigned());
            prop_assert!(deref.fp_from_fp());
            prop_assert_eq!(deref.kind(), Kind::SP_DEREF);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Rule::new(Kind::SP, 1 << 23, Slot::Kept, None).is_none());
        assert!(Rule::new(Kind::SP, 8, Slot::Cfa(-12), None).is_none());
        assert!(Rule::new(Kind::SP, 8, Slot::Cfa(-32768 * 8), None).is_none());
        assert!(Rule::new(Kind::SP, 8, Slot::Kept, Some(1 << 20)).is_none());
        assert!(Rule::deref(Kind::FP_DEREF, 8, 1 << 20, Slot::Kept).is_none());
        let kept = Rule::new(Kind::SP, 8, Slot::Kept, None).unwrap();
        assert!(kept.keeps_fp() && kept.keeps_ra());
    }
}
