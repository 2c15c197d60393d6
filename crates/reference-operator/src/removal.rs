//! Taking the registry away: for `managementState: Removed`, and when the Config itself is deleted.
//! Level-triggered like everything else: each pass removes what is still there and the watches call for the next.

use api::imageregistry::{Config, Storage, StorageManagementState};
use api::names;
use api::route::Route;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use tracing::info;

use crate::condition::{Statement, Truth};
use crate::context::Context;
use crate::error::SyncError;
use crate::registry::Pass;
use crate::storage::{STORAGE_EXISTS, gcs, s3};
use crate::worker::Next;
use crate::{config, route};

/// Whether storage may be deleted: what the Config says now, else what was in force when it was last used.
fn is_ours(config: &Config) -> bool {
    let used = config.status.as_ref().map(|status| &status.storage);
    let state = config.spec.storage.management_state.or(used.and_then(|storage| storage.management_state));
    state == Some(StorageManagementState::Managed)
}

/// Removes the registry's objects, and once its pods are gone the storage that is the operator's
/// (OpenShift 4.6 registry docs, section 2.3; operator source pkg/resource/generator.go:278-331, main).
///
/// # Errors
/// The first object or storage that could not be removed.
pub async fn remove(context: &Context, config: &Config, pass: &mut Pass) -> Result<(), SyncError> {
    let (actor, cache) = (&context.actor, &context.cache);
    for name in
        cache.routes().iter().filter(|found| route::is_owned(found)).filter_map(|found| found.metadata.name.as_deref())
    {
        actor.delete::<Route>(cache, name).await?;
    }
    actor.delete::<PodDisruptionBudget>(cache, names::REGISTRY).await?;
    let running = actor.delete_with_dependents::<Deployment>(cache, names::REGISTRY).await?;
    actor.delete::<Service>(cache, names::REGISTRY).await?;
    actor.delete::<Secret>(cache, names::STORAGE_SECRET).await?;
    actor.delete::<Secret>(cache, names::INSTALLATION_PULL_SECRETS).await?;
    actor.delete::<ServiceAccount>(cache, names::REGISTRY_SERVICE_ACCOUNT).await?;
    actor.delete::<ClusterRoleBinding>(cache, names::REGISTRY_CLUSTER_ROLE_BINDING).await?;
    actor.delete::<ClusterRole>(cache, names::REGISTRY_CLUSTER_ROLE).await?;
    if running {
        // Its pods still use the storage; the watch of Deployments says when they do not.
        return Ok(());
    }
    pass.forget_generation = true;
    let used = config.status.as_ref().map(|status| status.storage.clone()).unwrap_or_default();
    if used.is_unset() {
        return Ok(());
    }
    if is_ours(config) {
        pass.statements = remove_storage(context, config, &used).await?;
    }
    pass.storage = Some(Storage::default());
    Ok(())
}

async fn remove_storage(context: &Context, config: &Config, used: &Storage) -> Result<Vec<Statement>, SyncError> {
    if let Some(pvc) = &used.pvc {
        let name = crate::storage::pvc::claim_name(pvc);
        context.actor.delete::<PersistentVolumeClaim>(&context.cache, name).await?;
        let message = format!("PVC {name} was deleted with the registry");
        return Ok(vec![Statement::new(STORAGE_EXISTS, Truth::False, "PVC Deleted", message)]);
    }
    let mut spec = config.spec.clone();
    let said = if let Some(stanza) = &used.s3 {
        s3::delete(context, stanza).await?;
        if let Some(wanted) = spec.storage.s3.as_mut().filter(|wanted| wanted.bucket == stanza.bucket) {
            wanted.bucket = String::new();
        }
        ("S3 Bucket Deleted", "The S3 bucket has been removed.")
    } else if let Some(stanza) = &used.gcs {
        gcs::delete(context, stanza).await?;
        if let Some(wanted) = spec.storage.gcs.as_mut().filter(|wanted| wanted.bucket == stanza.bucket) {
            wanted.bucket = String::new();
        }
        ("GCS Bucket Deleted", "The GCS bucket has been removed.")
    } else {
        return Ok(Vec::new());
    };
    // The name was the operator's; another registry gets another bucket.
    let finalizers = config.metadata.finalizers.clone().unwrap_or_default();
    config::write_spec(&context.client, config, &spec, &finalizers).await?;
    Ok(vec![Statement::new(STORAGE_EXISTS, Truth::False, said.0, said.1)])
}

/// Answers the deletion of the Config: everything is removed, then the finalizer; the next pass makes a fresh Config
/// (operator source pkg/operator/finalizer.go:26-136, main).
///
/// # Errors
/// As [`remove`], and when the finalizer cannot be taken off.
pub async fn finalize(context: &Context, config: &Config) -> Result<Next, SyncError> {
    let known = config.metadata.finalizers.clone().unwrap_or_default();
    if !known.iter().any(|finalizer| finalizer == names::FINALIZER) {
        return Ok(Next::Change);
    }
    let mut pass = Pass::default();
    remove(context, config, &mut pass).await?;
    if !pass.forget_generation {
        return Ok(Next::Change);
    }
    let Some(config) = config::read(&context.client).await? else { return Ok(Next::Change) };
    let rest: Vec<String> = known.into_iter().filter(|finalizer| finalizer != names::FINALIZER).collect();
    config::write_spec(&context.client, &config, &config.spec.clone(), &rest).await?;
    info!("the registry is gone, Config cluster may go too");
    Ok(Next::Change)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::made_by_the_operator(json!({"managementState": "Managed"}), json!({"managementState": "Managed"}), true)]
    #[case::brought_by_the_user(json!({"managementState": "Unmanaged"}), json!({"managementState": "Unmanaged"}), false)]
    #[case::protected_in_the_same_patch(json!({"managementState": "Unmanaged"}), json!({"managementState": "Managed"}), false)]
    #[case::given_up_in_the_same_patch(json!({"managementState": "Managed"}), json!({"managementState": "Unmanaged"}), true)]
    #[case::forgotten_in_spec(json!({}), json!({"managementState": "Managed"}), true)]
    #[case::never_settled(json!({}), json!({}), false)]
    fn whose_storage_it_is(#[case] wanted: Value, #[case] used: Value, #[case] ours: bool) {
        let config: Config = serde_json::from_value(json!({
            "apiVersion": "imageregistry.operator.openshift.io/v1", "kind": "Config", "metadata": { "name": "cluster" },
            "spec": { "replicas": 1, "storage": wanted },
            "status": { "storage": used },
        }))
        .expect("a Config");
        assert_eq!(is_ours(&config), ours);
    }
}
