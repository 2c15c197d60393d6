//! A real control plane with the image API behind its aggregator, started once for all tests of this program.
//! It lives in a thread of its own: the programs end with the thread that started them, at the latest with the
//! test process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use image_api::Options;
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork, tool};
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Path of the group.
pub const IMAGE_API: &str = "/apis/image.openshift.io/v1";
/// What pull specs begin with as long as no image configuration names another registry.
pub const REGISTRY: &str = "image-registry.openshift-image-registry.svc:5000";

/// How tests reach the control plane.
pub struct Stage {
    api_url: String,
    authority: Vec<u8>,
    tokens: Vec<String>,
}

/// One caller, known by a token.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    api_url: String,
    token: String,
}

/// Status code and body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

static STAGE: OnceLock<Stage> = OnceLock::new();
static NAMESPACES: AtomicUsize = AtomicUsize::new(0);

/// The control plane of this test program.
pub fn stage() -> &'static Stage {
    STAGE.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let plane = start_plane(&folder()).await;
                let api = start_image_api(&plane).await;
                sender.send(Stage::of(&plane)).expect("somebody waits for the stage");
                api.await.expect("the image API runs on");
            });
        });
        receiver.recv().expect("a control plane with the image API")
    })
}

/// A folder below cargo's own for tests; those of processes that are gone are removed.
fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-api-contract");
    for old in std::fs::read_dir(&root).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _ = std::fs::remove_dir_all(old.path());
        }
    }
    root.join(std::process::id().to_string())
}

/// A control plane in `dir`.
pub async fn start_plane(dir: &Path) -> ControlPlane {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tools = tool::locate(|line| eprintln!("{line}")).await.expect("the programs can be found or built");
    let network = PodNetwork::lease().expect("a free pod network");
    ControlPlane::start(ControlPlaneOptions::new(dir, tools, network)).await.expect("a control plane that starts")
}

/// The image API on an address of the plane, once it is reachable; the task ends if it fails.
pub async fn start_image_api(plane: &ControlPlane) -> tokio::task::JoinHandle<()> {
    start_image_api_until(plane, CancellationToken::new()).await
}

/// As [`start_image_api`], until `stop`.
pub async fn start_image_api_until(plane: &ControlPlane, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    let options = Options {
        kubeconfig: plane.kubeconfig().to_owned(),
        image_api_address: (plane.network().listen_address(0, 3), 0).into(),
        image_api_front: image_api::Front::default(),
        image_api_front_proxy_ca: plane.front_proxy_ca().to_owned(),
        image_api_registry_hostname: REGISTRY.into(),
        image_api_trust_bundle: None,
        image_api_proxy: None,
    };
    let (ready, is_ready) = oneshot::channel();
    let task = tokio::spawn(async move {
        image_api::run(options, stop, ready).await.expect("the image API can be served");
    });
    is_ready.await.expect("the image API becomes ready");
    task
}

impl Stage {
    /// How to reach `plane`.
    pub fn of(plane: &ControlPlane) -> Self {
        Self {
            api_url: plane.api_url().to_owned(),
            authority: std::fs::read(plane.cluster_ca()).expect("the cluster's CA"),
            tokens: plane.users().iter().map(|user| user.token.clone()).collect(),
        }
    }

    /// The user who may do everything.
    pub fn admin(&self) -> Caller {
        self.with_token(&self.tokens[0])
    }

    /// `user-NN`, who may do nothing unless told so.
    pub fn user(&self, number: usize) -> Caller {
        self.with_token(&self.tokens[number])
    }

    /// Whoever the token belongs to.
    pub fn with_token(&self, token: &str) -> Caller {
        let authority = Certificate::from_pem(&self.authority).expect("a certificate");
        let client = Client::builder().no_proxy().tls_certs_only([authority]).build().expect("a client");
        Caller { client, api_url: self.api_url.clone(), token: token.to_owned() }
    }

    /// A namespace nobody else uses.
    pub async fn namespace(&self) -> String {
        let name = format!("test-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        assert_eq!(self.admin().post("/api/v1/namespaces", &object).await.code, 201);
        name
    }

    /// Gives `subject` the `rules` in `namespace`, or everywhere if that is empty.
    pub async fn allow(&self, subject: &Value, namespace: &str, rules: &Value) {
        let name = format!("r{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let (prefix, scope) =
            if namespace.is_empty() { ("Cluster", String::new()) } else { ("", format!("namespaces/{namespace}/")) };
        let base = format!("/apis/rbac.authorization.k8s.io/v1/{scope}{}", prefix.to_lowercase());
        let version = "rbac.authorization.k8s.io/v1";
        let metadata = json!({"name": name});
        let role =
            json!({"apiVersion": version, "kind": format!("{prefix}Role"), "metadata": metadata, "rules": rules});
        let binding = json!({
            "apiVersion": version,
            "kind": format!("{prefix}RoleBinding"),
            "metadata": metadata,
            "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": format!("{prefix}Role"), "name": name},
        });
        for (resource, object) in [("roles", role), ("rolebindings", binding)] {
            let answer = self.admin().post(&format!("{base}{resource}"), &object).await;
            assert_eq!(answer.code, 201, "{answer:?}");
        }
    }
}

impl Caller {
    /// Any request; a body is sent as `content_type`.
    pub async fn send(&self, method: Method, path: &str, accept: &str, body: Option<(&str, String)>) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.api_url)).bearer_auth(&self.token);
        if !accept.is_empty() {
            request = request.header("Accept", accept);
        }
        if let Some((content_type, body)) = body {
            request = request.header("Content-Type", content_type).body(body);
        }
        let response = request.send().await.expect("the API server answers");
        let code = response.status().as_u16();
        let text = response.text().await.expect("a body");
        Answer { code, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", None).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::POST, path, "", Some(("application/json", object.to_string()))).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::PUT, path, "", Some(("application/json", object.to_string()))).await
    }

    pub async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        self.send(Method::PATCH, path, "", Some((&format!("application/{kind}"), patch.to_string()))).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, "", None).await
    }

    /// The lines of a watch, as they come.
    pub async fn watch(&self, path: &str, accept: &str) -> Watch {
        let request = self.client.get(format!("{}{path}", self.api_url)).bearer_auth(&self.token);
        let response = request.header("Accept", accept).send().await.expect("the API server answers");
        assert_eq!(response.status().as_u16(), 200);
        Watch { response, read: Vec::new() }
    }
}

/// A watch under way.
pub struct Watch {
    response: reqwest::Response,
    read: Vec<u8>,
}

impl Watch {
    /// The next event, bookmarks left out.
    pub async fn next(&mut self) -> Value {
        loop {
            let event = self.next_of_any_type().await;
            if event["type"] != "BOOKMARK" {
                return event;
            }
        }
    }

    /// The next event of any type.
    pub async fn next_of_any_type(&mut self) -> Value {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).expect("one JSON object per line");
            }
            let waiting = tokio::time::timeout(std::time::Duration::from_secs(20), self.response.chunk());
            let chunk = waiting.await.expect("an event within 20s").expect("the watch goes on");
            self.read.extend_from_slice(&chunk.expect("the watch goes on"));
        }
    }
}

/// A digest that nobody else uses.
pub fn digest(seed: &str) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(format!("{seed}-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed)).as_bytes());
    hash.iter().fold("sha256:".to_owned(), |out, byte| format!("{out}{byte:02x}"))
}

/// A mapping as the registry posts it after a push (image-registry pkg/imagestream/imagestream.go:408-418,
/// pkg/dockerregistry/server/manifestservice.go:157-171).
pub fn mapping(namespace: &str, stream: &str, tag: &str, image: &Image) -> Value {
    json!({
        "kind": "ImageStreamMapping",
        "apiVersion": "image.openshift.io/v1",
        "metadata": {"name": stream, "namespace": namespace, "creationTimestamp": null},
        "image": image.object(namespace, stream),
        "tag": tag,
    })
}

/// What a push is about.
pub struct Image {
    pub digest: String,
    pub media_type: &'static str,
    pub manifest: Value,
    pub config: &'static str,
    pub layers: Value,
}

impl Image {
    /// An OCI image of one layer.
    pub fn single(seed: &str) -> Self {
        let (layer, config) = (digest(&format!("{seed} layer")), digest(&format!("{seed} config")));
        Self {
            digest: digest(seed),
            media_type: "application/vnd.oci.image.manifest.v1+json",
            manifest: json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 10}],
            }),
            config: r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]}}"#,
            layers: json!([{"name": layer, "size": 10, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}]),
        }
    }

    /// An index of `children`; as the registry sends it, layers and configuration are empty.
    pub fn index(seed: &str, children: &[&Image]) -> Self {
        let entry = |child: &&Image| json!({"mediaType": child.media_type, "digest": child.digest, "size": 5, "platform": {"architecture": "amd64", "os": "linux"}});
        Self {
            digest: digest(seed),
            media_type: "application/vnd.oci.image.index.v1+json",
            manifest: json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": children.iter().map(entry).collect::<Vec<_>>(),
            }),
            config: "",
            layers: Value::Null,
        }
    }

    /// The Image object the registry sends.
    pub fn object(&self, namespace: &str, stream: &str) -> Value {
        json!({
            "kind": "Image",
            "apiVersion": "image.openshift.io/v1",
            "metadata": {
                "name": self.digest,
                "creationTimestamp": null,
                "annotations": {
                    "openshift.io/image.managed": "true",
                    "image.openshift.io/manifestBlobStored": "true",
                    "image.openshift.io/dockerLayersOrder": "ascending",
                },
            },
            "dockerImageReference": format!("{REGISTRY}/{namespace}/{stream}@{}", self.digest),
            "dockerImageMetadata": null,
            "dockerImageManifest": self.manifest.to_string(),
            "dockerImageManifestMediaType": self.media_type,
            "dockerImageConfig": self.config,
            "dockerImageLayers": self.layers,
        })
    }

    /// Digest of the first layer.
    pub fn layer(&self) -> &str {
        self.layers[0]["name"].as_str().expect("a layer")
    }
}

/// A stream as the registry creates it for a first push.
pub fn new_stream(name: &str) -> Value {
    json!({
        "kind": "ImageStream",
        "apiVersion": "image.openshift.io/v1",
        "metadata": {"name": name, "creationTimestamp": null},
        "spec": {"lookupPolicy": {"local": false}},
        "status": {"dockerImageRepository": ""},
    })
}

/// Path of a namespaced resource.
pub fn path(namespace: &str, rest: &str) -> String {
    format!("{IMAGE_API}/namespaces/{namespace}/{rest}")
}
