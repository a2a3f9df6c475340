//! What the flame graph page is drawn from, brought to [`Stacks`].

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::agent::Agent;
use crate::stacks::{Row, Stacks};

/// A node that stands for a program.
const PROCESS: u64 = 1;
/// The node above all.
const ROOT: u64 = 0;
/// What was too small to tell apart.
const PRUNED: u64 = 7;

/// The page's data for the windows of a span, grouped by program.
///
/// # Errors
/// When the page has no such windows, or its tree makes no sense.
pub fn stacks(agent: &Agent, from_unix_ns: u64, to_unix_ns: u64) -> Result<Stacks> {
    let body = agent.get(&format!("/api/flame?from={from_unix_ns}&to={to_unix_ns}&group=program"))?;
    let flame: Value = serde_json::from_slice(&body)?;
    let time = |key: &str| Ok::<u64, anyhow::Error>(flame[key].as_str().context("a time is text")?.parse()?);
    let rows = rows(&flame["tree"])?;
    Ok(Stacks { from_unix_ns: time("from_ns")?, to_unix_ns: time("to_ns")?, rows })
}

fn column(nodes: &Value, name: &str) -> Result<Vec<u64>> {
    let column = nodes[name].as_array().with_context(|| format!("no column {name}"))?;
    column.iter().map(|v| v.as_u64().with_context(|| format!("{name}: {v}"))).collect()
}

/// Nodes stand in preorder, parents before their children.
fn rows(tree: &Value) -> Result<Vec<Row>> {
    let strings: Vec<&str> = tree["strings"].as_array().context("strings")?.iter().filter_map(Value::as_str).collect();
    let nodes = &tree["nodes"];
    let (parent, name, kind) = (column(nodes, "parent")?, column(nodes, "name")?, column(nodes, "kind")?);
    let (own, total) = (column(nodes, "self")?, column(nodes, "total")?);
    let mut paths: Vec<(String, Vec<String>)> = Vec::with_capacity(parent.len());
    let mut rows = Vec::new();
    for (i, &above) in parent.iter().enumerate() {
        let text = strings.get(usize::try_from(name[i])?).context("a name out of range")?;
        ensure!(kind[i] != PRUNED, "something was pruned: {text}");
        let above = usize::try_from(above)?;
        let (process, frames) = match kind[i] {
            ROOT => (String::new(), Vec::new()),
            PROCESS => ((*text).to_owned(), Vec::new()),
            _ => {
                let (process, frames) = paths.get(above).context("a parent behind its child")?;
                (process.clone(), std::iter::once((*text).to_owned()).chain(frames.iter().cloned()).collect())
            }
        };
        if own[i] > 0 {
            rows.push(Row { process: process.clone(), frames: frames.clone(), count: own[i], ..Row::default() });
        }
        paths.push((process, frames));
    }
    let told: u64 = rows.iter().map(|r| r.count).sum();
    ensure!(total.first().copied().unwrap_or(0) == told, "the root says {total:?}, its rows {told}");
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_becomes_stacks() {
        let tree = json!({
            "strings": ["", "root", "p", "main", "leaf"],
            "nodes": {
                "parent": [0, 0, 1, 2], "name": [1, 2, 3, 4], "kind": [0, 1, 3, 5], "self": [0, 0, 2, 5], "total": [7, 7, 7, 5],
            },
        });
        let rows = rows(&tree).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[1].process.as_str(), rows[1].count), ("p", 5));
        assert_eq!(rows[1].frames, ["leaf", "main"]);
    }
}
