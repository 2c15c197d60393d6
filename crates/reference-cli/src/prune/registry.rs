//! The registry's side of pruning: removes layer links, manifests and blobs over HTTP.
//!
//! Source: image-registry pkg/dockerregistry/server/admin.go:22-46; oc prune.go:1497.

use super::graph::Link;
use crate::command_line::Arguments;
use crate::failure::{Failure, chain};
use crate::session::Session;
use crate::trust;
use reqwest::{Certificate, Client, StatusCode};
use secrecy::ExposeSecret;

/// A registry that removes what it is told to.
pub(super) struct Registry {
    base: String,
    client: Client,
    token: String,
}

impl Registry {
    /// Prepares to speak to the registry at `address`, which is taken as HTTPS unless it says otherwise.
    pub(super) async fn new(session: &Session, args: &Arguments, address: &str) -> Result<Self, Failure> {
        let base = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let mut authorities = Vec::new();
        for path in args.text("certificate-authority").map(Into::into).into_iter().chain(trust::environment_file()) {
            authorities.extend(trust::read(&path)?);
        }
        let certificates: Vec<Certificate> =
            authorities.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        let client = Client::builder()
            .tls_certs_merge(certificates)
            .tls_danger_accept_invalid_certs(args.is_on("force-insecure"))
            .build()
            .map_err(|error| Failure::usage(format!("could not make a client for the registry: {}", chain(&error))))?;
        let login = &session.connection().await?.config.auth_info;
        let token = match (&login.token, &login.token_file) {
            (Some(token), _) => token.expose_secret().to_owned(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("unable to read the token in {path}: {error}")))?,
            (None, None) => {
                return Err(Failure::usage(
                    "you must use a client config with a token; log in with 'oc login', or leave the registry alone with --prune-registry=false",
                ));
            }
        };
        Ok(Registry { base: base.trim_end_matches('/').to_owned(), client, token: token.trim().to_owned() })
    }

    /// Makes sure that the registry answers before anything is removed.
    pub(super) async fn ping(&self) -> Result<(), Failure> {
        let failed = |why: String| {
            Failure::usage(format!(
                "failed to ping registry {}: {why}\n* Please provide a reachable route to the integrated registry using --registry-url.",
                self.base
            ))
        };
        let answer =
            self.client.get(format!("{}/healthz", self.base)).send().await.map_err(|error| failed(chain(&error)))?;
        if answer.status().is_success() { Ok(()) } else { Err(failed(format!("it answered {}", answer.status()))) }
    }

    pub(super) async fn delete_layer_link(&self, link: &Link) -> Result<(), Failure> {
        self.delete(&format!("v2/{}/blobs/{}", link.repository, link.digest)).await
    }

    pub(super) async fn delete_manifest(&self, link: &Link) -> Result<(), Failure> {
        self.delete(&format!("v2/{}/manifests/{}", link.repository, link.digest)).await
    }

    pub(super) async fn delete_blob(&self, digest: &str) -> Result<(), Failure> {
        self.delete(&format!("admin/blobs/{digest}")).await
    }

    /// What is not there any more counts as removed.
    async fn delete(&self, path: &str) -> Result<(), Failure> {
        let url = format!("{}/{path}", self.base);
        let sent = self.client.delete(&url).bearer_auth(&self.token).send().await;
        let answer = sent.map_err(|error| Failure::usage(format!("failed to delete {url}: {}", chain(&error))))?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            status => {
                let body = answer.text().await.unwrap_or_default();
                let body: String = body.chars().take(200).collect();
                Err(Failure::usage(format!("failed to delete {url}: the registry answered {status}: {body}")))
            }
        }
    }
}
