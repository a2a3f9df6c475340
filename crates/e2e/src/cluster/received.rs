//! What a Collector's file says, as it wrote it: one JSON object a line, attributes in whatever form its version prefers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The attributes of every resource of every line, as text.
///
/// # Errors
/// When a whole line is no JSON, or refers to a string that is not there.
pub fn resources(file: &Path) -> Result<Vec<BTreeMap<String, String>>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut all = Vec::new();
    for line in whole.lines() {
        let data: Value = serde_json::from_str(line)?;
        let strings = &data["dictionary"]["stringTable"];
        for one in data["resourceProfiles"].as_array().into_iter().flatten() {
            let attributes = one["resource"]["attributes"].as_array().into_iter().flatten();
            all.push(attributes.map(|a| attribute(strings, a)).collect::<Result<_>>()?);
        }
    }
    Ok(all)
}

fn attribute(strings: &Value, attribute: &Value) -> Result<(String, String)> {
    let referred = |index: &Value| {
        let index = usize::try_from(index.as_u64()?).ok()?;
        strings.get(index)?.as_str().map(str::to_owned)
    };
    let key = attribute["key"].as_str().filter(|k| !k.is_empty()).map(str::to_owned);
    let key = key.or_else(|| referred(&attribute["keyStrindex"])).with_context(|| format!("a key: {attribute}"))?;
    let value = &attribute["value"];
    let text = value["stringValue"].as_str().map(str::to_owned);
    let text = text.or_else(|| referred(&value["stringValueStrindex"]));
    Ok((key, text.unwrap_or_else(|| value["intValue"].as_str().map_or_else(|| value.to_string(), str::to_owned))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_attributes() {
        let line = r#"{"resourceProfiles":[{"resource":{"attributes":[
            {"key":"a","value":{"stringValue":"b"}},
            {"keyStrindex":1,"value":{"stringValueStrindex":2}},
            {"keyStrindex":2,"value":{"intValue":"7"}}]}}],"dictionary":{"stringTable":["","c","d"]}}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}\n{{\"half", line.replace('\n', ""))).unwrap();
        let all = resources(file.path()).unwrap();
        let pairs: Vec<_> = all[0].iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "b"), ("c", "d"), ("d", "7")]);
    }
}
