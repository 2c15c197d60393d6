//! The operator on a real control plane: what it makes, keeps, leaves alone and takes away.
//! Pods are played; everything else is the API server's and the controller manager's own doing.

mod lane;

use std::time::Duration;

use api::config::{ClusterOperator, ImageConfig};
use api::imageregistry::{Config, ImagePruner};
use api::names;
use api::route::Route;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use lane::{Lane, count, message, platform, said, typed};
use serde_json::json;

const READY: [&str; 4] =
    ["Available True Ready", "Progressing False Ready", "Degraded False ", "StorageExists True Creation Successful"];

fn pruner_flag(job: Option<&CronJob>, wanted: &str) -> bool {
    let pod = job.and_then(|job| job.spec.as_ref()?.job_template.spec.as_ref()?.template.spec.as_ref());
    let arguments = pod.and_then(|pod| pod.containers.first()?.args.clone()).unwrap_or_default();
    arguments.iter().any(|argument| argument == wanted)
}

fn env(deployment: &Deployment, name: &str) -> Option<String> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.first()?.env.as_ref()?.iter().find(|entry| entry.name == name)?.value.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_from_bootstrap_to_removal() {
    let lane = Lane::start(platform("None")).await;
    let operator = lane.operator();
    let (deployments, services) = (lane.api::<Deployment>(), lane.api::<Service>());
    let operators: Api<ClusterOperator> = Api::all(lane.client.clone());
    let images: Api<ImageConfig> = Api::all(lane.client.clone());

    // Bootstrapped as Removed.
    let config =
        lane.until_says(&["Available True Removed", "Progressing False Removed", "Degraded False Removed"]).await;
    assert_eq!(serde_json::to_value(&config.spec.storage).unwrap(), json!({}));
    assert_eq!(config.metadata.finalizers.as_deref(), Some(&[names::FINALIZER.to_owned()][..]));
    assert!(deployments.get_opt(names::REGISTRY).await.unwrap().is_none());
    lane.until(&operators, names::CLUSTER_OPERATOR, |found: Option<&ClusterOperator>| {
        let status = found.and_then(|found| found.status.clone()).unwrap_or_default();
        let is = |type_: &str, want: &str| status.conditions.iter().any(|c| c.type_ == type_ && c.status == want);
        is("Available", "True") && is("Progressing", "False") && is("Degraded", "False") && status.versions.len() == 1
    })
    .await;
    let jobs = lane.api::<CronJob>();
    lane.until(&jobs, names::PRUNER_CRON_JOB, |job| pruner_flag(job, "--prune-registry=false")).await;

    // Managed without storage says what is missing.
    lane.patch(json!({"managementState": "Managed"})).await;
    let config = lane.until_says(&["Available False StorageNotConfigured", "Degraded True StorageNotConfigured"]).await;
    assert_eq!(message(&config, "Degraded"), "Error: storage backend not configured");

    // With storage it runs.
    lane.patch(json!({"storage": {"emptyDir": {}}, "defaultRoute": true})).await;
    let config = lane.until_says(&READY).await;
    assert_eq!(config.spec.http_secret.len(), 128);
    let status = config.status.clone().unwrap();
    assert_eq!((status.ready_replicas, status.storage_managed), (1, true));
    let deployment = deployments.get(names::REGISTRY).await.unwrap();
    assert_eq!(env(&deployment, "REGISTRY_STORAGE").as_deref(), Some("filesystem"));
    assert_eq!(count(&lane.api::<ReplicaSet>()).await, 1, "pods started once, with everything in place");
    let certificates = lane.api::<ConfigMap>().get(names::CERTIFICATES_CONFIG_MAP).await.unwrap();
    assert_eq!(certificates.data.unwrap().len(), 2);
    lane.until(&images, names::CLUSTER, |found: Option<&ImageConfig>| {
        let status = found.and_then(|found| found.status.clone()).unwrap_or_default();
        status.internal_registry_hostname == names::REGISTRY_INTERNAL_HOST
    })
    .await;
    lane.until(&jobs, names::PRUNER_CRON_JOB, |job| {
        pruner_flag(job, "--prune-registry=true")
            && pruner_flag(job, &format!("--registry-url=https://{}", names::REGISTRY_INTERNAL_HOST))
    })
    .await;
    lane.api::<DaemonSet>().get(names::NODE_CA).await.unwrap();

    // A router's word reaches image.config, and withdrawal of the route removes it.
    let routes = lane.api::<Route>();
    let admitted = json!({ "status": { "ingress": [{ "host": "default-route-openshift-image-registry.apps.test",
        "routerName": "default", "conditions": [{ "type": "Admitted", "status": "True" }] }] } });
    routes.patch_status(names::DEFAULT_ROUTE, &PatchParams::default(), &Patch::Merge(admitted)).await.unwrap();
    lane.until(&images, names::CLUSTER, |found: Option<&ImageConfig>| {
        found
            .and_then(|found| found.status.as_ref())
            .is_some_and(|status| status.external_registry_hostnames.len() == 1)
    })
    .await;
    lane.patch(json!({"defaultRoute": false})).await;
    lane.until(&routes, names::DEFAULT_ROUTE, |found: Option<&Route>| found.is_none()).await;

    // Foreign edits of the Deployment are undone, deletions repaired.
    let edit = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "registry", "env": [{ "name": "X", "value": "y" }] }] } } } });
    deployments.patch(names::REGISTRY, &PatchParams::default(), &Patch::Strategic(edit)).await.unwrap();
    lane.until(&deployments, names::REGISTRY, |found: Option<&Deployment>| {
        found.is_some_and(|found| {
            env(found, "X").is_none() && found.metadata.generation > deployment.metadata.generation
        })
    })
    .await;
    let uid = services.get(names::REGISTRY).await.unwrap().uid();
    services.delete(names::REGISTRY, &DeleteParams::default()).await.unwrap();
    lane.until(&services, names::REGISTRY, |found: Option<&Service>| found.is_some_and(|found| found.uid() != uid))
        .await;
    lane.until_says(&READY).await;

    // Another Config changes nothing.
    let other: Config = typed(json!({ "apiVersion": "imageregistry.operator.openshift.io/v1", "kind": "Config",
        "metadata": { "name": "other" }, "spec": { "managementState": "Managed", "replicas": 3, "storage": { "emptyDir": {} } } }));
    lane.configs().create(&PostParams::default(), &other).await.unwrap();

    // Two replicas cannot share an emptyDir.
    lane.patch(json!({"replicas": 2})).await;
    let config =
        lane.until_says(&["Available True Ready", "Progressing False Error", "Degraded True VerificationFailed"]).await;
    assert!(message(&config, "Degraded").contains("more than one replica"), "{}", message(&config, "Degraded"));
    lane.patch(json!({"replicas": 1})).await;
    lane.until_says(&READY).await;
    assert_eq!((count(&deployments).await, count(&services).await), (1, 1), "one registry");
    assert!(lane.configs().get("other").await.unwrap().status.is_none());

    // Unmanaged: nothing of the registry moves, the pruner's flag does.
    lane.patch(json!({"managementState": "Unmanaged"})).await;
    lane.until_says(&["Available True Unmanaged", "Progressing False Unmanaged", "Degraded False Unmanaged"]).await;
    let before = deployments.get(names::REGISTRY).await.unwrap().metadata.generation;
    lane.patch(json!({"readOnly": true, "replicas": 2})).await;
    lane.until(&lane.configs(), names::CLUSTER, |config: Option<&Config>| {
        config.is_some_and(|c| c.status.as_ref().and_then(|s| s.observed_generation) == c.metadata.generation)
    })
    .await;
    lane.until(&jobs, names::PRUNER_CRON_JOB, |job| pruner_flag(job, "--prune-registry=false")).await;
    assert_eq!(deployments.get(names::REGISTRY).await.unwrap().metadata.generation, before);

    // Managed again, then quiet: nothing is written while nothing changes.
    lane.patch(json!({"managementState": "Managed", "readOnly": true, "replicas": 1})).await;
    lane.until(&deployments, names::REGISTRY, |found: Option<&Deployment>| {
        found.is_some_and(|found| {
            env(found, "REGISTRY_STORAGE_MAINTENANCE_READONLY").as_deref() == Some("{enabled: true}")
        })
    })
    .await;
    lane.until_says(&READY).await;
    let version = || async {
        let config = lane.configs().get(names::CLUSTER).await.unwrap().resource_version();
        (config, operators.get(names::CLUSTER_OPERATOR).await.unwrap().resource_version())
    };
    settle(&lane).await;
    let quiet = version().await;
    // Silence can only be observed by letting time pass.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(version().await, quiet, "no hot loop");

    // Removed.
    lane.patch(json!({"managementState": "Removed"})).await;
    let config =
        lane.until_says(&["Available True Removed", "Progressing False Removed", "Removed True Removed"]).await;
    assert!(config.status.unwrap().storage.is_unset());
    lane.until(&services, names::REGISTRY, |found: Option<&Service>| found.is_none()).await;
    assert!(deployments.get_opt(names::REGISTRY).await.unwrap().is_none());
    assert!(lane.api::<DaemonSet>().get_opt(names::NODE_CA).await.unwrap().is_some());
    lane.until(&images, names::CLUSTER, |found: Option<&ImageConfig>| {
        found.and_then(|found| found.status.as_ref()).is_some_and(|status| status.internal_registry_hostname.is_empty())
    })
    .await;

    // Deleted: a fresh one appears.
    let uid = lane.configs().get(names::CLUSTER).await.unwrap().uid();
    lane.configs().delete(names::CLUSTER, &DeleteParams::default()).await.unwrap();
    lane.until(&lane.configs(), names::CLUSTER, |found: Option<&Config>| found.is_some_and(|found| found.uid() != uid))
        .await;

    let took = operator.stop().await;
    assert!(took < Duration::from_secs(1), "stopping took {took:?}");
    lane.stop().await;
}

/// Lets what is under way end: the Config has said the same for a second.
async fn settle(lane: &Lane) {
    let mut last = None;
    for _ in 0..20 {
        let now = lane.configs().get(names::CLUSTER).await.unwrap().resource_version();
        if last == now {
            return;
        }
        last = now;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("Config cluster never came to rest: {:?}", said(&lane.configs().get(names::CLUSTER).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_made_adopted_refused_and_deleted() {
    let lane = Lane::start(platform("BareMetal")).await;
    let operator = lane.operator();
    let claims = lane.api::<PersistentVolumeClaim>();
    lane.until_says(&["Available True Removed"]).await;

    // A foreign claim of the default name is not taken.
    let foreign = |modes: &str| {
        typed(json!({ "metadata": { "name": names::DEFAULT_CLAIM }, "spec": { "accessModes": [modes],
            "resources": { "requests": { "storage": "1Gi" } } } }))
    };
    claims.create(&PostParams::default(), &foreign("ReadWriteMany")).await.unwrap();
    lane.patch(json!({"managementState": "Managed", "storage": {"pvc": {"claim": ""}}})).await;
    let config = lane.until_says(&["StorageExists False PVC Already Exists", "Progressing True Error"]).await;
    assert!(message(&config, "StorageExists").contains("not owned by the operator"));

    // Without it the operator makes its own, as soon as something changes.
    let gone = json!({ "metadata": { "finalizers": null } });
    claims.delete(names::DEFAULT_CLAIM, &DeleteParams::default()).await.unwrap();
    claims.patch(names::DEFAULT_CLAIM, &PatchParams::default(), &Patch::Merge(gone)).await.ok();
    let made = lane
        .until(&claims, names::DEFAULT_CLAIM, |found: Option<&PersistentVolumeClaim>| {
            found.is_some_and(|found| found.annotations().contains_key(names::OWNED_ANNOTATION))
        })
        .await
        .unwrap();
    let spec = serde_json::to_value(&made.spec).unwrap();
    assert_eq!(
        (&spec["accessModes"], &spec["resources"]["requests"]["storage"]),
        (&json!(["ReadWriteMany"]), &json!("100Gi"))
    );
    let config = lane.until_says(&["StorageExists True PVC Exists"]).await;
    let storage = serde_json::to_value(&config.spec.storage).unwrap();
    assert_eq!(storage, json!({"pvc": {"claim": names::DEFAULT_CLAIM}, "managementState": "Managed"}));

    // Removed deletes what the operator made.
    lane.patch(json!({"managementState": "Removed"})).await;
    lane.until_says(&["Available True Removed", "StorageExists False PVC Deleted"]).await;
    lane.until(&claims, names::DEFAULT_CLAIM, |found: Option<&PersistentVolumeClaim>| found.is_none()).await;

    // A claim only one node can mount needs one replica and Recreate.
    claims.create(&PostParams::default(), &foreign("ReadWriteOnce")).await.unwrap();
    lane.patch(json!({"managementState": "Managed", "storage": {"managementState": null}})).await;
    let config = lane.until_says(&["StorageExists False PVC Issues Found"]).await;
    assert!(message(&config, "Progressing").contains("ReadWriteOnce access mode with RollingUpdate"));
    lane.patch(json!({"rolloutStrategy": "Recreate", "replicas": 1})).await;
    let config = lane.until_says(&["StorageExists True PVC Exists"]).await;
    assert_eq!(serde_json::to_value(&config.spec.storage).unwrap()["managementState"], "Unmanaged");

    // And is kept on Removed, because it is not the operator's.
    lane.patch(json!({"managementState": "Removed"})).await;
    lane.until_says(&["Available True Removed", "Progressing False Removed"]).await;
    assert!(claims.get(names::DEFAULT_CLAIM).await.unwrap().metadata.deletion_timestamp.is_none());
    operator.stop().await;
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leader_at_a_time_and_a_pruner_of_its_own() {
    let lane = Lane::start(platform("VSphere")).await;
    let (first, second) = (lane.operator(), lane.operator());
    lane.until_says(&["Available True Removed"]).await;

    // The pruner follows its own resource whatever the registry's state.
    let pruners: Api<ImagePruner> = Api::all(lane.client.clone());
    let edit = Patch::Merge(json!({"spec": {"schedule": "*/7 * * * *", "suspend": true}}));
    pruners.patch(names::CLUSTER, &PatchParams::default(), &edit).await.unwrap();
    lane.until(&lane.api::<CronJob>(), names::PRUNER_CRON_JOB, |job: Option<&CronJob>| {
        job.and_then(|job| job.spec.as_ref()).is_some_and(|s| s.schedule == "*/7 * * * *" && s.suspend == Some(true))
    })
    .await;
    lane.until(&pruners, names::CLUSTER, |found: Option<&ImagePruner>| {
        let status = found.and_then(|found| found.status.clone()).unwrap_or_default();
        status.conditions.iter().any(|c| c.type_ == "Scheduled" && c.reason == "Suspended")
    })
    .await;

    // Additional CAs are copied, a missing ConfigMap is said.
    let images: Api<ImageConfig> = Api::all(lane.client.clone());
    let reference = Patch::Merge(json!({"spec": {"additionalTrustedCA": {"name": "registry-config"}}}));
    images.patch(names::CLUSTER, &PatchParams::default(), &reference).await.unwrap();
    lane.until_says(&["ImageRegistryCertificatesControllerDegraded True Error"]).await;
    let given: Api<ConfigMap> = Api::namespaced(lane.client.clone(), names::CONFIG_NAMESPACE);
    let map = json!({ "metadata": { "name": "registry-config" }, "data": { "registry.example.com..5000": "PEM" } });
    given.create(&PostParams::default(), &typed(map)).await.unwrap();
    lane.until_says(&["ImageRegistryCertificatesControllerDegraded False AsExpected"]).await;
    let certificates = lane.api::<ConfigMap>().get(names::CERTIFICATES_CONFIG_MAP).await.unwrap();
    assert_eq!(certificates.data.unwrap()["registry.example.com..5000"], "PEM");

    // S3 without its keys names Secret and key.
    let secrets = lane.api::<Secret>();
    let incomplete = json!({ "metadata": { "name": names::USER_STORAGE_SECRET }, "stringData": { "REGISTRY_STORAGE_S3_ACCESSKEY": "a" } });
    secrets.create(&PostParams::default(), &typed(incomplete)).await.unwrap();
    lane.patch(json!({"managementState": "Managed", "storage": {"s3": {"bucket": "b", "region": "us-east-1", "regionEndpoint": "http://127.0.0.1:1"}}})).await;
    let config = lane.until_says(&["StorageExists Unknown Unknown Error Occurred", "Progressing True Error"]).await;
    let text = message(&config, "Progressing");
    assert!(
        text.contains("image-registry-private-configuration-user") && text.contains("REGISTRY_STORAGE_S3_SECRETKEY"),
        "{text}"
    );

    // Whoever leads goes, the other takes over at once.
    let begun = std::time::Instant::now();
    first.stop().await;
    lane.patch(json!({"managementState": "Unmanaged"})).await;
    lane.until_says(&["Available True Unmanaged"]).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "hand-over took {:?}", begun.elapsed());

    // After a crash the lease has to run out.
    second.kill().await;
    let begun = std::time::Instant::now();
    let third = lane.operator();
    lane.patch(json!({"managementState": "Removed"})).await;
    lane.until_says(&["Available True Removed"]).await;
    assert!(begun.elapsed() > Duration::from_secs(5), "the lease was not respected: {:?}", begun.elapsed());
    third.stop().await;
    lane.stop().await;
}
