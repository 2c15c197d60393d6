//! A rendered machine configuration, as far as it is brought onto nodes: its name and its files below `/etc/containers`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

/// Where the files lie that the mirroring documents speak of.
const FOLDER: &str = "/etc/containers/";

/// What the node is to look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    /// `rendered-POOL-HASH`.
    pub(super) name: String,
    /// Text by absolute path.
    pub(super) files: BTreeMap<String, String>,
}

impl Rendered {
    /// Reads a MachineConfig whose ignition configuration has files with data URLs (Ignition specification 3.x,
    /// `storage.files`); the last of several files of one path counts.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let config: MachineConfig = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let mut files = BTreeMap::new();
        for file in config.spec.config.storage.files {
            if !file.path.starts_with(FOLDER) {
                continue;
            }
            if file.contents.compression.is_some_and(|compression| !compression.is_empty()) {
                return Err(format!("{} is compressed", file.path));
            }
            let text = file.contents.source.as_deref().map_or(Ok(String::new()), decode);
            files.insert(file.path.clone(), text.map_err(|why| format!("{}: {why}", file.path))?);
        }
        Ok(Self { name: config.metadata.name, files })
    }
}

/// The text of a data URL (RFC 2397).
fn decode(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("data:").ok_or("it is no data URL")?;
    let (kind, data) = rest.split_once(',').ok_or("its data URL has no data")?;
    let bytes = if kind.ends_with(";base64") {
        BASE64_STANDARD.decode(data).map_err(|error| error.to_string())?
    } else {
        percent_decoded(data)
    };
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[derive(Deserialize)]
struct MachineConfig {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
struct Spec {
    config: Ignition,
}

#[derive(Deserialize)]
struct Ignition {
    #[serde(default)]
    storage: Storage,
}

#[derive(Default, Deserialize)]
struct Storage {
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    #[serde(default)]
    contents: Contents,
}

#[derive(Default, Deserialize)]
struct Contents {
    source: Option<String>,
    compression: Option<String>,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("data:,a%20%3D%20%5B'b'%5D%0A", "a = ['b']\n")]
    #[case("data:,100%", "100%")]
    #[case("data:text/plain;charset=utf-8;base64,YSA9IDEK", "a = 1\n")]
    #[case("data:,", "")]
    fn data_urls(#[case] url: &str, #[case] text: &str) {
        assert_eq!(decode(url).unwrap(), text);
    }

    #[rstest]
    #[case("https://example.com/x")]
    #[case("data:nothing")]
    #[case("data:;base64,***")]
    fn what_is_no_data_url_is_refused(#[case] url: &str) {
        assert!(decode(url).is_err());
    }

    #[test]
    fn only_the_engines_files_are_taken_and_the_last_one_counts() {
        let text = r#"
metadata: {name: rendered-worker-0a}
spec:
  config:
    ignition: {version: 3.5.0}
    storage:
      files:
        - {path: /etc/containers/registries.conf, contents: {source: "data:,old"}}
        - {path: /etc/kubernetes/kubelet.conf, contents: {source: "data:,x", compression: gzip}}
        - {path: /etc/containers/registries.conf, contents: {source: "data:,new", compression: ""}}
"#;
        let rendered = Rendered::parse(text).unwrap();
        assert_eq!(rendered.name, "rendered-worker-0a");
        assert_eq!(rendered.files, BTreeMap::from([("/etc/containers/registries.conf".into(), "new".into())]));
    }
}
