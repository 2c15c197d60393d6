//! Why a storage product could not be had. Each text says what was tried, what was seen and what to do.

use std::path::PathBuf;
use std::time::Duration;

use harness::failure::Failure;

/// Failure to read about, start or reach a storage product.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A backend file does not have the form it should.
    #[error(transparent)]
    Data(#[from] harness::datafile::DataError),
    /// A backend file is well-formed but means nothing.
    #[error("{place}: {message}")]
    Meaning {
        /// File and line.
        place: harness::datafile::Place,
        /// What is wrong and what is right.
        message: String,
    },
    /// No backend has this name.
    #[error("there is no storage backend {name:?}; there are: {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names of all backend files.
        known: String,
    },
    /// A child process could not be found, started or kept.
    #[error(transparent)]
    Process(#[from] local_cluster::Error),
    /// A file could not be read or written.
    #[error("cannot {act} {path}: {source}", path = .path.display())]
    File {
        /// The act, such as "read".
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An HTTP client could not be made, mostly because of a certificate.
    #[error("cannot make a client for {url}: {reason}")]
    Client {
        /// Where it should have led.
        url: String,
        /// The chain of causes.
        reason: String,
    },
    /// The product runs but does not answer as healthy.
    #[error("{what} did not answer as healthy within {within:?}; last seen: {last_seen}")]
    NotHealthy {
        /// The product and its address.
        what: String,
        /// The limit.
        within: Duration,
        /// The last observation.
        last_seen: String,
    },
    /// There is no container engine. A scenario that needs one is not run for this reason.
    #[error(
        "no container engine can be reached ({reason}); start Docker or set DOCKER_HOST, or use a backend that runs as a process"
    )]
    NoContainers {
        /// What the client said.
        reason: String,
    },
    /// The key of a service account could not be made.
    #[error("{program} cannot make the key of a service account: {reason}; install {program}")]
    NoKey {
        /// The program.
        program: &'static str,
        /// What was seen.
        reason: String,
    },
    /// No address to listen on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The container engine has no image that would do, and none may be pulled.
    #[error(
        "the container engine has neither {archive} nor {image}, and none may be pulled; build the archive with \
         ci/air-gap and load it with --images"
    )]
    NoImage {
        /// What an archive would have brought.
        archive: String,
        /// What was published.
        image: String,
    },
    /// The container engine refused.
    #[error("cannot start the container {image}: {reason}")]
    Container {
        /// Image with tag or digest.
        image: String,
        /// What the engine said.
        reason: String,
    },
    /// A variable that a vendor endpoint takes its credentials from is not set.
    #[error("backend {backend} takes its {what} from the variable {variable}, which is not set")]
    NoCredential {
        /// Name of the backend.
        backend: String,
        /// Which part is missing.
        what: &'static str,
        /// The variable.
        variable: String,
    },
}

impl Error {
    /// As the failure of a step: ours, not the judged system's.
    pub fn failure(&self, tried: impl Into<String>) -> Failure {
        Failure::error(tried, self)
    }

    /// Why a free port of an address could not be had.
    pub(crate) fn listening(listen: std::net::IpAddr) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Listen { address: std::net::SocketAddr::new(listen, 0), source }
    }
}
