//! What differs between machines, one module each; [`native`] is the one that this program runs on, and so the only
//! one whose processes it sees.

#[cfg(any(target_arch = "aarch64", test))]
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "tests of its rules run on any machine"))]
pub(crate) mod aarch64;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64 as native;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64 as native;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("stacks are unwound on x86-64 and arm64 only");

/// Where the kernel saved registers for a signal handler, counted from the stack pointer that the restorer sees.
pub(crate) struct SignalFrame {
    pub(crate) pc: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    pub(crate) lr: Option<u64>,
}

/// A row of call frame information that names no expression: what [`native::framehop_can`] judges.
pub(crate) struct PlainRow {
    /// The register that the canonical frame address is counted from.
    pub(crate) cfa_register: gimli::Register,
    /// What is added to it.
    pub(crate) cfa_offset: i64,
    /// Where the frame pointer is saved, counted from the canonical frame address; none where it is not.
    pub(crate) fp: Option<i64>,
    /// The same of the return address.
    pub(crate) ra: Option<i64>,
}
