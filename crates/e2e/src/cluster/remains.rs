//! What an agent might leave behind in the kernel: programs, maps, links and pins of eBPF.
//!
//! Only what this agent held is asked for: others on the machine may come and go meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::wait_for;

/// Kinds of objects: as a descriptor's `fdinfo` calls their id, and the command of bpf(2) that gives the id after one.
const KINDS: [(&str, libc::c_long); 3] = [("prog_id", 11), ("map_id", 12), ("link_id", 31)];

/// eBPF objects by kind and id, and pins by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    objects: BTreeSet<(&'static str, u32)>,
    pins: BTreeSet<String>,
}

impl Remains {
    /// What a process holds, and all pins that there are.
    ///
    /// # Errors
    /// When the process is not there, or holds nothing: then it is no agent.
    pub fn of(pid: u32) -> Result<Self> {
        let mut found = Self::default();
        let folder = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&folder).with_context(|| folder.clone())? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            for (key, value) in text.lines().filter_map(|l| l.split_once(':')) {
                if let (Some((kind, _)), Ok(id)) = (KINDS.iter().find(|(k, _)| *k == key), value.trim().parse()) {
                    found.objects.insert((kind, id));
                }
            }
        }
        ensure!(found.objects.iter().any(|(kind, _)| *kind == "prog_id"), "process {pid} holds no eBPF program");
        pins(Path::new("/sys/fs/bpf"), &mut found.pins);
        Ok(found)
    }

    /// How many objects.
    #[must_use]
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// Waits until none of the objects is there any more, and no new pin: the kernel frees objects a moment after their
    /// holders end.
    ///
    /// # Errors
    /// When something stays.
    pub fn gone(&self) -> Result<()> {
        wait_for("the end of the agent's eBPF objects", Duration::from_secs(20), || {
            let mut left: Vec<&(&str, u32)> = Vec::new();
            for (kind, command) in KINDS {
                let mut id = 0;
                while let Some(next) = next_id(command, id)? {
                    left.extend(self.objects.get(&(kind, next)));
                    id = next;
                }
            }
            let mut now = BTreeSet::new();
            pins(Path::new("/sys/fs/bpf"), &mut now);
            let new: Vec<_> = now.difference(&self.pins).collect();
            ensure!(left.is_empty() && new.is_empty(), "left: {left:?}, pins {new:?}");
            Ok(Some(()))
        })
    }
}

fn pins(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        found.insert(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            pins(&entry.path(), found);
        }
    }
}

/// The id after `id`, by one of the commands that give it.
fn next_id(command: libc::c_long, id: u32) -> Result<Option<u32>> {
    // The kernel's `union bpf_attr` for these commands: start_id, next_id, open_flags.
    let mut attributes = [id, 0_u32, 0];
    let size = size_of_val(&attributes);
    // SAFETY: the kernel reads and writes `size` bytes at the address, which is this array's own for the whole call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if done == 0 {
        return Ok(Some(attributes[1]));
    }
    let error = std::io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error.into()) }
}
