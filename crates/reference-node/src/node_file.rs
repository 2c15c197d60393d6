//! One file of the node, replaced as a whole or left alone. Readers never see half a file.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file could not be brought to its wanted content.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} {path}: {source}; check that the node's root is mounted and writable")]
pub struct NodeFileError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl NodeFileError {
    pub(crate) fn new(act: &'static str, path: &Path, source: io::Error) -> Self {
        NodeFileError { act, path: path.to_owned(), source }
    }
}

/// Makes `path` hold exactly `content` (mode 0644) and says whether anything had to change.
///
/// The new content is written beside the file and moved over it, so that an interrupted write leaves the old file.
///
/// # Errors
/// The folder or the file cannot be read or written.
pub fn put(path: &Path, content: &[u8]) -> Result<bool, NodeFileError> {
    if holds(path, Some(content))? {
        return Ok(false);
    }
    replace(path, content).map_err(|source| NodeFileError::new("write", path, source))?;
    Ok(true)
}

/// True when `path` holds exactly `content`, or does not exist where `content` is `None`.
///
/// # Errors
/// The file is there and cannot be read.
pub fn holds(path: &Path, content: Option<&[u8]>) -> Result<bool, NodeFileError> {
    match std::fs::read(path) {
        Ok(present) => Ok(content.is_some_and(|content| content == present)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(content.is_none()),
        Err(source) => Err(NodeFileError::new("read", path, source)),
    }
}

/// The text of `path`, or `None` when it does not exist; what is not text in it is replaced.
///
/// # Errors
/// The file is there and cannot be read.
pub fn text(path: &Path) -> Result<Option<String>, NodeFileError> {
    match std::fs::read(path) {
        Ok(present) => Ok(Some(String::from_utf8_lossy(&present).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NodeFileError::new("read", path, source)),
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let mut fresh = tempfile::Builder::new().prefix(".").suffix(".new").tempfile_in(folder)?;
    fresh.write_all(content)?;
    fresh.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    fresh.as_file().sync_all()?;
    fresh.persist(path)?;
    Ok(())
}

/// Makes `path` not exist and says whether it did.
///
/// # Errors
/// The file is there and cannot be removed.
pub fn remove(path: &Path) -> Result<bool, NodeFileError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(NodeFileError::new("remove", path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_only_what_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("etc/containers/registries.conf");
        assert!(put(&path, b"one").expect("first write"));
        let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).expect("metadata"));
        let first = inode();
        assert!(!put(&path, b"one").expect("same content"));
        assert_eq!(first, inode(), "an unchanged file is not touched");
        assert!(put(&path, b"two").expect("second write"));
        assert_eq!(std::fs::read(&path).expect("content"), b"two");
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().expect("folder")).expect("listing").count(), 1);
        assert!(remove(&path).expect("removal"));
        assert!(!remove(&path).expect("second removal"));
    }

    #[test]
    fn says_which_file() {
        let error = put(Path::new("/proc/no-such/file"), b"x").expect_err("not writable").to_string();
        assert!(error.contains("/proc/no-such/file"), "{error}");
    }
}
