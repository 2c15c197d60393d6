//! Status of `image.config.openshift.io/cluster`: under which names the registry is reached.
//! Its spec belongs to administrators and is only read.

use api::config::{ImageConfig, ImageConfigSpec, ImageConfigStatus};
use api::names;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::PostParams;
use tracing::info;

use crate::cache::Cached;
use crate::certificates::degraded;
use crate::context::Context;
use crate::error::{SyncError, is_code};
use crate::worker::Next;
use crate::{config, route};

const CONDITION: &str = "ImageConfigControllerDegraded";

/// The name by which pods and nodes reach the registry, blank while there is no Service
/// (operator source pkg/operator/imageconfig.go:260-275, main).
pub fn internal_hostname(service: Option<&Service>) -> String {
    let Some(service) = service.filter(|found| found.metadata.deletion_timestamp.is_none()) else {
        return String::new();
    };
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    match ports.first().map(|port| port.port) {
        None | Some(443) => format!("{name}.{namespace}.svc"),
        Some(port) => format!("{name}.{namespace}.svc:{port}"),
    }
}

/// One pass: the status, then the condition.
///
/// # Errors
/// What the condition says, so that the pass is tried again.
pub async fn sync(context: &Context) -> Result<Next, SyncError> {
    let result = apply(context).await;
    if !result.as_ref().is_err_and(SyncError::is_conflict) {
        config::write_conditions(&context.client, &[degraded(CONDITION, result.as_ref().err())]).await?;
    }
    result.map(|()| Next::Change)
}

async fn apply(context: &Context) -> Result<(), SyncError> {
    let api: Api<ImageConfig> = ImageConfig::api(&context.client, &context.cache);
    let existing = match ImageConfig::find(&context.cache, names::CLUSTER) {
        Some(found) => found.as_ref().clone(),
        None => {
            let first = ImageConfig::new(names::CLUSTER, ImageConfigSpec::default());
            match api.create(&PostParams::default(), &first).await {
                Err(error) if is_code(&error, 409) => {
                    api.get(names::CLUSTER).await.map_err(SyncError::api("read images.config.openshift.io cluster"))?
                }
                result => result.map_err(SyncError::api("create images.config.openshift.io cluster"))?,
            }
        }
    };
    let before = existing.status.clone().unwrap_or_default();
    let service = Service::find(&context.cache, names::REGISTRY);
    let after = ImageConfigStatus {
        internal_registry_hostname: internal_hostname(service.as_deref()),
        external_registry_hostnames: route::hostnames(context.namespace(), &context.cache.routes()),
        ..before.clone()
    };
    if before == after {
        return Ok(());
    }
    let (internal, external) = (after.internal_registry_hostname.clone(), after.external_registry_hostnames.join(", "));
    let changed = ImageConfig { status: Some(after), ..existing };
    api.replace_status(names::CLUSTER, &PostParams::default(), &changed)
        .await
        .map_err(SyncError::api("update the status of images.config.openshift.io cluster"))?;
    info!(internal, external, "published the registry's host names");
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(5000, "image-registry.openshift-image-registry.svc:5000")]
    #[case(443, "image-registry.openshift-image-registry.svc")]
    fn the_port_is_named_unless_it_is_the_default(#[case] port: i32, #[case] want: &str) {
        let service = serde_json::from_value(json!({
            "metadata": { "name": "image-registry", "namespace": "openshift-image-registry" },
            "spec": { "ports": [{ "port": port }] },
        }))
        .expect("a Service");
        assert_eq!(internal_hostname(Some(&service)), want);
        assert_eq!(internal_hostname(None), "");
    }
}
