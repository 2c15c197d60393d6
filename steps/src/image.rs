//! Images and image streams: pushing and pulling them as the administrator or as the scenario's user.

use api::{
    image::{Image as ApiImage, ImageStream, ImageStreamTag},
    names,
};
use cucumber::{given, then, when};
use harness::{
    environment::Tls,
    failure::{Failure, Step, Tried},
    oci::{Answer, Credentials, Image, MediaTypes, Pulled, Reference, Registry},
    standin::StandIn,
    wait::{Check, wait},
};
use http::StatusCode;
use kube::{Api, api::DeleteParams};

use crate::{
    made::Made,
    world::{Known, World},
};

impl World {
    /// The reference of the scenario's image `name` in its project on the internal registry.
    async fn reference(&mut self, name: &str) -> Result<Reference, Failure> {
        let project = self.project().await?;
        format!("{}/{project}/{name}:{name}", names::REGISTRY_INTERNAL_HOST).parse().tried("writing a reference")
    }

    /// Pushes a fresh image `name` and remembers it, whatever the answer.
    async fn push(&mut self, registry: &Registry, name: &str) -> Result<Answer, Failure> {
        let reference = self.reference(name).await?;
        let image = Image::small(&format!("{name}-{}", self.id), MediaTypes::Docker);
        // Images are cluster-wide and outlive the project; nothing else would take this one away.
        self.will_make::<ApiImage>(None, image.digest());
        let answer = registry.push(&image, &reference).await?;
        self.env.evidence.note(answer.summary());
        self.images.insert(name.to_owned(), Known { image, reference });
        Ok(answer)
    }

    async fn pull(&self, registry: &Registry, name: &str) -> Result<Result<Pulled, Answer>, Failure> {
        let known = self.known(name)?;
        let outcome = registry.pull(&known.reference).await?;
        let told = match &outcome {
            Ok(pulled) => format!("pulled {} as {}", known.reference, pulled.digest),
            Err(answer) => answer.summary(),
        };
        self.env.evidence.note(told);
        Ok(outcome)
    }

    fn pulled_whole(&self, name: &str, outcome: Result<Pulled, Answer>) -> Step {
        let known = self.known(name)?;
        match outcome {
            Ok(pulled) if pulled.digest == known.image.digest() => Ok(()),
            Ok(pulled) => {
                let tried = format!("pulling {}", known.reference);
                Err(Failure::fail(tried, known.image.digest(), pulled.digest).of("registry"))
            }
            Err(answer) => answer.expect(StatusCode::OK).map(drop),
        }
    }

    fn refused(&self, what: &str, answer: &Answer) -> Step {
        // The registry answers a denied access record with a challenge; only a manifest PUT ends in 403.
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(()),
            _ => Err(Failure::fail(what, "401 or 403", answer.summary()).of("registry")),
        }
    }

    async fn stream_tag(&mut self, name: &str) -> Result<Option<ImageStreamTag>, Failure> {
        let project = self.project().await?;
        let api: Api<ImageStreamTag> = Api::namespaced(self.env.client.clone(), &project);
        api.get_opt(&format!("{name}:{name}")).await.tried(format!("reading the image stream tag {name}:{name}"))
    }
}

#[given(expr = "an image {string} in a project")]
#[when(expr = "an image {string} is pushed")]
async fn pushed(world: &mut World, name: String) -> Step {
    let registry = world.registry()?;
    world.push(&registry, &name).await?.expect(StatusCode::CREATED).map(drop)
}

#[given(expr = "an image {string} in a project whose image stream is then deleted")]
async fn pushed_and_orphaned(world: &mut World, name: String) -> Step {
    pushed(world, name.clone()).await?;
    let project = world.project().await?;
    let streams: Api<ImageStream> = Api::namespaced(world.env.client.clone(), &project);
    streams.delete(&name, &DeleteParams::default()).await.tried(format!("deleting the image stream {name}")).map(drop)
}

#[then(expr = "pushing an image {string} succeeds")]
async fn push_succeeds(world: &mut World, name: String) -> Step {
    pushed(world, name).await
}

#[then(expr = "pushing an image {string} is refused as not allowed")]
async fn push_not_allowed(world: &mut World, name: String) -> Step {
    let registry = world.registry()?;
    let answer = world.push(&registry, &name).await?;
    answer.expect(StatusCode::METHOD_NOT_ALLOWED).map(drop)
}

#[then("an image can be pushed and pulled")]
async fn round_trip(world: &mut World) -> Step {
    // What one pod stores on its own volume the next does not have.
    world.pods_are_current().await?;
    pushed(world, "roundtrip".to_owned()).await?;
    pull_succeeds(world, "roundtrip".to_owned()).await
}

#[then(expr = "pulling the image {string} succeeds")]
async fn pull_succeeds(world: &mut World, name: String) -> Step {
    let registry = world.registry()?;
    let outcome = world.pull(&registry, &name).await?;
    world.pulled_whole(&name, outcome)
}

#[then(expr = "pulling the image {string} fails")]
async fn pull_fails(world: &mut World, name: String) -> Step {
    let registry = world.registry()?;
    match world.pull(&registry, &name).await? {
        Err(_) => Ok(()),
        Ok(pulled) => {
            let tried = format!("pulling {}", world.known(&name)?.reference);
            Err(Failure::fail(tried, "a refusal", format!("all of {}", pulled.digest)).of("registry"))
        }
    }
}

#[then(expr = "a layer of the image {string} is not found")]
async fn layer_not_found(world: &mut World, name: String) -> Step {
    let known = world.known(&name)?.clone();
    let registry = world.registry()?;
    let answer = registry.blob(&known.reference.repository, &known.image.layers[0].digest).await?;
    answer.expect(StatusCode::NOT_FOUND).map(drop)
}

#[then(expr = "the user can pull the image {string}")]
async fn user_pulls(world: &mut World, name: String) -> Step {
    let registry = world.registry_as_user()?;
    let outcome = world.pull(&registry, &name).await?;
    world.pulled_whole(&name, outcome)
}

#[then(expr = "the user cannot pull the image {string}")]
async fn user_cannot_pull(world: &mut World, name: String) -> Step {
    let registry = world.registry_as_user()?;
    match world.pull(&registry, &name).await? {
        Err(answer) => world.refused("pulling as a user without the role", &answer),
        Ok(pulled) => {
            Err(Failure::fail("pulling as a user without the role", "401 or 403", format!("{pulled:?}")).of("registry"))
        }
    }
}

#[then(expr = "the user can push an image {string}")]
async fn user_pushes(world: &mut World, name: String) -> Step {
    let registry = world.registry_as_user()?;
    world.push(&registry, &name).await?.expect(StatusCode::CREATED).map(drop)
}

#[then(expr = "the user cannot push an image {string}")]
async fn user_cannot_push(world: &mut World, name: String) -> Step {
    let registry = world.registry_as_user()?;
    let answer = world.push(&registry, &name).await?;
    world.refused("pushing as a user without the role", &answer)
}

#[then(expr = "the image stream tag {string} exists")]
#[then(expr = "the image stream tag {string} still exists")]
async fn tag_exists(world: &mut World, name: String) -> Step {
    match world.stream_tag(&name).await? {
        Some(_) => Ok(()),
        None => {
            Err(Failure::fail(format!("reading the image stream tag {name}:{name}"), "a tag", "none").of("registry"))
        }
    }
}

#[then(expr = "no image stream tag {string} exists")]
async fn no_tag(world: &mut World, name: String) -> Step {
    match world.stream_tag(&name).await? {
        None => Ok(()),
        Some(tag) => {
            let seen = format!("a tag of image {:?}", tag.image.metadata.name);
            Err(Failure::fail(format!("reading the image stream tag {name}:{name}"), "none", seen).of("registry"))
        }
    }
}

#[given(expr = "an image {string} in another registry")]
async fn elsewhere(world: &mut World, name: String) -> Step {
    let reference: Reference = name.parse().tried("reading the step")?;
    let image = Image::small(&format!("{name}-{}", world.id), MediaTypes::Docker);
    world.shelve(&reference.registry, &reference.repository, &image).await?;
    world.images.insert(name, Known { image, reference });
    Ok(())
}

impl World {
    /// Puts an image into a stand-in registry of that host and makes the host lead there.
    pub(crate) async fn shelve(&mut self, host: &str, repository: &str, image: &Image) -> Step {
        self.stand_in(host).await?.shelve(host, repository, Some("latest"), image);
        Ok(())
    }

    /// The stand-in behind `host`. One serves every host of the documents; its certificate names them all.
    pub(crate) async fn stand_in(&mut self, host: &str) -> Result<&StandIn, Failure> {
        if self.stand_in.is_none() {
            let hosts = ["name.io", "registry.example.com", "mirror.example.com", "mirror.example.net"];
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let started = StandIn::start(&self.env.authority, &hosts).await;
            self.stand_in = Some(started.tried("starting a stand-in registry")?);
        }
        let stand_in = self.stand_in.as_ref().expect("made above");
        let name = format!("{host}:443");
        self.made.push(Made::Name(name.clone()));
        self.env.doorway.place(name, stand_in.address());
        Ok(stand_in)
    }
}

#[when(expr = "the image {string} is pulled")]
async fn pulled_elsewhere(world: &mut World, name: String) -> Step {
    let known = world.known(&name)?.clone();
    let registry = world.env.registry(&known.reference.registry, Credentials::Anonymous, Tls::Verified)?;
    match registry.pull(&known.reference).await? {
        Ok(pulled) => {
            world.pulled = Some(pulled);
            Ok(())
        }
        Err(answer) => Err(Failure::error(format!("pulling {name} from the stand-in"), answer.summary())),
    }
}

#[when(expr = "it is tagged and pushed as {string}")]
async fn tagged_and_pushed(world: &mut World, name: String) -> Step {
    let pulled = world.pulled.clone().ok_or_else(|| Failure::error("tagging", "nothing was pulled"))?;
    let image = world
        .images
        .values()
        .find(|known| known.image.digest() == pulled.digest)
        .map(|known| known.image.clone())
        .ok_or_else(|| Failure::error("tagging", "the pulled image is not the scenario's"))?;
    let reference: Reference = name.parse().tried("reading the step")?;
    world.will_make::<ApiImage>(None, image.digest());
    let (project, stream) = reference.repository.split_once('/').unwrap_or_default();
    let (project, stream) = (project.to_owned(), stream.to_owned());
    world.will_make::<ImageStream>(Some(&project), &stream);
    let registry = world.registry()?;
    registry.push(&image, &reference).await?.expect(StatusCode::CREATED)?;
    world.images.insert(name, Known { image, reference });
    Ok(())
}

#[then(expr = "the image stream {string} exists in project {string}")]
async fn stream_exists(world: &mut World, name: String, project: String) -> Step {
    world.will_make::<ImageStream>(Some(&project), &name);
    let streams: Api<ImageStream> = Api::namespaced(world.env.client.clone(), &project);
    match streams.get_opt(&name).await.tried(format!("reading the image stream {project}/{name}"))? {
        Some(_) => Ok(()),
        None => {
            Err(Failure::fail(format!("reading the image stream {project}/{name}"), "a stream", "none").of("registry"))
        }
    }
}

#[then(expr = "a fresh pull of {string} returns the pushed digest")]
async fn fresh_pull(world: &mut World, name: String) -> Step {
    pull_succeeds(world, name).await
}

#[then(expr = "the image API lists the image {string} by its digest")]
async fn image_listed(world: &mut World, name: String) -> Step {
    let known = world.known(&name)?.clone();
    let images: Api<ApiImage> = Api::all(world.env.client.clone());
    let found = images.get_opt(known.image.digest()).await.tried("reading an image")?;
    let seen = found.map(|image| image.docker_image_reference);
    let expected = format!("{}@{}", known.reference.name(), known.image.digest());
    match seen.as_deref() == Some(expected.as_str()) {
        true => Ok(()),
        false => Err(Failure::fail(format!("reading image {}", known.image.digest()), expected, format!("{seen:?}"))
            .of("registry")),
    }
}

#[then(expr = "the project's image stream lists the image {string} under its tag")]
async fn stream_lists(world: &mut World, name: String) -> Step {
    let known = world.known(&name)?.clone();
    let project = world.project().await?;
    let streams: Api<ImageStream> = Api::namespaced(world.env.client.clone(), &project);
    let stream = streams.get_opt(&name).await.tried(format!("reading the image stream {name}"))?;
    let tags = stream.map(|stream| stream.status.tags).unwrap_or_default();
    let newest = tags.iter().find(|tag| tag.tag == name).and_then(|tag| tag.items.first());
    match newest.is_some_and(|event| event.image == known.image.digest()) {
        true => Ok(()),
        false => {
            let seen = format!("{:?}", tags.iter().map(|tag| (&tag.tag, tag.items.len())).collect::<Vec<_>>());
            Err(Failure::fail(format!("reading the image stream {name}"), known.image.digest(), seen).of("registry"))
        }
    }
}

#[then(expr = "the image {string} is gone from the image API")]
async fn image_gone(world: &mut World, name: String) -> Step {
    let digest = world.known(&name)?.image.digest().to_owned();
    let images: Api<ApiImage> = Api::all(world.env.client.clone());
    wait(format!("the image {digest} to be pruned"), world.env.limits.settle)
        .of("pruner")
        .object(&images, &digest, |image: Option<&ApiImage>| {
            Check::when(image.is_none(), || "the image exists".to_owned())
        })
        .await
}

#[then(expr = "the blobs of the image {string} are gone from the registry")]
async fn blobs_gone(world: &mut World, name: String) -> Step {
    let known = world.known(&name)?.clone();
    // Mounting asks the registry for a blob by digest from any repository it has ever been in; a blob that is gone
    // from the storage can neither be read nor mounted.
    let project = world.project().await?;
    let registry = world.registry()?;
    for blob in known.image.blobs() {
        let path =
            format!("/v2/{project}/probe/blobs/uploads/?mount={}&from={}", blob.digest, known.reference.repository);
        let answer = registry.request(http::Method::POST, &path, http::HeaderMap::new(), None).await?;
        if answer.status != StatusCode::ACCEPTED {
            let expected = "202: the blob cannot be mounted because it is gone";
            return Err(
                Failure::fail(format!("mounting blob {}", blob.digest), expected, answer.summary()).of("pruner")
            );
        }
        let read = registry.blob(&known.reference.repository, &blob.digest).await?;
        read.expect(StatusCode::NOT_FOUND)?;
    }
    Ok(())
}
