//! Images that a stream refers to but that lie in another registry: fetched from there, or from its mirrors, and kept.
//! Which remotes count is decided here from the stream; how to talk to them is `remote`'s work
//! (registry source pkg/imagestream/identifycandidaterepositories.go:52-123, pkg/dockerregistry/server/simplelookupicsp.go).

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex},
    time::Instant,
};

use api::{
    image::{Image, ImageStream},
    mirror::{ImageContentSourcePolicy, ImageDigestMirrorSet, ImageTagMirrorSet, MirrorSourcePolicy},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{HeaderValue, Method, Response, header};

use crate::{
    blob::{CONTENT_DIGEST, digest_value},
    body::{self, Body},
    digest::{Digest, Hasher, Repository},
    error::{Code, Entry, Refusal},
    manifest::MAX_BYTES,
    metrics::Lookup,
    pull_secret::PullSecrets,
    reference::ImageReference,
    registry::Registry,
    remote::{RemoteError, Remotes},
    request::Request,
    storage::layout,
};

const INSECURE: &str = "openshift.io/image.insecureRepository";
/// Digests whose remote is remembered.
const REMEMBERED: usize = 1024;

/// What pull-through keeps between requests.
pub struct Pullthrough {
    remotes: Remotes,
    sources: Mutex<HashMap<Digest, Candidate>>,
    copying: Mutex<HashSet<Digest>>,
}

impl Pullthrough {
    /// Pull-through with a client of other registries.
    pub fn new(remotes: Remotes) -> Self {
        Self { remotes, sources: Mutex::default(), copying: Mutex::default() }
    }
}

/// A place where a blob may be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    reference: ImageReference,
    insecure: bool,
}

/// Removes a digest from the set of running copies, however the copy ends.
struct Copying {
    registry: Arc<Registry>,
    digest: Digest,
}

impl Drop for Copying {
    fn drop(&mut self) {
        lock(&self.registry.pullthrough.copying).remove(&self.digest);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The mirror rules of the cluster, in the order in which they are tried.
#[derive(Default)]
struct Mirrors {
    rules: Vec<(String, Vec<String>, bool)>,
}

impl Mirrors {
    /// The mirrors of a place, then the place itself unless a rule forbids it.
    fn places(&self, candidate: &Candidate) -> Vec<Candidate> {
        let mut places = Vec::new();
        let mut source_allowed = true;
        for (source, mirrors, never_source) in &self.rules {
            for mirror in mirrors {
                let Some(reference) = candidate.reference.mirrored(source, mirror) else { continue };
                places.push(Candidate { reference, insecure: candidate.insecure });
                source_allowed &= !never_source;
            }
        }
        if source_allowed {
            places.push(candidate.clone());
        }
        places
    }
}

/// The remotes of a stream: the newest image of every tag, then older ones; strict ones before insecure ones.
fn candidates(stream: &ImageStream, own: &[String]) -> Vec<Candidate> {
    let everything_insecure = stream
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.get(INSECURE).is_some_and(|value| value == "true"));
    let insecure_tag = |tag: &str| stream.spec.tags.iter().any(|spec| spec.name == tag && spec.import_policy.insecure);
    let depth = stream.status.tags.iter().map(|events| events.items.len()).max().unwrap_or_default();
    let mut found: Vec<Candidate> = Vec::new();
    for age in 0..depth {
        for events in &stream.status.tags {
            let Some(event) = events.items.get(age) else { continue };
            let Some(reference) = ImageReference::parse(&event.docker_image_reference) else { continue };
            if own.contains(&reference.host) || found.iter().any(|known| known.reference.name() == reference.name()) {
                continue;
            }
            found.push(Candidate { insecure: everything_insecure || insecure_tag(&events.tag), reference });
        }
    }
    found.sort_by_key(|candidate| candidate.insecure);
    found
}

impl Registry {
    /// The hosts under which this registry itself is known.
    fn own_hosts(&self, stream: &ImageStream) -> Vec<String> {
        let status = &stream.status;
        [&self.settings.server_addr, &status.docker_image_repository, &status.public_docker_image_repository]
            .into_iter()
            .filter_map(|name| name.split('/').next().filter(|host| !host.is_empty()).map(str::to_owned))
            .collect()
    }

    async fn mirrors(&self) -> Mirrors {
        let mut rules = Vec::new();
        let policies = self.cluster.mirror_policies::<ImageContentSourcePolicy>(
            "/apis/operator.openshift.io/v1alpha1/imagecontentsourcepolicies",
        );
        for policy in self.tolerated(policies.await) {
            let entries = policy.spec.repository_digest_mirrors.into_iter();
            rules.extend(entries.map(|entry| (entry.source, entry.mirrors, false)));
        }
        let sets =
            self.cluster.mirror_policies::<ImageDigestMirrorSet>("/apis/config.openshift.io/v1/imagedigestmirrorsets");
        let mut entries = Vec::new();
        entries.extend(self.tolerated(sets.await).into_iter().flat_map(|set| set.spec.image_digest_mirrors));
        let sets = self.cluster.mirror_policies::<ImageTagMirrorSet>("/apis/config.openshift.io/v1/imagetagmirrorsets");
        entries.extend(self.tolerated(sets.await).into_iter().flat_map(|set| set.spec.image_tag_mirrors));
        rules.extend(entries.into_iter().map(|entry| {
            let never = entry.mirror_source_policy == Some(MirrorSourcePolicy::NeverContactSource);
            (entry.source, entry.mirrors, never)
        }));
        Mirrors { rules }
    }

    /// A cluster without these kinds has no mirrors.
    fn tolerated<T>(&self, listed: Result<Vec<T>, crate::cluster::CallError>) -> Vec<T> {
        listed.unwrap_or_else(|error| {
            self.log.debug(&format!("mirror rules are not read: {error}"), vec![]);
            Vec::new()
        })
    }

    async fn pull_secrets(&self, repository: &Repository) -> PullSecrets {
        match self.cluster.secrets(repository).await {
            Ok(secrets) => PullSecrets::collect(&secrets),
            Err(error) => {
                self.log.info(&format!("reading the pull secrets of {repository}: {error}"), vec![]);
                PullSecrets::collect(&api::image::SecretList::default())
            }
        }
    }

    /// Asks the mirrors of a place and the place itself, until one answers.
    async fn ask_remote(
        &self,
        method: Method,
        candidate: &Candidate,
        what: &str,
        operation: &'static str,
        secrets: &PullSecrets,
        mirrors: &Mirrors,
    ) -> Result<reqwest::Response, RemoteError> {
        let url = format!("https://{}/v2/{}/{what}", candidate.reference.api_host(), candidate.reference.repository);
        let mut last = RemoteError::Unreachable { url, problem: "the mirror rules leave no place to ask".to_owned() };
        for place in mirrors.places(candidate) {
            let start = Instant::now();
            let login = secrets.login(&place.reference);
            let remotes = &self.pullthrough.remotes;
            let answer = remotes.ask(method.clone(), &place.reference, what, login, place.insecure).await;
            let error = answer.as_ref().err().map(RemoteError::code);
            self.metrics.pullthrough(&place.reference.host, operation, start.elapsed(), error);
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Fetches a manifest that an image object refers to; `None` when the image is our own.
    pub async fn pull_manifest(
        &self,
        repository: &Repository,
        stream: &ImageStream,
        digest: &Digest,
        image: &Image,
    ) -> Result<Option<Bytes>, Refusal> {
        let Some(reference) = ImageReference::parse(&image.docker_image_reference) else { return Ok(None) };
        let own = self.own_hosts(stream);
        if own.contains(&reference.host) {
            return Ok(None);
        }
        let known = candidates(stream, &own).into_iter().find(|known| known.reference.name() == reference.name());
        let insecure = known.is_some_and(|known| known.insecure);
        let (secrets, mirrors) = (self.pull_secrets(repository).await, self.mirrors().await);
        let failed = |problem: String| -> Refusal {
            let entry = Code::PullthroughManifest.entry();
            Entry { message: format!("{}: {problem}", entry.message), ..entry }.into()
        };
        let what = format!("manifests/{digest}");
        let candidate = Candidate { reference, insecure };
        let operation = "ManifestService.Get";
        let answer = self.ask_remote(Method::GET, &candidate, &what, operation, &secrets, &mirrors).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let content = answer.bytes_stream().map_err(io::Error::other);
        let content = body::collect_stream(content, MAX_BYTES).await.map_err(|error| failed(error.to_string()))?;
        if Digest::of(&content) != *digest {
            return Err(failed(format!("the content has digest {}, not {digest}", Digest::of(&content))));
        }
        if self.settings.mirror_pullthrough {
            self.storage.put(&layout::blob(digest), content.clone()).await?;
            self.storage.put(&layout::revision_link(repository, digest), digest.to_string()).await?;
        }
        Ok(Some(content))
    }

    /// Answers with a blob of a remote; `None` when no remote of the stream has it.
    pub async fn pull_blob(
        self: &Arc<Self>,
        request: &Request,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Response<Body>>, Refusal> {
        let stream = match self.cluster.stream(repository).await {
            Ok(stream) => stream,
            Err(error) => {
                if !error.is_not_found() {
                    self.log.warning(&format!("reading image stream {repository}: {error}"), vec![]);
                }
                return Ok(None);
            }
        };
        let mut places = candidates(&stream, &self.own_hosts(&stream));
        if places.is_empty() {
            return Ok(None);
        }
        let known = lock(&self.pullthrough.sources).get(digest).cloned().filter(|known| places.contains(known));
        self.metrics.pullthrough_cache(if known.is_some() { Lookup::Hit } else { Lookup::Miss });
        if let Some(known) = known {
            places.retain(|place| *place != known);
            places.insert(0, known);
        }
        let (secrets, mirrors) = (self.pull_secrets(repository).await, self.mirrors().await);
        let what = format!("blobs/{digest}");
        let (method, operation) = match request.method {
            Method::HEAD => (Method::HEAD, "BlobStore.Stat"),
            _ => (Method::GET, "BlobStore.Open"),
        };
        for place in places {
            match self.ask_remote(method.clone(), &place, &what, operation, &secrets, &mirrors).await {
                Ok(answer) => {
                    self.remember_source(digest, &place);
                    if method == Method::GET && self.settings.mirror_pullthrough {
                        self.copy_in_background(repository, digest, place, secrets, mirrors);
                    }
                    return Ok(Some(passed_on(answer, digest)));
                }
                Err(error) => self.log.info(&format!("pull-through of {digest}: {error}"), vec![]),
            }
        }
        Ok(None)
    }

    fn remember_source(&self, digest: &Digest, place: &Candidate) {
        let mut sources = lock(&self.pullthrough.sources);
        if sources.len() >= REMEMBERED {
            sources.clear();
        }
        sources.insert(digest.clone(), place.clone());
    }

    /// Keeps a copy, unless one is on its way already or the registry has no place left for writers.
    fn copy_in_background(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        place: Candidate,
        secrets: PullSecrets,
        mirrors: Mirrors,
    ) {
        let Some(permit) = self.limits.of(&Method::PUT).try_enter() else { return };
        if !lock(&self.pullthrough.copying).insert(digest.clone()) {
            return;
        }
        let copying = Copying { registry: Arc::clone(self), digest: digest.clone() };
        let repository = repository.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let registry = &copying.registry;
            let what = format!("blobs/{}", copying.digest);
            let answer = registry.ask_remote(Method::GET, &place, &what, "BlobStore.Open", &secrets, &mirrors).await;
            let copied = match answer {
                Ok(answer) => {
                    let content = answer.bytes_stream().map_err(io::Error::other).boxed();
                    registry.keep_blob(&repository, &copying.digest, content).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(problem) = copied {
                registry.log.error(&format!("mirroring {} into {repository}: {problem}", copying.digest), vec![]);
            }
        });
    }

    async fn keep_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        mut content: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let folder = layout::upload(repository, &uuid::Uuid::new_v4().to_string());
        let data = format!("{folder}/data");
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.storage.put(&format!("{folder}/startedat"), now).await?;
        let mut writer = self.storage.append(&data, true).await?;
        let mut hasher = Hasher::new(digest.algorithm());
        let received = async {
            while let Some(piece) = content.next().await {
                let piece = piece?;
                hasher.update(&piece);
                writer.write(piece).await?;
            }
            let seen = hasher.finish();
            if seen == *digest { Ok(()) } else { Err(format!("the content has digest {seen}").into()) }
        };
        let received: Result<(), Box<dyn std::error::Error + Send + Sync>> = received.await;
        if let Err(error) = received {
            writer.cancel().await?;
            self.storage.remove(&folder).await?;
            return Err(error);
        }
        let size = writer.size();
        self.storage.commit(writer).await?;
        self.publish_blob(repository, digest, &folder, size).await?;
        Ok(())
    }
}

fn passed_on(answer: reqwest::Response, digest: &Digest) -> Response<Body> {
    let length = answer.headers().get(header::CONTENT_LENGTH).cloned();
    let mut response = Response::new(body::stream(answer.bytes_stream().map_err(io::Error::other)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ETAG, digest_value(digest));
    headers.insert(CONTENT_DIGEST, digest_value(digest));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream() -> ImageStream {
        let item = |reference: &str| json!({"dockerImageReference": reference, "image": "x"});
        serde_json::from_value(json!({
            "spec": {"tags": [{"name": "b", "importPolicy": {"insecure": true}}]},
            "status": {"tags": [
                {"tag": "a", "items": [item("own:5000/p/i@sha256:1"), item("old.io/x/y:1")]},
                {"tag": "b", "items": [item("lax.io/x/y:1")]},
                {"tag": "c", "items": [item("new.io/x/y:1"), item("new.io/x/y:0")]},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn newest_remotes_come_first_insecure_ones_last_and_never_ourselves() {
        let found = candidates(&stream(), &["own:5000".into()]);
        let names: Vec<_> = found.iter().map(|place| (place.reference.name(), place.insecure)).collect();
        assert_eq!(names, [("new.io/x/y".into(), false), ("old.io/x/y".into(), false), ("lax.io/x/y".into(), true)]);
    }

    #[test]
    fn mirrors_come_before_the_source_which_a_rule_may_forbid() {
        let reference = ImageReference::parse("quay.io/org/app:v1").unwrap();
        let candidate = Candidate { reference, insecure: false };
        let rule = |never| Mirrors { rules: vec![("quay.io/org".into(), vec!["m.io/copy".into()], never)] };
        let names = |mirrors: Mirrors| -> Vec<String> {
            mirrors.places(&candidate).iter().map(|place| place.reference.name()).collect()
        };
        assert_eq!(names(rule(false)), ["m.io/copy/app", "quay.io/org/app"]);
        assert_eq!(names(rule(true)), ["m.io/copy/app"]);
        assert_eq!(names(Mirrors::default()), ["quay.io/org/app"]);
    }
}
