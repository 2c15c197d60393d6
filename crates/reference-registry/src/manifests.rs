//! Getting, putting and deleting manifests. Which manifests a repository has is known by the API server, not by the store:
//! a tag is resolved through the image stream, a push is told to the cluster as an image stream mapping.

use std::{collections::BTreeMap, time::Instant};

use api::image::{Image, ImageLayer, ImageStream, ImageStreamMapping};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::{
    blob::{CONTENT_DIGEST, digest_value},
    body::{self, Body, ReadError},
    cluster::CallError,
    digest::{Digest, Repository},
    error::{Code, Entry, Refusal},
    manifest::{self, Descriptor, Kind, Manifest},
    registry::Registry,
    request::{Identity, Request},
    router::Reference,
    storage::layout,
};

/// The digest a tag of a stream points at, if it has the tag.
pub fn tagged(stream: &ImageStream, tag: &str) -> Option<String> {
    let events = stream.status.tags.iter().find(|events| events.tag == tag)?;
    events.items.first().map(|event| event.image.clone())
}

/// True when any tag of a stream has or had an image.
pub fn in_history(stream: &ImageStream, digest: &Digest) -> bool {
    let name = digest.to_string();
    stream.status.tags.iter().flat_map(|events| &events.items).any(|event| event.image == name)
}

impl Registry {
    /// The image stream of a repository; `NAME_UNKNOWN` when there is none.
    pub async fn stream(&self, repository: &Repository) -> Result<ImageStream, Refusal> {
        self.cluster.stream(repository).await.map_err(|error| {
            if error.is_not_found() {
                return Code::NameUnknown.into();
            }
            Code::Unknown.because(format!("reading image stream {repository}: {error}"))
        })
    }

    /// GET and HEAD of a manifest.
    pub async fn get_manifest(
        &self,
        request: &Request,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        let (digest, stream) = match reference {
            Reference::Digest(digest) => (digest.clone(), None),
            Reference::Tag(tag) => {
                let stream = self.stream(repository).await?;
                self.metrics.operation("TagService.Get", start.elapsed());
                let image =
                    tagged(&stream, tag).ok_or_else(|| Code::ManifestUnknown.because(format!("unknown tag={tag}")))?;
                let digest = image.parse().map_err(|_| {
                    Code::ManifestUnknown.because(format!("tag {tag} points at {image:?}, not at a digest"))
                })?;
                (digest, Some(stream))
            }
        };
        let etag = format!("\"{digest}\"");
        let known = request.header(&header::IF_NONE_MATCH);
        if known == etag || known == etag.trim_matches('"') {
            let mut response = body::nothing();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().remove(header::CONTENT_LENGTH);
            return Ok(response);
        }
        let manifest = self.manifest(repository, &digest, stream).await?;
        self.metrics.operation("ManifestService.Get", start.elapsed());
        let manifest = self.in_accepted_form(request, repository, reference, manifest).await?;
        let mut response = Response::new(match request.method {
            Method::HEAD => body::empty(),
            _ => body::full(manifest.raw.clone()),
        });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(manifest.media_type));
        headers.insert(header::CONTENT_LENGTH, manifest.raw.len().into());
        headers.insert(CONTENT_DIGEST, digest_value(&manifest.digest));
        if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", manifest.digest)) {
            headers.insert(header::ETAG, etag);
        }
        Ok(response)
    }

    /// A manifest that the stream lists, by a tag or inside a listed list.
    async fn manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        stream: Option<ImageStream>,
    ) -> Result<Manifest, Refusal> {
        let unknown = |why: String| Code::ManifestUnknown.because(why);
        let stream = match stream {
            Some(stream) => stream,
            None => self.cluster.stream(repository).await.map_err(|error| match error.code() {
                Some(404) => Code::Unknown.because(format!("image stream {repository} does not exist")),
                _ => unknown(format!("reading image stream {repository}: {error}")),
            })?,
        };
        if !in_history(&stream, digest) && !self.is_child(repository, digest).await {
            return Err(unknown(format!("unknown manifest name={repository} revision={digest}")));
        }
        let image = self.cluster.image(digest).await.map_err(|error| unknown(format!("image {digest}: {error}")))?;
        let raw = match self.storage.get(&layout::blob(digest)).await {
            Ok(raw) => raw,
            Err(error) if error.is_not_found() => {
                match self.pull_manifest(repository, &stream, digest, &image).await? {
                    Some(raw) => raw,
                    None if !image.docker_image_manifest.is_empty() => Bytes::from(image.docker_image_manifest),
                    None => return Err(unknown(format!("unknown manifest name={repository} revision={digest}"))),
                }
            }
            Err(error) => return Err(error.into()),
        };
        Manifest::stored(raw).map_err(|error| Code::Unknown.because(format!("stored manifest {digest}: {error}")))
    }

    async fn is_child(&self, repository: &Repository, digest: &Digest) -> bool {
        let name = digest.to_string();
        match self.cluster.layers(repository).await {
            Ok(layers) => layers.images.values().any(|image| image.manifests.contains(&name)),
            Err(error) => {
                self.log.warning(&format!("reading the layers of {repository}: {error}"), vec![]);
                false
            }
        }
    }

    /// The manifest as the client can read it: what it accepts decides (distribution
    /// registry/handlers/manifests.go:84-238).
    async fn in_accepted_form(
        &self,
        request: &Request,
        repository: &Repository,
        reference: &Reference,
        manifest: Manifest,
    ) -> Result<Presented, Refusal> {
        let accepted = accepted(request);
        let refuse = |message: &str| Err(Entry { message: message.to_owned(), ..Code::ManifestUnknown.entry() }.into());
        let by_tag = matches!(reference, Reference::Tag(_));
        match manifest.kind {
            Kind::OciManifest if !accepted.contains(&Kind::OciManifest) => {
                refuse("OCI manifest found, but accept header does not support OCI manifests")
            }
            Kind::OciIndex if !accepted.contains(&Kind::OciIndex) => {
                refuse("OCI index found, but accept header does not support OCI indexes")
            }
            Kind::DockerList if by_tag && !accepted.contains(&Kind::DockerList) => {
                let linux = ("linux".to_owned(), "amd64".to_owned());
                let child = manifest.manifests.iter().find(|child| child.platform.as_ref() == Some(&linux));
                let Some(child) = child else { return Err(Code::ManifestUnknown.into()) };
                let child = self.manifest(repository, &child.digest, None).await?;
                self.for_old_clients(repository, reference, child, accepted.contains(&Kind::DockerManifest)).await
            }
            Kind::DockerManifest if by_tag => {
                self.for_old_clients(repository, reference, manifest, accepted.contains(&Kind::DockerManifest)).await
            }
            _ => Ok(manifest.into()),
        }
    }

    /// Clients that do not know schema 2 get the image converted to schema 1.
    async fn for_old_clients(
        &self,
        repository: &Repository,
        reference: &Reference,
        manifest: Manifest,
        knows_schema2: bool,
    ) -> Result<Presented, Refusal> {
        if knows_schema2 || manifest.kind != Kind::DockerManifest {
            return Ok(manifest.into());
        }
        let config = manifest.config.as_ref().map(|config| layout::blob(&config.digest));
        let config = match config {
            Some(path) => self.storage.get(&path).await?,
            None => Bytes::new(),
        };
        let raw = crate::schema1::convert(&repository.to_string(), &reference.to_string(), &manifest, &config)
            .map_err(|problem| Code::ManifestInvalid.because(problem))?;
        // The converted manifest may name the empty layer, which nobody pushed.
        let empty = layout::blob(&Digest::of(crate::schema1::EMPTY_LAYER));
        if !self.settings.read_only && self.storage.size(&empty).await?.is_none() {
            self.storage.put(&empty, crate::schema1::EMPTY_LAYER).await?;
        }
        Ok(Presented {
            media_type: crate::schema1::SIGNED_MEDIA_TYPE,
            digest: Digest::of(&raw.payload),
            raw: raw.signed.into(),
        })
    }

    /// PUT of a manifest.
    pub async fn put_manifest(
        &self,
        request: &mut Request,
        repository: &Repository,
        reference: &Reference,
        identity: &Identity,
    ) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        let invalid = |why: String| Code::ManifestInvalid.because(why);
        let sent = std::mem::replace(&mut request.body, body::received(""));
        let raw = body::collect(sent, manifest::MAX_BYTES).await.map_err(|error| match error {
            ReadError::TooLarge => invalid(error.to_string()),
            ReadError::Broken(_) => Code::Unknown.because(error),
        })?;
        let media_type = manifest::media_type(request.header(&header::CONTENT_TYPE));
        let manifest = Manifest::parse(&media_type, raw).map_err(|error| invalid(error.to_string()))?;
        if let Reference::Digest(digest) = reference
            && *digest != manifest.digest
        {
            return Err(Code::DigestInvalid.into());
        }
        let config = self.verify(repository, &manifest).await?;
        let digest = &manifest.digest;
        let path = layout::blob(digest);
        if self.storage.size(&path).await? != Some(manifest.raw.len() as u64) {
            self.storage.put(&path, manifest.raw.clone()).await?;
        }
        self.storage.put(&layout::revision_link(repository, digest), digest.to_string()).await?;
        let image = self.image(repository, &manifest, config);
        match reference {
            Reference::Tag(tag) => self.tag_image(repository, tag, image, identity).await?,
            Reference::Digest(_) => match self.cluster.create_image(&image).await {
                Ok(()) => {}
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(refused_push(&error)),
            },
        }
        self.metrics.operation("ManifestService.Put", start.elapsed());
        let mut response = body::nothing();
        *response.status_mut() = StatusCode::CREATED;
        let location = self.link(request, &format!("/v2/{repository}/manifests/{digest}"));
        if let Ok(location) = HeaderValue::try_from(location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response.headers_mut().insert(CONTENT_DIGEST, digest_value(digest));
        Ok(response)
    }

    /// Makes sure that the repository has all blobs of an image; gives the text of its configuration.
    /// The entries of a list are not looked for, so that sparse lists can be pushed.
    async fn verify(&self, repository: &Repository, manifest: &Manifest) -> Result<Bytes, Refusal> {
        if manifest.kind.is_list() {
            return Ok(Bytes::new());
        }
        let unverified = |why: String| {
            let detailed = Entry { detail: Some(why.into()), ..Code::Unknown.entry() };
            Refusal::several(vec![Code::Unknown.entry(), detailed])
        };
        if let Some(problem) = manifest.wrong_urls() {
            return Err(unverified(problem));
        }
        let mut missing = Vec::new();
        let wanted = manifest.config.iter().chain(&manifest.layers).filter(|blob| !blob.is_foreign());
        for blob in wanted {
            match self.blob_size(repository, &blob.digest).await? {
                Some(size) if size == blob.size => {}
                Some(size) => {
                    return Err(unverified(format!(
                        "blob {} has {size} bytes, the manifest says {}",
                        blob.digest, blob.size
                    )));
                }
                None => missing
                    .push(Entry { detail: Some(blob.digest.to_string().into()), ..Code::ManifestBlobUnknown.entry() }),
            }
        }
        if !missing.is_empty() {
            return Err(Refusal::several(missing));
        }
        match &manifest.config {
            Some(config) if config.size <= crate::storage::SMALL_OBJECT_BYTES => {
                Ok(self.storage.get(&layout::blob(&config.digest)).await?)
            }
            _ => Ok(Bytes::new()),
        }
    }

    fn image(&self, repository: &Repository, manifest: &Manifest, config: Bytes) -> Image {
        let annotations = [
            ("openshift.io/image.managed", "true"),
            ("image.openshift.io/manifestBlobStored", "true"),
            ("image.openshift.io/dockerLayersOrder", "ascending"),
        ];
        let layer = |layer: &Descriptor| ImageLayer {
            name: layer.digest.to_string(),
            size: i64::try_from(layer.size).unwrap_or(i64::MAX),
            media_type: layer.media_type.clone(),
        };
        let mut image = Image {
            docker_image_reference: format!("{}/{repository}@{}", self.settings.server_addr, manifest.digest),
            docker_image_manifest: String::from_utf8_lossy(&manifest.raw).into_owned(),
            docker_image_manifest_media_type: manifest.kind.media_type().to_owned(),
            docker_image_layers: manifest.layers.iter().map(layer).collect(),
            docker_image_config: String::from_utf8_lossy(&config).into_owned(),
            ..Image::default()
        };
        image.metadata.name = Some(manifest.digest.to_string());
        image.metadata.annotations = Some(BTreeMap::from(annotations.map(|(k, v)| (k.to_owned(), v.to_owned()))));
        image
    }

    /// Tells the cluster about a pushed tag. A missing stream is created with the user's rights, then it is told again
    /// (registry source pkg/imagestream/imagestream.go:408-509).
    async fn tag_image(
        &self,
        repository: &Repository,
        tag: &str,
        image: Image,
        identity: &Identity,
    ) -> Result<(), Refusal> {
        let mut mapping = ImageStreamMapping { image, tag: tag.to_owned(), ..ImageStreamMapping::default() };
        mapping.metadata.name = Some(repository.stream().to_owned());
        mapping.metadata.namespace = Some(repository.namespace().to_owned());
        let Err(error) = self.cluster.map(repository, &mapping).await else { return Ok(()) };
        if !is_missing_stream(&error, repository) {
            return Err(refused_push(&error));
        }
        match self.cluster.create_stream(identity.caller.clone(), repository).await {
            Ok(()) => {}
            // Somebody else was faster.
            Err(error) if error.code() == Some(409) => {}
            Err(error) => {
                self.log.error(&format!("error creating image stream {repository}: {error}"), vec![]);
                return Err(match error.code() {
                    Some(401 | 403) => Code::Denied.into(),
                    _ => refused_push(&error),
                });
            }
        }
        self.cluster.map(repository, &mapping).await.map_err(|error| {
            self.log.error(&format!("error creating image stream mapping {repository}: {error}"), vec![]);
            refused_push(&error)
        })
    }

    /// DELETE of a manifest. By tag it changes nothing: tags live in the image stream.
    pub async fn delete_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        if let Reference::Digest(digest) = reference {
            if !self.settings.delete_enabled {
                return Err(Code::Unsupported.into());
            }
            match self.cluster.stream(repository).await {
                Ok(stream) if in_history(&stream, digest) => return Err(Code::Unsupported.into()),
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(Code::Unknown.because(error)),
            }
            let link = layout::revision_link(repository, digest);
            match self.storage.remove(link.trim_end_matches("/link")).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {
                    return Err(Code::ManifestUnknown.because(format!("unknown manifest {digest}")));
                }
                Err(error) => return Err(error.into()),
            }
            self.metrics.operation("ManifestService.Delete", start.elapsed());
        }
        let mut response = body::nothing();
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }
}

/// A manifest ready to be sent.
struct Presented {
    media_type: &'static str,
    digest: Digest,
    raw: Bytes,
}

impl From<Manifest> for Presented {
    fn from(manifest: Manifest) -> Self {
        Self { media_type: manifest.kind.media_type(), digest: manifest.digest, raw: manifest.raw }
    }
}

fn accepted(request: &Request) -> Vec<Kind> {
    let headers = request.headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    headers.flat_map(|header| header.split(',')).filter_map(|kind| Kind::of(&manifest::media_type(kind))).collect()
}

/// True for the one failure that means "create the stream first" (registry source pkg/imagestream/imagestream.go:453-462).
fn is_missing_stream(error: &CallError, repository: &Repository) -> bool {
    matches!(error, CallError::Status { code: 404, kind, name, .. }
        if kind == "imagestreammappings" && name == repository.stream())
}

/// How a push ends that the API server did not want: denied for quota and missing projects, unknown otherwise.
fn refused_push(error: &CallError) -> Refusal {
    let no_project = matches!(error, CallError::Status { code: 404, kind, .. } if kind == "namespaces");
    if no_project || error.is_quota() { Code::Denied.because(error) } else { Code::Unknown.because(error) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn status(code: u16, kind: &str, name: &str, message: &str) -> CallError {
        CallError::Status { code, kind: kind.into(), name: name.into(), message: message.into(), reason: String::new() }
    }

    #[rstest]
    #[case(status(404, "imagestreammappings", "image", ""), true)]
    #[case(status(404, "imagestreammappings", "other", ""), false)]
    #[case(status(404, "imagestreams", "image", ""), false)]
    #[case(status(404, "", "", ""), false)]
    #[case(status(403, "imagestreammappings", "image", ""), false)]
    fn only_one_answer_means_a_missing_stream(#[case] error: CallError, #[case] missing: bool) {
        assert_eq!(is_missing_stream(&error, &Repository::parse("project/image").unwrap()), missing);
    }

    #[rstest]
    #[case(status(404, "namespaces", "project", ""), 403)]
    #[case(status(403, "", "", "exceeded quota: q"), 403)]
    #[case(status(422, "", "", "exceeds the maximum limit"), 403)]
    #[case(status(403, "", "", "forbidden"), 500)]
    #[case(CallError::Transport("gone".into()), 500)]
    fn refusals(#[case] error: CallError, #[case] expected: u16) {
        assert_eq!(refused_push(&error).status(), expected);
    }
}
