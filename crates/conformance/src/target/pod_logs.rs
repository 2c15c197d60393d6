//! Logs of components, read from their pods as `kubectl logs` does.

use futures::{FutureExt as _, future::BoxFuture};
use harness::environment::ComponentLogs;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, LogParams},
};

/// Where the pods of a component are.
struct Place {
    component: &'static str,
    namespace: &'static str,
    /// What the names of its pods begin with.
    prefix: &'static str,
}

const PLACES: [Place; 5] = [
    Place { component: "operator", namespace: "openshift-image-registry", prefix: "cluster-image-registry-operator-" },
    Place { component: "registry", namespace: "openshift-image-registry", prefix: "image-registry-" },
    Place { component: "pruner", namespace: "openshift-image-registry", prefix: "image-pruner-" },
    Place { component: "node-ca", namespace: "openshift-image-registry", prefix: "node-ca-" },
    Place { component: "node-agent", namespace: "openshift-machine-config-operator", prefix: "machine-config-daemon-" },
];

/// Reads logs through the API.
pub struct PodLogs {
    client: Client,
}

impl PodLogs {
    /// Logs of the cluster behind `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl ComponentLogs for PodLogs {
    fn tail<'a>(&'a self, component: &'a str, lines: usize) -> BoxFuture<'a, Vec<String>> {
        async move {
            let Some(place) = PLACES.iter().find(|place| place.component == component) else { return vec![] };
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), place.namespace);
            let listed = match pods.list(&ListParams::default()).await {
                Ok(listed) => listed,
                Err(error) => return vec![format!("(no log: listing the pods of the {component}: {error})")],
            };
            let mut out = vec![];
            for pod in listed.iter().filter(|pod| pod.name_any().starts_with(place.prefix)) {
                let tail = LogParams { tail_lines: i64::try_from(lines).ok(), ..Default::default() };
                match pods.logs(&pod.name_any(), &tail).await {
                    Ok(text) => out.extend(text.lines().map(str::to_owned)),
                    Err(error) => out.push(format!("(no log of {}: {error})", pod.name_any())),
                }
            }
            if out.is_empty() {
                out.push(format!("(no pod of the {component} is there)"));
            }
            let surplus = out.len().saturating_sub(lines);
            out.split_off(surplus)
        }
        .boxed()
    }
}
