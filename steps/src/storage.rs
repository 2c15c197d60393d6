//! Storage of the registry: emptyDir, persistent volume claims, buckets and containers of clouds, seen from the cluster and
//! from inside.

use api::{condition::OperatorCondition, imageregistry::Config, names};
use cucumber::{gherkin::Step as Text, given, then, when};
use harness::{
    failure::{Failure, Step, Tried},
    wait::{Check, wait},
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{EnvVar, PersistentVolumeClaim, Secret, VolumeMount},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use serde_json::{Value, json};

use crate::{
    command::docstring,
    made::Made,
    operator::{conditions, told},
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

impl World {
    /// Makes a bucket on a storage product of a kind and registers what undoes it. The registry's names for the product
    /// lead there until the scenario ends; of several, those that `places` picks.
    async fn make_bucket(&mut self, kind: &str, places: impl Fn(&str) -> bool) -> Result<Bucket, Failure> {
        let endpoint = self.env.backends.open(kind).await?;
        let bucket = Bucket { name: format!("bucket-{}", self.id), endpoint };
        self.bucket = Some(bucket.clone());
        self.made.push(Made::Bucket(bucket.name.clone()));
        // A registry that still uses the bucket would be judged by the next scenario.
        self.made.push(Made::Restore {
            resource: kube::core::ApiResource::erase::<Config>(&()),
            name: names::CLUSTER.to_owned(),
            patch: json!({"spec": {"managementState": "Removed", "storage": {kind: null}}}),
        });
        if let Some(address) = bucket.endpoint.address {
            for host in bucket.endpoint.hosts.iter().filter(|host| places(host)) {
                self.made.push(Made::Name(host.clone()));
                self.env.doorway.place(host, address);
            }
        }
        self.env.evidence.secret(bucket.endpoint.secret_key.reveal());
        bucket.endpoint.view.make_bucket(&bucket.name).await?;
        Ok(bucket)
    }

    /// Makes the administrator's Secret with the credentials, without a documented command.
    async fn give_credentials(&mut self, data: &[(&str, &str)]) -> Step {
        self.will_make::<Secret>(Some(names::REGISTRY_NAMESPACE), names::USER_STORAGE_SECRET);
        let secret = Secret {
            metadata: ObjectMeta { name: Some(names::USER_STORAGE_SECRET.to_owned()), ..Default::default() },
            string_data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            ..Default::default()
        };
        let secrets: Api<Secret> = self.in_registry_namespace();
        secrets.create(&PostParams::default(), &secret).await.tried("making the credentials secret").map(drop)
    }

    /// Configures one replica of the registry on a storage.
    async fn configure_storage(&mut self, storage: Value) -> Step {
        self.configure(json!({"managementState": "Managed", "replicas": 1, "storage": storage})).await.map(drop)
    }

    /// Waits until the configuration as it is now has been rolled out.
    async fn rolled_out_now(&mut self) -> Step {
        let config = self.configs().get(names::CLUSTER).await.tried("reading the registry configuration")?;
        self.rolled_out(config.metadata.generation.unwrap_or_default()).await
    }

    /// Waits until the registry's container has these variables.
    async fn registry_is_told(&self, what: &str, wanted: &[(&str, String)]) -> Step {
        let deployments: Api<Deployment> = self.in_registry_namespace();
        wait(format!("the Deployment's environment to name {what}"), self.env.limits.settle)
            .of("operator")
            .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
                let env: Vec<_> = storage_variables(deployment)
                    .into_iter()
                    .map(|variable| (variable.name, variable.value.unwrap_or_default()))
                    .collect();
                let all = wanted.iter().all(|(name, value)| env.iter().any(|(n, v)| n == name && v == value));
                Check::when(all, || format!("{env:?}"))
            })
            .await
    }
}

/// The variables of the registry's container that are about storage.
fn storage_variables(deployment: Option<&Deployment>) -> Vec<EnvVar> {
    let pod = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
    let variables = pod.iter().flat_map(|pod| &pod.containers).flat_map(|container| container.env.iter().flatten());
    variables.filter(|variable| variable.name.starts_with("REGISTRY_STORAGE")).cloned().collect()
}

#[given("a bucket on an S3 server")]
async fn s3_bucket(world: &mut World) -> Step {
    let Bucket { endpoint, .. } = world.make_bucket("s3", |_| true).await?;
    world.shell.variables.insert("ACCESSKEY".to_owned(), endpoint.access_key);
    world.shell.variables.insert("SECRETKEY".to_owned(), endpoint.secret_key.reveal().to_owned());
    Ok(())
}

#[given("a bucket on a GCS server and the credentials file of a service account")]
async fn gcs_bucket(world: &mut World) -> Step {
    let Bucket { endpoint, .. } = world.make_bucket("gcs", |_| true).await?;
    let path = world.folder().join("service-account.json");
    let tried = || format!("writing {}", path.display());
    std::fs::write(&path, endpoint.secret_key.reveal()).tried(tried())?;
    world.shell.variables.insert("KEYFILE".to_owned(), path.display().to_string());
    Ok(())
}

#[given("a container of an Azure storage account")]
async fn azure_container(world: &mut World) -> Step {
    azure_container_in(world, "AzurePublicCloud".to_owned()).await
}

/// Where the accounts of a cloud answer (OpenShift 4.6 registry docs, section 3.3.3, names the clouds).
fn blob_suffix(cloud: &str) -> Result<&'static str, Failure> {
    Ok(match cloud {
        "AzurePublicCloud" => "core.windows.net",
        "AzureUSGovernmentCloud" => "core.usgovcloudapi.net",
        "AzureChinaCloud" => "core.chinacloudapi.cn",
        "AzureGermanCloud" => "core.cloudapi.de",
        other => return Err(Failure::error("finding an Azure cloud", format!("there is none called {other}"))),
    })
}

#[given(expr = "a container of an Azure storage account in {word}")]
async fn azure_container_in(world: &mut World, cloud: String) -> Step {
    let end = format!(".blob.{}:443", blob_suffix(&cloud)?);
    let Bucket { endpoint, .. } = world.make_bucket("azure", |host| host.ends_with(&end)).await?;
    world.shell.variables.insert("ACCOUNTKEY".to_owned(), endpoint.secret_key.reveal().to_owned());
    Ok(())
}

#[when("the administrator creates the credentials secret with")]
async fn credentials_secret(world: &mut World, step: &Text) -> Step {
    world.will_make::<Secret>(Some(names::REGISTRY_NAMESPACE), names::USER_STORAGE_SECRET);
    world.run(docstring(step)?).await?;
    world.ran()?.clone().succeeded().map(drop)
}

#[when("the administrator configures the bucket and its region")]
async fn configures_s3(world: &mut World) -> Step {
    let Bucket { endpoint, name } = world.bucket()?.clone();
    let s3 = json!({"bucket": name, "region": endpoint.region, "regionEndpoint": endpoint.url});
    world.configure_storage(json!({"s3": s3})).await
}

#[when("the administrator configures the bucket")]
async fn configures_gcs(world: &mut World) -> Step {
    let Bucket { name, .. } = world.bucket()?.clone();
    world.configure_storage(json!({"gcs": {"bucket": name}})).await
}

#[when("the administrator configures a region and a project but no bucket")]
async fn configures_gcs_without_bucket(world: &mut World) -> Step {
    let region = world.bucket()?.endpoint.region.clone();
    world.configure_storage(json!({"gcs": {"region": region, "projectID": "registry-conformance"}})).await
}

#[when("the administrator configures the account and the container")]
async fn configures_azure(world: &mut World) -> Step {
    let Bucket { endpoint, name } = world.bucket()?.clone();
    world.configure_storage(json!({"azure": {"accountName": endpoint.access_key, "container": name}})).await
}

#[when(expr = "the administrator configures the account, the container and the cloud {word}")]
async fn configures_azure_cloud(world: &mut World, cloud: String) -> Step {
    let Bucket { endpoint, name } = world.bucket()?.clone();
    let azure = json!({"accountName": endpoint.access_key, "container": name, "cloudName": cloud});
    world.configure_storage(json!({"azure": azure})).await
}

#[when("the administrator configures the account alone")]
async fn configures_account(world: &mut World) -> Step {
    let account = world.bucket()?.endpoint.access_key.clone();
    world.configure_storage(json!({"azure": {"accountName": account}})).await
}

#[when("the administrator configures the container alone")]
async fn configures_container(world: &mut World) -> Step {
    let container = world.bucket()?.name.clone();
    world.configure_storage(json!({"azure": {"container": container}})).await
}

#[given("the registry is Managed with S3 storage")]
async fn managed_with_s3(world: &mut World) -> Step {
    world.start_afresh().await?;
    s3_bucket(world).await?;
    let endpoint = world.bucket()?.endpoint.clone();
    let keys = [
        ("REGISTRY_STORAGE_S3_ACCESSKEY", endpoint.access_key.as_str()),
        ("REGISTRY_STORAGE_S3_SECRETKEY", endpoint.secret_key.reveal()),
    ];
    world.give_credentials(&keys).await?;
    configures_s3(world).await?;
    world.rolled_out_now().await
}

#[given("the registry is Managed with GCS storage")]
async fn managed_with_gcs(world: &mut World) -> Step {
    world.start_afresh().await?;
    gcs_bucket(world).await?;
    let endpoint = world.bucket()?.endpoint.clone();
    world.give_credentials(&[("REGISTRY_STORAGE_GCS_KEYFILE", endpoint.secret_key.reveal())]).await?;
    configures_gcs(world).await?;
    world.rolled_out_now().await
}

#[given("the registry is Managed with Azure storage")]
async fn managed_with_azure(world: &mut World) -> Step {
    world.start_afresh().await?;
    azure_container(world).await?;
    let endpoint = world.bucket()?.endpoint.clone();
    world.give_credentials(&[("REGISTRY_STORAGE_AZURE_ACCOUNTKEY", endpoint.secret_key.reveal())]).await?;
    configures_azure(world).await?;
    world.rolled_out_now().await
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
            let conditions = conditions(config);
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
            let conditions = conditions(config);
            let named = conditions
                .iter()
                .any(|found| found.message.contains(&part) && found.message.contains(names::USER_STORAGE_SECRET));
            Check::when(named, || told(conditions))
        })
        .await
}

#[then("the operator reports that it has no credentials")]
async fn no_credentials(world: &mut World) -> Step {
    wait("the storage not to exist and a condition to name the credentials", world.env.limits.rollout)
        .of("operator")
        .object(&world.configs(), names::CLUSTER, |config: Option<&Config>| {
            let conditions = conditions(config);
            let exists = OperatorCondition::find(conditions, "StorageExists").map(|found| found.status.as_str());
            // The documents do not say which condition has to: OpenShift's operator says it under Progressing.
            let named = conditions.iter().any(|found| found.message.contains("credentials"));
            Check::when(exists.is_some_and(|exists| exists != "True") && named, || told(conditions))
        })
        .await
}

#[then(expr = "the operator reports that the {word} is not specified")]
async fn not_specified(world: &mut World, what: String) -> Step {
    let what = if what == "account" { "account name" } else { &what };
    world.condition_says("StorageExists", &["False"], &format!("{what} is not specified")).await
}

#[then("the registry is told the bucket and its region")]
async fn told_s3(world: &mut World) -> Step {
    let Bucket { endpoint, name } = world.bucket()?.clone();
    let wanted = [
        ("REGISTRY_STORAGE", "s3".to_owned()),
        ("REGISTRY_STORAGE_S3_BUCKET", name),
        ("REGISTRY_STORAGE_S3_REGION", endpoint.region),
    ];
    world.registry_is_told("bucket and region", &wanted).await
}

#[then("the registry is told the bucket")]
async fn told_gcs(world: &mut World) -> Step {
    let Bucket { name, .. } = world.bucket()?.clone();
    let wanted = [("REGISTRY_STORAGE", "gcs".to_owned()), ("REGISTRY_STORAGE_GCS_BUCKET", name)];
    world.registry_is_told("the bucket", &wanted).await
}

#[then("the registry is told the account and the container")]
async fn told_azure(world: &mut World) -> Step {
    let Bucket { endpoint, name } = world.bucket()?.clone();
    let wanted = [
        ("REGISTRY_STORAGE", "azure".to_owned()),
        ("REGISTRY_STORAGE_AZURE_ACCOUNTNAME", endpoint.access_key),
        ("REGISTRY_STORAGE_AZURE_CONTAINER", name),
    ];
    world.registry_is_told("account and container", &wanted).await
}

#[then(expr = "the registry is told the storage suffix of {word}")]
async fn told_realm(world: &mut World, cloud: String) -> Step {
    let wanted = [("REGISTRY_STORAGE_AZURE_REALM", blob_suffix(&cloud)?.to_owned())];
    world.registry_is_told("the suffix of the cloud", &wanted).await
}

#[then("the registry takes the account key from a secret")]
async fn key_is_from_a_secret(world: &mut World) -> Step {
    const KEY: &str = "REGISTRY_STORAGE_AZURE_ACCOUNTKEY";
    let deployments: Api<Deployment> = world.in_registry_namespace();
    wait("the account key to come from a secret", world.env.limits.settle)
        .of("operator")
        .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
            let variables = storage_variables(deployment);
            let found = variables.iter().find(|variable| variable.name == KEY);
            let source = found.and_then(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
            let literal = found.is_some_and(|variable| variable.value.as_ref().is_some_and(|value| !value.is_empty()));
            // A literal key must not get into the report.
            Check::when(source.is_some() && !literal, || match (found, source) {
                (None, _) => format!("there is no {KEY}"),
                (Some(_), None) => format!("{KEY} refers to no secret"),
                (Some(_), Some(source)) => format!("{KEY} is a literal beside the reference to {}", source.name),
            })
        })
        .await
}

#[then("the registry finds the credentials file mounted as it was")]
async fn key_file_is_mounted(world: &mut World) -> Step {
    let given = world.bucket()?.endpoint.secret_key.clone();
    let deployments: Api<Deployment> = world.in_registry_namespace();
    let deployment = deployments.get(names::REGISTRY).await.tried("reading the registry's Deployment")?;
    let tried = "following REGISTRY_STORAGE_GCS_KEYFILE to its file";
    let wrong = |seen: String| Failure::fail(tried, "a file mounted from a secret", seen).of("operator");
    let variables = storage_variables(Some(&deployment));
    let path = variables.iter().find(|variable| variable.name == "REGISTRY_STORAGE_GCS_KEYFILE");
    let path = path.and_then(|variable| variable.value.clone()).ok_or_else(|| wrong("no such variable".to_owned()))?;
    let pod = deployment.spec.and_then(|spec| spec.template.spec).unwrap_or_default();
    let mounts = pod.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
    let below = |mount: &VolumeMount| path.strip_prefix(&format!("{}/", mount.mount_path)).map(str::to_owned);
    let (volume, file) = mounts
        .filter_map(|mount| Some((mount.name.clone(), below(mount)?)))
        .next()
        .ok_or_else(|| wrong(format!("no volume is mounted above {path}")))?;
    let source = pod.volumes.iter().flatten().find(|found| found.name == volume).and_then(|found| found.secret.clone());
    let source = source.ok_or_else(|| wrong(format!("volume {volume} is no secret")))?;
    let items = source.items.unwrap_or_default();
    let key = items.iter().find(|item| item.path == file).map_or(&file, |item| &item.key);
    let secrets: Api<Secret> = world.in_registry_namespace();
    let name = source.secret_name.unwrap_or_default();
    let secret = secrets.get(&name).await.tried(format!("reading secret {name}"))?;
    let data = secret.data.unwrap_or_default();
    let found = data.get(key).ok_or_else(|| wrong(format!("secret {name} has no {key}")))?;
    if found.0 == given.reveal().as_bytes() {
        return Ok(());
    }
    let seen = format!("{} other bytes under {key} of secret {name}", found.0.len());
    Err(Failure::fail(tried, format!("the {} bytes that were given", given.reveal().len()), seen).of("operator"))
}

#[then("the operator chooses a name for the bucket and makes it")]
async fn bucket_is_chosen(world: &mut World) -> Step {
    wait("spec.storage.gcs.bucket to have a name", world.env.limits.settle)
        .of("operator")
        .object(&world.configs(), names::CLUSTER, |config: Option<&Config>| {
            let gcs = config.and_then(|config| config.spec.storage.gcs.as_ref());
            Check::when(gcs.is_some_and(|gcs| !gcs.bucket.is_empty()), || format!("{gcs:?}"))
        })
        .await?;
    world.condition_says("StorageExists", &["True"], "").await?;
    let config = world.configs().get(names::CLUSTER).await.tried("reading the registry configuration")?;
    let name = config.spec.storage.gcs.map(|gcs| gcs.bucket).unwrap_or_default();
    world.made.push(Made::Bucket(name.clone()));
    // The credentials go before the registry does, and without them the operator could not delete what is its own.
    world.made.push(Made::Restore {
        resource: kube::core::ApiResource::erase::<Config>(&()),
        name: names::CLUSTER.to_owned(),
        patch: json!({"spec": {"managementState": "Removed", "storage": {"managementState": "Unmanaged"}}}),
    });
    let there = world.bucket()?.endpoint.view.has_bucket(&name).await?;
    if there {
        return Ok(());
    }
    Err(Failure::fail(format!("looking for bucket {name}"), "a bucket of that name", "none").of("operator"))
}

#[then(expr = "the container holds every blob of the image {string}")]
async fn container_holds(world: &mut World, name: String) -> Step {
    bucket_holds(world, name).await
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
