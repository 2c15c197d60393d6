//! What can keep the platform from starting, each with what was tried and what to do next.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why the platform could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable kubeconfig.
    #[error("reading the kubeconfig{}: {source}; give one with --kubeconfig", .path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Kubeconfig {
        /// The file that was asked for; none if the usual places were searched.
        path: Option<PathBuf>,
        /// What was wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The API server refused or could not be reached.
    #[error("{doing}: {source}; is the API server up and is the kubeconfig's user a cluster administrator?")]
    Api {
        /// What was tried.
        doing: String,
        /// The client's error.
        source: Box<kube::Error>,
    },

    /// Something the API server should have done did not happen.
    #[error("waited {}s for {what}; last seen: {last}; look at the API server's log", .waited.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
        /// The last observation.
        last: String,
    },

    /// An address cannot be listened on.
    #[error("listening on {address} for the router: {source}; choose another address with --router-address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },

    /// A certificate could not be made or read.
    #[error("{doing}: {reason}")]
    Certificate {
        /// What was tried.
        doing: String,
        /// What was wrong.
        reason: String,
    },

    /// A file or folder could not be written.
    #[error("writing {}: {source}; is the folder there and writable?", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// The folder of a volume could not be removed.
    #[error("removing {}: {source}; it is tried again, and may be removed by hand", .path.display())]
    Remove {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// Wraps a client error with what was tried.
    pub(crate) fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Api { doing, source: Box::new(source) }
    }

    /// Wraps any certificate library's error with what was tried.
    pub(crate) fn certificate<E: std::fmt::Display>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |reason| Self::Certificate { doing, reason: reason.to_string() }
    }
}

/// True if the object was there already, or somebody else was faster; watches tell the rest.
pub(crate) fn is_lost_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// True if the object, or its whole resource, is not there.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
