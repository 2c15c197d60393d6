//! The node's per-registry trust folders: one folder per certificate, and a ledger of the ones made here.

use crate::node_file::{self, NodeFileError};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Names the folders made by node-ca, one a line, so that a folder placed by hand is never removed.
const LEDGER: &str = ".node-ca-folders";

/// Why the trust folders could not follow the source.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustFolderError {
    #[error("could not read the certificates in {path}: {source}; check the mounted ConfigMap")]
    Source { path: PathBuf, source: io::Error },
    #[error("could not remove {path}: {source}; check that the node's trust folder is writable")]
    Remove { path: PathBuf, source: io::Error },
    #[error(transparent)]
    File(#[from] NodeFileError),
}

/// How many certificates were written, were right already, and were removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) copied: usize,
    pub(super) skipped: usize,
    pub(super) trimmed: usize,
}

impl Change {
    pub(super) fn is_any(&self) -> bool {
        self.copied + self.trimmed > 0
    }
}

pub(super) struct TrustFolder(PathBuf);

impl TrustFolder {
    pub(super) fn new(path: &Path) -> Self {
        TrustFolder(path.to_owned())
    }

    /// Makes the trust folders hold what `source` holds now.
    pub(super) fn follow(&self, source: &Path) -> Result<Change, TrustFolderError> {
        let Some(certificates) = read(source)? else {
            tracing::debug!(path = %source.display(), "no certificates are mounted yet");
            return Ok(Change::default());
        };
        let owned = self.owned();
        let wanted: BTreeSet<String> = certificates.keys().cloned().collect();
        let known: BTreeSet<String> = owned.union(&wanted).cloned().collect();
        self.record(&known)?;
        let mut change = Change::default();
        for (registry, certificate) in &certificates {
            match node_file::put(&self.0.join(registry).join("ca.crt"), certificate)? {
                true => change.copied += 1,
                false => change.skipped += 1,
            }
        }
        for stale in owned.difference(&wanted) {
            let path = self.0.join(stale);
            match std::fs::remove_dir_all(&path) {
                Ok(()) => change.trimmed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(TrustFolderError::Remove { path, source }),
            }
        }
        self.record(&wanted)?;
        Ok(change)
    }

    fn owned(&self) -> BTreeSet<String> {
        let ledger = std::fs::read_to_string(self.0.join(LEDGER)).unwrap_or_default();
        ledger.lines().filter(|name| is_folder_name(name)).map(str::to_owned).collect()
    }

    fn record(&self, folders: &BTreeSet<String>) -> Result<(), TrustFolderError> {
        let text: String = folders.iter().map(|name| format!("{name}\n")).collect();
        node_file::put(&self.0.join(LEDGER), text.as_bytes())?;
        Ok(())
    }
}

/// The certificates by folder name, or `None` when nothing is mounted.
fn read(source: &Path) -> Result<Option<BTreeMap<String, Vec<u8>>>, TrustFolderError> {
    let failed = |error| TrustFolderError::Source { path: source.to_owned(), source: error };
    let entries = match std::fs::read_dir(source) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut certificates = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let Some(key) = path.file_name().and_then(|name| name.to_str()).filter(|key| !key.starts_with("..")) else {
            continue;
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                certificates.insert(folder_name(key), std::fs::read(&path).map_err(failed)?);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Some(certificates))
}

/// The folder of a key: the last `..` stands for the colon before the port, which a ConfigMap key cannot hold
/// (OpenShift 4.6 registry docs, additional trust; operator source pkg/nodeca/nodeca.go:19-24, main).
fn folder_name(key: &str) -> String {
    match key.rsplit_once("..") {
        Some((host, port)) => format!("{host}:{port}"),
        None => key.to_owned(),
    }
}

fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("registry.example.com", "registry.example.com")]
    #[case("registry-with-port.example.com..5000", "registry-with-port.example.com:5000")]
    #[case("a..b..5000", "a..b:5000")]
    #[case("storage-ca-bundle.pem", "storage-ca-bundle.pem")]
    fn folder_names(#[case] key: &str, #[case] expected: &str) {
        assert_eq!(folder_name(key), expected);
    }

    #[test]
    fn counts_what_it_did() {
        let root = tempfile::tempdir().expect("a folder");
        let (source, target) = (root.path().join("source"), root.path().join("target"));
        let trust = TrustFolder::new(&target);
        assert_eq!(trust.follow(&source).expect("no source"), Change::default());
        std::fs::create_dir(&source).expect("a folder");
        std::fs::write(source.join("a..1"), "A").expect("a file");
        std::fs::write(source.join("b"), "B").expect("a file");
        assert_eq!(trust.follow(&source).expect("first"), Change { copied: 2, ..Change::default() });
        std::fs::remove_file(source.join("b")).expect("removal");
        assert_eq!(trust.follow(&source).expect("second"), Change { skipped: 1, trimmed: 1, ..Change::default() });
        assert_eq!(std::fs::read_to_string(target.join("a:1/ca.crt")).expect("a file"), "A");
        assert!(!target.join("b").exists());
    }
}
