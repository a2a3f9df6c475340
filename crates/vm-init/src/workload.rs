//! Loops whose registers and stack are known beforehand.
//!
//! The loops keep a number of ours in the frame pointer's register and push another: code without frame pointers, whose
//! samples can be told right from wrong to the byte.

use std::{
    arch::global_asm,
    fs::File,
    io::{self, Read as _, Write as _},
    ops::Range,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// In the frame pointer's register while a loop runs.
pub(crate) const FRAME_POINTER: u64 = 0x0123_4567_89ab_cdef;
/// On top of the stack while a loop runs.
pub(crate) const TOP_OF_STACK: u64 = 0x5afe_c0de_5afe_c0de;
const READ_BYTES: usize = 64 * 1024;
/// Calls below the leaf of [`Kind::Deep`] and [`Kind::DeepInKernel`].
pub(crate) const LEVELS: usize = 60;

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text.vm_init_loops, \"ax\", @progbits",
    // Burns the CPU in user mode for ever.
    ".globl vm_init_spin",
    ".type vm_init_spin, @function",
    "vm_init_spin:",
    "mov rbp, 0x0123456789abcdef",
    "mov rax, 0x5afec0de5afec0de",
    "push rax",
    "2: add rax, 1",
    "imul rax, rax, 3",
    "jmp 2b",
    ".globl vm_init_spin_end",
    "vm_init_spin_end:",
    // Reads 64 KiB from the descriptor in rdi to the address in rsi for ever.
    ".globl vm_init_read",
    ".type vm_init_read, @function",
    "vm_init_read:",
    "mov rbp, 0x0123456789abcdef",
    "mov rax, 0x5afec0de5afec0de",
    "push rax",
    "2: xor eax, eax",
    "mov edx, 65536",
    "syscall",
    "jmp 2b",
    ".globl vm_init_read_end",
    "vm_init_read_end:",
    // Calls itself as often as edi says; then burns the CPU, or where esi is not 0 makes system calls, for ever.
    ".globl vm_init_deep",
    ".type vm_init_deep, @function",
    "vm_init_deep:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbp, 0",
    "mov rbp, 0x0123456789abcdef",
    "sub rsp, 32",
    ".cfi_adjust_cfa_offset 32",
    "test edi, edi",
    "je 2f",
    "dec edi",
    "call vm_init_deep",
    ".globl vm_init_deep_after",
    "vm_init_deep_after:",
    "ud2",
    "2: test esi, esi",
    "jne 4f",
    "3: add rax, 1",
    "imul rax, rax, 3",
    "jmp 3b",
    // sched_yield
    "4: mov eax, 24",
    "syscall",
    "jmp 4b",
    ".cfi_endproc",
    ".globl vm_init_deep_end",
    "vm_init_deep_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text.vm_init_loops, \"ax\", @progbits",
    ".macro vm_init_known_fp",
    "movz x29, #0xcdef",
    "movk x29, #0x89ab, lsl #16",
    "movk x29, #0x4567, lsl #32",
    "movk x29, #0x0123, lsl #48",
    ".endm",
    ".macro vm_init_known_registers",
    "vm_init_known_fp",
    "movz x9, #0xc0de",
    "movk x9, #0x5afe, lsl #16",
    "movk x9, #0xc0de, lsl #32",
    "movk x9, #0x5afe, lsl #48",
    "str x9, [sp, #-16]!",
    ".endm",
    ".globl vm_init_spin",
    ".type vm_init_spin, %function",
    "vm_init_spin:",
    "vm_init_known_registers",
    "2: add x9, x9, #1",
    "b 2b",
    ".globl vm_init_spin_end",
    "vm_init_spin_end:",
    ".globl vm_init_read",
    ".type vm_init_read, %function",
    "vm_init_read:",
    "mov x19, x0",
    "mov x20, x1",
    "vm_init_known_registers",
    "2: mov x0, x19",
    "mov x1, x20",
    "mov x2, #65536",
    "mov x8, #63",
    "svc #0",
    "b 2b",
    ".globl vm_init_read_end",
    "vm_init_read_end:",
    ".globl vm_init_deep",
    ".type vm_init_deep, %function",
    "vm_init_deep:",
    ".cfi_startproc",
    "stp x29, x30, [sp, #-48]!",
    ".cfi_adjust_cfa_offset 48",
    ".cfi_rel_offset x29, 0",
    ".cfi_rel_offset x30, 8",
    "vm_init_known_fp",
    "cbz w0, 2f",
    "sub w0, w0, #1",
    "bl vm_init_deep",
    ".globl vm_init_deep_after",
    "vm_init_deep_after:",
    "brk #1",
    "2: cbnz w1, 4f",
    "3: add x9, x9, #1",
    "b 3b",
    // sched_yield
    "4: mov x8, #124",
    "svc #0",
    "b 4b",
    ".cfi_endproc",
    ".globl vm_init_deep_end",
    "vm_init_deep_end:",
    ".popsection",
);

unsafe extern "C" {
    fn vm_init_spin() -> !;
    static vm_init_spin_end: u8;
    fn vm_init_read(fd: i32, to: *mut u8) -> !;
    static vm_init_read_end: u8;
    fn vm_init_deep(levels: u32, in_kernel: u32) -> !;
    static vm_init_deep_after: u8;
    static vm_init_deep_end: u8;
}

/// What a child process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Burns the CPU in user mode.
    Spin,
    /// Spends its time in one system call.
    Read,
    /// Starts a [`Kind::Spin`] of its own when told to, and waits for it.
    Parent,
    /// Burns the CPU in user mode, below [`LEVELS`] calls.
    Deep,
    /// Makes system calls, below as many.
    DeepInKernel,
    /// Becomes a [`Kind::Spin`] when told to.
    Renewed,
}

impl Kind {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Spin, "spin"),
        (Self::Read, "read"),
        (Self::Parent, "parent"),
        (Self::Deep, "deep"),
        (Self::DeepInKernel, "deep-in-kernel"),
        (Self::Renewed, "renewed"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }
}

/// A running child.
pub(crate) struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Where its loop's code lies. Of a deep one: from the address that each call returns to.
    pub(crate) code: Range<u64>,
}

impl Running {
    /// Starts a child; returns when its loop is about to begin.
    pub(crate) fn start(kind: Kind) -> io::Result<Self> {
        let mut child =
            Command::new("/proc/self/exe").arg(kind.name()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, mut stdout) = pipes.ok_or_else(|| io::Error::other("no pipes"))?;
        let start = read_u64(&mut stdout)?;
        let end = read_u64(&mut stdout)?;
        Ok(Self { child, stdin, stdout, code: start..end })
    }

    pub(crate) fn tgid(&self) -> u32 {
        self.child.id()
    }

    /// Has a [`Kind::Parent`] start its child; returns that one's tgid.
    pub(crate) fn have_child(&mut self) -> io::Result<u32> {
        self.stdin.write_all(b"x")?;
        read_u64(&mut self.stdout).map(|tgid| u32::try_from(tgid).unwrap_or(0))
    }

    /// Has a [`Kind::Renewed`] execute its program; returns when it has.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        self.stdin.write_all(b"x")?;
        self.code = read_u64(&mut self.stdout)?..read_u64(&mut self.stdout)?;
        Ok(())
    }

    /// Ends it and waits for it. A [`Kind::Parent`] ends its child before.
    pub(crate) fn end(mut self) -> io::Result<()> {
        if self.code.is_empty() {
            drop(self.stdin);
        } else {
            self.child.kill()?;
        }
        self.child.wait().map(|_| ())
    }
}

fn read_u64(from: &mut impl io::Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn say(values: &[u64]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for value in values {
        out.write_all(&value.to_ne_bytes())?;
    }
    out.flush()
}

/// The life of a child.
pub(crate) fn run(kind: Kind) -> io::Result<()> {
    match kind {
        Kind::Spin => {
            say(&[vm_init_spin as *const () as u64, &raw const vm_init_spin_end as u64])?;
            // SAFETY: never returns; touches its own registers and one slot of its stack.
            unsafe { vm_init_spin() }
        }
        Kind::Read => {
            let zero = File::open("/dev/zero")?;
            let mut buffer = vec![0u8; READ_BYTES];
            say(&[vm_init_read as *const () as u64, &raw const vm_init_read_end as u64])?;
            // SAFETY: never returns, so descriptor and buffer live as long as it; each read fills at most the buffer.
            unsafe { vm_init_read(zero.as_raw_fd(), buffer.as_mut_ptr()) }
        }
        Kind::Deep | Kind::DeepInKernel => {
            say(&[&raw const vm_init_deep_after as u64, &raw const vm_init_deep_end as u64])?;
            let levels = u32::try_from(LEVELS).unwrap_or(0);
            // SAFETY: never returns; touches its own registers and some dozen bytes of its stack for each level.
            unsafe { vm_init_deep(levels, u32::from(kind == Kind::DeepInKernel)) }
        }
        Kind::Renewed => {
            say(&[0, 0])?;
            let mut byte = [0];
            io::stdin().read_exact(&mut byte)?;
            Err(Command::new("/proc/self/exe").arg(Kind::Spin.name()).exec())
        }
        Kind::Parent => {
            say(&[0, 0])?;
            let mut byte = [0];
            io::stdin().read_exact(&mut byte)?;
            let child = Running::start(Kind::Spin)?;
            say(&[u64::from(child.tgid())])?;
            // Until our own parent closes the pipe.
            io::stdin().read_to_end(&mut Vec::new())?;
            child.end()
        }
    }
}
