//! Delivery, page, and what the agent costs.

use std::sync::Arc;

use super::{Instrument, Out, Read, label, seconds};
use crate::metrics::process::{CpuTime, MAX_THREAD_SERIES};

/// Pushing profiles, and pushing these numbers.
pub(super) const EXPORT: &[Instrument] = &[
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
        name: "profiler.export.unattributed",
        unit: "{sample}",
        help: "Samples pushed in a resource that says nothing of their process: more resources than a request may tell of.",
        read: Read::Count(|r, out| out(r.delivery.unattributed, &[])),
    },
    Instrument {
        name: "profiler.export.left_out_attributes",
        unit: "{attribute}",
        help: "Attributes of resources left out of pushes: more of one resource than allowed, or of an impossible name.",
        read: Read::Count(|r, out| out(r.delivery.left_out_attributes, &[])),
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
];

/// What is kept for the page.
pub(super) const PAGE: &[Instrument] = &[
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
];

/// Samples by function.
pub(super) const AGGREGATED: &[Instrument] = &[
    Instrument {
        name: "profiler.aggregated",
        unit: "{sample}",
        help: "Samples by function: with self=true those in which it ran, with self=false those in which it had called another.",
        read: Read::Count(|r, out| r.aggregated.series.iter().for_each(|told| out(told.samples, &told.labels))),
    },
    Instrument {
        name: "profiler.aggregated.evictions",
        unit: "{series}",
        help: "Series of profiler_aggregated_total that left for hotter ones.",
        read: Read::Count(|r, out| out(r.aggregated.evictions, &[])),
    },
    Instrument {
        name: "profiler.aggregated.candidates",
        unit: "{series}",
        help: "Functions without a series of their own in profiler_aggregated_total whose heat is remembered.",
        read: Read::Gauge(|r, out| out(r.aggregated.candidates, &[])),
    },
];

/// What the agent costs, and what runs.
pub(super) const COST: &[Instrument] = &[
    Instrument {
        name: "profiler.self.cpu",
        unit: "s",
        help: "CPU time of the agent by thread name, and of its worker process.",
        read: Read::CountSeconds(|r, out| {
            for thread in r.process.threads.iter().take(MAX_THREAD_SERIES) {
                cpu_seconds("agent", &thread.name, thread.cpu, out);
            }
            cpu_seconds("worker", "worker", r.process.worker, out);
        }),
    },
    Instrument {
        name: "profiler.self.bpf",
        unit: "s",
        help: "Time inside the eBPF program by stage: walking tables, copying stacks, ticks that a filter refused, the rest.",
        read: Read::CountSeconds(|r, out| {
            let unwind = &r.snapshot.unwind;
            let known = unwind.walk_ns.saturating_add(unwind.snapshot_ns).saturating_add(unwind.filtered_ns);
            let stages = [
                ("walk", unwind.walk_ns),
                ("snapshot", unwind.snapshot_ns),
                ("filtered", unwind.filtered_ns),
                ("rest", r.snapshot.sampler.bpf_run_ns.saturating_sub(known)),
            ];
            for (stage, ns) in stages {
                out(seconds(ns), &[label("stage", stage)]);
            }
        }),
    },
    Instrument {
        name: "profiler.self.resident_memory",
        unit: "By",
        help: "Resident memory of the agent and of its worker process.",
        read: Read::Gauge(|r, out| {
            out(r.process.agent_rss_bytes, &[label("process", "agent")]);
            out(r.process.worker_rss_bytes, &[label("process", "worker")]);
        }),
    },
    Instrument {
        name: "profiler.self.kernel_memory",
        unit: "By",
        help: "Memory of all maps of the eBPF programs, those for unwind tables included.",
        read: Read::Gauge(|r, out| out(r.snapshot.unwind.kernel_bytes, &[])),
    },
    Instrument {
        name: "profiler.self.threads",
        unit: "{thread}",
        help: "Threads of the agent by name, and of its worker process.",
        read: Read::Gauge(|r, out| {
            // Names that only have used up time are no threads.
            for thread in r.process.threads.iter().take(MAX_THREAD_SERIES).filter(|thread| thread.threads > 0) {
                out(thread.threads, &[label("process", "agent"), label("thread", thread.name.clone())]);
            }
            out(r.process.worker_threads, &[label("process", "worker"), label("thread", "worker")]);
        }),
    },
    Instrument {
        name: "profiler.self.open_fds",
        unit: "{descriptor}",
        help: "Open file descriptors of the agent and of its worker process.",
        read: Read::Gauge(|r, out| {
            out(r.process.agent_open_fds, &[label("process", "agent")]);
            out(r.process.worker_open_fds, &[label("process", "worker")]);
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
];

/// What every Prometheus client tells of its own process, under the usual names.
pub(super) const PROCESS: &[Instrument] = &[
    Instrument {
        name: "process.cpu",
        unit: "s",
        help: "User and system CPU time of the agent.",
        read: Read::CountSeconds(|r, out| {
            out(seconds(r.process.agent.user_ns.saturating_add(r.process.agent.system_ns)), &[]);
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
        read: Read::Gauge(|r, out| out(r.process.agent_open_fds, &[])),
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
        read: Read::Gauge(|r, out| out(r.process.threads.iter().map(|t| t.threads).sum(), &[])),
    },
    Instrument {
        name: "process.start_time",
        unit: "s",
        help: "When the agent started, in seconds since the Unix epoch.",
        read: Read::Gauge(|r, out| out(r.process.start_time_unix_s, &[])),
    },
];

fn cpu_seconds(process: &'static str, thread: &str, time: CpuTime, out: Out<'_, f64>) {
    for (mode, ns) in [("user", time.user_ns), ("system", time.system_ns)] {
        let labels = [label("process", process), label("thread", thread.to_owned()), label("mode", mode)];
        out(seconds(ns), &labels);
    }
}

/// Whether a gRPC or HTTP code means that the request was taken.
fn accepts(code: &str) -> bool {
    code == "OK" || (code.len() == 3 && code.starts_with('2'))
}
