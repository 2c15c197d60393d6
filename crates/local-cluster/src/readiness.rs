//! When a control plane counts as ready: kube-apiserver says so, and kube-controller-manager has published what every pod needs.
//! The second half is watched through the API, so that it is known the moment it happens.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::Value;

use crate::Error;
use crate::error::chain;

/// Distance between two looks at a server that does not accept connections yet; there is nothing to watch at that time.
const LOOK_AGAIN: Duration = Duration::from_millis(15);

/// Checks of `/readyz` that only concern others than administrators. They begin a second after everything else, and so
/// would be waited for with idle hands: the roles every cluster has, and the priority classes of system pods.
pub(crate) const FOR_OTHERS: [&str; 2] =
    ["poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes"];

/// A minimal client of the API server with the admin's token.
#[derive(Debug)]
pub(crate) struct Observer {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Observer {
    pub(crate) fn new(url: &str, authority_pem: &str, token: &str) -> Result<Observer, Error> {
        let failed =
            |error: reqwest::Error| Error::Request { what: format!("a client for {url}"), reason: chain(&error) };
        let authority = reqwest::Certificate::from_pem(authority_pem.as_bytes()).map_err(failed)?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().map_err(failed)?;
        Ok(Observer { client, url: url.to_owned(), token: token.to_owned() })
    }

    /// Waits until `/readyz` answers 200, not asking about the checks in `but`. Has no clock of its own; `last_seen`
    /// always holds the latest observation.
    pub(crate) async fn ready(&self, but: &[&str], last_seen: &LastSeen) {
        let but: Vec<_> = but.iter().map(|check| ("exclude", *check)).collect();
        loop {
            let asked = self.client.get(format!("{}/readyz", self.url)).query(&but).bearer_auth(&self.token);
            match asked.send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => {
                    let status = answer.status();
                    let body = answer.text().await.unwrap_or_default();
                    let failing: Vec<&str> = body.lines().filter(|line| line.starts_with("[-]")).collect();
                    last_seen.set(format!("/readyz: {status} {}", failing.join("; ")));
                }
                Err(error) => last_seen.set(format!("/readyz: {}", chain(&error))),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits by watch until the object called `name` exists in the collection at `path`.
    pub(crate) async fn exists(&self, path: &str, name: &str, last_seen: &LastSeen) {
        loop {
            last_seen.set(format!("{path} has no {name}"));
            if let Err(error) = self.watch(path, name).await {
                last_seen.set(format!("{path}: {}", chain(error.as_ref())));
                tokio::time::sleep(LOOK_AGAIN).await;
            } else {
                return;
            }
        }
    }

    /// A watch without a resource version begins with what is there, so no event can be missed.
    async fn watch(&self, path: &str, name: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let selector = format!("metadata.name={name}");
        let answer = self
            .client
            .get(format!("{}{path}", self.url))
            .query(&[("watch", "true"), ("fieldSelector", selector.as_str())])
            .bearer_auth(&self.token)
            .send()
            .await?
            .error_for_status()?;
        let mut stream = answer.bytes_stream();
        let mut buffered = Vec::new();
        while let Some(bytes) = stream.next().await {
            buffered.extend_from_slice(&bytes?);
            while let Some(end) = buffered.iter().position(|byte| *byte == b'\n') {
                let event: Value = serde_json::from_slice(&buffered[..end])?;
                if matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED")) {
                    return Ok(());
                }
                buffered.drain(..=end);
            }
        }
        Err("the watch ended".into())
    }
}

/// The latest observation of a wait, kept for the message of its deadline.
#[derive(Default)]
pub(crate) struct LastSeen(std::sync::Mutex<String>);

impl LastSeen {
    pub(crate) fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = text;
    }

    fn get(&self) -> String {
        let text = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        if text.is_empty() { "nothing".to_owned() } else { text }
    }
}

/// Runs a wait against the deadline that all waits of a start share.
pub(crate) async fn before<T>(
    deadline: Instant,
    started: Instant,
    log: &Path,
    awaited: &str,
    last_seen: &LastSeen,
    wait: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::time::timeout_at(deadline.into(), wait).await.map_err(|_| Error::NotReady {
        name: "the control plane".to_owned(),
        within: deadline.duration_since(started),
        awaited: awaited.to_owned(),
        last_seen: last_seen.get(),
        log: log.to_owned(),
    })
}
