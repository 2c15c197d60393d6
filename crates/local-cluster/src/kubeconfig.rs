//! Kubeconfig files for one server and one identity, in the form every Kubernetes client reads.
//! Written with mode 0600; tokens stand inside, certificates are named by path.

use std::path::Path;

use serde_json::json;

use crate::pki::CertificateFiles;
use crate::{Error, secret_file};

/// How the holder of a kubeconfig shows who it is.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A bearer token, which also passes through proxies that terminate TLS.
    Token(&'a str),
    /// A client certificate, which does not.
    Certificate(&'a CertificateFiles),
}

/// Writes a kubeconfig for `server` whose certificate `authority` signed, with one context named after `user`.
///
/// # Errors
/// [`Error::File`] when the file cannot be written.
pub fn write(path: &Path, server: &str, authority: &Path, user: &str, credential: Credential<'_>) -> Result<(), Error> {
    let credential = match credential {
        Credential::Token(token) => json!({ "token": token }),
        Credential::Certificate(files) => {
            json!({ "client-certificate": files.certificate, "client-key": files.key })
        }
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "local", "cluster": { "server": server, "certificate-authority": authority } }],
        "users": [{ "name": user, "user": credential }],
        "contexts": [{ "name": user, "context": { "cluster": "local", "user": user, "namespace": "default" } }],
        "current-context": user,
    });
    let text = serde_json::to_vec_pretty(&config).expect("a kubeconfig has only text in it");
    // JSON is YAML, and unlike a YAML writer it leaves no doubt about what is a string.
    secret_file::write(path, &text)
}
