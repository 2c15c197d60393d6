//! Images as the nodes themselves fetch them: a pod names one, and what its kubelet's container runtime does is read from
//! the pod's status and from the access ledgers of the registries that were asked.

use cucumber::{then, when};
use harness::{
    failure::{Failure, Step, Tried},
    wait::{Check, answers, wait},
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::json;

use crate::world::{Known, World};

#[then(expr = "every node trusts the registry {string}")]
async fn trusted(world: &mut World, host: String) -> Step {
    let path = format!("/etc/docker/certs.d/{host}/ca.crt");
    let until = wait(format!("{path} on every node"), world.env.limits.rollout).of("operator");
    answers(until, || async {
        let mut lacking = vec![];
        for node in world.env.nodes.nodes() {
            match world.env.nodes.read(&node, &path).await {
                Ok(Some(text)) if text.trim() == world.env.authority.pem().trim() => {}
                Ok(found) => lacking.push(format!("{node}: {}", found.map_or("no file", |_| "another certificate"))),
                Err(error) => lacking.push(format!("{node}: {error}")),
            }
        }
        Check::when(lacking.is_empty(), || lacking.join("; "))
    })
    .await
}

#[when(expr = "a pod of every node asks for the image {string} by digest")]
async fn pods(world: &mut World, name: String) -> Step {
    let (reference, _) = world.by_digest(&name)?;
    let project = world.project().await?;
    let pods: Api<Pod> = Api::namespaced(world.env.client.clone(), &project);
    for node in world.env.nodes.nodes() {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": format!("pull-on-{node}")},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                // The image holds no program; that the container cannot start is known once it was pulled.
                "containers": [{"name": "image", "image": reference.to_string(), "command": ["/seed"]}],
            },
        });
        let pod: Pod = serde_json::from_value(pod).tried("writing a pod")?;
        pods.create(&PostParams::default(), &pod).await.tried(format!("making a pod on {node}"))?;
    }
    Ok(())
}

#[then(expr = "every node has the image {string} under the name of its source")]
async fn has_image(world: &mut World, name: String) -> Step {
    let (reference, digest) = world.by_digest(&name)?;
    let project = world.project().await?;
    let pods: Api<Pod> = Api::namespaced(world.env.client.clone(), &project);
    let count = world.env.nodes.nodes().len();
    wait(format!("{count} pods with the image {reference}"), world.env.limits.rollout)
        .of("node-agent")
        .objects(&pods, "", |pods: &[&Pod]| {
            let states: Vec<_> = pods.iter().map(|pod| (pod.name_any(), status(pod))).collect();
            let is_it = |status: &Option<&ContainerStatus>| {
                let id = status.map_or("", |status| status.image_id.as_str());
                id.ends_with(&digest) && id.contains(&reference.name())
            };
            let all = states.len() == count && states.iter().all(|(_, status)| is_it(status));
            Check::when(all, || {
                let told = |(pod, status): &(String, Option<&ContainerStatus>)| {
                    format!("{pod}: {}", status.map_or_else(|| "no status".to_owned(), waits_for))
                };
                states.iter().map(told).collect::<Vec<_>>().join("; ")
            })
        })
        .await
}

fn status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn waits_for(status: &ContainerStatus) -> String {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    match waiting {
        Some(waiting) => {
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            format!("{} {}", text(&waiting.reason), text(&waiting.message))
        }
        None => format!("has the image {:?}", status.image_id),
    }
}

#[then(expr = "the mirror {string} delivered the image {string} to every node")]
async fn delivered(world: &mut World, host: String, name: String) -> Step {
    let Known { image, .. } = world.known(&name)?.clone();
    let count = world.env.nodes.nodes().len();
    let visits = world.stand_in(&host).await?.visits(&host);
    let parts = image.blobs().map(|blob| format!("/blobs/{}", blob.digest));
    let parts = parts.chain([format!("/manifests/{}", image.digest())]);
    let missing: Vec<_> = parts
        .filter(|part| {
            let got = |visit: &&harness::standin::Visit| {
                visit.method == "GET" && visit.status == 200 && visit.path.ends_with(part.as_str())
            };
            visits.iter().filter(got).count() < count
        })
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => {
            let wanted = format!("{count} answers to GET for manifest, configuration and layer");
            let seen = format!("too few for {missing:?} among {visits:?}");
            Err(Failure::fail(format!("reading the access ledger of {host}"), wanted, seen).of("node-agent"))
        }
    }
}
