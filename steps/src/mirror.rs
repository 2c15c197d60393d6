//! Mirror objects and what nodes make of them.

use api::mirror::{ImageContentSourcePolicy, ImageDigestMirrorSet, ImageTagMirrorSet};
use cucumber::{gherkin::Step as Text, given, then, when};
use harness::{
    failure::{Failure, Step, Tried},
    mirrors::Pairing,
    oci::Reference,
};
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::{
    made::Made,
    node::NodePull,
    world::{Known, World},
};

/// The six-entry example of the mirroring chapter, section 9.3.1.
fn documented_example(name: &str) -> serde_json::Value {
    let entries = [
        (
            "registry.access.redhat.com/ubi9/ubi-minimal",
            &["example.io/example/ubi-minimal", "example.com/example/ubi-minimal"][..],
        ),
        ("registry.example.com/redhat", &["mirror.example.com/redhat"]),
        ("registry.example.com", &["mirror.example.com"]),
        ("registry.example.com/example/myimage", &["mirror.example.net/image"]),
        ("registry.example.com/example", &["mirror.example.net"]),
        ("registry.example.com", &["mirror.example.net/registry-example-com"]),
    ];
    let mirrors: Vec<_> = entries
        .iter()
        .map(|(source, mirrors)| {
            json!({"source": source, "mirrors": mirrors, "mirrorSourcePolicy": "AllowContactingSource"})
        })
        .collect();
    json!({
        "apiVersion": "config.openshift.io/v1",
        "kind": "ImageDigestMirrorSet",
        "metadata": {"name": name},
        "spec": {"imageDigestMirrors": mirrors},
    })
}

impl World {
    async fn create_digest_mirrors(&mut self, object: serde_json::Value) -> Step {
        let mirrors = object["spec"]["imageDigestMirrors"].as_array().cloned().unwrap_or_default();
        let sources = mirrors.iter().filter_map(|mirror| mirror["source"].as_str().map(str::to_owned));
        self.made.push(Made::Mirrors(sources.collect()));
        let object: ImageDigestMirrorSet = serde_json::from_value(object).tried("writing an ImageDigestMirrorSet")?;
        self.will_make::<ImageDigestMirrorSet>(None, object.metadata.name.as_deref().unwrap_or_default());
        let api: Api<ImageDigestMirrorSet> = Api::all(self.env.client.clone());
        api.create(&PostParams::default(), &object).await.tried("creating an ImageDigestMirrorSet").map(drop)
    }

    pub(crate) fn by_digest(&self, name: &str) -> Result<(Reference, String), Failure> {
        let Known { image, reference } = self.known(name)?;
        let digest = image.digest().to_owned();
        Ok((Reference { tag: None, digest: Some(digest.clone()), ..reference.clone() }, digest))
    }
}

#[when(expr = "the administrator creates the documented ImageDigestMirrorSet {string}")]
async fn creates_documented(world: &mut World, name: String) -> Step {
    world.create_digest_mirrors(documented_example(&name)).await
}

#[when(expr = "the administrator mirrors {string} by digest to {string} with {string}")]
async fn mirrors_by_digest(world: &mut World, source: String, mirror: String, policy: String) -> Step {
    let object = json!({
        "apiVersion": "config.openshift.io/v1",
        "kind": "ImageDigestMirrorSet",
        "metadata": {"name": format!("mirrors-{}", world.id)},
        "spec": {"imageDigestMirrors": [{"source": source, "mirrors": [mirror], "mirrorSourcePolicy": policy}]},
    });
    world.create_digest_mirrors(object).await?;
    has_source_and_mirror(world, source, mirror).await
}

#[when(expr = "the administrator mirrors {string} by tag to {string}")]
async fn mirrors_by_tag(world: &mut World, source: String, mirror: String) -> Step {
    let name = format!("mirrors-{}", world.id);
    let object = json!({
        "apiVersion": "config.openshift.io/v1",
        "kind": "ImageTagMirrorSet",
        "metadata": {"name": name},
        "spec": {"imageTagMirrors": [{"source": &source, "mirrors": [mirror]}]},
    });
    world.disturbs("draining nodes")?;
    world.made.push(Made::Drained);
    world.made.push(Made::Mirrors(vec![source]));
    let object: ImageTagMirrorSet = serde_json::from_value(object).tried("writing an ImageTagMirrorSet")?;
    world.will_make::<ImageTagMirrorSet>(None, &name);
    let api: Api<ImageTagMirrorSet> = Api::all(world.env.client.clone());
    api.create(&PostParams::default(), &object).await.tried("creating an ImageTagMirrorSet").map(drop)
}

#[when(expr = "the administrator mirrors {string} to {string} by an ImageContentSourcePolicy")]
async fn mirrors_by_policy(world: &mut World, source: String, mirror: String) -> Step {
    let name = format!("mirrors-{}", world.id);
    let object = json!({
        "apiVersion": "operator.openshift.io/v1alpha1",
        "kind": "ImageContentSourcePolicy",
        "metadata": {"name": name},
        "spec": {"repositoryDigestMirrors": [{"source": &source, "mirrors": [&mirror]}]},
    });
    world.made.push(Made::Mirrors(vec![source.clone()]));
    let object: ImageContentSourcePolicy =
        serde_json::from_value(object).tried("writing an ImageContentSourcePolicy")?;
    world.will_make::<ImageContentSourcePolicy>(None, &name);
    let api: Api<ImageContentSourcePolicy> = Api::all(world.env.client.clone());
    api.create(&PostParams::default(), &object).await.tried("creating an ImageContentSourcePolicy")?;
    has_source_and_mirror(world, source, mirror).await
}

#[given(expr = "the mirror {string} that is down")]
async fn mirror_down(world: &mut World, mirror: String) -> Step {
    let host = mirror.split('/').next().unwrap_or_default().to_owned();
    world.stand_in(&host).await?.close(&host);
    Ok(())
}

#[given(expr = "the mirror {string} with the same image")]
async fn mirror_with_image(world: &mut World, mirror: String) -> Step {
    let (host, path) = mirror.split_once('/').unwrap_or((&mirror, ""));
    let known: Vec<_> = world.images.values().cloned().collect();
    for Known { image, reference } in known {
        let last = reference.repository.rsplit('/').next().unwrap_or_default().to_owned();
        world.shelve(host, &format!("{path}/{last}"), &image).await?;
    }
    Ok(())
}

#[then("every node pulls by digest from")]
async fn pairings_are(world: &mut World, step: &Text) -> Step {
    let rows = &step.table.as_ref().ok_or_else(|| Failure::error("reading the step", "it has no table"))?.rows;
    let mut wanted: Vec<_> = rows
        .iter()
        .skip(1)
        .map(|row| Pairing { source: row[0].clone(), mirror: row[1].clone(), pull: "digest-only".to_owned() })
        .collect();
    wanted.sort();
    world.on_every_node(&format!("have exactly the pairs {wanted:?}"), |conf| conf.pairings() == wanted).await
}

#[then(expr = "every node has the source {string} and the mirror {string}")]
async fn has_source_and_mirror(world: &mut World, source: String, mirror: String) -> Step {
    let what = format!("have the mirror {mirror} of {source}");
    world
        .on_every_node(&what, |conf| conf.pairings().iter().any(|pair| pair.source == source && pair.mirror == mirror))
        .await
}

#[then(expr = "every node fails to pull the image {string} by digest because the registry is blocked")]
async fn pull_blocked(world: &mut World, name: String) -> Step {
    let (reference, _) = world.by_digest(&name)?;
    for node in world.env.nodes.nodes() {
        match world.pull_on(&node, &reference).await? {
            NodePull::Failed(why) if why.contains("is blocked") => {}
            other => {
                let tried = format!("pulling {reference} on {node}");
                return Err(Failure::fail(tried, "a failure because the registry is blocked", format!("{other:?}"))
                    .of("node-agent"));
            }
        }
    }
    Ok(())
}

#[then(expr = "every node pulls the image {string} by digest from {string}")]
async fn pull_from(world: &mut World, name: String, wanted: String) -> Step {
    let (reference, wanted_digest) = world.by_digest(&name)?;
    for node in world.env.nodes.nodes() {
        match world.pull_on(&node, &reference).await? {
            NodePull::From { host, digest } if host == wanted && digest == wanted_digest => {}
            other => {
                let tried = format!("pulling {reference} on {node}");
                return Err(
                    Failure::fail(tried, format!("the image from {wanted}"), format!("{other:?}")).of("node-agent")
                );
            }
        }
    }
    Ok(())
}

#[then(expr = "the source {string} was never asked")]
async fn never_asked(world: &mut World, host: String) -> Step {
    let visits = world.stand_in(&host).await?.visits(&host);
    match visits.is_empty() {
        true => Ok(()),
        false => {
            Err(Failure::fail(format!("reading the access ledger of {host}"), "no request", format!("{visits:?}"))
                .of("node-agent"))
        }
    }
}
