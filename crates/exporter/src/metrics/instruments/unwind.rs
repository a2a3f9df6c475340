//! Stacks that the kernel walks by tables: how many, from which tables, and whether they are right.

use super::{Instrument, Read, label};

/// The walk, its tables, its checks.
pub(super) const UNWIND: &[Instrument] = &[
    Instrument {
        name: "profiler.unwind.walked",
        unit: "{sample}",
        help: "Samples whose user stack the kernel walked by tables.",
        read: Read::Count(|r, out| out(r.snapshot.unwind.walked, &[])),
    },
    Instrument {
        name: "profiler.unwind.frames",
        unit: "{frame}",
        help: "User frames of these samples.",
        read: Read::Count(|r, out| out(r.snapshot.unwind.walked_frames, &[])),
    },
    Instrument {
        name: "profiler.unwind.stale",
        unit: "{sample}",
        help: "Walked samples that were cut where the process's mappings had changed since the kernel side got them.",
        read: Read::Count(|r, out| out(r.snapshot.unwind.stale_walks, &[])),
    },
    Instrument {
        name: "profiler.unwind.unremembered",
        unit: "{sample}",
        help: "Walked samples whose stacks found no room where stacks are remembered, and were made of their addresses once more.",
        read: Read::Count(|r, out| out(r.snapshot.unwind.unremembered_walks, &[])),
    },
    Instrument {
        name: "profiler.unwind.bridged",
        unit: "{sample}",
        help: "Samples with a snapshot of the stack instead, by reason: the process was not known to the kernel side, a file's table was not loaded, the walk met a frame that made no sense.",
        read: Read::Count(|r, out| {
            let unwind = &r.snapshot.unwind;
            out(unwind.bridged_unknown, &[label("reason", "unknown")]);
            out(unwind.bridged_pending, &[label("reason", "pending")]);
            out(unwind.bridged_bad_frame, &[label("reason", "bad_frame")]);
        }),
    },
    Instrument {
        name: "profiler.unwind.agreement",
        unit: "{sample}",
        help: "Walked samples that were unwound again from a snapshot, by what came of comparing. Inconclusive: a cut stack, a signal frame, a frame pointer followed.",
        read: Read::Count(|r, out| {
            let unwind = &r.snapshot.unwind;
            out(unwind.checks_agree, &[label("result", "agree")]);
            out(unwind.checks_differ, &[label("result", "differ")]);
            out(unwind.checks_inconclusive, &[label("result", "inconclusive")]);
        }),
    },
    Instrument {
        name: "profiler.unwind.files",
        unit: "{file}",
        help: "Executable files that processes have mapped, by how their tables stand: loaded in the kernel, on their way there, or nothing to make a table of.",
        read: Read::Gauge(|r, out| {
            let unwind = &r.snapshot.unwind;
            out(unwind.files_loaded, &[label("state", "loaded")]);
            out(unwind.files_pending, &[label("state", "pending")]);
            out(unwind.files_without_table, &[label("state", "without_table")]);
        }),
    },
    Instrument {
        name: "profiler.unwind.files.left",
        unit: "{file}",
        help: "Tables of files that left the kernel or never came there: evicted for hotter ones or since nobody needs them, refused for want of room, taken off since they differed from snapshots.",
        read: Read::Count(|r, out| {
            let unwind = &r.snapshot.unwind;
            out(unwind.files_evicted, &[label("reason", "evicted")]);
            out(unwind.files_refused, &[label("reason", "refused")]);
            out(unwind.files_taken_off, &[label("reason", "taken_off")]);
        }),
    },
    Instrument {
        name: "profiler.unwind.rows.unsupported",
        unit: "{row}",
        help: "Rows of loaded tables whose rule has no compact form: a walk ends there with `no_table`.",
        read: Read::Gauge(|r, out| out(r.snapshot.unwind.unsupported_rows, &[])),
    },
    Instrument {
        name: "profiler.unwind.processes",
        unit: "{process}",
        help: "Processes whose mappings the kernel side holds.",
        read: Read::Gauge(|r, out| out(r.snapshot.unwind.processes_published, &[])),
    },
    Instrument {
        name: "profiler.unwind.processes.refused",
        unit: "{process}",
        help: "Processes that found no room there, or have more mappings than a walk can search: their samples carry snapshots.",
        read: Read::Count(|r, out| out(r.snapshot.unwind.processes_refused, &[])),
    },
    Instrument {
        name: "profiler.unwind.tables",
        unit: "By",
        help: "Kernel memory that unwind tables and mappings of processes use.",
        read: Read::Gauge(|r, out| out(r.snapshot.unwind.table_bytes, &[])),
    },
    Instrument {
        name: "profiler.unwind.tables.capacity",
        unit: "By",
        help: "Kernel memory that they may use (--unwind-memory); 0 where the kernel does not walk.",
        read: Read::Gauge(|r, out| out(r.snapshot.unwind.table_limit_bytes, &[])),
    },
    Instrument {
        name: "profiler.unwind.shards",
        unit: "{map}",
        help: "eBPF maps that hold tables.",
        read: Read::Gauge(|r, out| out(r.snapshot.unwind.shards, &[])),
    },
    Instrument {
        name: "profiler.unwind.news.dropped",
        unit: "{message}",
        help: "News of processes that the thread of tables had no room for. Each is mended by looking at the process again.",
        read: Read::Count(|r, out| out(r.snapshot.unwind.news_dropped, &[])),
    },
];
