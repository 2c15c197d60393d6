//! The platform parts as pods, for a cluster that lacks them: installed from their manifest, awaited, and asked for the
//! authorities that clients outside need. What they do there is the platform crate's.

use std::{path::PathBuf, time::Duration};

use api::{names, volumes::ON_NODES};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use harness::{
    failure::{Failure, Kind, Tried as _},
    limit,
    wait::{Check, wait},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{LogParams, Patch, PatchParams},
};
use serde_json::json;

use super::manifests;
use crate::{data::Data, manifest::Document};

/// Where the pod is and how it is found.
pub(super) const NAMESPACE: &str = "openshift-apiserver";
pub(super) const LABEL: (&str, &str) = ("app", "registry-conformance-platform");
/// The port on which its router takes TLS.
pub(super) const ROUTER_PORT: u16 = 8443;

pub(super) const MANIFEST: &str = "fixtures/platform/platform.yaml";
const SECRET: &str = "registry-conformance-platform";
/// What the process prints when everything is in place.
const READY: &str = "platform ready";
/// How many of its last log lines go into a failure.
const LOG_LINES: i64 = 15;

/// Who the platform is in the cluster.
pub(super) struct Identity<'a> {
    /// The API server, as pods reach it.
    pub server: &'a str,
    /// The token of an administrator.
    pub token: &'a str,
    /// PEM of the API server's authority.
    pub authority: &'a str,
}

/// Installs the platform parts and waits until they are in place. They provision volumes where the nodes share the folder
/// [`ON_NODES`].
///
/// # Errors
/// When the API server refuses something, or they are not ready in time; then with their last log lines.
pub(super) async fn install(
    client: &Client,
    data: &Data,
    identity: Identity<'_>,
    nodes_share_volumes: bool,
    within: Duration,
) -> Result<(), Failure> {
    let parameters = PatchParams::apply("registry-conformance").force();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {LABEL.0: LABEL.1}}});
    let tried = "making the namespace of the platform parts";
    namespaces.patch(NAMESPACE, &parameters, &Patch::Apply(&namespace)).await.tried(tried)?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
        "stringData": {
            "kubeconfig": kubeconfig(&identity).to_string(),
            "front-proxy-ca.crt": front_proxy_authority(client).await?,
        },
    });
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let tried = "making the Secret of the platform parts";
    secrets.patch(SECRET, &parameters, &Patch::Apply(&secret)).await.tried(tried)?;
    let mut documents = manifests::documents(data, &[PathBuf::from(MANIFEST)])?;
    if nodes_share_volumes {
        documents.iter_mut().for_each(give_volumes);
    }
    manifests::apply_documents(client, documents).await?;
    ready(client, within).await
}

/// Lets the process of a Deployment see the folder that the nodes share, and tells it so.
fn give_volumes(document: &mut Document) {
    let pod = "/spec/template/spec";
    for (list, item) in [
        ("volumes", json!({"name": "volumes", "hostPath": {"path": ON_NODES, "type": "Directory"}})),
        ("containers/0/volumeMounts", json!({"name": "volumes", "mountPath": ON_NODES})),
        ("containers/0/args", format!("--volumes={ON_NODES}").into()),
    ] {
        let list = document.object.data.pointer_mut(&format!("{pod}/{list}"));
        list.and_then(|list| list.as_array_mut()).into_iter().for_each(|list| list.push(item.clone()));
    }
}

fn kubeconfig(identity: &Identity<'_>) -> serde_json::Value {
    let Identity { server, token, authority } = identity;
    let authority = k8s_openapi::ByteString(authority.as_bytes().to_vec());
    json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "platform", "user": {"token": token}}],
        "contexts": [{"name": "platform", "context": {"cluster": "cluster", "user": "platform"}}],
        "current-context": "platform",
    })
}

/// The authority by which the aggregator of the API server identifies itself (Kubernetes documentation, "Configure the
/// Aggregation Layer").
async fn front_proxy_authority(client: &Client) -> Result<String, Failure> {
    let tried = "reading the authority of the API server's aggregator";
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = maps.get("extension-apiserver-authentication").await.tried(tried)?;
    map.data.and_then(|mut data| data.remove("requestheader-client-ca-file")).ok_or_else(|| {
        Failure::error(tried, "the API server runs without --requestheader-client-ca-file")
            .next("use a cluster with an aggregation layer, such as one that kubeadm or kind made")
    })
}

/// Waits for the line that says so in the log of the pod.
async fn ready(client: &Client, within: Duration) -> Result<(), Failure> {
    let tried = || format!("waiting {} for the platform parts", limit::text(within));
    match tokio::time::timeout(within, line_appears(client, within)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::error(tried(), last_words(client).await)),
    }
}

async fn line_appears(client: &Client, within: Duration) -> Result<(), Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let selector = format!("{}={}", LABEL.0, LABEL.1);
    loop {
        let name = wait("the pod of the platform parts to run", within)
            .objects(&pods, &selector, |pods: &[&Pod]| {
                let running = pods.iter().find(|pod| container_runs(pod));
                match running {
                    Some(pod) => Check::Met(pod.name_any()),
                    None => Check::NotYet(pods.iter().map(|pod| state(pod)).collect::<Vec<_>>().join("; ")),
                }
            })
            .await
            .map_err(|failure| Failure { kind: Kind::Error, ..failure })?;
        let follow = LogParams { follow: true, ..LogParams::default() };
        let tried = "reading the log of the platform parts";
        let mut lines = pods.log_stream(&name, &follow).await.tried(tried)?.lines();
        while let Some(line) = lines.try_next().await.tried(tried)? {
            if line.contains(READY) {
                return Ok(());
            }
        }
        // The log ended: the container did. It is started again, or the deadline says what it said last.
        wait("the platform parts to start again", within)
            .objects(&pods, &selector, |pods: &[&Pod]| {
                Check::when(!pods.iter().any(|pod| container_runs(pod)), || "its log ended while it runs".to_owned())
            })
            .await
            .map_err(|failure| Failure { kind: Kind::Error, ..failure })?;
    }
}

fn container_runs(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let runs = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    pod.metadata.deletion_timestamp.is_none() && statuses.is_some_and(|statuses| statuses.iter().all(runs))
}

fn state(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let states: Vec<_> =
        status.container_statuses.iter().flatten().filter_map(|status| status.state.as_ref()).collect();
    let conditions: Vec<_> =
        status.conditions.iter().flatten().filter_map(|condition| condition.message.as_deref()).collect();
    format!("{} {} {}", pod.name_any(), serde_json::to_string(&states).unwrap_or_default(), conditions.join(", "))
}

async fn last_words(client: &Client) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let selector = kube::api::ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
    let listed = match pods.list(&selector).await {
        Ok(listed) => listed.items,
        Err(error) => return format!("listing its pods: {error}"),
    };
    let mut said = Vec::new();
    for pod in &listed {
        said.push(state(pod));
        let tail = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
        said.push(pods.logs(&pod.name_any(), &tail).await.unwrap_or_else(|error| format!("(no log: {error})")));
    }
    if said.is_empty() { "it has no pod".to_owned() } else { said.join("\n") }
}

/// Certificates of the authorities that clients outside the cluster need, in PEM: the service CA's and the router's.
///
/// # Errors
/// When one of them is not where OpenShift keeps it.
pub(super) async fn authorities(client: &Client) -> Result<String, Failure> {
    let mut all = String::new();
    for (namespace, name) in [(names::SERVICE_CA_NAMESPACE, "signing-key"), ("openshift-ingress-operator", "router-ca")]
    {
        let tried = format!("reading the authority {namespace}/{name}");
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = secrets.get(name).await.tried(&tried)?;
        let certificate = secret.data.and_then(|mut data| data.remove("tls.crt"));
        let certificate = certificate.ok_or_else(|| Failure::error(&tried, "the Secret has no tls.crt"))?;
        let text = String::from_utf8_lossy(&certificate.0);
        all.push_str(text.trim_end());
        all.push('\n');
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_provisions_volumes_sees_the_folder_of_the_nodes() {
        let data = Data::find(None).expect("the data of this program");
        let mut documents = manifests::documents(&data, &[PathBuf::from(MANIFEST)]).expect("the manifest");
        documents.iter_mut().for_each(give_volumes);
        let given = |document: &&Document| document.object.data.to_string().contains(ON_NODES);
        let given: Vec<_> = documents.iter().filter(given).collect();
        assert_eq!(given.iter().map(|document| &*document.types.kind).collect::<Vec<_>>(), ["Deployment"]);
        let pod = &given[0].object.data["spec"]["template"]["spec"];
        let has = |list: &str| pod["containers"][0][list].to_string().contains(ON_NODES);
        assert!(has("args") && has("volumeMounts"));
    }
}
