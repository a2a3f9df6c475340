//! What the walk must know of a machine. Both are compiled everywhere; the type parameter chooses.

/// Where the kernel saved registers for a signal handler, in bytes from the stack pointer that the restorer sees.
#[derive(Clone, Copy, Debug)]
pub struct SignalFrame {
    /// The program counter.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer.
    pub fp: u64,
    /// The link register; 0 where the machine has none.
    pub lr: u64,
}

/// A machine.
pub trait Arch {
    /// `e_machine` of its ELF files.
    const MACHINE: u16;
    /// A call pushes the return address, so a caller's stack pointer is always above its callee's.
    const CALL_PUSHES: bool;
    /// The bits of a return address that are an address; the rest may be a pointer authentication code.
    const ADDRESS_MASK: u64;
    /// The kernel's frame of a signal handler.
    const SIGNAL: SignalFrame;
}

/// x86-64.
#[derive(Clone, Copy, Debug)]
pub struct X86_64;

impl Arch for X86_64 {
    const MACHINE: u16 = 62;
    const CALL_PUSHES: bool = true;
    const ADDRESS_MASK: u64 = u64::MAX;
    // `struct rt_sigframe` without its first word, which the handler's return has popped: `uc_mcontext` at 40.
    const SIGNAL: SignalFrame = SignalFrame { pc: 168, sp: 160, fp: 120, lr: 0 };
}

/// arm64.
#[derive(Clone, Copy, Debug)]
pub struct Aarch64;

impl Arch for Aarch64 {
    const MACHINE: u16 = 183;
    const CALL_PUSHES: bool = false;
    const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_ffff;
    // `struct rt_sigframe`: 128 bytes of siginfo, then `ucontext` with its `mcontext` at 176, registers behind its
    // first word.
    const SIGNAL: SignalFrame = SignalFrame { pc: 568, sp: 560, fp: 544, lr: 552 };
}
