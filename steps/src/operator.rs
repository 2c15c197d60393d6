//! The Image Registry Operator: its configuration, what it reports, and the registry it rolls out.

use std::sync::Arc;

use api::{
    condition::OperatorCondition,
    config::ClusterOperator,
    imageregistry::{Config, ManagementState},
    names,
};
use cucumber::{given, then, when};
use futures::{FutureExt as _, future};
use harness::{
    environment::Environment,
    failure::{Failure, Step, Tried},
    tenancy::Tenancy,
    wait::{Check, answers, wait},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    made::{Made, scale_operator},
    world::World,
};

/// Brings the registry back to where a fresh cluster is, from whatever a fault has left.
///
/// # Errors
/// When the operator does not bootstrap a configuration in time.
pub async fn reset(env: Arc<Environment>) -> Result<(), Failure> {
    let mut world = World::open(env, true).await?;
    let outcome = match world.start_afresh().await {
        Ok(()) => world.remove_strangers().await,
        Err(failure) => Err(failure),
    };
    world.close().await;
    outcome
}

impl World {
    /// Patches the configuration as an administrator does and returns the generation that came of it.
    pub(crate) async fn configure(&self, spec: Value) -> Result<i64, Failure> {
        self.disturbs("changing the registry configuration")?;
        let patch = json!({"spec": spec});
        let patched = self
            .configs()
            .patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .tried(format!("patching the registry configuration with {patch}"))?;
        Ok(patched.metadata.generation.unwrap_or_default())
    }

    /// Waits until the operator has acted on a generation of the configuration and all replicas serve.
    pub(crate) async fn rolled_out(&self, generation: i64) -> Step {
        wait("the registry to be available as configured", self.env.limits.rollout)
            .of("operator")
            .object(&self.configs(), names::CLUSTER, |config: Option<&Config>| {
                let Some(status) = config.and_then(|config| config.status.as_ref()) else {
                    return Check::NotYet("no configuration with a status".to_owned());
                };
                let observed = status.observed_generation.unwrap_or_default();
                let is = |type_, wanted: &str| {
                    OperatorCondition::find(&status.conditions, type_).is_some_and(|found| found.status == wanted)
                };
                let done = observed >= generation && is("Available", "True") && is("Progressing", "False");
                Check::when(done, || format!("generation {observed} of {generation}; {}", told(&status.conditions)))
            })
            .await?;
        self.pods_are_current().await
    }

    /// Waits until no registry pod of an earlier configuration is left, and traffic enters by the others.
    pub(crate) async fn pods_are_current(&self) -> Step {
        let deployments: Api<Deployment> = self.in_registry_namespace();
        wait("every registry pod to be current and ready", self.env.limits.rollout)
            .of("registry")
            .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
                let Some(deployment) = deployment else { return Check::NotYet("no Deployment".to_owned()) };
                let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                let status = deployment.status.clone().unwrap_or_default();
                let counts =
                    [status.replicas, status.updated_replicas, status.ready_replicas].map(Option::unwrap_or_default);
                let observed = status.observed_generation == deployment.metadata.generation;
                Check::when(observed && counts.iter().all(|count| *count == wanted), || {
                    format!("replicas, updated, ready = {counts:?} of {wanted}")
                })
            })
            .await?;
        self.service_follows().await
    }

    /// Waits until the registry's Service leads to exactly the pods that are ready: it follows them a moment later, and the
    /// nodes, which lead pods by its address, another moment after that.
    pub(crate) async fn service_follows(&self) -> Step {
        let pods: Api<Pod> = self.in_registry_namespace();
        let labels = ListParams::default().labels(&registry_pods());
        let until = wait("the registry's Service to lead to the pods that are ready", self.env.limits.settle);
        answers(until.of("operator"), || async {
            let pods = match pods.list(&labels).await {
                Ok(pods) => pods,
                Err(error) => return Check::NotYet(format!("listing registry pods: {error}")),
            };
            let mut ready: Vec<_> = pods.iter().filter(|pod| is_serving(pod)).filter_map(address).collect();
            ready.sort();
            let led_to = self.env.doorway.endpoints(names::REGISTRY_NAMESPACE, names::REGISTRY);
            if ready.is_empty() || ready != led_to {
                return Check::NotYet(format!("ready: {ready:?}, led to: {led_to:?}"));
            }
            let lag = self.env.doorway.lag(names::REGISTRY_NAMESPACE, names::REGISTRY).await;
            lag.map_or(Check::Met(()), Check::NotYet)
        })
        .await
    }

    /// Deletes the configuration, so that the operator initialises its components as on a fresh cluster.
    pub(crate) async fn start_afresh(&self) -> Step {
        self.disturbs("deleting the registry configuration")?;
        let configs = self.configs();
        let old = configs.get_opt(names::CLUSTER).await.tried("reading the registry configuration")?;
        let old = old.and_then(|config| config.metadata.uid);
        if old.is_some() {
            match configs.delete(names::CLUSTER, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => drop(other.tried("deleting the registry configuration")?),
            }
        }
        let bootstrapped = wait("the operator to bootstrap a registry configuration", self.env.limits.rollout)
            .of("operator")
            .object(&configs, names::CLUSTER, |config: Option<&Config>| {
                let Some(config) = config else { return Check::NotYet("no configuration".to_owned()) };
                let observed = config.status.as_ref().and_then(|status| status.observed_generation);
                let conditions = config.status.as_ref().map_or(&[][..], |status| &status.conditions);
                let known = OperatorCondition::find(conditions, "Available").is_some();
                Check::when(config.metadata.uid != old && known && observed.is_some(), || {
                    format!("uid {:?}, {}", config.metadata.uid, told(conditions))
                })
            });
        // They would keep the operator waiting for as long as they take to end.
        tokio::select! {
            outcome = bootstrapped => outcome?,
            () = self.end_leaving_pods().then(|()| future::pending::<()>()) => {}
        }
        self.no_deployment().await
    }

    /// Takes registry pods away at once when all of them are about to end, in a cluster of the run's own: what they would
    /// still do is nothing to who waits for what they use.
    pub(crate) async fn end_leaving_pods(&self) {
        if !matches!(self.env.tenancy, Tenancy::Own) {
            return;
        }
        let pods: Api<Pod> = self.in_registry_namespace();
        let leaving = wait("the registry's pods to be about to end", self.env.limits.rollout)
            .objects(&pods, &registry_pods(), |pods: &[&Pod]| {
                match pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some()) {
                    true => Check::Met(pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>()),
                    false => Check::NotYet("some stay".to_owned()),
                }
            })
            .await;
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        for name in leaving.unwrap_or_default() {
            // Gone by itself is as good, and what keeps it is told by who waits for the operator.
            let _ = pods.delete(&name, &at_once).await;
        }
    }

    /// Removes Services of the registry's port that no operator would miss: a fault can have made them.
    async fn remove_strangers(&self) -> Step {
        let services: Api<Service> = self.in_registry_namespace();
        let all = services.list(&ListParams::default()).await.tried("listing Services")?;
        for service in all.iter().filter(|service| serves_registry(service)) {
            let name = service.name_any();
            services.delete(&name, &DeleteParams::default()).await.tried(format!("deleting the Service {name}"))?;
        }
        Ok(())
    }

    pub(crate) async fn no_deployment(&self) -> Step {
        let deployments: Api<Deployment> = self.in_registry_namespace();
        wait("there to be no Deployment of the registry", self.env.limits.settle)
            .of("operator")
            .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
                Check::when(deployment.is_none(), || "the Deployment exists".to_owned())
            })
            .await
    }

    /// Waits for a condition of the ClusterOperator.
    async fn cluster_operator(&self, wanted: &[(&str, &str)], reason: Option<(&str, &str)>) -> Step {
        let operators: Api<ClusterOperator> = Api::all(self.env.client.clone());
        wait(format!("ClusterOperator {} to report {wanted:?}", names::CLUSTER_OPERATOR), self.env.limits.rollout)
            .of("operator")
            .object(&operators, names::CLUSTER_OPERATOR, |operator: Option<&ClusterOperator>| {
                let Some(status) = operator.and_then(|operator| operator.status.as_ref()) else {
                    return Check::NotYet("no ClusterOperator with a status".to_owned());
                };
                let find = |type_| OperatorCondition::find(&status.conditions, type_);
                let all = wanted.iter().all(|(type_, value)| find(type_).is_some_and(|found| found.status == *value));
                let because = reason.is_none_or(|(type_, text)| find(type_).is_some_and(|found| found.reason == text));
                Check::when(all && because, || told(&status.conditions))
            })
            .await
    }

    pub(crate) async fn condition_says(&self, type_: &str, status: &[&str], part: &str) -> Step {
        wait(format!("condition {type_} to be {status:?} and to say {part:?}"), self.env.limits.rollout)
            .of("operator")
            .object(&self.configs(), names::CLUSTER, |config: Option<&Config>| {
                let conditions = conditions(config);
                let found = OperatorCondition::find(conditions, type_)
                    .is_some_and(|found| status.contains(&found.status.as_str()) && found.message.contains(part));
                Check::when(found, || told(conditions))
            })
            .await
    }
}

/// Ready and not about to end.
pub fn is_serving(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn address(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}

/// The conditions of the configuration; none when there is no configuration or status.
pub(crate) fn conditions(config: Option<&Config>) -> &[OperatorCondition] {
    config.and_then(|config| config.status.as_ref()).map_or(&[], |status| &status.conditions)
}

/// Conditions as one line.
pub(crate) fn told(conditions: &[OperatorCondition]) -> String {
    conditions
        .iter()
        .map(|found| format!("{}={} ({}: {})", found.type_, found.status, found.reason, found.message))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Labels of the registry's pods.
pub(crate) fn registry_pods() -> String {
    format!("{}={}", names::REGISTRY_LABEL, names::REGISTRY_LABEL_VALUE)
}

fn serves_registry(service: &Service) -> bool {
    let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.any(|port| port.port == i32::from(names::REGISTRY_PORT))
}

#[given("a cluster whose platform offers no shareable object storage")]
async fn platform_without_object_storage(world: &mut World) -> Step {
    let api: Api<api::config::Infrastructure> = Api::all(world.env.client.clone());
    let infrastructure = api.get(names::CLUSTER).await.tried("reading the cluster's Infrastructure")?;
    let seen = serde_json::to_value(&infrastructure).tried("reading the cluster's Infrastructure")?;
    let platform = seen["status"]["platformStatus"]["type"].as_str().unwrap_or_default().to_owned();
    match platform.as_str() {
        "None" | "BareMetal" | "VSphere" => Ok(()),
        other => Err(Failure::error(
            "finding a platform without shareable object storage",
            format!("the cluster's platform is {other:?}"),
        )
        .next("run this scenario on a target whose platform is None, BareMetal or VSphere")),
    }
}

#[given("the operator has bootstrapped itself as Removed")]
async fn bootstrapped(world: &mut World) -> Step {
    world.start_afresh().await?;
    management_state_is(world, "Removed".to_owned()).await
}

#[given("the operator has not initialised its components yet")]
async fn not_initialised(world: &mut World) -> Step {
    world.made.push(Made::StoppedOperator);
    world.start_afresh().await?;
    scale_operator(world, 0).await?;
    // Nobody is there to honour the finalizer, so it is taken off as an administrator would.
    let configs = world.configs();
    let without = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    configs.patch(names::CLUSTER, &PatchParams::default(), &without).await.tried("taking the finalizer off")?;
    configs.delete(names::CLUSTER, &DeleteParams::default()).await.tried("deleting the registry configuration")?;
    wait("the registry configuration to be gone", world.env.limits.settle)
        .object(&configs, names::CLUSTER, |config: Option<&Config>| {
            Check::when(config.is_none(), || "it exists".to_owned())
        })
        .await
}

#[when("the Image Registry Operator initialises its components")]
async fn initialises(world: &mut World) -> Step {
    if world.made.iter().any(|made| matches!(made, Made::StoppedOperator)) {
        scale_operator(world, 1).await?;
        return wait("the operator to bootstrap a registry configuration", world.env.limits.rollout)
            .of("operator")
            .object(&world.configs(), names::CLUSTER, |config: Option<&Config>| {
                Check::when(config.is_some(), || "no configuration".to_owned())
            })
            .await;
    }
    world.start_afresh().await
}

#[given("storage is configured while the registry is Removed")]
async fn storage_while_removed(world: &mut World) -> Step {
    world.configure(json!({"storage": {"emptyDir": {}}})).await.map(drop)
}

#[given("the registry is Managed")]
async fn managed(world: &mut World) -> Step {
    // In a cluster of others it is what they made of it; that it serves is the system's part.
    if world.may_disturb() {
        return managed_with_empty_dir(world).await;
    }
    has_rolled_out(world).await
}

#[given("the registry is Managed with emptyDir storage")]
async fn managed_with_empty_dir(world: &mut World) -> Step {
    let config = world.configs().get_opt(names::CLUSTER).await.tried("reading the registry configuration")?;
    // Only an emptyDir that is already there is kept: what an earlier backend left in the configuration is not.
    let reusable = config.is_some_and(|config| {
        let spec = serde_json::to_value(&config.spec).unwrap_or_default();
        config.metadata.deletion_timestamp.is_none()
            && spec["managementState"] == "Managed"
            && spec["storage"]["emptyDir"].is_object()
    });
    if !reusable {
        world.start_afresh().await?;
    }
    let spec = json!({
        "managementState": "Managed",
        "logLevel": "Normal",
        "replicas": 1,
        "readOnly": false,
        "defaultRoute": false,
        "disableRedirect": false,
        "rolloutStrategy": null,
        "routes": null,
        "requests": null,
        "storage": {"emptyDir": {}},
    });
    let generation = world.configure(spec).await?;
    world.rolled_out(generation).await?;
    // A route of an earlier scenario may outlive the rollout, and would then be taken for a new one.
    world.no_routes(world.env.limits.settle).await
}

#[given("the registry is Managed without any storage")]
async fn managed_without_storage(world: &mut World) -> Step {
    world.start_afresh().await?;
    world.configure(json!({"managementState": "Managed"})).await.map(drop)
}

#[given(expr = "the administrator has set managementState to {string}")]
#[when(expr = "the administrator sets managementState to {string}")]
async fn sets_management_state(world: &mut World, state: String) -> Step {
    let generation = world.configure(json!({"managementState": state})).await?;
    wait(format!("the operator to take up managementState {state}"), world.env.limits.settle)
        .of("operator")
        .object(&world.configs(), names::CLUSTER, |config: Option<&Config>| {
            let observed = config.and_then(|config| config.status.as_ref()?.observed_generation).unwrap_or_default();
            Check::when(observed >= generation, || format!("observedGeneration {observed}, wanted {generation}"))
        })
        .await
}

#[when(expr = "the administrator sets {string} of the registry configuration to {string}")]
async fn sets(world: &mut World, field: String, value: String) -> Step {
    let deployments: Api<Deployment> = world.in_registry_namespace();
    let deployment = deployments.get_opt(names::REGISTRY).await.tried("reading the Deployment of the registry")?;
    world.generation = deployment.and_then(|deployment| deployment.metadata.generation);
    // A word that is JSON (true, 2) is meant as such.
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    let mut spec = serde_json::Map::new();
    spec.insert(field, value);
    world.configure(Value::Object(spec)).await.map(drop)
}

#[when("the registry has rolled out")]
async fn has_rolled_out(world: &mut World) -> Step {
    let config = world.configs().get(names::CLUSTER).await.tried("reading the registry configuration")?;
    world.rolled_out(config.metadata.generation.unwrap_or_default()).await
}

#[when("the ClusterOperator has settled")]
async fn cluster_operator_settled(world: &mut World) -> Step {
    world.cluster_operator(&[("Progressing", "False")], Some(("Available", "StorageNotConfigured"))).await
}

#[when("the ClusterOperator has followed")]
async fn cluster_operator_followed(world: &mut World) -> Step {
    // The operator tells its own configuration first.
    world.cluster_operator(&[("Progressing", "False")], Some(("Available", "Ready"))).await
}

#[when(expr = "the administrator creates a second registry configuration named {string}")]
async fn second_configuration(world: &mut World, name: String) -> Step {
    world.will_make::<Config>(None, &name);
    // Valid and different, so that an operator that obeyed it would change the registry.
    let text = json!({"managementState": "Managed", "logLevel": "Debug", "replicas": 1, "storage": {"emptyDir": {}}});
    let spec = serde_json::from_value(text).tried("writing the second configuration")?;
    let config = Config { metadata: ObjectMeta { name: Some(name), ..Default::default() }, spec, status: None };
    world.configs().create(&PostParams::default(), &config).await.tried("creating a second configuration").map(drop)
}

#[then(expr = "the managementState of the registry configuration is {string}")]
async fn management_state_is(world: &mut World, state: String) -> Step {
    let config = world.configs().get(names::CLUSTER).await.tried("reading the registry configuration")?;
    let seen = config.spec.management_state.map(|state: ManagementState| format!("{state:?}"));
    match seen.as_deref() == Some(state.as_str()) {
        true => Ok(()),
        false => Err(Failure::fail("reading spec.managementState", state, format!("{seen:?}")).of("operator")),
    }
}

#[then("there is no Deployment of the registry")]
async fn no_deployment(world: &mut World) -> Step {
    let deployments: Api<Deployment> = world.in_registry_namespace();
    wait("there is no Deployment of the registry", world.env.limits.stays)
        .of("operator")
        .stays(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
            Check::when(deployment.is_none(), || "the Deployment exists".to_owned())
        })
        .await
}

#[then(expr = "the ClusterOperator reports Available={word}, Progressing={word}, Degraded={word}")]
async fn cluster_operator_reports(world: &mut World, available: String, progressing: String, degraded: String) -> Step {
    let wanted = [("Available", &*available), ("Progressing", &*progressing), ("Degraded", &*degraded)];
    world.cluster_operator(&wanted, None).await
}

#[then(expr = "the ClusterOperator reports Available={word} with reason {string}")]
async fn cluster_operator_available(world: &mut World, available: String, reason: String) -> Step {
    world.cluster_operator(&[("Available", &available)], Some(("Available", &reason))).await
}

#[then("no registry pod runs")]
async fn no_pod(world: &mut World) -> Step {
    let pods: Api<Pod> = world.in_registry_namespace();
    wait("there to be no registry pod", world.env.limits.rollout)
        .of("operator")
        .objects(&pods, &registry_pods(), |pods: &[&Pod]| {
            Check::when(pods.is_empty(), || {
                format!("pods {:?}", pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>())
            })
        })
        .await
}

#[then("a registry pod becomes ready")]
async fn pod_ready(world: &mut World) -> Step {
    pods_ready(world, 1).await
}

#[then(expr = "{int} registry pods become ready")]
async fn pods_ready(world: &mut World, count: usize) -> Step {
    let pods: Api<Pod> = world.in_registry_namespace();
    wait(format!("{count} registry pods to be ready"), world.env.limits.rollout)
        .of("registry")
        .objects(&pods, &registry_pods(), |pods: &[&Pod]| {
            let phases: Vec<_> = pods
                .iter()
                .map(|pod| format!("{} {}", pod.name_any(), if is_serving(pod) { "ready" } else { "not ready" }))
                .collect();
            let ready = pods.iter().filter(|pod| is_serving(pod)).count();
            Check::when(ready == count && pods.len() == count, || format!("{phases:?}"))
        })
        .await?;
    world.service_follows().await
}

#[then("the operator rolls out a new generation of the registry")]
async fn new_generation(world: &mut World) -> Step {
    let before = world.generation.ok_or_else(|| Failure::error("comparing generations", "no Deployment before"))?;
    let deployments: Api<Deployment> = world.in_registry_namespace();
    wait(format!("a generation of the Deployment after {before}"), world.env.limits.settle)
        .of("operator")
        .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
            let now = deployment.and_then(|deployment| deployment.metadata.generation);
            Check::when(now.is_some_and(|now| now > before), || format!("generation {now:?}"))
        })
        .await?;
    has_rolled_out(world).await
}

#[then("the Deployment of the registry does not change")]
async fn unchanged(world: &mut World) -> Step {
    let deployments: Api<Deployment> = world.in_registry_namespace();
    let before = world.generation;
    wait(format!("the Deployment of the registry stays at generation {before:?}"), world.env.limits.stays)
        .of("operator")
        .stays(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
            let now = deployment.and_then(|deployment| deployment.metadata.generation);
            Check::when(now == before && now.is_some(), || format!("generation {now:?}"))
        })
        .await
}

#[then("Deployment, Service and route of the registry are gone")]
async fn operands_gone(world: &mut World) -> Step {
    world.no_deployment().await?;
    let services: Api<Service> = world.in_registry_namespace();
    wait("the Service of the registry to be gone", world.env.limits.settle)
        .of("operator")
        .object(&services, names::REGISTRY, |service: Option<&Service>| {
            Check::when(service.is_none(), || "the Service exists".to_owned())
        })
        .await?;
    world.no_routes(world.env.limits.settle).await
}

#[then("there is still exactly one Deployment and one Service of the registry")]
async fn exactly_one(world: &mut World) -> Step {
    let deployments: Api<Deployment> = world.in_registry_namespace();
    let before = deployments.get(names::REGISTRY).await.tried("reading the Deployment of the registry")?;
    let generation = before.metadata.generation;
    wait("the one Deployment stays as it is", world.env.limits.stays)
        .of("operator")
        .stays(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
            let now = deployment.and_then(|deployment| deployment.metadata.generation);
            Check::when(now == generation, || format!("generation {now:?} instead of {generation:?}"))
        })
        .await?;
    let all = deployments.list(&ListParams::default()).await.tried("listing Deployments")?;
    let registries: Vec<_> =
        all.iter().map(ResourceExt::name_any).filter(|name| name != names::OPERATOR_DEPLOYMENT).collect();
    let services: Api<Service> = world.in_registry_namespace();
    let all = services.list(&ListParams::default()).await.tried("listing Services")?;
    let serving: Vec<_> = all.iter().filter(|service| serves_registry(service)).map(ResourceExt::name_any).collect();
    let expected = vec![names::REGISTRY.to_owned()];
    if registries == expected && serving == expected {
        return Ok(());
    }
    let seen = format!("Deployments {registries:?}, Services {serving:?}");
    Err(Failure::fail("counting registries", format!("one Deployment and one Service {expected:?}"), seen)
        .of("operator"))
}

#[then("the status of the registry configuration says that the storage is not configured")]
async fn storage_missing(world: &mut World) -> Step {
    world.condition_says("Available", &["False"], "storage backend not configured").await?;
    world.condition_says("Degraded", &["True"], "storage backend not configured").await
}

#[then("the ClusterOperator says the same")]
async fn cluster_operator_agrees(world: &mut World) -> Step {
    let wanted = [("Available", "False"), ("Degraded", "True")];
    world.cluster_operator(&wanted, Some(("Available", "StorageNotConfigured"))).await
}

#[then("the registry configuration has no storage")]
async fn no_storage(world: &mut World) -> Step {
    let config = world.configs().get(names::CLUSTER).await.tried("reading the registry configuration")?;
    match config.spec.storage.is_unset() {
        true => Ok(()),
        false => Err(Failure::fail("reading spec.storage", "nothing", format!("{:?}", config.spec.storage))),
    }
}
