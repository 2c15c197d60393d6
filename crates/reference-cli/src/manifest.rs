//! Objects from files: YAML or JSON, several in one file, a folder, or standard input.

use crate::failure::Failure;
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The file as the user named it; `STDIN` for standard input.
    pub origin: String,
    pub object: Value,
}

/// Reads every object of the named files; lists are taken apart.
///
/// # Errors
/// A file is missing or unreadable, or holds something that is no object.
pub fn read_all(names: &[String]) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::usage(format!("unable to read STDIN: {error}")))?;
            manifests.extend(read("STDIN", &text)?);
            continue;
        }
        let path = Path::new(name);
        let mut files = vec![path.to_owned()];
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::usage(format!("the path {name:?} does not exist")));
            }
            Ok(metadata) if metadata.is_dir() => {
                let listing = std::fs::read_dir(path).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
                files = listing.filter_map(Result::ok).map(|entry| entry.path()).collect();
                files.retain(|file| file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
                files.sort();
            }
            _ => {}
        }
        for file in files {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| Failure::usage(format!("unable to read {}: {error}", file.display())))?;
            manifests.extend(read(&file.display().to_string(), &text)?);
        }
    }
    if manifests.is_empty() {
        return Err(Failure::usage("no objects passed to create"));
    }
    Ok(manifests)
}

fn read(origin: &str, text: &str) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| {
            Failure::usage(format!("error parsing {origin}: error converting YAML to JSON: yaml: {error}"))
        })?;
        let objects = match value {
            Value::Null => continue,
            Value::Object(map) if map.get("kind") == Some(&Value::from("List")) => {
                map.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
            }
            other => vec![other],
        };
        for object in objects {
            let missing =
                ["apiVersion", "kind"].into_iter().find(|key| object[*key].as_str().unwrap_or_default().is_empty());
            if let Some(missing) = missing {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                return Err(Failure::usage(format!(
                    "error validating {origin:?}: error validating data: {missing} not set (object {name:?})"
                )));
            }
            manifests.push(Manifest { origin: origin.to_owned(), object });
        }
    }
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("apiVersion: v1\nkind: A\n---\n# nothing\n---\napiVersion: v1\nkind: B\n", &["A", "B"])]
    #[case("{\"apiVersion\": \"v1\", \"kind\": \"A\"}", &["A"])]
    #[case("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: A}, {apiVersion: v1, kind: B}]\n", &["A", "B"])]
    #[case("", &[])]
    fn objects(#[case] text: &str, #[case] kinds: &[&str]) {
        let found: Vec<Value> =
            read("f", text).expect("objects").into_iter().map(|m| m.object["kind"].clone()).collect();
        assert_eq!(found, kinds);
    }

    #[rstest]
    #[case("kind: A\n", "apiVersion not set")]
    #[case("apiVersion: v1\nmetadata: {name: x}\n", "kind not set (object \"x\")")]
    #[case("a: [\n", "error parsing f")]
    fn refusals(#[case] text: &str, #[case] message: &str) {
        let error = read("f", text).expect_err("a refusal").to_string();
        assert!(error.contains(message), "{error}");
    }
}
