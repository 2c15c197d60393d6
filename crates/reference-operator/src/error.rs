//! What can go wrong in the operator: errors that end the process, and errors of one reconciliation.
//! How a reconciliation error shows in conditions is decided in `status`.

use std::time::Duration;

/// Why [`crate::run`] ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable configuration for talking to the API server.
    #[error("could not find out how to reach the Kubernetes API: {reason}; pass --kubeconfig, or set KUBECONFIG")]
    Kubeconfig { reason: String },
    /// The client could not be built from the configuration found.
    #[error("could not build a Kubernetes client: {source}; check the certificates named in the kubeconfig")]
    Client { source: kube::Error },
    /// Another process took the lease, or it could not be renewed in time.
    #[error("lost the leader lease {name}: {reason}; another operator may be acting now, start this one again")]
    LeaseLost { name: String, reason: String },
    /// The metrics address could not be bound.
    #[error("could not serve metrics on {address}: {source}; choose another METRICS_ADDRESS")]
    Metrics { address: std::net::SocketAddr, source: std::io::Error },
}

/// Why one reconciliation did not finish; its text is what users read in the Config's conditions.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The Config asks for something impossible; not tried again until something changes.
    #[error("{message}")]
    Verification { message: String },
    /// No storage is configured and the platform offers none; not tried again until something changes.
    #[error("storage backend not configured")]
    StorageNotConfigured,
    /// The storage cannot be used as it is; tried again.
    #[error("unable to sync storage configuration: {message}")]
    Storage { message: String },
    /// Something another component provides is missing or unusable; tried again.
    #[error("{message}")]
    Missing { message: String },
    /// The API server refused a call or could not be reached.
    #[error("unable to {action}: {source}")]
    Api { action: String, source: Box<kube::Error> },
    /// An object could not be turned into its type; always a bug or a foreign schema.
    #[error("unable to read {what}: {source}")]
    Shape { what: String, source: serde_json::Error },
    /// A whole reconciliation took too long, usually because the API server does not answer.
    #[error("the reconciliation was given up after {} s without an answer", limit.as_secs())]
    TooSlow { limit: Duration },
}

impl SyncError {
    /// Wraps an error of the API server with what was attempted.
    pub fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api { action, source: Box::new(source) }
    }

    /// The reason of a permanent error, `None` for one that is tried again
    /// (operator source pkg/operator/controller.go:215,225, main).
    pub fn permanent_reason(&self) -> Option<&'static str> {
        match self {
            Self::Verification { .. } => Some("VerificationFailed"),
            Self::StorageNotConfigured => Some("StorageNotConfigured"),
            _ => None,
        }
    }

    /// Whether somebody else wrote the object in between, so that trying again at once is the right answer.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_code(source, 409))
    }
}

/// Whether the API server answered with this HTTP status code.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
