//! Puts the service CA's certificate into ConfigMaps that are annotated for it, and keeps it there.
//! As upstream does, such a ConfigMap holds nothing else: other keys are taken away.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names;
use futures::future;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::cache;
use crate::cluster::Cluster;

/// Keeps all annotated ConfigMaps filled. Returns after all that exist are.
pub(super) async fn start(cluster: &Cluster, bundle: Arc<str>) {
    let changed = Arc::new(Notify::new());
    let api = Api::<ConfigMap>::all(cluster.client.clone());
    let config_maps = cache::watch(cluster, api, watcher::Config::default(), &changed).await;
    let pass = {
        let cluster = cluster.clone();
        move || {
            let (cluster, config_maps, bundle) = (cluster.clone(), config_maps.clone(), Arc::clone(&bundle));
            async move {
                let patches = config_maps.state().into_iter().filter_map(|config_map| {
                    let patch = correction(&config_map, &bundle)?;
                    Some((config_map, patch))
                });
                future::try_join_all(patches.map(|(config_map, patch)| {
                    let cluster = &cluster;
                    async move {
                        let namespace = config_map.namespace().unwrap_or_default();
                        let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), &namespace);
                        cluster.merge(&api, &config_map.name_any(), &patch).await
                    }
                }))
                .await?;
                Ok(())
            }
        }
    };
    cache::drive(cluster, "service CA bundles", changed, pass).await;
}

/// The merge patch that makes the ConfigMap right; none if it is, or does not want the bundle.
fn correction(config_map: &ConfigMap, bundle: &str) -> Option<Value> {
    let wants = |annotation| config_map.annotations().get(annotation).is_some_and(|value| value == "true");
    if !wants(names::INJECT_CA_BUNDLE_ANNOTATION) && !wants(names::INJECT_CA_BUNDLE_ANNOTATION_ALPHA) {
        return None;
    }
    if config_map.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let nothing = BTreeMap::new();
    let data = config_map.data.as_ref().unwrap_or(&nothing);
    if data.len() == 1 && data.get(names::SERVICE_CA_KEY).is_some_and(|held| held == bundle) {
        return None;
    }
    let mut patch: Map<String, Value> = data.keys().map(|key| (key.clone(), Value::Null)).collect();
    patch.insert(names::SERVICE_CA_KEY.into(), bundle.into());
    Some(json!({ "data": patch }))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::not_asked("", &[], None)]
    #[case::empty("service.beta.openshift.io/inject-cabundle", &[], Some(json!({ "service-ca.crt": "CA" })))]
    #[case::older_spelling("service.alpha.openshift.io/inject-cabundle", &[], Some(json!({ "service-ca.crt": "CA" })))]
    #[case::filled("service.beta.openshift.io/inject-cabundle", &[("service-ca.crt", "CA")], None)]
    #[case::broken(
        "service.beta.openshift.io/inject-cabundle",
        &[("service-ca.crt", "other"), ("mine", "x")],
        Some(json!({ "service-ca.crt": "CA", "mine": null }))
    )]
    fn only_what_is_wrong_is_changed(
        #[case] annotation: &str,
        #[case] data: &[(&str, &str)],
        #[case] expected: Option<Value>,
    ) {
        let mut config_map = ConfigMap::default();
        config_map.annotations_mut().insert(annotation.into(), "true".into());
        config_map.data = Some(data.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
        assert_eq!(correction(&config_map, "CA").map(|patch| patch["data"].clone()), expected);
    }
}
