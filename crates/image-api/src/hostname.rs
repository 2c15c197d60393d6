//! Under which host names the registry is known: the internal one that pull specs of streams carry, and the
//! external one of a route. Both come from `image.config.openshift.io/cluster` and are followed by a watch.

use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, core::GroupVersionKind};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{name_of, namespace_of};

/// The names that hold now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hostnames {
    /// `status.internalRegistryHostname`, or the configured default; empty means there is no registry.
    pub internal: String,
    /// The first of `spec.externalRegistryHostnames` and `status.externalRegistryHostnames`, or empty.
    pub external: String,
}

impl Hostnames {
    fn read(config: &Value, default: &str) -> Self {
        let internal = config.pointer("/status/internalRegistryHostname").and_then(Value::as_str).unwrap_or_default();
        let first = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Self {
            internal: if internal.is_empty() { default } else { internal }.to_owned(),
            external: first("/spec/externalRegistryHostnames/0")
                .or_else(|| first("/status/externalRegistryHostnames/0"))
                .unwrap_or_default(),
        }
    }

    /// Fills the repository names of a stream's status. They are never stored as clients send them: without
    /// `dockerImageRepository` the registry takes itself for a remote one and looks its own name up.
    pub fn decorate(&self, stream: &mut Value) {
        let own = format!("{}/{}", namespace_of(stream), name_of(stream));
        let elsewhere = stream.pointer("/spec/dockerImageRepository").and_then(Value::as_str).unwrap_or_default();
        let repository =
            if self.internal.is_empty() { elsewhere.to_owned() } else { format!("{}/{own}", self.internal) };
        if !stream["status"].is_object() {
            stream["status"] = serde_json::json!({});
        }
        stream["status"]["dockerImageRepository"] = repository.into();
        let Some(status) = stream["status"].as_object_mut() else { return };
        if self.external.is_empty() {
            status.remove("publicDockerImageRepository");
        } else {
            status.insert("publicDockerImageRepository".into(), format!("{}/{own}", self.external).into());
        }
    }
}

/// Follows the cluster's image configuration until `stop`; the receiver always holds the names that apply.
pub fn follow(client: Client, default: String, stop: CancellationToken) -> watch::Receiver<Hostnames> {
    let (sender, receiver) = watch::channel(Hostnames::read(&Value::Null, &default));
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            let run = observe(&client, &default, &sender);
            tokio::select! {
                () = stop.cancelled() => return,
                outcome = run => tracing::debug!(?outcome, "the watch of image.config.openshift.io/cluster ended"),
            }
            // The definition of this kind may come after us, and a kind that does not exist cannot be watched.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    });
    receiver
}

async fn observe(client: &Client, default: &str, sender: &watch::Sender<Hostnames>) -> Result<(), watcher::Error> {
    let kind =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("config.openshift.io", "v1", "Image"), "images");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let mut events = Box::pin(watcher(api, watcher::Config::default().fields("metadata.name=cluster")));
    let publish = |config: &Value| {
        let seen = Hostnames::read(config, default);
        sender.send_if_modified(|held| {
            let changed = *held != seen;
            if changed {
                tracing::info!(internal = seen.internal, external = seen.external, "registry host names");
                *held = seen;
            }
            changed
        });
    };
    while let Some(event) = events.try_next().await? {
        match event {
            Event::Apply(config) | Event::InitApply(config) => publish(&config.data),
            Event::Delete(_) => publish(&Value::Null),
            Event::Init | Event::InitDone => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({}), "default:5000", "")]
    #[case(json!({"status": {"internalRegistryHostname": "r.svc:5000"}}), "r.svc:5000", "")]
    #[case(json!({"status": {"externalRegistryHostnames": ["route.example"]}}), "default:5000", "route.example")]
    #[case(json!({"spec": {"externalRegistryHostnames": ["mine"]}, "status": {"externalRegistryHostnames": ["theirs"]}}), "default:5000", "mine")]
    fn names_are_read(#[case] config: Value, #[case] internal: &str, #[case] external: &str) {
        let expected = Hostnames { internal: internal.into(), external: external.into() };
        assert_eq!(Hostnames::read(&config, "default:5000"), expected);
    }

    #[test]
    fn clients_cannot_set_the_repository() {
        let names = Hostnames { internal: "r.svc:5000".into(), external: String::new() };
        let mut stream = json!({
            "metadata": {"name": "app", "namespace": "p"},
            "status": {"dockerImageRepository": "forged", "publicDockerImageRepository": "forged"},
        });
        names.decorate(&mut stream);
        assert_eq!(stream["status"], json!({"dockerImageRepository": "r.svc:5000/p/app"}));
    }
}
