//! A real Grafana Pyroscope: started on free ports, asked back by its query API.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::agent::PERIOD_NS;
use crate::paths;
use crate::process::{Running, Start, free_port, wait_for};
use crate::stacks::{Row, Stacks};

/// CPU time as Pyroscope knows it.
const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
/// More nodes than any test's flame graph has.
const NODES: &str = "1000000";

/// A Pyroscope that runs.
pub struct Pyroscope {
    /// OTLP over gRPC and HTTP, and its own API.
    url: String,
    _running: Option<Running>,
    client: reqwest::blocking::Client,
}

impl Pyroscope {
    /// Starts one with its data in `folder`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(folder: &Path) -> Result<Self> {
        let data = folder.join("pyroscope");
        std::fs::create_dir_all(&data)?;
        let (port, grpc, members) = (free_port()?, free_port()?, free_port()?);
        let mut words: Vec<String> = [
            "-target=all",
            "-config.show_banner=false",
            "-usage-stats.enabled=false",
            "-self-profiling.disable-push=true",
            "-ingester.min-ready-duration=0s",
            "-storage.backend=filesystem",
        ]
        .map(str::to_owned)
        .to_vec();
        // Every address and ring of its own is told: it asks no network.
        for ring in [
            "ring",
            "distributor.ring",
            "compactor.ring",
            "overrides-exporter.ring",
            "query-scheduler.ring",
            "store-gateway.sharding-ring",
        ] {
            words.push(format!("-{ring}.store=inmemory"));
        }
        for address in [
            "server.http-listen-address",
            "server.grpc-listen-address",
            "ingester.lifecycler.addr",
            "distributor.ring.instance-addr",
            "compactor.ring.instance-addr",
            "overrides-exporter.ring.instance-addr",
            "query-scheduler.ring.instance-addr",
            "store-gateway.sharding-ring.instance-addr",
            "query-frontend.instance-addr",
            "memberlist.bind-addr",
            "memberlist.advertise-addr",
        ] {
            words.push(format!("-{address}=127.0.0.1"));
        }
        words.push(format!("-server.http-listen-port={port}"));
        words.push(format!("-server.grpc-listen-port={grpc}"));
        words.push(format!("-memberlist.bind-port={members}"));
        for (flag, name) in [
            ("storage.filesystem.dir", "shared"),
            ("pyroscopedb.data-path", "db"),
            ("compactor.data-dir", "compactor"),
            ("blocks-storage.bucket-store.sync-dir", "sync"),
        ] {
            words.push(format!("-{flag}={}", data.join(name).display()));
        }
        let mut running = Start::new("pyroscope", paths::peer("pyroscope")?, &data).args(words).start()?;
        let client = crate::http::client(Duration::from_secs(60))?;
        let ready = format!("http://127.0.0.1:{port}/ready");
        wait_for("Pyroscope", Duration::from_secs(60), || {
            running.still_runs()?;
            Ok(client.get(&ready).send().is_ok_and(|r| r.status().is_success()).then_some(()))
        })?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), _running: Some(running), client })
    }

    /// One that somebody else started, at `host:port`.
    ///
    /// # Errors
    /// None of today.
    pub fn at(address: &str) -> Result<Self> {
        let client = crate::http::client(Duration::from_secs(60))?;
        Ok(Self { url: format!("http://{address}"), _running: None, client })
    }

    /// Where OTLP goes.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Asks for the span in milliseconds, if any, else for the last hour.
    fn ask(&self, call: &str, mut body: Value, span: Option<(u64, u64)>) -> Result<Value> {
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let (start, end) = span.unwrap_or((now - 3_600_000, now + 60_000));
        body["start"] = json!(start.to_string());
        body["end"] = json!(end.to_string());
        let url = format!("{}/querier.v1.QuerierService/{call}", self.url());
        let answer = self.client.post(url).json(&body).send()?;
        let status = answer.status();
        let text = answer.text()?;
        ensure!(status.is_success(), "Pyroscope: {call}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// The values of a label.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn label_values(&self, label: &str) -> Result<Vec<String>> {
        let answer = self.ask("LabelValues", json!({ "name": label }), None)?;
        let names = answer["names"].as_array().cloned().unwrap_or_default();
        Ok(names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect())
    }

    /// The types of profiles that it has of anything.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn types(&self) -> Result<Vec<String>> {
        let answer = self.ask("ProfileTypes", json!({}), None)?;
        let types = answer["profileTypes"].as_array().cloned().unwrap_or_default();
        Ok(types.iter().filter_map(|t| t["ID"].as_str().map(str::to_owned)).collect())
    }

    /// When the profiles begin that a selector matches, in Unix milliseconds, to a tenth of a second, in order.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn begins(&self, selector: &str) -> Result<Vec<u64>> {
        let body = json!({ "profileTypeID": CPU, "labelSelector": selector, "step": 0.1 });
        let answer = self.ask("SelectSeries", body, None)?;
        let series = answer["series"].as_array().cloned().unwrap_or_default();
        let points = series.iter().flat_map(|s| s["points"].as_array().cloned().unwrap_or_default());
        let mut times = points.map(|p| number(&p["timestamp"])).collect::<Result<Vec<_>>>()?;
        times.sort_unstable();
        times.dedup();
        Ok(times)
    }

    /// The stacks that a selector such as `{service_name="x"}` matches, in CPU nanoseconds, of profiles that begin within
    /// the span (Unix nanoseconds, give or take a tenth of a second; none: the last hour).
    ///
    /// # Errors
    /// When it does not answer, or its flame graph makes no sense.
    pub fn nanoseconds(&self, process: &str, selector: &str, span: Option<(u64, u64)>) -> Result<Stacks> {
        let body = json!({ "profileTypeID": CPU, "labelSelector": selector, "maxNodes": NODES });
        let answer = self.ask(
            "SelectMergeStacktraces",
            body,
            span.map(|(from, to)| (from / 1_000_000 - 100, to / 1_000_000 - 100)),
        )?;
        let graph = &answer["flamegraph"];
        let mut rows = rows(graph).with_context(|| format!("Pyroscope's flame graph of {selector}"))?;
        rows.iter_mut().for_each(|r| process.clone_into(&mut r.process));
        Ok(Stacks { rows, ..Stacks::default() })
    }

    /// The same in samples at the tests' rate.
    ///
    /// # Errors
    /// As [`Pyroscope::nanoseconds`]; and when a value is no whole number of periods.
    pub fn samples(&self, process: &str, selector: &str, span: Option<(u64, u64)>) -> Result<Stacks> {
        let mut stacks = self.nanoseconds(process, selector, span)?;
        for row in &mut stacks.rows {
            ensure!(row.count.is_multiple_of(PERIOD_NS), "{} ns is no multiple of {PERIOD_NS}", row.count);
            row.count /= PERIOD_NS;
        }
        Ok(stacks)
    }
}

/// A bar of a level: where it begins, how wide it is, and its stack, outermost first.
type Bar = (u64, u64, Vec<String>);

/// Levels hold, for each bar: the gap since the last bar's end, total, self, name. Bars lie over their parents.
fn rows(graph: &Value) -> Result<Vec<Row>> {
    let names: Vec<&str> = graph["names"].as_array().context("names")?.iter().filter_map(Value::as_str).collect();
    let mut rows = Vec::new();
    let mut parents: Vec<Bar> = Vec::new();
    for (depth, level) in graph["levels"].as_array().context("levels")?.iter().enumerate() {
        let values = level["values"].as_array().context("values")?;
        let values = values.iter().map(number).collect::<Result<Vec<u64>>>()?;
        let mut bars = Vec::new();
        let mut at = 0;
        for bar in values.chunks_exact(4) {
            let &[gap, total, own, name] = bar else { continue };
            at += gap;
            let name = *names.get(usize::try_from(name)?).context("a name out of range")?;
            let mut path = Vec::new();
            if depth > 0 {
                let parent = parents.iter().find(|(from, width, _)| *from <= at && at < from + width);
                path.clone_from(&parent.context("a bar without a parent")?.2);
                path.push(name.to_owned());
            }
            if own > 0 {
                rows.push(Row { frames: path.iter().rev().cloned().collect(), count: own, ..Row::default() });
            }
            bars.push((at, total, path));
            at += total;
        }
        parents = bars;
    }
    Ok(rows)
}

/// A number, which JSON of 64-bit protobuf fields writes as text.
fn number(value: &Value) -> Result<u64> {
    match value {
        Value::String(text) => Ok(text.parse()?),
        other => other.as_u64().with_context(|| format!("{other} is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_become_stacks() {
        let graph = json!({
            "names": ["total", "main", "a", "b", "other"],
            "levels": [
                { "values": ["0", "100", "0", "0"] },
                { "values": ["0", "70", "5", "1", "0", "30", "30", "4"] },
                { "values": ["0", "40", "40", "2", "0", "25", "25", "3"] },
            ],
        });
        let rows = rows(&graph).unwrap();
        let found = |frames: &[&str]| rows.iter().find(|r| r.frames == frames).map(|r| r.count);
        assert_eq!(found(&["main"]), Some(5));
        assert_eq!(found(&["other"]), Some(30));
        assert_eq!(found(&["a", "main"]), Some(40));
        assert_eq!(found(&["b", "main"]), Some(25));
    }
}
