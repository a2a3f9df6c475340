//! Schemas of Kubernetes' and the Prometheus operator's kinds, in the form that kubeconform reads.
//!
//! **In**: the package `kubernetes-validate` of PyPI, which holds the schemas of many versions; the operator's Go module,
//! which holds its definitions as JSON. **Out**: a folder in the peers' cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::wheel;
use crate::peers::{self, Peer, go};
use crate::shell::output;

/// The oldest Kubernetes that the manifests are for, the one of the cluster's tests, the newest with schemas.
pub(super) const VERSIONS: [&str; 3] = ["1.30.0", "1.34.0", "1.37.0"];
const PACKAGE: &str = "1.37.0";
const OPERATOR: &str = "0.85.0";
/// Kinds of the operator that `deploy/` uses: their file in the module, and what kubeconform calls them.
const KINDS: [(&str, &str); 2] = [
    ("podmonitors-crd.json", "podmonitor-monitoring-v1.json"),
    ("prometheusrules-crd.json", "prometheusrule-monitoring-v1.json"),
];

fn name() -> String {
    format!("kubernetes-schemas-{PACKAGE}-operator-{OPERATOR}")
}

/// Where the schemas are.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(peers::cache()?.join(name()))
}

pub(super) fn peer() -> Peer {
    const LAST: &[&str] = &["v1.37.0-standalone-strict/prometheusrule-monitoring-v1.json"];
    Peer { name: name(), programs: LAST, make }
}

fn make(out: &Path, log: &Path) -> Result<()> {
    let package = wheel(&format!("kubernetes-validate=={PACKAGE}"), out, log)?;
    let operator = operator(out)?;
    for version in VERSIONS {
        let from = package.join(format!("kubernetes_validate/kubernetes-json-schema/v{version}-local-strict"));
        let to = out.join(format!("v{version}-standalone-strict"));
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
            let path = entry?.path();
            let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|e| e == "json")) else {
                continue;
            };
            fs::write(to.join(name), standalone(&fs::read_to_string(&path)?)?)?;
        }
        for (name, schema) in &operator {
            fs::write(to.join(name), schema)?;
        }
    }
    Ok(())
}

/// A schema whose references lead to the file beside it.
fn standalone(text: &str) -> Result<String> {
    let mut schema: Value = serde_json::from_str(text)?;
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("$id");
    }
    Ok(schema.to_string().replace("\"/api/_definitions.json#", "\"_definitions.json#"))
}

fn operator(out: &Path) -> Result<Vec<(&'static str, String)>> {
    let work = out.with_file_name("operator");
    fs::create_dir(&work)?;
    let module = format!("github.com/prometheus-operator/prometheus-operator@v{OPERATOR}");
    let told = output(go(&work)?.args(["mod", "download", "-json", &module]))?;
    let told: Value = serde_json::from_str(&told)?;
    let folder = Path::new(told["Dir"].as_str().context("go mod download told no folder")?);
    let schema = |(file, name): (&str, &'static str)| {
        let text = fs::read(folder.join("jsonnet/prometheus-operator").join(file))?;
        let definition: Value = serde_json::from_slice(&text)?;
        let versions = definition["spec"]["versions"].as_array().context("versions")?;
        let version = versions.iter().find(|v| v["name"] == "v1").context("no version v1")?;
        let mut schema = version["schema"]["openAPIV3Schema"].clone();
        strict(&mut schema);
        // What every object has is not part of the definition.
        schema["properties"]["metadata"] = serde_json::json!({ "type": "object" });
        Ok((name, schema.to_string()))
    };
    KINDS.into_iter().map(schema).collect()
}

/// Objects take the keys that are named and no other, unless they say so themselves.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let open = fields.get("x-kubernetes-preserve-unknown-fields").is_some_and(|v| v == true);
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") && !open {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            fields.values_mut().for_each(strict);
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_lead_beside() {
        let text = r#"{"$id":"x","a":{"$ref":"/api/_definitions.json#/definitions/b"}}"#;
        assert_eq!(standalone(text).unwrap(), r#"{"a":{"$ref":"_definitions.json#/definitions/b"}}"#);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let mut schema = json!({ "properties": {
            "a": { "properties": { "b": {} } },
            "c": { "additionalProperties": { "type": "string" } },
            "d": { "properties": {}, "x-kubernetes-preserve-unknown-fields": true },
        }});
        strict(&mut schema);
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["a"]["additionalProperties"], false);
        assert_eq!(schema["properties"]["c"]["additionalProperties"]["type"], "string");
        assert!(schema["properties"]["d"].get("additionalProperties").is_none());
    }
}
