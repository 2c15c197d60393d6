//! Applies the custom resource definitions and waits until the API server serves them.
//! Which there are is `api`'s knowledge.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, future};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use crate::Error;
use crate::cluster::{Cluster, FIELD_MANAGER};

/// How long the API server may take to serve what it was given.
const DEADLINE: Duration = Duration::from_secs(60);

/// Applies all definitions and returns once each of them is served.
///
/// # Errors
/// If the API server refuses one, or does not serve it in time.
pub(crate) async fn ensure(cluster: &Cluster) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let all = api::crds::all();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    future::try_join_all(all.iter().map(|definition| {
        let (api, params, name) = (&api, &params, definition.name_any());
        async move {
            api.patch(&name, params, &Patch::Apply(definition))
                .await
                .map_err(Error::api(format!("applying the definition {name}")))
        }
    }))
    .await?;

    let mut missing: BTreeMap<String, &str> = all.iter().map(|crd| (crd.name_any(), "not seen yet")).collect();
    let served = async {
        let mut seen = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(event) = seen.next().await {
            match event {
                Ok(definition) if is_established(&definition) => drop(missing.remove(&definition.name_any())),
                Ok(definition) => {
                    if let Some(last) = missing.get_mut(&definition.name_any()) {
                        *last = "not established";
                    }
                }
                Err(error) => tracing::warn!(%error, "watch of the definitions was interrupted and goes on"),
            }
            if missing.is_empty() {
                return;
            }
        }
    };
    if tokio::time::timeout(DEADLINE, served).await.is_err() {
        let last = missing.iter().map(|(name, last)| format!("{name} {last}")).collect::<Vec<_>>().join(", ");
        return Err(Error::Timeout { what: "the definitions to be served".into(), waited: DEADLINE, last });
    }
    Ok(())
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Established" && condition.status == "True")
}
