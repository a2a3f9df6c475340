//! Whether the processes that are to be profiled exist, and whether what this process sees is the whole host.

use std::os::unix::fs::MetadataExt;

use anyhow::{bail, ensure};
use caps::{CapSet, Capability};

/// The inode of the initial pid namespace, the same in every kernel.
pub(crate) const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Checks process ids.
///
/// # Errors
/// One that no process has, or that is a thread's.
pub(crate) fn check_processes(tgids: &[u32]) -> anyhow::Result<()> {
    for &tgid in tgids {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{tgid}/status")) else {
            bail!("--pid: no process has the id {tgid}: `ps -e` lists them all");
        };
        let field =
            |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).and_then(|v| v.trim().parse::<u32>().ok());
        if let Some(process) = field("Tgid:").filter(|&t| t != tgid) {
            bail!("--pid: {tgid} is a thread of process {process}: use --pid {process}");
        }
        ensure!(
            !status.lines().any(|l| l.starts_with("State:") && l.contains('Z')),
            "--pid: process {tgid} has ended already (a zombie)"
        );
    }
    Ok(())
}

/// Process ids in samples are the host's: this process must see the host's.
///
/// # Errors
/// It sees those of a container.
pub(crate) fn check_pid_namespace() -> anyhow::Result<()> {
    let Ok(found) = std::fs::metadata("/proc/self/ns/pid") else {
        bail!("/proc is not mounted: mount it, or run outside the chroot");
    };
    ensure!(
        found.ino() == INITIAL_PID_NAMESPACE,
        "not in the host's pid namespace: the kernel's process ids would mean nothing here; run on the host, or in a \
         container with the host's pid namespace (Kubernetes: hostPID: true; docker: --pid=host)"
    );
    Ok(())
}

/// What nothing starts without, looked at before anything is started: one line instead of the trouble of each part.
///
/// # Errors
/// A capability that is missing.
pub(crate) fn check_capabilities() -> anyhow::Result<()> {
    let held = |c| caps::has_cap(None, CapSet::Effective, c).unwrap_or(true);
    missing(held).map_or(Ok(()), |name| {
        bail!(
            "{name} is missing: run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE; `profiler check` says \
             what each is for"
        )
    })
}

fn missing(held: impl Fn(Capability) -> bool) -> Option<Capability> {
    [Capability::CAP_BPF, Capability::CAP_PERFMON].into_iter().find(|&c| !held(c) && !held(Capability::CAP_SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(|_| false), Some(Capability::CAP_BPF));
        assert_eq!(missing(|c| c == Capability::CAP_BPF), Some(Capability::CAP_PERFMON));
        assert_eq!(missing(|c| c != Capability::CAP_SYS_ADMIN), None);
        assert_eq!(missing(|c| c == Capability::CAP_SYS_ADMIN), None, "it stands in for both");
    }

    #[test]
    fn processes_threads_and_nobody() {
        let own = std::process::id();
        check_processes(&[own]).unwrap();
        let text = check_processes(&[own, 4_194_304]).unwrap_err().to_string();
        assert!(text.contains("no process has the id 4194304"), "{text}");
        let tid = std::thread::spawn(move || {
            let tid = nix::unistd::gettid().as_raw().cast_unsigned();
            check_processes(&[tid]).map_err(|e| e.to_string())
        });
        let text = tid.join().unwrap().unwrap_err();
        assert!(text.contains(&format!("--pid {own}")), "{text}");
    }
}
