//! The list of instruments: name, unit, meaning, and which number of a [`Reading`] each tells.
//!
//! The bridge makes Prometheus names of these: dots become underscores, the unit `s` becomes `_seconds`, `By` becomes
//! `_bytes`, and counters end in `_total`.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use profile::{DropReason, StackEnd, Stage};

use super::process::CpuTime;
use super::reading::{Reading, Slot};

/// Puts one number, with its labels, out.
type Out<'a, T> = &'a mut dyn FnMut(T, &[KeyValue]);

/// How an instrument's numbers are read.
#[derive(Clone, Copy)]
enum Read {
    /// Only grows.
    Count(fn(&Reading, Out<'_, u64>)),
    /// Only grows, fractions of a unit.
    CountSeconds(fn(&Reading, Out<'_, f64>)),
    /// Up and down; parts of one sum.
    UpDown(fn(&Reading, Out<'_, i64>)),
    /// Up and down.
    Gauge(fn(&Reading, Out<'_, u64>)),
}

struct Instrument {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    read: Read,
}

/// Registers every instrument; each reads what `slot` holds at the time of a collection, and nothing else.
pub(crate) fn register(meter: &Meter, slot: &Slot) {
    for i in INSTRUMENTS {
        match i.read {
            Read::Count(read) => drop(
                meter
                    .u64_observable_counter(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
            Read::CountSeconds(read) => drop(
                meter
                    .f64_observable_counter(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
            Read::UpDown(read) => drop(
                meter
                    .i64_observable_up_down_counter(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
            Read::Gauge(read) => drop(
                meter
                    .u64_observable_gauge(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
        }
    }
}

fn callback<T: 'static>(
    slot: &Slot,
    read: fn(&Reading, Out<'_, T>),
) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static {
    let slot = Arc::clone(slot);
    move |instrument| read(&slot.load(), &mut |value, labels| instrument.observe(value, labels))
}

fn label(key: &'static str, value: impl Into<opentelemetry::Value>) -> KeyValue {
    KeyValue::new(key, value.into())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "below 2^53 nanoseconds (104 days of CPU time) exact, beyond to a microsecond"
)]
fn seconds(amount: u64, per_second: u64) -> f64 {
    amount as f64 / per_second.max(1) as f64
}

fn cpu_seconds(reading: &Reading, process: &'static str, thread: &str, time: CpuTime, out: Out<'_, f64>) {
    for (mode, ticks) in [("user", time.user), ("system", time.system)] {
        let labels = [label("process", process), label("thread", thread.to_owned()), label("mode", mode)];
        out(seconds(ticks, reading.clock_hz), &labels);
    }
}

const INSTRUMENTS: &[Instrument] = &[
    // The ledger.
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
    Instrument {
        name: "profiler.samples.truncated",
        unit: "{sample}",
        help: "Samples whose user stack does not reach its root, by what ended it.",
        read: Read::Count(|r, out| ends(r, false, out)),
    },
    Instrument {
        name: "profiler.samples.whole",
        unit: "{sample}",
        help: "Samples whose stack is whole, by how it ended.",
        read: Read::Count(|r, out| ends(r, true, out)),
    },
    // The sampler.
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
        name: "profiler.bpf.run",
        unit: "s",
        help: "Time inside the eBPF program, all CPUs.",
        read: Read::CountSeconds(|r, out| out(seconds(r.snapshot.sampler.bpf_run_ns, 1_000_000_000), &[])),
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
        name: "profiler.samples.unknown_process",
        unit: "{sample}",
        help: "Samples of a process that was not in the table.",
        read: Read::Count(|r, out| out(r.snapshot.sampler.unknown_process_samples, &[])),
    },
    Instrument {
        name: "profiler.window.entries",
        unit: "{entry}",
        help: "Distinct stacks in the open window.",
        read: Read::Gauge(|r, out| out(r.snapshot.sampler.window_entries, &[])),
    },
    // Files, worker, names.
    Instrument {
        name: "profiler.objects",
        unit: "{file}",
        help: "Executable files known now.",
        read: Read::Gauge(|r, out| out(r.snapshot.objects.objects, &[])),
    },
    Instrument {
        name: "profiler.objects.quarantined",
        unit: "{file}",
        help: "Executable files left alone because they killed the worker twice.",
        read: Read::Gauge(|r, out| out(r.snapshot.objects.quarantined, &[])),
    },
    Instrument {
        name: "profiler.objects.tables",
        unit: "By",
        help: "Bytes of unwind and name tables held.",
        read: Read::Gauge(|r, out| out(r.snapshot.objects.table_bytes, &[])),
    },
    Instrument {
        name: "profiler.objects.extracted",
        unit: "{file}",
        help: "Executable files read by the worker.",
        read: Read::Count(|r, out| out(r.snapshot.objects.extracted, &[])),
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
        help: "Addresses in the cache of names.",
        read: Read::Gauge(|r, out| out(r.snapshot.naming.cached_names, &[])),
    },
    Instrument {
        name: "profiler.kernel_symbols",
        unit: "{symbol}",
        help: "Kernel symbols known; 0 where the kernel hides them.",
        read: Read::Gauge(|r, out| out(r.snapshot.naming.kernel_symbols, &[])),
    },
    // Export and page.
    Instrument {
        name: "profiler.export.requests",
        unit: "{request}",
        help: "Attempts to push profiles to the collector, by result.",
        read: Read::Count(|r, out| {
            let (accepted, failed): (Vec<_>, Vec<_>) = r.delivery.requests.iter().partition(|(code, _)| accepts(code));
            for (result, requests) in [("accepted", accepted), ("failed", failed)] {
                out(requests.iter().map(|&(_, &n)| n).sum(), &[label("result", result)]);
            }
        }),
    },
    Instrument {
        name: "profiler.export.responses",
        unit: "{response}",
        help: "Attempts to push profiles to the collector, by gRPC or HTTP code, or by what failed before there was one.",
        read: Read::Count(|r, out| {
            for (code, &requests) in &r.delivery.requests {
                out(requests, &[label("code", Arc::clone(code))]);
            }
        }),
    },
    Instrument {
        name: "profiler.export.retries",
        unit: "{request}",
        help: "Attempts to push profiles to the collector after the first of a request.",
        read: Read::Count(|r, out| out(r.delivery.retries, &[])),
    },
    Instrument {
        name: "profiler.export.accepted",
        unit: "By",
        help: "Bytes of requests that the collector accepted, before compression.",
        read: Read::Count(|r, out| out(r.delivery.bytes, &[])),
    },
    Instrument {
        name: "profiler.export.queue",
        unit: "By",
        help: "Bytes of profiles that wait for the collector.",
        read: Read::Gauge(|r, out| out(r.delivery.queue_bytes, &[])),
    },
    Instrument {
        name: "profiler.export.queue.capacity",
        unit: "By",
        help: "Bytes of profiles that may wait for the collector.",
        read: Read::Gauge(|r, out| out(r.delivery.queue_capacity_bytes, &[])),
    },
    Instrument {
        name: "profiler.export.queue.requests",
        unit: "{request}",
        help: "Requests that wait for the collector.",
        read: Read::Gauge(|r, out| out(r.delivery.queue_requests, &[])),
    },
    Instrument {
        name: "profiler.export.consecutive_failures",
        unit: "{request}",
        help: "Attempts to push profiles that failed since the last success.",
        read: Read::Gauge(|r, out| out(r.delivery.consecutive_failures, &[])),
    },
    Instrument {
        name: "profiler.metrics.pushes",
        unit: "{push}",
        help: "Pushes of these metrics over OTLP, by result.",
        read: Read::Count(|r, out| {
            out(r.pushes.0, &[label("result", "accepted")]);
            out(r.pushes.1, &[label("result", "failed")]);
        }),
    },
    Instrument {
        name: "profiler.store.windows",
        unit: "{window}",
        help: "Windows kept for the page and the pprof endpoint.",
        read: Read::Gauge(|r, out| out(r.store.windows, &[])),
    },
    Instrument {
        name: "profiler.store.size",
        unit: "By",
        help: "Bytes of windows kept for the page and the pprof endpoint.",
        read: Read::Gauge(|r, out| out(r.store.bytes, &[])),
    },
    Instrument {
        name: "profiler.store.published",
        unit: "{window}",
        help: "Windows published to the page and the pprof endpoint.",
        read: Read::Count(|r, out| out(r.store.published, &[])),
    },
    // What it costs.
    Instrument {
        name: "profiler.cpu",
        unit: "s",
        help: "CPU time of the agent by thread name, and of its worker process.",
        read: Read::CountSeconds(|r, out| {
            for (name, time) in &r.process.threads {
                cpu_seconds(r, "agent", name, *time, out);
            }
            cpu_seconds(r, "worker", "worker", r.process.worker, out);
        }),
    },
    Instrument {
        name: "profiler.resident_memory",
        unit: "By",
        help: "Resident memory of the agent and of its worker process.",
        read: Read::Gauge(|r, out| {
            out(r.process.agent_rss_bytes, &[label("process", "agent")]);
            out(r.process.worker_rss_bytes, &[label("process", "worker")]);
        }),
    },
    Instrument {
        name: "profiler.build_info",
        unit: "",
        help: "Always 1; the labels say what runs.",
        read: Read::Gauge(|r, out| {
            let labels = [
                label("version", r.build.version.clone()),
                label("revision", r.build.revision.clone()),
                label("arch", std::env::consts::ARCH),
            ];
            out(1, &labels);
        }),
    },
    // What every Prometheus client tells of its own process, under the usual names.
    Instrument {
        name: "process.cpu",
        unit: "s",
        help: "User and system CPU time of the agent.",
        read: Read::CountSeconds(|r, out| {
            out(seconds(r.process.agent.user.saturating_add(r.process.agent.system), r.clock_hz), &[]);
        }),
    },
    Instrument {
        name: "process.resident_memory",
        unit: "By",
        help: "Resident memory of the agent.",
        read: Read::Gauge(|r, out| out(r.process.agent_rss_bytes, &[])),
    },
    Instrument {
        name: "process.virtual_memory",
        unit: "By",
        help: "Virtual memory of the agent.",
        read: Read::Gauge(|r, out| out(r.process.virtual_bytes, &[])),
    },
    Instrument {
        name: "process.open_fds",
        unit: "{descriptor}",
        help: "Open file descriptors of the agent.",
        read: Read::Gauge(|r, out| out(r.process.open_fds, &[])),
    },
    Instrument {
        name: "process.max_fds",
        unit: "{descriptor}",
        help: "Most file descriptors that the agent may open.",
        read: Read::Gauge(|r, out| out(r.process.max_fds, &[])),
    },
    Instrument {
        name: "process.threads",
        unit: "{thread}",
        help: "Threads of the agent.",
        read: Read::Gauge(|r, out| out(r.process.thread_count, &[])),
    },
    Instrument {
        name: "process.start_time",
        unit: "s",
        help: "When the agent started, in seconds since the Unix epoch.",
        read: Read::Gauge(|r, out| out(r.start_time_unix_s, &[])),
    },
];

fn ends(reading: &Reading, whole: bool, out: Out<'_, u64>) {
    for end in StackEnd::ALL.into_iter().filter(|end| end.is_whole() == whole) {
        let samples = reading.snapshot.ledger.ends.get(end.index()).copied().unwrap_or(0);
        out(samples, &[label("reason", end.label())]);
    }
}

/// Whether a gRPC or HTTP code means that the request was taken.
fn accepts(code: &str) -> bool {
    code == "OK" || (code.len() == 3 && code.starts_with('2'))
}
