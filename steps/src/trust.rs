//! Additional trust: authorities for external registries and where the registry pod sees them.

use api::{config::ImageConfig, names};
use cucumber::{gherkin::Step as Text, given, then, when};
use harness::{
    failure::{Failure, Step, Tried},
    wait::{Check, wait},
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{made::Made, operator::registry_pods, world::World};

const ANCHORS: &str = "/etc/pki/ca-trust/source/anchors";

#[given(expr = "the administrator trusts an authority for the external registry {string}")]
async fn trusts(world: &mut World, host: String) -> Step {
    let name = format!("registry-config-{}", world.id);
    world.will_make::<ConfigMap>(Some(names::CONFIG_NAMESPACE), &name);
    world.made.push(Made::Restore {
        resource: kube::core::ApiResource::erase::<ImageConfig>(&()),
        name: names::CLUSTER.to_owned(),
        patch: json!({"spec": {"additionalTrustedCA": null}}),
    });
    let data = [(host, world.env.authority.pem().to_owned())];
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(name.clone()), ..Default::default() },
        data: Some(data.into_iter().collect()),
        ..Default::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(world.env.client.clone(), names::CONFIG_NAMESPACE);
    maps.create(&PostParams::default(), &map).await.tried("making the ConfigMap of authorities")?;
    trust(world, json!({"name": name})).await?;
    world.in_certificates(&map_key(&map), true).await
}

fn map_key(map: &ConfigMap) -> String {
    map.data.iter().flatten().map(|(key, _)| key.clone()).next().unwrap_or_default()
}

async fn trust(world: &World, reference: serde_json::Value) -> Step {
    world.disturbs("changing the cluster's image configuration")?;
    let configs: Api<ImageConfig> = Api::all(world.env.client.clone());
    let patch = Patch::Merge(json!({"spec": {"additionalTrustedCA": reference}}));
    configs.patch(names::CLUSTER, &PatchParams::default(), &patch).await.tried("patching image.config").map(drop)
}

impl World {
    /// Waits until the operator's ConfigMap of certificates has, or no longer has, a key, and the registry runs with it.
    async fn in_certificates(&self, key: &str, wanted: bool) -> Step {
        let maps: Api<ConfigMap> = self.in_registry_namespace();
        let what = format!("{} {} {key}", names::CERTIFICATES_CONFIG_MAP, if wanted { "to have" } else { "to lose" });
        wait(what, self.env.limits.settle)
            .of("operator")
            .object(&maps, names::CERTIFICATES_CONFIG_MAP, |map: Option<&ConfigMap>| {
                let keys: Vec<_> = map.iter().flat_map(|map| map.data.iter().flatten()).map(|(key, _)| key).collect();
                Check::when(keys.iter().any(|found| *found == key) == wanted, || format!("keys {keys:?}"))
            })
            .await
    }

    /// Waits until a listing of the anchors inside the registry pod is as wanted. It is made again whenever a registry pod
    /// changes, because a new configuration replaces the pod, and a pod that is going away lists nothing.
    async fn anchors_are(&mut self, what: String, holds: impl Fn(&[String]) -> bool) -> Step {
        let command =
            format!("oc exec deployments/{} -n {} -- ls {ANCHORS}", names::REGISTRY, names::REGISTRY_NAMESPACE);
        let pods: Api<Pod> = self.in_registry_namespace();
        let until = tokio::time::Instant::now() + self.env.limits.rollout;
        loop {
            // Versions first: a pod that changes in between is then looked at once more.
            let listed = pods.list(&ListParams::default().labels(&registry_pods())).await.tried("listing pods")?;
            let before = versions(&listed.items.iter().collect::<Vec<_>>());
            let ran = self.shell.run(&command, self.env.limits.answer).await?;
            self.env.evidence.note(ran.summary());
            let anchors: Vec<_> = ran.stdout.split_whitespace().map(str::to_owned).collect();
            if ran.code == 0 && holds(&anchors) {
                return Ok(());
            }
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let changed = wait(format!("`{command}` to list {what}"), left)
                .of("operator")
                .objects(&pods, &registry_pods(), |pods: &[&Pod]| {
                    Check::when(versions(pods) != before, || ran.summary())
                })
                .await;
            if let Err(failure) = changed {
                return Err(Failure { seen: Some(ran.summary()), ..failure });
            }
        }
    }
}

fn versions(pods: &[&Pod]) -> Vec<(String, Option<String>)> {
    let mut versions: Vec<_> = pods.iter().map(|pod| (pod.name_any(), pod.resource_version())).collect();
    versions.sort();
    versions
}

#[when(expr = "the administrator removes the authority for {string}")]
async fn removes(world: &mut World, host: String) -> Step {
    trust(world, serde_json::Value::Null).await?;
    world.in_certificates(&host, false).await
}

#[then("the trust anchors inside the registry pod list")]
async fn anchors_list(world: &mut World, step: &Text) -> Step {
    let rows = &step.table.as_ref().ok_or_else(|| Failure::error("reading the step", "it has no table"))?.rows;
    let wanted: Vec<_> = rows.iter().map(|row| row[0].trim().to_owned()).collect();
    let what = wanted.join(", ");
    world.anchors_are(what, |seen| wanted.iter().all(|name| seen.contains(name))).await
}

#[then(expr = "the trust anchors inside the registry pod do not list {string}")]
async fn anchors_do_not_list(world: &mut World, name: String) -> Step {
    world.anchors_are(format!("no {name}"), |seen| !seen.contains(&name)).await
}
