//! The ledger, the sampler, target files and names: what the rooms before the exporter count.

use profile::stats::CacheStats;
use profile::{DropReason, StackEnd, Stage};

use super::{Instrument, Out, Read, label, seconds};
use crate::metrics::reading::Reading;

/// What became of every tick and every sample.
pub(super) const LEDGER: &[Instrument] = &[
    Instrument {
        name: "profiler.ticks",
        unit: "{tick}",
        help: "Timer ticks by CPU and by what became of them. Missed: the kernel never delivered them.",
        read: Read::Count(|r, out| {
            for (cpu, missed) in r.snapshot.sampler.cpus.iter().zip(&r.missed) {
                let number = label("cpu", cpu.cpu.to_string());
                let states = [
                    ("idle", cpu.kernel.idle),
                    ("filtered", cpu.kernel.filtered),
                    ("taken", cpu.kernel.taken),
                    ("missed", *missed),
                ];
                for (state, ticks) in states {
                    out(ticks, &[label("state", state), number.clone()]);
                }
            }
        }),
    },
    Instrument {
        name: "profiler.ticks.expected",
        unit: "{tick}",
        help: "Timer ticks that the time since the CPU's event was enabled should have brought: elapsed time times rate.",
        read: Read::Count(|r, out| {
            for cpu in &r.snapshot.sampler.cpus {
                out(cpu.expected, &[label("cpu", cpu.cpu.to_string())]);
            }
        }),
    },
    Instrument {
        name: "profiler.samples.taken",
        unit: "{sample}",
        help: "Samples taken by the eBPF program: exported, plus held, plus dropped.",
        read: Read::Count(|r, out| out(r.snapshot.ledger.kernel.taken, &[])),
    },
    Instrument {
        name: "profiler.samples.exported",
        unit: "{sample}",
        help: "Samples accepted by the primary sink.",
        read: Read::Count(|r, out| out(r.snapshot.ledger.exported, &[])),
    },
    Instrument {
        name: "profiler.samples.held",
        unit: "{sample}",
        help: "Samples on their way, by the stage that holds them.",
        read: Read::UpDown(|r, out| {
            for stage in Stage::ALL {
                out(r.snapshot.ledger.held(stage), &[label("stage", stage.label())]);
            }
        }),
    },
    Instrument {
        name: "profiler.samples.dropped",
        unit: "{sample}",
        help: "Samples dropped, by reason.",
        read: Read::Count(|r, out| {
            for reason in DropReason::ALL {
                out(r.snapshot.ledger.dropped(reason), &[label("reason", reason.label())]);
            }
        }),
    },
];

/// How much of stacks is known.
pub(super) const STACKS: &[Instrument] = &[
    Instrument {
        name: "profiler.samples.whole",
        unit: "{sample}",
        help: "Samples whose stack is whole, by how it ended.",
        read: Read::Count(|r, out| ends(r, true, out)),
    },
    Instrument {
        name: "profiler.samples.truncated",
        unit: "{sample}",
        help: "Samples whose user stack does not reach its root, by what ended it.",
        read: Read::Count(|r, out| ends(r, false, out)),
    },
    Instrument {
        name: "profiler.frames.named",
        unit: "{frame}",
        help: "Frames, once per distinct frame of a window, with a function's name.",
        read: Read::Count(|r, out| out(r.snapshot.naming.named_frames, &[])),
    },
    Instrument {
        name: "profiler.frames.unnamed",
        unit: "{frame}",
        help: "Frames, once per distinct frame of a window, shown as file and offset for want of a name.",
        read: Read::Count(|r, out| out(r.snapshot.naming.unnamed_frames, &[])),
    },
    Instrument {
        name: "profiler.names.cached",
        unit: "{name}",
        help: "Functions in the cache of names.",
        read: Read::Gauge(|r, out| out(r.snapshot.naming.cached_names, &[])),
    },
    Instrument {
        name: "profiler.kernel_symbols",
        unit: "{symbol}",
        help: "Kernel symbols known; 0 where the kernel hides them.",
        read: Read::Gauge(|r, out| out(r.snapshot.naming.kernel_symbols, &[])),
    },
    Instrument {
        name: "profiler.samples.unknown_process",
        unit: "{sample}",
        help: "Samples of a process that was not in the table.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.unknown_process_samples, &[])),
    },
    Instrument {
        name: "profiler.samples.late",
        unit: "{sample}",
        help: "Samples that came after their window was closed, and were counted in the next.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.late_samples, &[])),
    },
    Instrument {
        name: "profiler.window.entries",
        unit: "{entry}",
        help: "Distinct stacks in the open window.",
        read: Read::Gauge(|r, out| out(r.snapshot.sampler.window_entries, &[])),
    },
];

/// The way from the kernel to windows.
pub(super) const SAMPLER: &[Instrument] = &[
    Instrument {
        name: "profiler.cpus",
        unit: "{cpu}",
        help: "CPUs by state: online, and attached with a running timer.",
        read: Read::Gauge(|r, out| {
            out(r.snapshot.sampler.cpus_online, &[label("state", "online")]);
            out(r.snapshot.sampler.cpus_attached, &[label("state", "attached")]);
        }),
    },
    Instrument {
        name: "profiler.ring.written",
        unit: "By",
        help: "Bytes that the eBPF program handed over through the ring buffer.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.ring_bytes, &[])),
    },
    Instrument {
        name: "profiler.ring.capacity",
        unit: "By",
        help: "Size of the ring buffer.",
        read: Read::Gauge(|r, out| out(r.snapshot.sampler.ring_capacity_bytes, &[])),
    },
    Instrument {
        name: "profiler.sideband.records",
        unit: "{record}",
        help: "Side-band records (mappings, names, forks, exits of processes) read from the kernel.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.sideband_records, &[])),
    },
    Instrument {
        name: "profiler.sideband.lost",
        unit: "{record}",
        help: "Side-band records that the kernel had no room for. Each loss is mended by reading /proc again.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.sideband_lost, &[])),
    },
    Instrument {
        name: "profiler.sideband.early",
        unit: "{record}",
        help: "Side-band records applied before their turn, for want of room.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.early_records, &[])),
    },
    Instrument {
        name: "profiler.proc.rereads",
        unit: "{read}",
        help: "Times that /proc was read again after a loss or for an unknown address.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.proc_rereads, &[])),
    },
    Instrument {
        name: "profiler.proc.errors",
        unit: "{error}",
        help: "Entries of /proc that could not be read or parsed.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.proc_errors, &[])),
    },
    Instrument {
        name: "profiler.processes",
        unit: "{process}",
        help: "Processes in the table.",
        read: Read::Gauge(|r, out| out(r.snapshot.sampler.processes, &[])),
    },
    Instrument {
        name: "profiler.processes.refused",
        unit: "{entry}",
        help: "Processes and mappings that found no room in the table, and children of listed processes that found none on the list.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.table_refusals, &[])),
    },
];

/// Executable files, and the worker that reads them.
pub(super) const FILES: &[Instrument] = &[
    Instrument {
        name: "profiler.objects",
        unit: "{file}",
        help: "Executable files known now.",
        read: Read::Gauge(|r, out| out(r.snapshot.objects.objects, &[])),
    },
    Instrument {
        name: "profiler.objects.extracted",
        unit: "{file}",
        help: "Executable files read by the worker.",
        read: Read::Count(|r, out| out(r.snapshot.objects.extracted, &[])),
    },
    Instrument {
        name: "profiler.objects.shared",
        unit: "{file}",
        help: "Executable files that were not read, since another one with the same content was.",
        read: Read::Count(|r, out| out(r.snapshot.objects.shared, &[])),
    },
    Instrument {
        name: "profiler.objects.tables",
        unit: "By",
        help: "Bytes of unwind and name tables held.",
        read: Read::Gauge(|r, out| out(r.snapshot.objects.table_bytes, &[])),
    },
    Instrument {
        name: "profiler.cache.size",
        unit: "By",
        help: "Bytes of tables kept on disk for the next start.",
        read: Read::Gauge(|r, out| out(cache(r).bytes, &[])),
    },
    Instrument {
        name: "profiler.cache.lookups",
        unit: "{file}",
        help: "Files that were looked for there, by whether they were found: then they are not read.",
        read: Read::Count(|r, out| {
            out(cache(r).hits, &[label("result", "hit")]);
            out(cache(r).misses, &[label("result", "miss")]);
        }),
    },
    Instrument {
        name: "profiler.cache.entries",
        unit: "{entry}",
        help: "Entries written, deleted to make room, found damaged and deleted, not read or written for an error, not written since too many waited.",
        read: Read::Count(|r, out| {
            out(cache(r).stored, &[label("outcome", "stored")]);
            out(cache(r).evicted, &[label("outcome", "evicted")]);
            out(cache(r).damaged, &[label("outcome", "damaged")]);
            out(cache(r).failed, &[label("outcome", "failed")]);
            out(cache(r).dropped, &[label("outcome", "dropped")]);
        }),
    },
    Instrument {
        name: "profiler.objects.errors",
        unit: "{error}",
        help: "Executable files that could not be used: not opened, not the file that was mapped, not understood.",
        read: Read::Count(|r, out| {
            let objects = &r.snapshot.objects;
            out(objects.open_errors, &[label("reason", "open")]);
            out(objects.identity_mismatches, &[label("reason", "identity")]);
            out(objects.parse_errors, &[label("reason", "parse")]);
        }),
    },
    Instrument {
        name: "profiler.objects.quarantined",
        unit: "{file}",
        help: "Executable files left alone because they killed the worker twice.",
        read: Read::Gauge(|r, out| out(r.snapshot.objects.quarantined, &[])),
    },
    Instrument {
        name: "profiler.objects.deferred",
        unit: "{file}",
        help: "Files that samples wanted, left unopened since their process had used up its time for opening.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.deferred_files, &[])),
    },
    Instrument {
        name: "profiler.worker.restarts",
        unit: "{restart}",
        help: "Times that the worker process was replaced: died, hung, or answered nonsense.",
        read: Read::Count(|r, out| out(r.snapshot.objects.worker_restarts, &[])),
    },
    Instrument {
        name: "profiler.worker.failed_requests",
        unit: "{request}",
        help: "Requests to the worker that failed.",
        read: Read::Count(|r, out| out(r.snapshot.objects.worker_failed_requests, &[])),
    },
];

/// Who processes are, and which of them are not asked for.
pub(super) const IDENTITY: &[Instrument] = &[
    Instrument {
        name: "profiler.places",
        unit: "{cgroup}",
        help: "Cgroups known.",
        read: Read::Gauge(|r, out| out(r.snapshot.sampler.places, &[])),
    },
    Instrument {
        name: "profiler.places.readings",
        unit: "{reading}",
        help: "Readings of the cgroup and the two variables of a process.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.place_readings, &[])),
    },
    Instrument {
        name: "profiler.samples.unknown_place",
        unit: "{sample}",
        help: "Samples of a process whose cgroup could not be learned: their container is unknown.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.unknown_place_samples, &[])),
    },
    Instrument {
        name: "profiler.identity.containers",
        unit: "{container}",
        help: "Containers with a known name, those that are gone and still kept included.",
        read: Read::Gauge(|r, out| out(r.snapshot.identity.containers, &[])),
    },
    Instrument {
        name: "profiler.identity.pods",
        unit: "{pod}",
        help: "Pods known.",
        read: Read::Gauge(|r, out| out(r.snapshot.identity.pods, &[])),
    },
    Instrument {
        name: "profiler.identity.requests",
        unit: "{request}",
        help: "Requests to the kubelet, the API server or a container runtime, by result.",
        read: Read::Count(|r, out| {
            out(r.snapshot.identity.answers, &[label("result", "answered")]);
            out(r.snapshot.identity.failures, &[label("result", "failed")]);
        }),
    },
    Instrument {
        name: "profiler.identity.unknown_containers",
        unit: "{container}",
        help: "Distinct containers that nobody who was asked knew.",
        read: Read::Count(|r, out| out(r.snapshot.identity.unknown_containers, &[])),
    },
    Instrument {
        name: "profiler.identity.refused",
        unit: "{entry}",
        help: "Names and containers that found no room.",
        read: Read::Count(|r, out| out(r.snapshot.identity.refused, &[])),
    },
    Instrument {
        name: "profiler.filter.verdicts",
        unit: "{verdict}",
        help: "Filter verdicts that the kernel side holds.",
        read: Read::Gauge(|r, out| out(r.snapshot.sampler.verdicts, &[])),
    },
    Instrument {
        name: "profiler.filter.verdicts.refused",
        unit: "{verdict}",
        help: "Filter verdicts that found no room in the kernel: their samples are dropped as filtered in user space.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.verdicts_refused, &[])),
    },
];

/// Time inside the eBPF program; it is part of no process's CPU time.
pub(super) const BPF: &[Instrument] = &[Instrument {
    name: "profiler.bpf.run",
    unit: "s",
    help: "Time inside the eBPF program, all CPUs.",
    read: Read::CountSeconds(|r, out| out(seconds(r.snapshot.sampler.bpf_run_ns), &[])),
}];

/// Without a cache nothing happens in it.
fn cache(reading: &Reading) -> CacheStats {
    reading.snapshot.objects.cache.unwrap_or_default()
}

fn ends(reading: &Reading, whole: bool, out: Out<'_, u64>) {
    for end in StackEnd::ALL.into_iter().filter(|end| end.is_whole() == whole) {
        let samples = reading.snapshot.ledger.ends.get(end.index()).copied().unwrap_or(0);
        out(samples, &[label("reason", end.label())]);
    }
}
