//! Capabilities, one by one, with what each is for; limits; who may see kernel addresses.

use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit};
use symbolizer::KernelSymbols;

use super::{Item, State};

/// Descriptors that a busy host needs: events, rings, tables.
const ENOUGH_FILES: u64 = 4096;

/// What a capability is for. Another one may stand in for it.
struct Need {
    capability: Capability,
    instead: Option<Capability>,
    lacking: State,
    what: &'static str,
}

/// CAP_BPF and CAP_PERFMON are looked at by the kernel side.
const NEEDS: &[Need] = &[
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        instead: None,
        lacking: State::Fails,
        what: "reading the mappings, files and environments of other users' processes",
    },
    Need {
        capability: Capability::CAP_CHECKPOINT_RESTORE,
        instead: Some(Capability::CAP_SYS_ADMIN),
        lacking: State::Limited,
        what: "opening programs that were replaced or deleted while they run",
    },
    Need {
        capability: Capability::CAP_DAC_READ_SEARCH,
        instead: Some(Capability::CAP_DAC_OVERRIDE),
        lacking: State::Limited,
        what: "reading programs whose files only their owner may read; finding cgroups by their number",
    },
    Need {
        capability: Capability::CAP_SYSLOG,
        instead: None,
        lacking: State::Limited,
        what: "kernel addresses, where kernel.kptr_restrict is 1",
    },
    Need {
        capability: Capability::CAP_SETUID,
        instead: None,
        lacking: State::Limited,
        what: "running the worker process as nobody",
    },
    Need {
        capability: Capability::CAP_SETGID,
        instead: None,
        lacking: State::Limited,
        what: "running the worker process without groups",
    },
];

/// Looks at all of it.
pub(super) fn look() -> Vec<Item> {
    let mut items: Vec<Item> = NEEDS.iter().map(need).collect();
    items.push(paranoid());
    items.push(files());
    items.push(locked_memory());
    items.push(kernel_names());
    items
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

fn need(need: &Need) -> Item {
    let name = need.capability.to_string();
    if has(need.capability) {
        return Item::ok(&name, format!("held: {}", need.what));
    }
    if let Some(instead) = need.instead.filter(|&c| has(c)) {
        return Item::ok(&name, format!("{instead} is held: {}", need.what));
    }
    let remedy = format!("run as root, or grant {name}");
    Item { state: need.lacking, ..Item::limited(&name, format!("missing: {}", need.what), remedy) }
}

fn paranoid() -> Item {
    const NAME: &str = "perf_event_paranoid";
    let Ok(text) = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid") else {
        return Item::fails(NAME, "absent", "run a kernel with CONFIG_PERF_EVENTS=y");
    };
    let level = text.trim();
    if has(Capability::CAP_PERFMON) || has(Capability::CAP_SYS_ADMIN) {
        Item::ok(NAME, format!("{level}; CAP_PERFMON is above it"))
    } else if level == "-1" {
        Item::ok(NAME, level)
    } else {
        Item::fails(NAME, level, "grant CAP_PERFMON, or run `sysctl kernel.perf_event_paranoid=-1`")
    }
}

fn files() -> Item {
    const NAME: &str = "open files (NOFILE)";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= ENOUGH_FILES => Item::ok(NAME, soft),
        Ok((soft, hard)) if hard >= ENOUGH_FILES => Item::ok(NAME, format!("{soft}, may be raised to {hard}")),
        Ok((soft, hard)) => {
            Item::limited(NAME, format!("{soft}, at most {hard}"), format!("raise the hard limit to {ENOUGH_FILES}"))
        }
        Err(error) => Item::limited(NAME, error, "the limit is unknown"),
    }
}

fn locked_memory() -> Item {
    const NAME: &str = "locked memory (MEMLOCK)";
    let per_cpu = std::fs::read_to_string("/proc/sys/kernel/perf_event_mlock_kb").unwrap_or_default();
    let per_cpu = per_cpu.trim();
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((libc::RLIM_INFINITY, _)) => Item::ok(NAME, "unlimited"),
        Ok((soft, _)) => {
            let seen = format!("{} KiB, and {per_cpu} KiB per CPU for perf records", soft >> 10);
            let enough = has(Capability::CAP_IPC_LOCK) || per_cpu.parse::<u64>().is_ok_and(|kb| kb >= 512);
            if enough {
                Item::ok(NAME, seen)
            } else {
                Item::limited(NAME, seen, "grant CAP_IPC_LOCK, or run `sysctl kernel.perf_event_mlock_kb=516`")
            }
        }
        Err(error) => Item::limited(NAME, error, "the limit is unknown"),
    }
}

fn kernel_names() -> Item {
    const NAME: &str = "kernel symbols";
    let restrict = std::fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
    let restrict = restrict.trim();
    let remedy = "grant CAP_SYSLOG, or run `sysctl kernel.kptr_restrict=0`; without names kernel frames are addresses";
    let symbols = match std::fs::read("/proc/kallsyms") {
        Ok(bytes) => KernelSymbols::parse(&bytes),
        Err(error) => return Item::limited(NAME, format!("/proc/kallsyms: {error}"), remedy),
    };
    match symbols.missing() {
        None => Item::ok(NAME, format!("{} functions; kptr_restrict is {restrict}", symbols.len())),
        Some(reason) => Item::limited(NAME, format!("{reason}; kptr_restrict is {restrict}"), remedy),
    }
}
