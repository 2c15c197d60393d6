//! ConfigMap `image-registry-certificates`: every CA by which registry pods and nodes trust registries, keyed by host.
//! The two empty ConfigMaps others fill with bundles are made here too. Putting the files onto nodes is the work of node-ca.

use std::collections::BTreeMap;

use api::config::ImageConfig;
use api::imageregistry::{Config, Storage};
use api::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use serde_json::{Value, json};

use crate::cache::Cached;
use crate::condition::Statement;
use crate::context::Context;
use crate::error::SyncError;
use crate::object::{Drift, Merge};
use crate::worker::Next;
use crate::{config, operand};

const CONDITION: &str = "ImageRegistryCertificatesControllerDegraded";
/// Key of the storage's CA (operator source pkg/resource/caconfig.go:163-182, main).
const STORAGE_KEY: &str = "storage-ca-bundle.pem";

/// Keys of the registry's own names; `..` stands for the colon before a port, which keys cannot hold.
pub fn own_keys(namespace: &str) -> [String; 2] {
    let (name, port) = (names::REGISTRY, names::REGISTRY_PORT);
    [format!("{name}.{namespace}.svc..{port}"), format!("{name}.{namespace}.svc.cluster.local..{port}")]
}

/// Whether the registry's own names are in this ConfigMap.
pub fn names_registry(found: &ConfigMap, namespace: &str) -> bool {
    own_keys(namespace).iter().all(|key| found.data.as_ref().is_some_and(|data| data.contains_key(key)))
}

/// Where the CAs come from; each may be absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// The service CA's bundle, if injected and the Service exists.
    pub service_ca: Option<&'a str>,
    /// What the administrator trusts additionally.
    pub additional: Option<&'a ConfigMap>,
    /// The storage's own CA.
    pub storage_ca: Option<&'a str>,
    /// Blobs are served by the registry itself, so its clients never meet the storage.
    pub disable_redirect: bool,
}

/// The ConfigMap (operator source pkg/resource/caconfig.go:104-182, main): own names first, then the administrator's
/// keys verbatim, which may override them.
pub fn desired(namespace: &str, sources: Sources<'_>) -> Value {
    let mut data: BTreeMap<String, String> = BTreeMap::new();
    let mut binary: BTreeMap<String, ByteString> = BTreeMap::new();
    if let Some(bundle) = sources.service_ca {
        let mut bundle = bundle.to_owned();
        if let Some(storage_ca) = sources.storage_ca.filter(|_| !sources.disable_redirect) {
            if !bundle.ends_with('\n') {
                bundle.push('\n');
            }
            bundle.push_str(storage_ca);
        }
        data.extend(own_keys(namespace).map(|key| (key, bundle.clone())));
    }
    if let Some(storage_ca) = sources.storage_ca {
        data.insert(STORAGE_KEY.into(), storage_ca.to_owned());
    }
    if let Some(additional) = sources.additional {
        data.extend(additional.data.clone().unwrap_or_default());
        binary.extend(additional.binary_data.clone().unwrap_or_default());
    }
    data.retain(|key, _| !binary.contains_key(key));
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": names::CERTIFICATES_CONFIG_MAP, "namespace": namespace },
        "data": data,
        "binaryData": binary,
    })
}

/// One pass: the ConfigMap, then the condition.
///
/// # Errors
/// What the condition says, so that the pass is tried again.
pub async fn sync(context: &Context) -> Result<Next, SyncError> {
    let result = apply(context).await;
    config::write_conditions(&context.client, &[degraded(CONDITION, result.as_ref().err())]).await?;
    result.map(|()| Next::Change)
}

/// The condition by which a controller of its own says whether it is in step.
pub fn degraded(type_: &str, error: Option<&SyncError>) -> Statement {
    match error {
        Some(error) => Statement::new(type_, true, "Error", error.to_string()),
        None => Statement::new(type_, false, "AsExpected", ""),
    }
}

async fn apply(context: &Context) -> Result<(), SyncError> {
    let cache = &context.cache;
    for empty in [operand::service_ca(context.namespace()), operand::trusted_ca(context.namespace())] {
        context.actor.apply::<ConfigMap>(cache, empty, Merge::Fields, Drift::Checksum).await?;
    }
    let config = Config::find(cache, names::CLUSTER);
    let service = Service::find(cache, names::REGISTRY).filter(|found| found.metadata.deletion_timestamp.is_none());
    let injected = ConfigMap::find(cache, names::SERVICE_CA_CONFIG_MAP);
    let service_ca = injected
        .as_ref()
        .filter(|_| service.is_some())
        .and_then(|found| found.data.as_ref())
        .and_then(|data| data.get(names::SERVICE_CA_KEY));
    let image_config = ImageConfig::find(cache, names::CLUSTER);
    let reference = image_config.as_ref().and_then(|found| found.spec.additional_trusted_ca.as_ref());
    let additional = match reference.map(|reference| reference.name.as_str()).filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => Some(cache.given_config_map(name).ok_or_else(|| SyncError::Missing {
            message: format!(
                "configmap \"{}/{name}\" named by spec.additionalTrustedCA of images.config.openshift.io/cluster not found",
                names::CONFIG_NAMESPACE
            ),
        })?),
    };
    let storage_ca = match config.as_ref().and_then(|config| storage_ca_name(&config.spec.storage)) {
        None => None,
        Some(name) => Some(storage_ca(context, name)?),
    };
    let sources = Sources {
        service_ca: service_ca.map(String::as_str),
        additional: additional.as_deref(),
        storage_ca: storage_ca.as_deref(),
        disable_redirect: config.as_ref().is_some_and(|config| config.spec.disable_redirect),
    };
    let desired = desired(context.namespace(), sources);
    context.actor.apply::<ConfigMap>(cache, desired, Merge::Fields, Drift::Checksum).await.map(|_| ())
}

fn storage_ca_name(storage: &Storage) -> Option<&str> {
    let reference = storage.s3.as_ref().and_then(|s3| s3.trusted_ca.as_ref());
    reference.map(|reference| reference.name.as_str()).filter(|name| !name.is_empty())
}

/// The CA of the storage in the administrator's ConfigMap.
///
/// # Errors
/// [`SyncError::Missing`] naming the ConfigMap, and the key if only that is missing.
pub fn storage_ca(context: &Context, name: &str) -> Result<String, SyncError> {
    let namespace = names::CONFIG_NAMESPACE;
    let found = context.cache.given_config_map(name).ok_or_else(|| SyncError::Missing {
        message: format!("trusted CA config map \"{namespace}/{name}\" not found"),
    })?;
    let key = "ca-bundle.crt";
    found.data.as_ref().and_then(|data| data.get(key)).cloned().ok_or_else(|| SyncError::Missing {
        message: format!("trusted CA config map \"{namespace}/{name}\" does not contain required key \"{key}\""),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const OWN: &str = "image-registry.openshift-image-registry.svc..5000";
    const LONG: &str = "image-registry.openshift-image-registry.svc.cluster.local..5000";

    fn given(data: Value) -> ConfigMap {
        serde_json::from_value(json!({ "data": data })).expect("a ConfigMap")
    }

    #[rstest]
    #[case::nothing(None, None, None, false, json!({}))]
    #[case::own(Some("S"), None, None, false, json!({OWN: "S", LONG: "S"}))]
    #[case::additional(None, Some(given(json!({"r.example..5000": "A"}))), None, false, json!({"r.example..5000": "A"}))]
    #[case::override_own(Some("S"), Some(given(json!({OWN: "A"}))), None, false, json!({OWN: "A", LONG: "S"}))]
    #[case::storage(Some("S"), None, Some("T"), false, json!({OWN: "S\nT", LONG: "S\nT", STORAGE_KEY: "T"}))]
    #[case::no_redirect(Some("S"), None, Some("T"), true, json!({OWN: "S", LONG: "S", STORAGE_KEY: "T"}))]
    fn content(
        #[case] service_ca: Option<&str>,
        #[case] additional: Option<ConfigMap>,
        #[case] storage_ca: Option<&str>,
        #[case] disable_redirect: bool,
        #[case] want: Value,
    ) {
        let sources = Sources { service_ca, additional: additional.as_ref(), storage_ca, disable_redirect };
        let made = desired(names::REGISTRY_NAMESPACE, sources);
        assert_eq!(made["data"], want);
        let typed: ConfigMap = serde_json::from_value(made).expect("a ConfigMap");
        assert_eq!(names_registry(&typed, names::REGISTRY_NAMESPACE), service_ca.is_some());
    }
}
