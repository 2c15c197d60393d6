//! A registry on a desk: the real registry called without sockets, before a cluster API that lives in a map.
//! The map keeps the rules of `image.openshift.io` that the registry depends on, and notes every call.

#![allow(dead_code, reason = "each test file uses another part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use base64::Engine as _;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body_util::BodyExt;
use reference_registry::{
    body,
    cluster::{Call, CallError, Caller, Cluster, Transport},
    digest::Digest,
    log::{Level, Log},
    metrics::Metrics,
    registry::Registry,
    remote::Remotes,
    request::Request,
    settings::Settings,
    storage::{Driver, Storage, filesystem::Filesystem},
};
use serde_json::{Value, json};

pub const SERVER: &str = "image-registry.openshift-image-registry.svc:5000";

/// What the API server of the desk knows.
#[derive(Default)]
pub struct World {
    /// Token to user name.
    pub users: BTreeMap<String, String>,
    /// `user verb resource project`; project is empty for all.
    pub rights: BTreeSet<String>,
    pub projects: BTreeSet<String>,
    pub streams: BTreeMap<String, Value>,
    pub images: BTreeMap<String, Value>,
    /// `caller method path`, in order.
    pub calls: Vec<String>,
    /// Answers every call with this status instead.
    pub broken: Option<u16>,
}

#[derive(Clone, Default)]
pub struct Api(pub Arc<Mutex<World>>);

fn failure(code: u16, kind: &str, name: &str) -> CallError {
    CallError::Status {
        code,
        reason: String::new(),
        message: format!("{kind} {name}: {code}"),
        kind: kind.into(),
        name: name.into(),
    }
}

impl World {
    fn user(&self, caller: &Caller) -> Result<String, CallError> {
        match caller {
            Caller::Registry => Ok("registry".into()),
            Caller::Anonymous => Ok("system:anonymous".into()),
            Caller::User(token) => self.users.get(token.reveal()).cloned().ok_or_else(|| failure(401, "", "")),
        }
    }

    fn allowed(&self, user: &str, attributes: &Value) -> bool {
        let text = |key: &str| attributes[key].as_str().unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            sub => format!("{}/{sub}", text("resource")),
        };
        let right = |project: &str| self.rights.contains(&format!("{user} {} {resource} {project}", text("verb")));
        right("") || right(text("namespace"))
    }

    fn answer(&mut self, call: &Call) -> Result<Value, CallError> {
        let user = self.user(&call.caller)?;
        self.calls.push(format!("{user} {} {}", call.method, call.path.split('?').next().unwrap()));
        if let Some(code) = self.broken {
            return Err(failure(code, "", ""));
        }
        let body = call.body.clone().unwrap_or_default();
        if call.path.ends_with("/selfsubjectreviews") {
            return Ok(json!({"status": {"userInfo": {"username": user}}}));
        }
        if call.path.ends_with("/selfsubjectaccessreviews") {
            if user == "system:anonymous" {
                return Err(failure(403, "", ""));
            }
            let allowed = self.allowed(&user, &body["spec"]["resourceAttributes"]);
            return Ok(json!({"status": {"allowed": allowed}}));
        }
        if call.path.ends_with("/subjectaccessreviews") {
            let allowed = self.allowed("system:anonymous", &body["spec"]["resourceAttributes"]);
            return Ok(json!({"status": {"allowed": allowed}}));
        }
        let path = call.path.split('?').next().unwrap();
        let path = path.strip_prefix("/apis/image.openshift.io/v1/").unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        match (&call.method, parts.as_slice()) {
            (&Method::GET, ["imagestreams"]) => {
                let items: Vec<&Value> = self.streams.values().collect();
                Ok(json!({"items": items, "metadata": {}}))
            }
            (&Method::GET, ["images", name]) => {
                self.images.get(*name).cloned().ok_or_else(|| failure(404, "images", name))
            }
            (&Method::POST, ["images"]) => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                if self.images.contains_key(&name) {
                    return Err(failure(409, "images", &name));
                }
                self.images.insert(name, body);
                Ok(Value::Null)
            }
            (&Method::POST, ["namespaces", project, kind]) => {
                if !self.projects.contains(*project) {
                    return Err(failure(404, "namespaces", project));
                }
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let key = format!("{project}/{name}");
                if *kind == "imagestreams" {
                    let attributes = json!({"verb": "create", "resource": "imagestreams", "namespace": project});
                    if !self.allowed(&user, &attributes) {
                        return Err(failure(403, "imagestreams", &name));
                    }
                    let stream = json!({
                        "metadata": {"name": name, "namespace": project},
                        "status": {"dockerImageRepository": format!("{SERVER}/{key}"), "tags": []},
                    });
                    self.streams.insert(key, stream);
                    return Ok(Value::Null);
                }
                let image = body["image"].clone();
                let digest = image["metadata"]["name"].clone();
                let stream = self.streams.get_mut(&key).ok_or_else(|| failure(404, "imagestreammappings", &name))?;
                tag(stream, body["tag"].as_str().unwrap(), &digest);
                self.images.insert(digest.as_str().unwrap().to_owned(), image);
                Ok(json!({"status": "Success"}))
            }
            (&Method::GET, ["namespaces", project, "imagestreamimages", name]) => {
                let (stream, digest) = name.split_once('@').unwrap();
                let known = self.streams.contains_key(&format!("{project}/{stream}"));
                match self.images.get(digest).filter(|_| known) {
                    Some(image) => Ok(json!({"image": image})),
                    None => Err(failure(404, "imagestreamimages", name)),
                }
            }
            (&Method::GET, ["namespaces", project, "imagestreams", name, rest @ ..]) => {
                let key = format!("{project}/{name}");
                let stream = self.streams.get(&key).cloned().ok_or_else(|| failure(404, "imagestreams", name))?;
                match rest {
                    [] => Ok(stream),
                    ["layers"] => Ok(self.layers(&stream)),
                    _ => Ok(json!({"items": []})),
                }
            }
            _ => Err(failure(404, "", path)),
        }
    }

    fn layers(&self, stream: &Value) -> Value {
        let tags = stream["status"]["tags"].as_array().into_iter().flatten();
        let images = tags.flat_map(|tag| tag["items"].as_array().into_iter().flatten());
        let (mut blobs, mut found) = (serde_json::Map::new(), serde_json::Map::new());
        for item in images {
            let digest = item["image"].as_str().unwrap();
            let manifest = self.images[digest]["dockerImageManifest"].as_str().unwrap_or_default();
            let manifest: Value = serde_json::from_str(manifest).unwrap();
            let named = |key: &str| -> Vec<String> {
                let list = manifest[key].as_array().into_iter().flatten();
                list.filter_map(|entry| entry["digest"].as_str().map(str::to_owned)).collect()
            };
            let (layers, manifests) = (named("layers"), named("manifests"));
            let config = manifest["config"]["digest"].as_str();
            for blob in layers.iter().chain(&manifests).map(String::as_str).chain(config).chain([digest]) {
                blobs.insert(blob.to_owned(), json!({"size": 1}));
            }
            found.insert(digest.to_owned(), json!({"layers": layers, "config": config, "manifests": manifests}));
        }
        json!({"blobs": blobs, "images": found})
    }
}

fn tag(stream: &mut Value, tag: &str, digest: &Value) {
    let tags = stream["status"]["tags"].as_array_mut().unwrap();
    let item = json!({"image": digest, "created": null});
    match tags.iter_mut().find(|known| known["tag"] == tag) {
        Some(known) => known["items"].as_array_mut().unwrap().insert(0, item),
        None => tags.push(json!({"tag": tag, "items": [item]})),
    }
}

impl Transport for Api {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Value, CallError>> {
        let answer = self.0.lock().unwrap().answer(&call);
        async move { answer }.boxed()
    }
}

/// A registry, its API and its files.
pub struct Desk {
    pub registry: Arc<Registry>,
    pub api: Api,
    pub folder: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The first error code of the document.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Desk {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A registry with further environment variables.
    pub fn with(changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut env = BTreeMap::from(
            [
                ("REGISTRY_STORAGE", "filesystem"),
                ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
                ("REGISTRY_HTTP_SECRET", "shared"),
                ("REGISTRY_OPENSHIFT_SERVER_ADDR", SERVER),
                ("REGISTRY_OPENSHIFT_METRICS_ENABLED", "true"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        env.extend(changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let api = Api::default();
        {
            let mut world = api.0.lock().unwrap();
            for (token, user) in [("editor-token", "editor"), ("viewer-token", "viewer"), ("nobody-token", "nobody")] {
                world.users.insert(token.into(), user.into());
            }
            world.projects.insert("project".into());
            let rights = [
                "editor get imagestreams/layers project",
                "editor update imagestreams/layers project",
                "editor create imagestreams project",
                "viewer get imagestreams/layers project",
            ];
            world.rights.extend(rights.map(str::to_owned));
        }
        let driver = Arc::new(Filesystem::new(folder.path()));
        Self { registry: registry(&env, &api, driver), api, folder, env }
    }

    /// The same registry after a restart: files, secret and API stay, memory is gone.
    pub fn restarted(self) -> Self {
        let driver = Arc::new(Filesystem::new(self.folder.path()));
        Self { registry: registry(&self.env, &self.api, driver), ..self }
    }

    /// The same registry over another store.
    pub fn on(self, driver: Arc<dyn Driver>) -> Self {
        Self { registry: registry(&self.env, &self.api, driver), ..self }
    }

    pub fn grant(&self, right: &str) {
        self.api.0.lock().unwrap().rights.insert(right.to_owned());
    }

    /// The calls to the API since the last look.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.api.0.lock().unwrap().calls)
    }

    pub async fn send(&self, method: Method, uri: &str, headers: &[(&str, &str)], content: impl Into<Bytes>) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        map.entry("host").or_insert(SERVER.parse().unwrap());
        let content = content.into();
        let request = Request {
            id: "request".into(),
            method,
            uri: uri.parse().unwrap(),
            headers: map,
            body: body::received(content),
            peer: None,
            encrypted: true,
        };
        let (parts, body) = self.registry.handle(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A request with a token.
    pub async fn ask(&self, token: &str, method: Method, uri: &str, content: impl Into<Bytes>) -> Answer {
        self.send(method, uri, &[("authorization", &format!("Bearer {token}")), ("accept", ACCEPT)], content).await
    }

    /// Uploads a blob in one piece and returns its digest.
    pub async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let begun = self.ask("editor-token", Method::POST, &format!("/v2/{repository}/blobs/uploads/"), "").await;
        assert_eq!(begun.status, 202, "{begun:?}");
        let uri = format!("{}&digest={digest}", path(begun.header("location")));
        let done = self.ask("editor-token", Method::PUT, &uri, content.to_vec()).await;
        assert_eq!(done.status, 201, "{done:?}");
        assert_eq!(done.header("docker-content-digest"), digest.to_string());
        digest
    }

    /// Puts a manifest document.
    pub async fn push_manifest(&self, repository: &str, reference: &str, kind: &str, document: &Value) -> Answer {
        let headers = [("authorization", "Bearer editor-token"), ("content-type", kind)];
        let uri = format!("/v2/{repository}/manifests/{reference}");
        self.send(Method::PUT, &uri, &headers, document.to_string()).await
    }

    /// Pushes a small image and returns its manifest.
    pub async fn push_image(&self, repository: &str, reference: &str, layer: &[u8]) -> Value {
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        self.push_blob(repository, config).await;
        self.push_blob(repository, layer).await;
        let document = image(config, layer);
        let put = self.push_manifest(repository, reference, OCI_MANIFEST, &document).await;
        assert_eq!(put.status, 201, "{put:?}");
        document
    }
}

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// An OCI manifest of one layer.
pub fn image(config: &[u8], layer: &[u8]) -> Value {
    let descriptor = |kind: &str, content: &[u8]| json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()});
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

/// A Basic header value.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// Path and query of an absolute link.
pub fn path(link: &str) -> &str {
    let rest = link.split_once("://").expect("an absolute link").1;
    &rest[rest.find('/').unwrap()..]
}

fn registry(env: &BTreeMap<String, String>, api: &Api, driver: Arc<dyn Driver>) -> Arc<Registry> {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = Settings::from_parts(env.clone(), None).unwrap();
    let metrics = Arc::new(Metrics::default());
    let storage = Storage::new(driver, Arc::clone(&metrics));
    let log = Log::to(Level::Debug, std::io::sink());
    let cluster = Cluster::new(Arc::new(api.clone()));
    Arc::new(Registry::new(settings, cluster, storage, metrics, log, Remotes::new().unwrap()).unwrap())
}
