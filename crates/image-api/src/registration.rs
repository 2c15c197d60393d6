//! Makes the API server know of this one: the definitions of the backing objects, an ExternalName Service that
//! leads here and the APIService that sends the group to it. Returns when requests really arrive.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use http::Method;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, core::GroupVersionKind};
use serde_json::{Value, json};

use crate::Front;
use crate::request::Query;
use crate::status::{GROUP, StatusError};
use crate::store::{Kind, Place, Store};

/// Namespace and name of the Service in front of this server, as on OpenShift.
pub const SERVICE_NAMESPACE: &str = "openshift-apiserver";
pub const SERVICE_NAME: &str = "api";
const MANAGER: &str = "registry-conformance-image-api";
/// How long the API server may take to accept the definitions, and then this server.
const DEADLINE: Duration = Duration::from_secs(60);

/// Why the API server does not send requests here.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("{what} could not be written: {source}")]
    Write { what: String, source: StatusError },
    #[error("waited 60s for {what}; last seen: {seen}; look at it with `kubectl get {what} -o yaml`")]
    NotReady { what: String, seen: String },
    #[error("the watch of {what} failed: {source}")]
    Watch { what: String, source: Box<watcher::Error> },
}

/// DNS name under which the API server verifies this server's certificate.
pub fn service_dns_name() -> String {
    format!("{SERVICE_NAME}.{SERVICE_NAMESPACE}.svc")
}

/// Defines the backing objects and waits until they can be used.
///
/// # Errors
/// If they are refused or are not established within a minute.
pub async fn define_storage(client: &Client, store: &Store) -> Result<(), RegistrationError> {
    const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let both = [Kind::Image, Kind::ImageStream].map(|kind| async move {
        let definition = kind.definition();
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        apply(store, PATH, &name, &definition).await?;
        wait_for_condition(client, ("apiextensions.k8s.io", "CustomResourceDefinition"), &name, "Established").await?;
        // Established means that the handler is being installed; it answers a moment later.
        let place = Place { kind, namespace: None };
        let list = || async move { store.list(place, &Query::default()).await };
        wait_for_answer(&format!("customresourcedefinition {name}"), list).await
    });
    futures::future::try_join_all(both).await.map(|_| ())
}

/// Registers the server that listens at `address` and waits until requests reach it.
///
/// # Errors
/// If an object is refused or the API server does not get through within a minute.
pub async fn register(
    client: &Client,
    store: &Store,
    address: SocketAddr,
    ca_pem: &str,
    front: Front,
) -> Result<(), RegistrationError> {
    if front == Front::ExternalName {
        lead_here(store, address).await?;
    }
    let name = format!("v1.{GROUP}");
    let api_service = json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name},
        "spec": {
            "group": GROUP,
            "version": "v1",
            "groupPriorityMinimum": 9900,
            "versionPriority": 15,
            "caBundle": STANDARD.encode(ca_pem),
            "service": {"namespace": SERVICE_NAMESPACE, "name": SERVICE_NAME, "port": address.port()},
        },
    });
    apply(store, "/apis/apiregistration.k8s.io/v1/apiservices", &name, &api_service).await?;
    wait_for_condition(client, ("apiregistration.k8s.io", "APIService"), &name, "Available").await?;
    // After a restart the condition may still speak of the server before us.
    let path = format!("/apis/{GROUP}/v1");
    wait_for_answer(&format!("apiservice {name}"), || async {
        store.call(Method::GET, &path, &Query::default(), None).await
    })
    .await
}

/// Makes a Service that leads from the cluster to the listener beside it.
async fn lead_here(store: &Store, address: SocketAddr) -> Result<(), RegistrationError> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SERVICE_NAMESPACE}});
    apply(store, "/api/v1/namespaces", SERVICE_NAMESPACE, &namespace).await?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE_NAME, "namespace": SERVICE_NAMESPACE},
        "spec": {
            "type": "ExternalName",
            "externalName": external_name(address),
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
        },
    });
    apply(store, &format!("/api/v1/namespaces/{SERVICE_NAMESPACE}/services"), SERVICE_NAME, &service).await
}

/// `localhost` for the usual loopback address, otherwise the address itself.
fn external_name(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip == std::net::Ipv4Addr::LOCALHOST || ip.is_unspecified() => "localhost".into(),
        ip => ip.to_string(),
    }
}

async fn apply(store: &Store, path: &str, name: &str, object: &Value) -> Result<(), RegistrationError> {
    let query = Query::default().with("fieldManager", Some(MANAGER)).with("force", Some("true"));
    let written = store.call(Method::PATCH, &format!("{path}/{name}"), &query, Some(object)).await;
    let kind = object["kind"].as_str().unwrap_or_default();
    written.map(|_| ()).map_err(|source| RegistrationError::Write { what: format!("{kind} {name}"), source })
}

async fn wait_for_condition(
    client: &Client,
    (group, kind): (&str, &str),
    name: &str,
    condition: &str,
) -> Result<(), RegistrationError> {
    let what = format!("{} {name}", kind.to_lowercase());
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut events = Box::pin(watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}"))));
    let mut seen = "nothing".to_owned();
    let waiting = async {
        while let Some(event) = events.try_next().await? {
            let (Event::Apply(object) | Event::InitApply(object)) = event else { continue };
            let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
            if let Some(found) = conditions.into_iter().flatten().find(|c| c["type"] == condition) {
                seen = format!("{condition}={} {} {}", found["status"], found["reason"], found["message"]);
                if found["status"] == "True" {
                    break;
                }
            }
        }
        Ok(())
    };
    match tokio::time::timeout(DEADLINE, waiting).await {
        Ok(outcome) => outcome.map_err(|source| RegistrationError::Watch { what, source: Box::new(source) }),
        Err(_) => Err(RegistrationError::NotReady { what, seen }),
    }
}

/// Asks until there is a good answer. There is nothing to watch: what is waited for is inside the API server.
async fn wait_for_answer<F, T>(what: &str, ask: F) -> Result<(), RegistrationError>
where
    F: Fn() -> T,
    T: Future<Output = Result<Value, StatusError>>,
{
    let start = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match ask().await {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > DEADLINE => {
                return Err(RegistrationError::NotReady { what: what.to_owned(), seen: error.to_string() });
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("127.0.0.1:1", "localhost")]
    #[case("127.7.0.3:1", "127.7.0.3")]
    fn the_service_leads_to_the_listener(#[case] address: &str, #[case] name: &str) {
        assert_eq!(external_name(address.parse().expect("an address")), name);
    }
}
