//! Objects by which OpenShift tells operators what cluster they are in.
//! Made once; an object or a status that is there already is somebody's decision and is left alone.

use std::time::Duration;

use api::condition::OperatorCondition;
use api::config::{
    APIServer, ClusterVersion, Dns, FeatureGate, FeatureGateDetails, FeatureGateSpec, FeatureGateStatus, FeatureName,
    ImageConfig, Infrastructure, Ingress, PlatformStatus, Proxy,
};
use api::config::{ClusterVersionSpec, ClusterVersionStatus, InfrastructureStatus, Release, UpdateHistory};
use api::names;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams};
use kube::core::ClusterResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::error::{is_lost_race, is_not_found};
use crate::{Error, Options};

/// How long a resource may stay unknown after its definition was established.
const DEADLINE: Duration = Duration::from_secs(30);

/// Creates the pull secret without which the registry's operator makes neither Service nor Deployment.
pub(crate) async fn ensure_secrets(cluster: &Cluster) -> Result<(), Error> {
    let auth = BASE64_STANDARD.encode(format!("nobody:{}", Uuid::new_v4()));
    let config = json!({ "auths": { "registry.conformance.invalid": { "auth": auth } } }).to_string();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(names::PULL_SECRET.into()),
            namespace: Some(names::CONFIG_NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/dockerconfigjson".into()),
        data: Some([(".dockerconfigjson".to_owned(), ByteString(config.into_bytes()))].into()),
        ..Secret::default()
    };
    let api = Api::namespaced(cluster.client.clone(), names::CONFIG_NAMESPACE);
    cluster.create_if_absent(&api, &secret).await?;
    Ok(())
}

/// Creates the singletons of `config.openshift.io`, and their status where it is empty.
pub(crate) async fn ensure(cluster: &Cluster, options: &Options) -> Result<(), Error> {
    let Options { release_version, base_domain, cluster_domain, .. } = options;

    let mut version = ClusterVersion::new(
        names::CLUSTER_VERSION,
        ClusterVersionSpec { cluster_id: Uuid::new_v4().to_string(), channel: "stable".into(), ..Default::default() },
    );
    version.status = Some(version_status(release_version));

    let mut gates = FeatureGate::new(names::CLUSTER, FeatureGateSpec::default());
    gates.status = Some(FeatureGateStatus {
        feature_gates: vec![FeatureGateDetails {
            version: release_version.clone(),
            enabled: Vec::new(),
            // The registry's operator stops if its version's entry does not mention this gate at all.
            disabled: vec![FeatureName { name: "ImageStreamImportMode".into() }],
        }],
        ..Default::default()
    });

    let mut infrastructure = Infrastructure::new(names::CLUSTER, Default::default());
    infrastructure.status = Some(infrastructure_status(&options.platform_type, cluster_domain));

    let mut proxy = Proxy::new(names::CLUSTER, Default::default());
    proxy.status = Some(Default::default());
    let image = ImageConfig::new(names::CLUSTER, Default::default());
    let api_server = APIServer::new(names::CLUSTER, Default::default());
    let mut ingress = Ingress::new(names::CLUSTER, Default::default());
    ingress.spec.domain.clone_from(base_domain);
    let mut dns = Dns::new(names::CLUSTER, Default::default());
    dns.spec.base_domain.clone_from(cluster_domain);

    tokio::try_join!(
        singleton(cluster, version, true),
        singleton(cluster, gates, true),
        singleton(cluster, infrastructure, true),
        singleton(cluster, proxy, false),
        singleton(cluster, image, false),
        singleton(cluster, api_server, false),
        singleton(cluster, ingress, false),
        singleton(cluster, dns, false),
    )?;
    Ok(())
}

/// Creates `object` unless it is there, and then its status unless there is one.
async fn singleton<K>(cluster: &Cluster, object: K, has_status: bool) -> Result<(), Error>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::all(cluster.client.clone());
    let name = object.name_any();
    let until = Instant::now() + DEADLINE;
    let doing = |what: &str| format!("{what} {} {name}", K::kind(&()));
    let found = api.get_opt(&name).await.map_err(Error::api(doing("reading")))?;
    if found.is_none() {
        // Applied, not created: for two seconds after a definition was established kube-apiserver lets every create
        // of its kind wait two seconds (Kubernetes source, apiextensions-apiserver customresource_handler.go).
        let params = PatchParams::apply(FIELD_MANAGER);
        while let Err(error) = api.patch(&name, &params, &Patch::Apply(&object)).await {
            match error {
                // Somebody else was faster.
                error if is_lost_race(&error) => break,
                // The resource may be unknown for a moment, and no event tells the end of it.
                error if is_not_found(&error) && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                error => return Err(Error::api(doing("creating"))(error)),
            }
        }
    }
    if !has_status {
        return Ok(());
    }
    let status = |object: &K| match serde_json::to_value(object).map(|mut object| object["status"].take()) {
        Ok(Value::Object(status)) => status,
        _ => Map::new(),
    };
    if found.as_ref().is_some_and(|found| !status(found).is_empty()) {
        return Ok(());
    }
    let wanted = status(&object);
    cluster.merge_status(&api, &name, &json!({ "status": wanted })).await
}

fn version_status(version: &str) -> ClusterVersionStatus {
    let now = Time(Timestamp::now());
    let image = format!("registry-conformance.local/release:{version}");
    let condition = |type_: &str, status: &str| OperatorCondition {
        type_: type_.into(),
        status: status.into(),
        last_transition_time: Some(now.clone()),
        ..Default::default()
    };
    ClusterVersionStatus {
        desired: Release { version: version.into(), image: image.clone(), ..Default::default() },
        history: vec![UpdateHistory {
            state: "Completed".into(),
            version: version.into(),
            image,
            started_time: Some(now.clone()),
            completion_time: Some(now.clone()),
            ..Default::default()
        }],
        observed_generation: 1,
        conditions: vec![
            condition("Available", "True"),
            condition("Failing", "False"),
            condition("Progressing", "False"),
        ],
        // An empty list, not null: the operator's client writes the object back and null would be refused.
        available_updates: Some(Vec::new()),
        ..Default::default()
    }
}

fn infrastructure_status(platform: &str, domain: &str) -> InfrastructureStatus {
    let suffix: String = Uuid::new_v4().simple().to_string().chars().take(5).collect();
    let of = |type_: &str, facts: serde_json::Value| (platform == type_).then_some(facts);
    InfrastructureStatus {
        infrastructure_name: format!("conformance-{suffix}"),
        platform: platform.into(),
        platform_status: Some(PlatformStatus {
            type_: platform.into(),
            aws: of("AWS", json!({ "region": "us-east-1" })),
            azure: of(
                "Azure",
                json!({
                    "cloudName": "AzurePublicCloud",
                    "resourceGroupName": format!("conformance-{suffix}-rg"),
                    "networkResourceGroupName": format!("conformance-{suffix}-rg"),
                }),
            ),
            gcp: of("GCP", json!({ "projectID": "conformance", "region": "us-east1" })),
            open_stack: of("OpenStack", json!({ "cloudName": "openstack" })),
            rest: Default::default(),
        }),
        control_plane_topology: "HighlyAvailable".into(),
        infrastructure_topology: "HighlyAvailable".into(),
        api_server_url: format!("https://api.{domain}:6443"),
        api_server_internal_uri: format!("https://api-int.{domain}:6443"),
        rest: [("etcdDiscoveryDomain".to_owned(), json!(""))].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_platform_is_described() {
        let status = infrastructure_status("GCP", "conformance.test").platform_status.expect("platform");
        assert_eq!(status.type_, "GCP");
        assert!(status.gcp.is_some() && status.aws.is_none() && status.azure.is_none() && status.open_stack.is_none());
    }

    #[test]
    fn available_updates_are_written_even_when_there_are_none() {
        let status = serde_json::to_value(version_status("4.6.0")).expect("writable");
        assert_eq!(status["availableUpdates"], json!([]));
    }
}
