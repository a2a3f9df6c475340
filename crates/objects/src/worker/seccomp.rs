//! Seccomp: a process gives up all system calls but those that it needs. Any other ends it at once, and the agent
//! starts another worker.
//!
//! What is needed: reading descriptors that the agent handed over, the socket, tables in new memfds, memory that is never
//! executable, and the ends of a process. Nothing opens a file, makes a socket, a thread or a process, or tells of others.
//!
//! **In**: nothing. **Out**: whether the wall stands. **Units**: numbers of system calls, of this machine.
//! **Limits**: the lists below. Arguments are looked at where a call would otherwise do more than is needed.

use libc::{c_long, sock_filter};

/// How the kernel names this machine's way of calling it (`AUDIT_ARCH_*`). Calls of another way are never let through.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;

/// Calls that may be made with any arguments.
const CALLS: &[c_long] = &[
    // Targets' files and tables, behind descriptors that are there.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    // The socket; messages of a panic.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_write,
    // Memory, besides those calls that could make it executable.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // What standard libraries do by the way: locks, hash seeds, clocks (where the vDSO has none), numbers of themselves.
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_getrusage,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // The ends of a process, and of a signal's handler; going on after being stopped.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What of `fcntl` is needed: seals, a second descriptor, and whether one is open.
const FCNTL_COMMANDS: &[libc::c_int] = &[libc::F_ADD_SEALS, libc::F_GET_SEALS, libc::F_DUPFD_CLOEXEC, libc::F_GETFD];

/// What an argument must be.
enum Check<'a> {
    /// None of these bits.
    Without(u32),
    /// One of these numbers.
    Among(&'a [u32]),
}

/// Gives up all other system calls. Must come last: hardly anything can be given up afterwards.
pub(super) fn forbid_other_calls() -> bool {
    let filter = filter(std::process::id());
    let Ok(len) = u16::try_from(filter.len()) else { return false };
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions of a list that lives until the call returns, and changes nothing.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as c_long, &raw const program) };
    done == 0
}

/// The program that the kernel runs at each call, over `struct seccomp_data`.
fn filter(own_pid: u32) -> Vec<sock_filter> {
    let commands: Vec<u32> = FCNTL_COMMANDS.iter().map(|command| command.cast_unsigned()).collect();
    let executable = libc::PROT_EXEC.cast_unsigned();
    // The number of the argument that is looked at, and what it must be.
    let checked = [
        (libc::SYS_mmap, 2, Check::Without(executable)),
        (libc::SYS_mprotect, 2, Check::Without(executable)),
        (libc::SYS_fcntl, 1, Check::Among(&commands)),
        // Aborting is a signal to oneself.
        (libc::SYS_tgkill, 0, Check::Among(&[own_pid])),
        (libc::SYS_tkill, 0, Check::Among(&[own_pid])),
    ];
    let mut out = vec![load(ARCH_AT), jump(libc::BPF_JEQ, MACHINE, 1, 0), END, load(NUMBER_AT)];
    for &call in CALLS {
        out.extend([jump(libc::BPF_JEQ, number(call), 0, 1), ALLOW]);
    }
    for (call, argument, check) in checked {
        let mut body = vec![load(ARGUMENTS_AT + 8 * argument)];
        match check {
            Check::Without(bits) => body.extend([jump(libc::BPF_JSET, bits, 1, 0), ALLOW]),
            Check::Among(numbers) => {
                numbers.iter().for_each(|&number| body.extend([jump(libc::BPF_JEQ, number, 0, 1), ALLOW]));
            }
        }
        body.push(END);
        let over = u8::try_from(body.len()).unwrap_or(u8::MAX);
        out.push(jump(libc::BPF_JEQ, number(call), 0, over));
        out.extend(body);
    }
    out.push(END);
    out
}

/// Offsets in `struct seccomp_data`. Of an argument the lower half is looked at, which little-endian machines have
/// first; the upper halves of those above mean nothing to the kernel.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

const ALLOW: sock_filter = answer(libc::SECCOMP_RET_ALLOW);
const END: sock_filter = answer(libc::SECCOMP_RET_KILL_PROCESS);

const fn answer(k: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, k)
}

const fn load(k: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, k)
}

const fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | condition | libc::BPF_K, jt, jf, k)
}

#[expect(clippy::cast_possible_truncation, reason = "all codes are sums of small constants")]
const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// No number of a call is negative or large; a wrong one would only forbid a call too many.
fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 4711;

    /// What the filter says to a call, by the rules of classic BPF.
    fn run(machine: u32, call: c_long, arguments: [u64; 6]) -> u32 {
        let filter = filter(PID);
        let mut data = Vec::new();
        data.extend_from_slice(&u32::try_from(call).unwrap().to_le_bytes());
        data.extend_from_slice(&machine.to_le_bytes());
        data.extend_from_slice(&[0; 8]);
        arguments.iter().for_each(|argument| data.extend_from_slice(&argument.to_le_bytes()));
        let (mut at, mut a) = (0, 0);
        loop {
            let it = filter[at];
            at += 1;
            let (code, k) = (u32::from(it.code), it.k);
            let then = |holds| usize::from(if holds { it.jt } else { it.jf });
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                let from = k as usize;
                a = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            } else if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K {
                at += then(a == k);
            } else if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K {
                at += then(a & k != 0);
            } else {
                assert_eq!(code, libc::BPF_RET | libc::BPF_K);
                return k;
            }
        }
    }

    fn allowed(call: c_long, arguments: [u64; 6]) -> bool {
        match run(MACHINE, call, arguments) {
            libc::SECCOMP_RET_ALLOW => true,
            libc::SECCOMP_RET_KILL_PROCESS => false,
            other => panic!("{other:#x}"),
        }
    }

    #[test]
    fn every_number_is_on_the_list_or_ends_the_process() {
        let looked_at = [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_fcntl, libc::SYS_tgkill, libc::SYS_tkill];
        // All calls of this way, and those of x86-64's 32-bit way of long mode, which have one bit more.
        for call in (0..2000).chain(0x4000_0000..0x4000_0400) {
            if !looked_at.contains(&call) {
                assert_eq!(allowed(call, [0; 6]), CALLS.contains(&call), "{call}");
                assert_eq!(allowed(call, [u64::MAX; 6]), CALLS.contains(&call), "{call}");
            }
            for machine in [0, 0x4000_0003, 0xc000_003e, 0xc000_00b7].into_iter().filter(|&other| other != MACHINE) {
                assert_eq!(run(machine, call, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS, "{machine:#x} {call}");
            }
        }
    }

    #[test]
    fn memory_is_never_executable() {
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            for bits in 0..32 {
                let executable = bits & 4 != 0;
                assert_eq!(allowed(call, [1, 2, bits, 0, 0, 0]), !executable, "{call} {bits}");
                assert_eq!(allowed(call, [1, 2, bits | 0xffff_ffff_0000_0000, 0, 0, 0]), !executable, "{call} {bits}");
            }
        }
    }

    #[test]
    fn descriptors_and_signals() {
        for command in 0..2000 {
            let expected = FCNTL_COMMANDS.iter().any(|&it| i64::from(it) == i64::try_from(command).unwrap());
            assert_eq!(allowed(libc::SYS_fcntl, [3, command, 0, 0, 0, 0]), expected, "{command}");
        }
        for call in [libc::SYS_tgkill, libc::SYS_tkill] {
            assert!(allowed(call, [u64::from(PID), 1, 2, 0, 0, 0]));
            for other in [0, 1, u64::from(u32::MAX), u64::from(PID) + 1, u64::from(PID) - 1] {
                assert!(!allowed(call, [other, u64::from(PID), 6, 0, 0, 0]), "{other}");
            }
        }
    }

    #[test]
    fn the_filter_is_small_enough() {
        let program = filter(PID);
        assert!(program.len() < 256 && program.len() > 2 * CALLS.len());
        let mut calls = CALLS.to_vec();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), CALLS.len(), "one is listed twice");
    }
}
