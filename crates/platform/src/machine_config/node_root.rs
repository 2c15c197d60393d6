//! The node's file system, as far as rendered files are brought onto it. A note of what was brought lies beside them, so
//! that a file that is no longer rendered can go, also after a restart.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rendered::Rendered;

/// Where the machine config daemon keeps what it has applied (machine-config-operator source
/// pkg/daemon/constants/constants.go, `CurrentMachineConfigPath`).
const NOTE: &str = "etc/machine-config-daemon/currentconfig";

/// A file could not be brought to its wanted content.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {source}; is the node's root mounted and writable?", .path.display())]
pub(super) struct NodeFileError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What was brought onto the node last.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    name: String,
    files: BTreeSet<String>,
}

/// A folder that is the root of a node.
pub(super) struct NodeRoot {
    root: PathBuf,
}

impl NodeRoot {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether anything has to be written or removed.
    pub(super) fn differs_from(&self, rendered: &Rendered) -> bool {
        self.note() != note_of(rendered)
            || rendered.files.iter().any(|(path, text)| !holds(&self.place(path), text.as_bytes()))
    }

    /// Writes what differs, removes what is no longer rendered, and returns the paths that changed. Readers never see
    /// half a file.
    ///
    /// # Errors
    /// When a file cannot be written or removed; the ones before it are as wanted.
    pub(super) fn apply(&self, rendered: &Rendered) -> Result<Vec<String>, NodeFileError> {
        let mut changed = Vec::new();
        for (path, text) in &rendered.files {
            let place = self.place(path);
            if !holds(&place, text.as_bytes()) {
                replace(&place, text.as_bytes())?;
                changed.push(path.clone());
            }
        }
        let note = note_of(rendered);
        for path in self.note().files.difference(&note.files) {
            let place = self.place(path);
            match std::fs::remove_file(&place) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(NodeFileError { doing: "removing", path: place, source });
                }
                _ => changed.push(path.clone()),
            }
        }
        let text = serde_json::to_vec(&note).unwrap_or_default();
        replace(&self.root.join(NOTE), &text)?;
        Ok(changed)
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn note(&self) -> Note {
        let text = std::fs::read(self.root.join(NOTE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

fn note_of(rendered: &Rendered) -> Note {
    Note { name: rendered.name.clone(), files: rendered.files.keys().cloned().collect() }
}

fn holds(path: &Path, content: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|present| present == content)
}

/// Writes beside the file and moves over it.
fn replace(path: &Path, content: &[u8]) -> Result<(), NodeFileError> {
    let wrong = |source| NodeFileError { doing: "writing", path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(wrong)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = folder.join(format!(".{name}.new"));
    std::fs::write(&fresh, content).map_err(wrong)?;
    std::fs::rename(&fresh, path).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(name: &str, files: &[(&str, &str)]) -> Rendered {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Rendered { name: name.into(), files }
    }

    #[test]
    fn files_come_change_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let root = || NodeRoot::new(folder.path().to_owned());
        let (conf, search) = ("/etc/containers/registries.conf", "/etc/containers/registries.conf.d/01-search.conf");
        let both = rendered("a", &[(conf, "1"), (search, "2")]);
        assert!(root().differs_from(&both));
        assert_eq!(root().apply(&both).unwrap(), [conf, search]);
        assert!(!root().differs_from(&both));
        let one = rendered("b", &[(conf, "1")]);
        assert!(root().differs_from(&one), "after a restart, too");
        assert_eq!(root().apply(&one).unwrap(), [search]);
        assert!(!folder.path().join(search.trim_start_matches('/')).exists());
        let listed = std::fs::read_dir(folder.path().join("etc/containers")).unwrap().count();
        assert_eq!(listed, 2, "registries.conf and the folder of drop-ins");
    }

    #[test]
    fn a_file_changed_by_hand_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = NodeRoot::new(folder.path().to_owned());
        let wanted = rendered("a", &[("/etc/containers/policy.json", "{}")]);
        root.apply(&wanted).unwrap();
        std::fs::write(folder.path().join("etc/containers/policy.json"), "x").unwrap();
        assert!(root.differs_from(&wanted));
        assert_eq!(root.apply(&wanted).unwrap(), ["/etc/containers/policy.json"]);
    }

    #[test]
    fn a_root_that_cannot_be_written_is_named() {
        let error = NodeRoot::new("/proc/none".into()).apply(&rendered("a", &[("/x", "1")])).unwrap_err();
        assert!(error.to_string().starts_with("writing /proc/none/x: "), "{error}");
    }
}
