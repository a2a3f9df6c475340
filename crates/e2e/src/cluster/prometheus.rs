//! Prometheus, asked by its query API.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::http;

/// A Prometheus somewhere.
#[derive(Debug)]
pub struct Prometheus {
    url: String,
    client: reqwest::blocking::Client,
}

/// One series of an answer.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Prometheus {
    /// The one at `host:port`.
    ///
    /// # Errors
    /// None of today.
    pub fn at(address: &str) -> Result<Self> {
        Ok(Self { url: format!("http://{address}"), client: http::client(Duration::from_secs(30))? })
    }

    fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let words = query.iter().map(|(k, v)| format!("{k}={}", escaped(v))).collect::<Vec<_>>().join("&");
        let answer = self.client.get(format!("{}{path}?{words}", self.url)).send()?;
        let status = answer.status();
        let text = answer.text()?;
        ensure!(status.is_success(), "Prometheus: {path}: {status}: {text}");
        let mut value: Value = serde_json::from_str(&text)?;
        Ok(value["data"].take())
    }

    /// An instant query's answer, in its order.
    ///
    /// # Errors
    /// When it is refused, or its answer is no vector.
    pub fn query(&self, expression: &str) -> Result<Vec<Series>> {
        let data = self.ask("/api/v1/query", &[("query", expression)])?;
        let result = data["result"].as_array().with_context(|| format!("{expression}: {data}"))?;
        let series = |one: &Value| {
            let labels = one["metric"].as_object().context("labels")?.iter();
            let labels = labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect();
            let value = one["value"][1].as_str().context("a value")?.parse()?;
            Ok(Series { labels, value })
        };
        result.iter().map(series).collect()
    }

    /// Names and expressions of the rules that it evaluates; a rule that fails is an error.
    ///
    /// # Errors
    /// The first rule that is not healthy.
    pub fn rules(&self) -> Result<Vec<(String, String)>> {
        let data = self.ask("/api/v1/rules", &[])?;
        let groups = data["groups"].as_array().context("groups of rules")?;
        let rules = groups.iter().flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default());
        let rule = |rule: Value| {
            ensure!(rule["health"] == "ok" || rule["health"] == "unknown", "{rule}");
            let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
            Ok((text("name"), text("query")))
        };
        rules.map(rule).collect()
    }
}

/// A value of a query string.
fn escaped(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn expressions_are_escaped() {
        assert_eq!(super::escaped("sum(a{b=\"c\"})"), "sum%28a%7Bb%3D%22c%22%7D%29");
    }
}
