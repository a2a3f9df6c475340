//! The Grafana dashboard: every query parses, and every panel is told from the others.
//!
//! **In**: the dashboard's JSON; promtool. **Out**: how many queries it has. **Limits**: Grafana itself is not asked; what
//! the queries answer is for the cluster's tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::shell::output;

/// What Grafana puts in place of its variables; longer names first.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "1m"), ("$__range", "10m"), ("$node", ".*"), ("$limit", "10")];

/// Checks the dashboard.
///
/// # Errors
/// When it is no dashboard, two panels have one number, or a query does not parse.
pub(super) fn check(promtool: &Path, path: &Path) -> Result<usize> {
    let dashboard: Value = serde_json::from_slice(&fs::read(path)?).with_context(|| path.display().to_string())?;
    let queries = queries(&dashboard)?;
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| json!({ "record": format!("dashboard:query:{number}"), "expr": query }))
        .collect();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dashboard.json");
    fs::write(&file, serde_json::to_vec(&json!({ "groups": [{ "name": "dashboard", "rules": rules }] }))?)?;
    output(Command::new(promtool).args(["check", "rules", "--lint=none"]).arg(file)).context("the dashboard")?;
    Ok(queries.len())
}

/// All queries, as Grafana would send them.
fn queries(dashboard: &Value) -> Result<Vec<String>> {
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut ids = BTreeSet::new();
    let mut found = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        ensure!(!title.is_empty() && ids.insert(panel["id"].as_u64()), "a panel without title or number: {title}");
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(panel["type"] == "row" || !targets.is_empty(), "{title}: no queries");
        for target in targets {
            let query = target["expr"].as_str().with_context(|| format!("{title}: a target without a query"))?;
            let query = VARIABLES.iter().fold(query.to_owned(), |text, (name, value)| text.replace(name, value));
            ensure!(!query.contains('$'), "{title}: unknown variable in {query}");
            found.push(query);
        }
    }
    ensure!(!found.is_empty(), "no queries");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_queries_and_fills_in_variables() {
        let one = json!({ "panels": [
            { "id": 1, "type": "row", "title": "r" },
            { "id": 2, "type": "stat", "title": "s", "targets": [{ "expr": "rate(a{n=~\"$node\"}[$__rate_interval])" }] },
        ]});
        assert_eq!(queries(&one).unwrap(), ["rate(a{n=~\".*\"}[1m])"]);
    }

    #[test]
    fn refuses_what_grafana_could_not_show() {
        let twice =
            json!({ "panels": [{ "id": 1, "type": "row", "title": "a" }, { "id": 1, "type": "row", "title": "b" }] });
        assert!(queries(&twice).is_err());
        let unknown =
            json!({ "panels": [{ "id": 1, "type": "stat", "title": "a", "targets": [{ "expr": "a{$b}" }] }] });
        assert!(queries(&unknown).unwrap_err().to_string().contains("variable"));
        assert!(queries(&json!({ "panels": [{ "id": 1, "type": "stat", "title": "a" }] })).is_err());
    }
}
