//! What our own side cost, and what it says of itself.

use std::thread::sleep;

use anyhow::{Context as _, Result};
use e2e::agent::{Agent, Setup};

use crate::{Plan, cost::Cost};

/// One run of the agent, after its warm-up.
pub(crate) struct Ours {
    /// The agent's own process.
    pub(crate) agent: Cost,
    /// Its worker.
    pub(crate) worker: Cost,
    /// Samples taken.
    pub(crate) samples: f64,
    /// Ticks that a filter refused.
    pub(crate) filtered: f64,
    /// Seconds inside the eBPF program, all ticks.
    pub(crate) bpf_seconds: f64,
    /// Bytes through the ring buffer.
    pub(crate) ring_bytes: f64,
    /// Ticks that the kernel did not deliver, in percent.
    pub(crate) missed: f64,
}

impl Ours {
    /// Starts an agent, lets it warm up, measures it, stops it. `marked` is called when measuring begins and when it ends.
    pub(crate) fn measure(setup: Setup, plan: &Plan, mut marked: impl FnMut() -> Result<()>) -> Result<Self> {
        let agent: Agent = setup.start()?;
        sleep(plan.warm_up);
        let (pid, worker) = (agent.running.pid(), agent.worker()?);
        let (scrape, at) = (agent.scrape()?, (Cost::of(pid)?, Cost::of(worker)?));
        marked()?;
        sleep(plan.measured);
        marked()?;
        let end = (Cost::of(pid)?, Cost::of(worker).context("the worker was replaced while it was measured")?);
        let later = agent.scrape()?;
        let grown = |name: &str| Ok::<f64, anyhow::Error>(later.sum(name)? - scrape.sum(name)?);
        let state = |scrape: &e2e::scrape::Scrape| scrape.with("profiler_ticks_total", "state", "filtered");
        let ours = Self {
            agent: end.0.since(&at.0),
            worker: end.1.since(&at.1),
            samples: grown("profiler_samples_taken_total")?,
            filtered: state(&later) - state(&scrape),
            bpf_seconds: grown("profiler_bpf_run_seconds_total")?,
            ring_bytes: grown("profiler_ring_written_bytes_total")?,
            missed: 100.0 * later.ledger()?.missed_share(&scrape.ledger()?),
        };
        agent.stop()?.success()?;
        Ok(ours)
    }

    /// Agent and worker.
    pub(crate) fn all(&self) -> Cost {
        self.agent.and(&self.worker)
    }

    /// Nanoseconds inside the eBPF program for each tick that found a CPU busy.
    pub(crate) fn bpf_ns(&self) -> f64 {
        self.bpf_seconds * 1e9 / (self.samples + self.filtered).max(1.0)
    }
}
