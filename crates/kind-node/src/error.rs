//! What can go wrong in a node's helper; the text goes to the node's console, where `docker logs` and `kubectl logs` show it.

/// Failure of one act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is none of ours.
    #[error("{0}")]
    Usage(&'static str),
    /// The system refused something.
    #[error("cannot {act} {what}: {source}")]
    System {
        /// The act in words.
        act: &'static str,
        /// What it was done to.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program that was run did not succeed.
    #[error("{command} failed with {status}: {said}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote.
        said: String,
    },
    /// A variable that the DaemonSet or kind sets is missing.
    #[error("the variable {0} is not set; this program is started by the manifest that kind applies")]
    Variable(&'static str),
    /// The cluster could not be asked.
    #[error("cannot ask the cluster for its nodes: {0}")]
    Cluster(String),
    /// A file is not what it should be.
    #[error("{file} is not as expected: {reason}")]
    Content {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Makes a closure for `map_err` that keeps the act.
    pub fn system(act: &'static str, what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::System { act, what, source }
    }
}
