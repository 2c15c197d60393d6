//! What can go wrong between files and a finished archive. Every text says what was tried, what was seen and what helps.

use std::path::{Path, PathBuf};

/// Failure of one act of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written, made or renamed.
    #[error("cannot {act} {path}: {source}{remedy}", path = .path.display(), remedy = remedy(.source))]
    File {
        /// The act in words, such as "write".
        act: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is no executable of Linux, or the loader does not find what it needs.
    #[error("cannot tell which libraries {path} needs: {reason}", path = .path.display())]
    Libraries {
        /// The executable.
        path: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// An archive is not one that `docker save` or this crate writes.
    #[error("{path} is no docker-archive: {reason}; make it again or remove it", path = .path.display())]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Makes a closure for `map_err` that keeps the act and the path.
    pub(crate) fn file(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::File { act, path, source }
    }
}

fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; make room on that disk, or name a folder on another one"
        }
        std::io::ErrorKind::PermissionDenied => "; check who may write there",
        _ => "",
    }
}
