//! Storage of the registry: emptyDir, persistent volume claims and S3 buckets, seen from the cluster and from inside.

use api::{condition::OperatorCondition, imageregistry::Config, names};
use cucumber::{gherkin::Step as Text, given, then, when};
use harness::{
    failure::{Failure, Step, Tried},
    wait::{Check, wait},
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{PersistentVolumeClaim, Secret},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use serde_json::json;

use crate::{
    command::docstring,
    made::Made,
    operator::told,
    world::{Bucket, World},
};

#[then("the registry's volume is an emptyDir")]
async fn volume_is_empty_dir(world: &mut World) -> Step {
    let deployments: Api<Deployment> = world.in_registry_namespace();
    wait("the Deployment's volume registry-storage to be an emptyDir", world.env.limits.settle)
        .of("operator")
        .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
            let pod = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
            let volume =
                pod.and_then(|pod| pod.volumes.iter().flatten().find(|volume| volume.name == "registry-storage"));
            Check::when(volume.is_some_and(|volume| volume.empty_dir.is_some()), || format!("{volume:?}"))
        })
        .await
}

#[when("the administrator configures a persistent volume and leaves the claim blank")]
async fn blank_claim(world: &mut World) -> Step {
    world.will_make::<PersistentVolumeClaim>(Some(names::REGISTRY_NAMESPACE), names::DEFAULT_CLAIM);
    let spec = json!({"managementState": "Managed", "replicas": 1, "storage": {"pvc": {"claim": ""}}});
    world.made.push(Made::Restore {
        resource: kube::core::ApiResource::erase::<Config>(&()),
        name: names::CLUSTER.to_owned(),
        patch: json!({"spec": {"managementState": "Removed", "storage": {"pvc": null}}}),
    });
    world.configure(spec).await.map(drop)
}

#[given(expr = "somebody else's claim {string} exists")]
async fn foreign_claim(world: &mut World, name: String) -> Step {
    world.will_make::<PersistentVolumeClaim>(Some(names::REGISTRY_NAMESPACE), &name);
    let mut claim =
        PersistentVolumeClaim { metadata: ObjectMeta { name: Some(name), ..Default::default() }, ..Default::default() };
    let spec = claim.spec.get_or_insert_default();
    spec.access_modes = Some(vec!["ReadWriteMany".to_owned()]);
    let requests = [("storage".to_owned(), Quantity("1Gi".to_owned()))];
    spec.resources.get_or_insert_default().requests = Some(requests.into_iter().collect());
    let claims: Api<PersistentVolumeClaim> = world.in_registry_namespace();
    claims.create(&PostParams::default(), &claim).await.tried("making a foreign claim").map(drop)
}

#[then(expr = "the operator creates the claim {string}")]
async fn claim_created(world: &mut World, name: String) -> Step {
    let claims: Api<PersistentVolumeClaim> = world.in_registry_namespace();
    wait(format!("the claim {name}"), world.env.limits.settle)
        .of("operator")
        .object(&claims, &name, |claim: Option<&PersistentVolumeClaim>| {
            Check::when(claim.is_some(), || "no such claim".to_owned())
        })
        .await
}

#[then(expr = "the registry configuration names the claim {string}")]
async fn claim_named(world: &mut World, name: String) -> Step {
    wait(format!("spec.storage.pvc.claim to be {name}"), world.env.limits.settle)
        .of("operator")
        .object(&world.configs(), names::CLUSTER, |config: Option<&Config>| {
            let storage = serde_json::to_value(config.map(|config| &config.spec.storage)).unwrap_or_default();
            Check::when(storage["pvc"]["claim"] == name.as_str(), || storage.to_string())
        })
        .await
}

#[then("the operator reports that the claim is not its own")]
async fn claim_not_own(world: &mut World) -> Step {
    world.condition_says("StorageExists", &["False"], "not owned by the operator").await
}

#[given("a bucket on an S3 server")]
async fn bucket(world: &mut World) -> Step {
    let endpoint = world.env.backends.open("s3-local").await?;
    let name = format!("bucket-{}", world.id);
    world.bucket = Some(Bucket { endpoint: endpoint.clone(), name: name.clone() });
    world.made.push(Made::Bucket(name.clone()));
    // A registry that still uses the bucket would be judged by the next scenario.
    world.made.push(Made::Restore {
        resource: kube::core::ApiResource::erase::<Config>(&()),
        name: names::CLUSTER.to_owned(),
        patch: json!({"spec": {"managementState": "Removed", "storage": {"s3": null}}}),
    });
    endpoint.view.make_bucket(&name).await?;
    world.env.evidence.secret(endpoint.secret_key.reveal());
    world.shell.variables.insert("ACCESSKEY".to_owned(), endpoint.access_key.clone());
    world.shell.variables.insert("SECRETKEY".to_owned(), endpoint.secret_key.reveal().to_owned());
    Ok(())
}

#[when("the administrator creates the credentials secret with")]
async fn credentials_secret(world: &mut World, step: &Text) -> Step {
    world.will_make::<Secret>(Some(names::REGISTRY_NAMESPACE), names::USER_STORAGE_SECRET);
    world.run(docstring(step)?).await?;
    world.ran()?.clone().succeeded().map(drop)
}

#[when("the administrator configures the bucket and its region")]
async fn configures_bucket(world: &mut World) -> Step {
    let Bucket { endpoint, name } = world.bucket()?.clone();
    let storage = json!({"s3": {"bucket": name, "region": endpoint.region, "regionEndpoint": endpoint.url}});
    world.configure(json!({"managementState": "Managed", "replicas": 1, "storage": storage})).await.map(drop)
}

#[given("the registry is Managed with S3 storage")]
async fn managed_with_s3(world: &mut World) -> Step {
    world.start_afresh().await?;
    bucket(world).await?;
    world.will_make::<Secret>(Some(names::REGISTRY_NAMESPACE), names::USER_STORAGE_SECRET);
    let endpoint = world.bucket()?.endpoint.clone();
    let data = [
        ("REGISTRY_STORAGE_S3_ACCESSKEY", endpoint.access_key.clone()),
        ("REGISTRY_STORAGE_S3_SECRETKEY", endpoint.secret_key.reveal().to_owned()),
    ];
    let secret = Secret {
        metadata: ObjectMeta { name: Some(names::USER_STORAGE_SECRET.to_owned()), ..Default::default() },
        string_data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ..Default::default()
    };
    let secrets: Api<Secret> = world.in_registry_namespace();
    secrets.create(&PostParams::default(), &secret).await.tried("making the credentials secret")?;
    configures_bucket(world).await?;
    let config = world.configs().get(names::CLUSTER).await.tried("reading the registry configuration")?;
    world.rolled_out(config.metadata.generation.unwrap_or_default()).await
}

#[then("the operator reports that the storage exists")]
async fn storage_exists(world: &mut World) -> Step {
    world.condition_says("StorageExists", &["True"], "").await
}

#[then("the operator does not report that the storage exists")]
async fn storage_does_not_exist(world: &mut World) -> Step {
    world.condition_says("StorageExists", &["False", "Unknown"], "").await?;
    wait("StorageExists stays other than True", world.env.limits.stays)
        .of("operator")
        .stays(&world.configs(), names::CLUSTER, |config: Option<&Config>| {
            let conditions = config.and_then(|config| config.status.as_ref()).map_or(&[][..], |s| &s.conditions);
            let exists = OperatorCondition::find(conditions, "StorageExists").is_some_and(OperatorCondition::is_true);
            Check::when(!exists, || told(conditions))
        })
        .await
}

#[then(expr = "the operator reports that the secret lacks the key {string}")]
async fn secret_lacks_key(world: &mut World, key: String) -> Step {
    let part = format!("does not contain required key \"{key}\"");
    wait(format!("a condition to name the missing key {key}"), world.env.limits.settle)
        .of("operator")
        .object(&world.configs(), names::CLUSTER, |config: Option<&Config>| {
            let conditions = config.and_then(|config| config.status.as_ref()).map_or(&[][..], |s| &s.conditions);
            let named = conditions
                .iter()
                .any(|found| found.message.contains(&part) && found.message.contains(names::USER_STORAGE_SECRET));
            Check::when(named, || told(conditions))
        })
        .await
}

#[then("the registry is told the bucket and its region")]
async fn told_bucket(world: &mut World) -> Step {
    let Bucket { endpoint, name } = world.bucket()?.clone();
    let wanted = [
        ("REGISTRY_STORAGE", "s3".to_owned()),
        ("REGISTRY_STORAGE_S3_BUCKET", name),
        ("REGISTRY_STORAGE_S3_REGION", endpoint.region),
    ];
    let deployments: Api<Deployment> = world.in_registry_namespace();
    wait("the Deployment's environment to name bucket and region", world.env.limits.settle)
        .of("operator")
        .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
            let pod = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
            let env: Vec<_> = pod
                .iter()
                .flat_map(|pod| &pod.containers)
                .flat_map(|container| container.env.iter().flatten())
                .filter(|variable| variable.name.starts_with("REGISTRY_STORAGE"))
                .map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default()))
                .collect();
            let all = wanted.iter().all(|(name, value)| env.iter().any(|(n, v)| n == name && v == value));
            Check::when(all, || format!("{env:?}"))
        })
        .await
}

#[then(expr = "the bucket holds every blob of the image {string}")]
async fn bucket_holds(world: &mut World, name: String) -> Step {
    let image = world.known(&name)?.image.clone();
    let Bucket { endpoint, name: bucket } = world.bucket()?.clone();
    let keys = endpoint.view.keys(&bucket).await?;
    for blob in image.blobs().chain([&image.manifest]) {
        let hex = blob.digest.trim_start_matches("sha256:");
        let Some(key) = keys.iter().find(|key| key.ends_with(&format!("/{hex}/data"))) else {
            let tried = format!("looking for blob {} in the bucket", blob.digest);
            return Err(
                Failure::fail(tried, format!("a key that ends with {hex}/data"), format!("{keys:?}")).of("registry")
            );
        };
        let bytes = endpoint.view.read(&bucket, key).await?.unwrap_or_default();
        let digest = harness::oci::digest_of(&bytes);
        if digest != blob.digest {
            return Err(Failure::fail(format!("reading {key} from the bucket"), &*blob.digest, digest).of("registry"));
        }
    }
    Ok(())
}
