//! The main controller: it makes the Config `cluster` when there is none and brings the registry to what it says.
//! Taking the registry away is in `removal`; values of objects and conditions come from pure functions.

use std::collections::BTreeMap;
use std::time::Duration;

use api::config::{Infrastructure, Proxy};
use api::imageregistry::{Config, ConfigSpec, ManagementState, Storage, StorageManagementState};
use api::names;
use api::route::Route;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;
use tracing::{info, warn};

use crate::cache::Cached;
use crate::condition::{Statement, record};
use crate::context::Context;
use crate::error::{SyncError, is_code};
use crate::object::{Drift, Merge, untyped};
use crate::storage::{self, Backend, Outcome, PodStorage, gcs, pvc, s3};
use crate::worker::Next;
use crate::{bootstrap, certificates, config, deployment, operand, route, status};

/// How long a new Deployment waits for its serving certificate and CAs before it is made without them. Pods that
/// start with everything in place are not rolled again a moment later.
const DEPENDENCIES_LIMIT: Duration = Duration::from_secs(3);

/// What a pass found out and has to put into the status, also when it ended early.
#[derive(Debug, Default)]
pub struct Pass {
    /// Conditions of the storage.
    pub statements: Vec<Statement>,
    /// The storage in use from now on; `None` leaves what the status says.
    pub storage: Option<Storage>,
    /// The Deployment as this pass left it.
    pub deployment: Option<Deployment>,
    /// The generation of Config this pass acted on.
    pub generation: Option<i64>,
    /// The registry is gone and no generation of its Deployment is to be remembered.
    pub forget_generation: bool,
}

/// One pass of the main controller.
///
/// # Errors
/// Whatever ended the pass early; the conditions already say so.
pub async fn sync(context: &Context) -> Result<Next, SyncError> {
    let Some(config) = config::read(&context.client).await? else {
        return bootstrap(context).await;
    };
    if config.metadata.deletion_timestamp.is_some() {
        return crate::removal::finalize(context, &config).await;
    }
    let state = config.spec.management_state;
    let mut pass = Pass { generation: config.metadata.generation, ..Pass::default() };
    let result = match state {
        Some(ManagementState::Managed) => apply(context, &config, &mut pass).await,
        Some(ManagementState::Removed) => crate::removal::remove(context, &config, &mut pass).await,
        Some(ManagementState::Unmanaged) => Ok(()),
        Some(ManagementState::Force) | None => {
            warn!(?state, "Config cluster has a managementState without meaning, nothing is applied or removed");
            Ok(())
        }
    };
    if let Err(error) = result.as_ref()
        && error.is_conflict()
    {
        // Somebody was quicker; the next pass follows at once and no user needs to read of it.
        return result.map(|()| Next::Change);
    }
    // A status that could not be written is worth another try even when the error itself is permanent.
    let next = report(context, &config, &pass, result.as_ref().err()).await?;
    result.map(|()| next)
}

async fn bootstrap(context: &Context) -> Result<Next, SyncError> {
    let infrastructure = Infrastructure::find(&context.cache, names::CLUSTER);
    let config = bootstrap::config(infrastructure.as_ref().and_then(|found| found.status.as_ref()))?;
    let api: Api<Config> = Api::all(context.client.clone());
    match api.create(&PostParams::default(), &config).await {
        Ok(_) => info!(state = ?config.spec.management_state, "made the first Config cluster"),
        Err(error) if is_code(&error, 409) => {}
        Err(error) => return Err(SyncError::api("create Config cluster")(error)),
    }
    Ok(Next::Change)
}

/// A spec without gaps (operator source pkg/operator/complete.go:16-57, main).
fn complete(context: &Context, config: &Config) -> Result<ConfigSpec, SyncError> {
    let mut spec = config.spec.clone();
    if spec.http_secret.is_empty() {
        spec.http_secret = http_secret();
    }
    if storage::backend(&spec.storage)?.is_none() {
        let infrastructure = Infrastructure::find(&context.cache, names::CLUSTER);
        let offer = bootstrap::offer(infrastructure.as_ref().and_then(|found| found.status.as_ref()))?;
        spec.storage = Storage { management_state: spec.storage.management_state, ..offer.storage };
    }
    Ok(spec)
}

/// 64 random bytes in hex.
fn http_secret() -> String {
    (0..4).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect()
}

fn verify(spec: &ConfigSpec) -> Result<(), SyncError> {
    if spec.replicas < 0 {
        let message = "unable to complete resource: replicas must be greater than or equal to 0".into();
        return Err(SyncError::Verification { message });
    }
    route::verify(spec)
}

fn finalizers(config: &Config) -> Vec<String> {
    let mut finalizers = config.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == names::FINALIZER) {
        finalizers.push(names::FINALIZER.to_owned());
    }
    finalizers
}

async fn apply(context: &Context, config: &Config, pass: &mut Pass) -> Result<(), SyncError> {
    verify(&config.spec)?;
    let finalizers = finalizers(config);
    let mut spec = complete(context, config)?;
    let mut generated = false;
    if spec.storage.s3.is_some() || spec.storage.gcs.is_some() {
        let infrastructure = Infrastructure::find(&context.cache, names::CLUSTER);
        let cluster = infrastructure.as_ref().and_then(|found| found.status.as_ref());
        if let Some(s3) = &mut spec.storage.s3 {
            generated = s3::complete(s3, cluster);
        }
        if let Some(gcs) = &mut spec.storage.gcs {
            generated = gcs::complete(gcs, cluster);
        }
        // Names are written down before anything of that name is made, so that a crash in between leaks nothing.
        let state = if generated { StorageManagementState::Managed } else { StorageManagementState::Unmanaged };
        spec.storage = storage::settled(&spec.storage, state);
    }
    let config = config::write_spec(&context.client, config, &spec, &finalizers).await?;
    pass.generation = config.metadata.generation;
    let outcome = ensure_storage(context, &config, generated).await?;
    pass.statements = outcome.statements;
    spec.storage = outcome.storage;
    let config = config::write_spec(&context.client, &config, &spec, &finalizers).await?;
    pass.generation = config.metadata.generation;
    let pods = outcome.pods?;
    let before = config.status.as_ref().map(|status| status.storage.clone()).unwrap_or_default();
    if storage::is_reconfigured(&before, &spec.storage) {
        warn!("the registry's storage is configured anew; images of the old storage are not moved");
        context.metrics.storage_reconfigured();
    }
    pass.storage = Some(spec.storage.clone());
    apply_objects(context, &config, &pods, pass).await
}

async fn ensure_storage(context: &Context, config: &Config, generated: bool) -> Result<Outcome, SyncError> {
    let spec = &config.spec;
    let user_secret = Secret::find(&context.cache, names::USER_STORAGE_SECRET);
    match storage::backend(&spec.storage)? {
        None => Err(SyncError::StorageNotConfigured),
        Some(Backend::EmptyDir) => Ok(storage::empty_dir::decide(&spec.storage, spec.replicas)),
        Some(Backend::Pvc(claim)) => ensure_claim(context, config, claim).await,
        Some(Backend::S3(stanza)) => Ok(s3::ensure(context, config, stanza, user_secret.as_deref(), generated).await),
        Some(Backend::Gcs(stanza)) => Ok(gcs::ensure(context, config, stanza, user_secret.as_deref(), generated).await),
        Some(Backend::Azure(azure)) => Ok(storage::azure::decide(&spec.storage, azure, user_secret.as_deref())),
        Some(Backend::Unsupported(name)) => Err(SyncError::Verification {
            message: format!("storage backend {name} is not supported by the reference operator yet"),
        }),
    }
}

async fn ensure_claim(
    context: &Context,
    config: &Config,
    claim: &api::imageregistry::Pvc,
) -> Result<Outcome, SyncError> {
    let rollout =
        pvc::Rollout { replicas: config.spec.replicas, strategy: config.spec.rollout_strategy.unwrap_or_default() };
    let api: Api<PersistentVolumeClaim> = PersistentVolumeClaim::api(&context.client, &context.cache);
    let name = pvc::claim_name(claim);
    let existing = api.get_opt(name).await.map_err(SyncError::api(format!("read PersistentVolumeClaim {name}")))?;
    match pvc::decide(&config.spec.storage, claim, existing.as_ref(), rollout) {
        pvc::Decision::Settled(outcome) => Ok(*outcome),
        pvc::Decision::Create => {
            let wanted: PersistentVolumeClaim =
                crate::object::typed("the default claim", pvc::default_claim(context.namespace()))?;
            match api.create(&PostParams::default(), &wanted).await {
                Ok(created) => {
                    info!(name, "created PersistentVolumeClaim {name}");
                    match pvc::decide(&config.spec.storage, claim, Some(&created), rollout) {
                        pvc::Decision::Settled(outcome) => Ok(*outcome),
                        pvc::Decision::Create => {
                            Err(SyncError::Storage { message: format!("PVC {name} was not created") })
                        }
                    }
                }
                Err(error) => Ok(Outcome::refused(
                    &config.spec.storage,
                    crate::condition::Truth::False,
                    "Creation Failed",
                    format!("could not create PVC {name}: {error}"),
                )),
            }
        }
    }
}

/// Applies objects in the original's order; the first failure ends the pass
/// (operator source pkg/resource/generator.go:115-125,234-275, main).
async fn apply_objects(
    context: &Context,
    config: &Config,
    pods: &PodStorage,
    pass: &mut Pass,
) -> Result<(), SyncError> {
    let (actor, cache, namespace) = (&context.actor, &context.cache, context.namespace());
    let (whole, by_checksum) = (Merge::Fields, Drift::Checksum);
    actor.apply::<ClusterRole>(cache, operand::cluster_role(), whole, by_checksum).await?;
    let binding = operand::cluster_role_binding(namespace);
    actor.apply::<ClusterRoleBinding>(cache, binding, whole, by_checksum).await?;
    let account = operand::service_account(names::REGISTRY_SERVICE_ACCOUNT, namespace);
    actor.apply::<ServiceAccount>(cache, account, whole, by_checksum).await?;
    match cache.pull_secret() {
        Some(source) => {
            let copy = operand::pull_secrets(namespace, &source);
            actor.apply::<Secret>(cache, copy, whole, by_checksum).await?;
        }
        // The volume is optional and a cluster without a pull secret has nothing to pull with; no reason to stop.
        None => {
            actor.delete::<Secret>(cache, names::INSTALLATION_PULL_SECRETS).await?;
        }
    }
    let secret = operand::storage_secret(namespace, &pods.secret);
    let secret = actor.apply::<Secret>(cache, secret, whole, by_checksum).await?;
    actor.apply::<Service>(cache, operand::service(namespace), Merge::Spec, by_checksum).await?;
    apply_deployment(context, config, pods, &secret, pass).await?;
    let budget = operand::disruption_budget(namespace, config.spec.replicas);
    actor.apply::<PodDisruptionBudget>(cache, budget, whole, by_checksum).await?;
    let routes = route::desired(&config.spec, namespace, |name| Secret::find(cache, name))?;
    for wanted in routes {
        actor.apply::<Route>(cache, wanted, Merge::Spec, by_checksum).await?;
    }
    for name in route::obsolete(&config.spec, &cache.routes()) {
        actor.delete::<Route>(cache, &name).await?;
    }
    Ok(())
}

async fn apply_deployment(
    context: &Context,
    config: &Config,
    pods: &PodStorage,
    storage_secret: &Secret,
    pass: &mut Pass,
) -> Result<(), SyncError> {
    let cache = &context.cache;
    let home = Namespace::find(cache, context.namespace());
    let proxy = Proxy::find(cache, names::CLUSTER);
    let desired = deployment::desired(deployment::Inputs {
        spec: &config.spec,
        namespace: context.namespace(),
        image: &context.options.image,
        release_version: &context.options.release_version,
        fs_group: deployment::fs_group(home.as_deref(), context.namespace())?,
        proxy: proxy.as_ref().and_then(|proxy| proxy.status.as_ref()),
        storage: pods,
    })?;
    if Deployment::find(cache, names::REGISTRY).is_none() {
        let complete = cache.wait_for(DEPENDENCIES_LIMIT, |cache| {
            let own = ConfigMap::find(cache, names::CERTIFICATES_CONFIG_MAP)
                .is_some_and(|found| certificates::names_registry(&found, &cache.namespace));
            own && Secret::find(cache, names::REGISTRY_TLS_SECRET).is_some()
        });
        if !complete.await {
            info!("the service CA has not provided everything yet, the registry's pods start when it has");
        }
    }
    let mut content: BTreeMap<String, Value> = BTreeMap::new();
    let wanted = deployment::dependencies(&desired);
    for name in &wanted.config_maps {
        if let Some(found) = ConfigMap::find(cache, name) {
            content.insert(format!("ConfigMap/{name}"), untyped(&(&found.data, &found.binary_data)));
        }
    }
    for name in &wanted.secrets {
        // The storage Secret was just written; the cache may not have it yet.
        let data = if name == names::STORAGE_SECRET {
            Some(untyped(&storage_secret.data))
        } else {
            Secret::find(cache, name).map(|found| untyped(&found.data))
        };
        content.extend(data.map(|data| (format!("Secret/{name}"), data)));
    }
    let desired = deployment::with_dependencies(desired, &content);
    let known = config::generation(config.status.as_ref(), "deployments", names::REGISTRY);
    let written = context.actor.apply::<Deployment>(cache, desired, Merge::Fields, Drift::Generation(known)).await?;
    pass.deployment = Some(written);
    Ok(())
}

/// Puts what the pass found into the status (operator source pkg/operator/controller.go:342-370, main).
async fn report(context: &Context, config: &Config, pass: &Pass, error: Option<&SyncError>) -> Result<Next, SyncError> {
    let cached = Deployment::find(&context.cache, names::REGISTRY);
    let deployment = pass.deployment.as_ref().or(cached.as_deref());
    let refusals = match config.spec.management_state {
        Some(ManagementState::Removed) => Vec::new(),
        _ => route::refusals(&config.spec, &context.cache.routes()),
    };
    let conditions = config.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let available = conditions.iter().find(|condition| condition.type_ == "Available");
    let now = Timestamp::now();
    let seen = status::Seen {
        state: config.spec.management_state.unwrap_or_default(),
        deployment,
        error,
        refusals: &refusals,
        unavailable_since: available
            .filter(|condition| !condition.is_true())
            .and_then(|condition| condition.last_transition_time.as_ref().map(|time| time.0)),
        now,
    };
    let mut statements = status::conditions(seen);
    let due = status::due(seen, &statements[0]);
    statements.extend(pass.statements.iter().cloned());
    let written = pass.deployment.as_ref().and_then(|deployment| deployment.metadata.generation);
    config::write_status(&context.client, |status| {
        record(&mut status.conditions, &statements, now);
        status.ready_replicas = status::ready_replicas(deployment);
        status.observed_generation = pass.generation;
        if let Some(storage) = &pass.storage {
            status.storage = storage.clone();
            status.storage_managed = storage.management_state == Some(StorageManagementState::Managed);
        }
        if written.is_some() || pass.forget_generation {
            config::record_generation(status, "deployments", context.namespace(), names::REGISTRY, written);
        }
    })
    .await?;
    Ok(due.map_or(Next::Change, Next::After))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn config(spec: Value, finalizers: &[&str]) -> Config {
        serde_json::from_value(json!({
            "apiVersion": "imageregistry.operator.openshift.io/v1", "kind": "Config",
            "metadata": { "name": "cluster", "finalizers": finalizers }, "spec": spec,
        }))
        .expect("a Config")
    }

    #[rstest]
    #[case::fine(json!({"replicas": 0}), None)]
    #[case::negative(json!({"replicas": -1}), Some("replicas must be greater than or equal to 0"))]
    #[case::twice(json!({"replicas": 1, "routes": [{"name": "r"}, {"name": "r"}]}), Some("duplication of names"))]
    fn impossible_specs_are_refused_for_good(#[case] spec: Value, #[case] want: Option<&str>) {
        let result = verify(&config(spec, &[]).spec);
        match (result, want) {
            (Ok(()), None) => {}
            (Err(error), Some(want)) => {
                assert!(error.to_string().contains(want), "{error}");
                assert_eq!(error.permanent_reason(), Some("VerificationFailed"));
            }
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    #[rstest]
    #[case::none(&[], &[names::FINALIZER])]
    #[case::there(&[names::FINALIZER], &[names::FINALIZER])]
    #[case::foreign(&["example.com/theirs"], &["example.com/theirs", names::FINALIZER])]
    fn the_finalizer_is_added_once(#[case] known: &[&str], #[case] want: &[&str]) {
        assert_eq!(finalizers(&config(json!({"replicas": 1}), known)), want);
    }

    #[test]
    fn http_secrets_are_long_and_different() {
        let (one, other) = (http_secret(), http_secret());
        assert!(one.len() == 128 && one.chars().all(|digit| digit.is_ascii_hexdigit()), "{one}");
        assert_ne!(one, other);
    }
}
