//! The registry itself: that it answers, its pods, its log.

use cucumber::{then, when};
use harness::{
    failure::{Failure, Step, Tried},
    wait::{Check, wait},
};
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};

use crate::{
    operator::{is_serving, registry_pods},
    world::World,
};

#[then("the registry still answers")]
async fn answers_still(world: &mut World) -> Step {
    world.registry()?.request(Method::GET, "/v2/", HeaderMap::new(), None).await?.expect(StatusCode::OK).map(drop)
}

#[when("the registry pod is replaced")]
async fn replaced(world: &mut World) -> Step {
    world.disturbs("replacing the registry pod")?;
    let pods: Api<Pod> = world.in_registry_namespace();
    let old = pods.list(&ListParams::default().labels(&registry_pods())).await.tried("listing registry pods")?;
    let old: Vec<_> = old.iter().map(ResourceExt::name_any).collect();
    for name in &old {
        pods.delete(name, &DeleteParams::default()).await.tried(format!("deleting the pod {name}"))?;
    }
    wait("another registry pod to be ready", world.env.limits.rollout)
        .of("registry")
        .objects(&pods, &registry_pods(), |pods: &[&Pod]| {
            let names: Vec<_> = pods.iter().map(|pod| pod.name_any()).collect();
            let replaced = names.iter().all(|name| !old.contains(name));
            let ready = pods.iter().any(|pod| is_serving(pod));
            Check::when(replaced && ready && pods.len() == old.len(), || format!("pods {names:?}, one ready: {ready}"))
        })
        .await?;
    world.service_follows().await
}

#[then("the command prints log lines with time, level, msg and instance.id")]
fn log_lines(world: &mut World) -> Step {
    let ran = world.ran()?;
    let fields = ["time=", "level=", "msg=", "instance.id="];
    match ran.stdout.lines().any(|line| fields.iter().all(|field| line.contains(field))) {
        true => Ok(()),
        false => Err(Failure::fail(
            format!("running `{}`", ran.command),
            format!("a line with {}", fields.join(", ")),
            ran.summary(),
        )
        .of("registry")),
    }
}

#[then(expr = "the log tells of the push of the image {string}")]
fn log_tells(world: &mut World, name: String) -> Step {
    let repository = world.known(&name)?.reference.repository.clone();
    let ran = world.ran()?;
    let told = |line: &str| line.contains("PUT") && line.contains(&format!("/v2/{repository}/manifests/"));
    match ran.stdout.lines().any(told) {
        true => Ok(()),
        false => {
            let expected = format!("a line about PUT /v2/{repository}/manifests/{name}");
            Err(Failure::fail(format!("running `{}`", ran.command), expected, ran.summary()).of("registry"))
        }
    }
}
