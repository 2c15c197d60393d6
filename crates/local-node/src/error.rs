//! Why the nodes cannot run. What goes wrong with a single pod is told in its status and events instead.

use std::path::PathBuf;

/// Errors of [`crate::run`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {path} cannot be used: {source}; give one with administrator rights to --kubeconfig")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image map cannot be used.
    #[error(transparent)]
    Images(#[from] crate::image_map::ImageMapError),
    /// A file or folder of the nodes cannot be made or read.
    #[error("{action} {path} failed: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Starting the thread or the shell that processes depend on failed.
    #[error("starting the guard of the pods' processes (/bin/sh) failed: {source}")]
    Spawner {
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kubelet API cannot be served.
    #[error("serving the kubelet API of {node} failed: {reason}")]
    Serve {
        /// The node.
        node: String,
        /// What went wrong.
        reason: String,
    },
    /// The API server refuses the node.
    #[error("node {node} could not be registered: {source}; the kubeconfig needs administrator rights")]
    Register {
        /// The node.
        node: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// The HTTP client for probes cannot be built.
    #[error("building the HTTP client for probes failed: {source}")]
    ProbeClient {
        /// What is wrong.
        source: reqwest::Error,
    },
    /// The network number, the count of nodes or an address is out of range.
    #[error("{what} is {value}, which is not possible; {hint}")]
    Option {
        /// The option.
        what: &'static str,
        /// Its value.
        value: String,
        /// What would be possible.
        hint: &'static str,
    },
}
