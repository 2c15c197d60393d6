//! Why a command failed, in the words and with the exit status of `oc`.

use kube::core::Status;

/// The end of a command that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or its input cannot be used.
    #[error("error: {0}")]
    Usage(String),
    /// The API server refused; `context` says what was being done, such as `error when creating "file"`.
    #[error("{}", server(.status, .context.as_deref()))]
    Server { status: Box<Status>, context: Option<String> },
    /// The API server could not be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Help was asked for; goes to standard output and is no failure.
    #[error("{0}")]
    Help(String),
    /// Another program ended with this status and has said why.
    #[error("command terminated with exit code {0}")]
    Exit(i32),
    /// Every cause was printed already.
    #[error("")]
    Reported,
}

impl Failure {
    /// A failure of the command line or of its input.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(message.into())
    }

    /// The process's exit status.
    pub fn exit_code(&self) -> i32 {
        match self {
            Failure::Help(_) => 0,
            Failure::Exit(code) => *code,
            _ => 1,
        }
    }

    /// Adds what was being done, for refusals of the server.
    pub fn when(self, doing: impl FnOnce() -> String) -> Self {
        match self {
            Failure::Server { status, context: None } => Failure::Server { status, context: Some(doing()) },
            other => other,
        }
    }

    /// True when the server said that the object or its kind does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Failure::Server { status, .. } if status.reason == "NotFound" || status.code == 404)
    }

    /// True when the server said that the object exists.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Failure::Server { status, .. } if status.reason == "AlreadyExists")
    }

    /// True when another writer was faster.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Failure::Server { status, .. } if status.reason == "Conflict")
    }

    /// True when the server allows the user no such request.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Failure::Server { status, .. } if status.code == 403)
    }

    /// Turns an error of the client into a failure; `server` is the address that was asked.
    pub fn from_client(error: kube::Error, server: &str) -> Self {
        match error {
            kube::Error::Api(status) => Failure::Server { status, context: None },
            other => {
                let chain = chain(&other);
                if chain.contains("Connection refused") {
                    return Failure::Unreachable(format!(
                        "The connection to the server {server} was refused - did you specify the right host or port?"
                    ));
                }
                if chain.contains("UnknownIssuer") {
                    return Failure::Unreachable(
                        "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown authority".into(),
                    );
                }
                Failure::Unreachable(format!("Unable to connect to the server: {chain}"))
            }
        }
    }
}

/// An error and everything that led to it, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = next.source();
    }
    text
}

fn server(status: &Status, context: Option<&str>) -> String {
    if status.reason == "Unauthorized" || status.code == 401 {
        return "error: You must be logged in to the server (Unauthorized)".into();
    }
    let details = status.details.as_ref();
    if status.reason == "Invalid"
        && let Some(details) = details.filter(|details| !details.kind.is_empty())
    {
        let causes: Vec<String> = details
            .causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect();
        let named = format!("The {} {:?} is invalid", details.kind, details.name);
        return match causes.as_slice() {
            [] => named,
            [only] => format!("{named}: {only}"),
            many => format!("{named}: \n* {}", many.join("\n* ")),
        };
    }
    if status.reason == "Invalid" {
        return format!("The request is invalid: {}", status.message);
    }
    let message = match context {
        Some(context) => format!("{context}: {}", status.message),
        None => status.message.clone(),
    };
    match status.reason.as_str() {
        "" => format!("Error from server: {message}"),
        reason => format!("Error from server ({reason}): {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({"code": 404, "reason": "NotFound", "message": "configs.imageregistry.operator.openshift.io \"cluster\" not found"}), None,
        "Error from server (NotFound): configs.imageregistry.operator.openshift.io \"cluster\" not found")]
    #[case(json!({"code": 409, "reason": "AlreadyExists", "message": "x already exists"}), Some("error when creating \"f.yaml\""),
        "Error from server (AlreadyExists): error when creating \"f.yaml\": x already exists")]
    #[case(json!({"code": 401, "reason": "Unauthorized", "message": "Unauthorized"}), None, "error: You must be logged in to the server (Unauthorized)")]
    #[case(json!({"code": 422, "reason": "Invalid", "message": "m", "details": {"kind": "Config", "name": "cluster", "causes": [{"field": "spec.replicas", "message": "bad"}]}}), None,
        "The Config \"cluster\" is invalid: spec.replicas: bad")]
    #[case(json!({"code": 503, "message": "later"}), None, "Error from server: later")]
    fn texts(#[case] status: serde_json::Value, #[case] context: Option<&str>, #[case] expected: &str) {
        let status: Status = serde_json::from_value(status).expect("a status");
        assert_eq!(server(&status, context), expected);
    }
}
