//! Which command an image name stands for, since there are no containers here to unpack an image into.
//! It decides what a container runs; where that process finds its files is left to `mounts` and `environment`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The images known to the nodes, as written in the file given by `--images`: a YAML list of entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageMap {
    /// The entries; when an image is listed twice the first one counts.
    pub entries: Vec<ImageEntry>,
}

/// What one image is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageEntry {
    /// The name as it stands in a pod, with or without tag or digest: an entry without either matches every version.
    pub image: String,
    /// The program and its first arguments. `$(NAME)` is replaced by the container's environment, `$(KUBECONFIG)` included.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment that the image brings; what the pod says wins over it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// True: `command` of the container is honoured and `command` of the entry is only its default, as with a real image.
    /// False: the container's `command` is replaced by the entry's, and its `args` are kept only if it had no `command`
    /// (arguments of a shell wrapper would mean nothing to our program).
    #[serde(default)]
    pub keep_command: bool,
    /// Paths that exist inside the image, to where they really lie; applied to env values, command and args like a mount.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewrite: BTreeMap<String, PathBuf>,
    /// True: the container gets a root folder of its own, in which mounts and `rewrite` really lie at their documented
    /// paths; for programs with paths compiled in. Needs user namespaces or root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_root: bool,
}

/// Why an image map could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageMapError {
    /// The file could not be read.
    #[error("could not read the image map {path}: {source}; give an existing file to --images")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not a list of image entries.
    #[error(
        "{path} is not an image map: {source}; each entry has image, command, and optionally env, keepCommand, rewrite"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_yaml::Error,
    },
}

impl ImageMap {
    /// Reads a map from a YAML file.
    pub fn read(path: &Path) -> Result<Self, ImageMapError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ImageMapError::Read { path: path.to_owned(), source })?;
        serde_yaml::from_str(&text).map_err(|source| ImageMapError::Parse { path: path.to_owned(), source })
    }

    /// The entry for an image: an exact match first, then one that names the image without tag and digest.
    pub fn find(&self, image: &str) -> Option<&ImageEntry> {
        self.entries
            .iter()
            .find(|entry| entry.image == image)
            .or_else(|| self.entries.iter().find(|entry| entry.image == without_version(image)))
    }
}

impl ImageEntry {
    /// The command line of a container of this image before any rewriting.
    pub(crate) fn command_line(&self, command: &[String], args: &[String]) -> Vec<String> {
        let base = if self.keep_command && !command.is_empty() { command } else { &self.command };
        let keeps_args = self.keep_command || command.is_empty();
        base.iter().chain(if keeps_args { args } else { &[] }).cloned().collect()
    }
}

/// `host:5000/name:tag@sha256:..` without tag and digest.
fn without_version(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("a.local/x:1", "a.local/x")]
    #[case("a.local:5000/x", "a.local:5000/x")]
    #[case("a.local:5000/x:v2@sha256:aa", "a.local:5000/x")]
    fn versions_are_ignored_when_the_entry_has_none(#[case] image: &str, #[case] entry: &str) {
        let map = ImageMap { entries: vec![ImageEntry { image: entry.to_owned(), ..ImageEntry::default() }] };
        assert!(map.find(image).is_some());
        assert!(map.find("other").is_none());
    }

    #[rstest]
    #[case::replaced(false, &["/bin/sh", "-c"], &["x"], &["prog", "serve"])]
    #[case::args_kept(false, &[], &["--v=4"], &["prog", "serve", "--v=4"])]
    #[case::own_command(true, &["/bin/sh", "-c"], &["x"], &["/bin/sh", "-c", "x"])]
    #[case::default_command(true, &[], &["x"], &["prog", "serve", "x"])]
    fn command_line(#[case] keep: bool, #[case] command: &[&str], #[case] args: &[&str], #[case] expected: &[&str]) {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let entry = ImageEntry { command: own(&["prog", "serve"]), keep_command: keep, ..ImageEntry::default() };
        assert_eq!(entry.command_line(&own(command), &own(args)), own(expected));
    }

    #[test]
    fn wrong_keys_are_refused() {
        assert!(serde_yaml::from_str::<ImageMap>("- image: a\n  comand: [x]\n").is_err());
    }
}
