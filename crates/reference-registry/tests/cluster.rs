//! The registry on a real control plane with the real image API: login, roles, push, pull, and what the cluster shows after.
//! Needs the control plane programs that `registry-conformance doctor` names.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use http::StatusCode;
use kube::{
    Client,
    api::{DynamicObject, Patch, PatchParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
    discovery::ApiResource,
};
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork};
use reference_registry::{
    cluster::{Cluster, KubeTransport},
    digest::Digest,
    log::{Level, Log},
    metrics::Metrics,
    registry::Registry,
    remote::Remotes,
    server::{self, Tls},
    settings::{Settings, TlsFiles},
    storage::{Storage, filesystem::Filesystem},
};
use reqwest::{Method, header};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const HOST: &str = "image-registry.openshift-image-registry.svc";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

async fn config(path: &Path) -> kube::Config {
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    config.proxy_url = None;
    config
}

async fn apply(client: &Client, object: Value) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, &kind));
    let api: kube::Api<DynamicObject> = match text("/metadata/namespace") {
        empty if empty.is_empty() => kube::Api::all_with(client.clone(), &resource),
        namespace => kube::Api::namespaced_with(client.clone(), &namespace, &resource),
    };
    let patch = PatchParams::apply("test").force();
    api.patch(&text("/metadata/name"), &patch, &Patch::Apply(&object)).await.unwrap();
}

fn role(name: &str, rules: &Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
}

fn bind(kind: &str, namespace: Option<&str>, role: &str, subject: &Value) -> Value {
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {"name": format!("{role}-{}", subject["name"].as_str().unwrap())},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    });
    if let Some(namespace) = namespace {
        binding["metadata"]["namespace"] = json!(namespace);
    }
    binding
}

/// The rules the operator gives the registry (operator source pkg/resource/clusterrole.go:39-113).
fn registry_rules() -> Value {
    let image = |resources: &[&str], verbs: &[&str]| json!({"apiGroups": ["", "image.openshift.io"], "resources": resources, "verbs": verbs});
    json!([
        image(&["imagestreamimages", "imagestreams/layers", "imagestreams/secrets"], &["get"]),
        image(&["imagestreams"], &["get", "update"]),
        image(&["images"], &["get", "update", "create"]),
        image(&["imagestreammappings"], &["create"]),
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ])
}

struct System {
    control_plane: ControlPlane,
    client: Client,
    http: reqwest::Client,
    url: String,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl System {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let tools = local_cluster::tool::locate(|line| eprintln!("{line}")).await.expect("control plane programs");
        let network = PodNetwork::lease().expect("pod network");
        let options = ControlPlaneOptions::new(folder.path().join("control-plane"), tools, network);
        let control_plane = ControlPlane::start(options).await.expect("control plane");
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let options = image_api::Options {
            kubeconfig: control_plane.kubeconfig().to_owned(),
            image_api_address: ([127, 0, 0, 1], 0).into(),
            image_api_front: image_api::Front::default(),
            image_api_front_proxy_ca: control_plane.front_proxy_ca().to_owned(),
            image_api_registry_hostname: format!("{HOST}:5000"),
            image_api_trust_bundle: None,
            image_api_proxy: None,
        };
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { image_api::run(options, stop, ready).await.expect("the image API runs") }
        });
        is_ready.await.expect("the image API is ready");
        let config = config(control_plane.kubeconfig()).await;
        let client = Client::try_from(config.clone()).unwrap();
        prepare(&client).await;
        let token = service_account_token(&client).await;
        let mut config = config;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        let transport = KubeTransport::new(config).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let certificate = control_plane.serving("registry", &[HOST.to_owned()]).unwrap();
        let files = TlsFiles {
            certificate: certificate.certificate,
            key: certificate.key,
            only_tls13: false,
            cipher_suites: vec![],
        };
        let registry = registry(&folder.path().join("blobs"), transport);
        let running = tokio::spawn(server::serve(registry, listener, Some(Tls::load(&files).unwrap()), stop.clone()));
        let authority = std::fs::read(control_plane.cluster_ca()).unwrap();
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()])
            .resolve(HOST, addr)
            .no_proxy()
            .build()
            .unwrap();
        let url = format!("https://{HOST}:{}", addr.port());
        Self { control_plane, client, http, url, stop, tasks: vec![serving, running], _folder: folder }
    }

    async fn close(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.control_plane.stop().await;
    }

    fn token(&self, user: usize) -> String {
        let plain: Vec<_> = self.control_plane.users().iter().filter(|user| user.name.starts_with("user-")).collect();
        plain[user].token.clone()
    }

    fn name(&self, user: usize) -> Value {
        let plain: Vec<_> = self.control_plane.users().iter().filter(|user| user.name.starts_with("user-")).collect();
        json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": plain[user].name})
    }

    async fn ask(&self, token: &str, method: Method, path: &str, content: Vec<u8>) -> reqwest::Response {
        let url = if path.starts_with("https://") { path.to_owned() } else { format!("{}{path}", self.url) };
        let request = self.http.request(method, url).bearer_auth(token).header(header::ACCEPT, OCI_MANIFEST);
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        request.body(content).send().await.unwrap()
    }

    async fn push_blob(&self, token: &str, content: &[u8]) -> StatusCode {
        let begun = self.ask(token, Method::POST, "/v2/team/app/blobs/uploads/", vec![]).await;
        if begun.status() != 202 {
            return begun.status();
        }
        let location = begun.headers()[header::LOCATION].to_str().unwrap();
        let uri = format!("{location}&digest={}", Digest::of(content));
        self.ask(token, Method::PUT, &uri, content.to_vec()).await.status()
    }

    async fn push_manifest(&self, token: &str, document: &Value) -> reqwest::Response {
        let url = format!("{}/v2/team/app/manifests/v1", self.url);
        let request = self.http.put(url).bearer_auth(token).header(header::CONTENT_TYPE, OCI_MANIFEST);
        request.body(document.to_string()).send().await.unwrap()
    }
}

async fn prepare(client: &Client) {
    let account = json!({"kind": "ServiceAccount", "name": "registry", "namespace": "openshift-image-registry"});
    for namespace in ["openshift-image-registry", "team"] {
        apply(client, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
    }
    let metadata = json!({"name": "registry", "namespace": "openshift-image-registry"});
    apply(client, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})).await;
    apply(client, role("system:registry", &registry_rules())).await;
    apply(client, bind("ClusterRoleBinding", None, "system:registry", &account)).await;
    let layers = |verbs: &[&str]| json!({"apiGroups": ["image.openshift.io"], "resources": ["imagestreams/layers"], "verbs": verbs});
    apply(client, role("registry-viewer", &json!([layers(&["get"])]))).await;
    let create = json!({"apiGroups": ["image.openshift.io"], "resources": ["imagestreams"], "verbs": ["create"]});
    apply(client, role("registry-editor", &json!([layers(&["get", "update"]), create]))).await;
    let metrics = json!([{"apiGroups": ["image.openshift.io"], "resources": ["registry/metrics"], "verbs": ["get"]}]);
    apply(client, role("prometheus-scraper", &metrics)).await;
}

async fn service_account_token(client: &Client) -> String {
    let path = "/api/v1/namespaces/openshift-image-registry/serviceaccounts/registry/token";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": null}});
    let request = http::Request::post(path).header("content-type", "application/json");
    let answer: Value = client.request(request.body(body.to_string().into_bytes()).unwrap()).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

fn registry(root: &Path, transport: KubeTransport) -> Arc<Registry> {
    let env = [
        ("REGISTRY_STORAGE", "filesystem"),
        ("REGISTRY_OPENSHIFT_SERVER_ADDR", "image-registry.openshift-image-registry.svc:5000"),
        ("REGISTRY_OPENSHIFT_METRICS_ENABLED", "true"),
    ];
    let env: BTreeMap<_, _> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let settings = Settings::from_parts(env, None).unwrap();
    let metrics = Arc::new(Metrics::default());
    let storage = Storage::new(Arc::new(Filesystem::new(root)), Arc::clone(&metrics));
    let cluster = Cluster::new(Arc::new(transport));
    Arc::new(
        Registry::new(settings, cluster, storage, metrics, Log::stdout(Level::Info), Remotes::new().unwrap()).unwrap(),
    )
}

fn image(config: &[u8], layer: &[u8]) -> Value {
    let descriptor = |kind: &str, content: &[u8]| json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()});
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_open_the_registry_and_a_push_shows_in_the_cluster() {
    let system = System::start().await;
    let (editor, viewer, stranger) = (system.token(0), system.token(1), system.token(2));
    apply(&system.client, bind("RoleBinding", Some("team"), "registry-editor", &system.name(0))).await;
    apply(&system.client, bind("RoleBinding", Some("team"), "registry-viewer", &system.name(1))).await;

    // Login: the token endpoint echoes a good token and refuses a bad one.
    let login = |password: String| {
        let request = system.http.get(format!("{}/openshift/token", system.url)).basic_auth("any", Some(password));
        async move { request.send().await.unwrap() }
    };
    let answer = login(editor.clone()).await;
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(answer.json::<Value>().await.unwrap()["token"], editor);
    assert_eq!(login("wrong".into()).await.status(), 401);
    assert_eq!(system.ask(&editor, Method::GET, "/v2/", vec![]).await.status(), 200);

    // Push: refused to the viewer, possible for the editor.
    let (config, layer) = (br#"{"architecture":"amd64","os":"linux"}"#, vec![7; 1 << 20]);
    assert_eq!(system.push_blob(&viewer, &layer).await, 401);
    assert_eq!(system.push_blob(&editor, config).await, 201);
    assert_eq!(system.push_blob(&editor, &layer).await, 201);
    let document = image(config, &layer);
    assert_eq!(system.push_manifest(&viewer, &document).await.status(), 401);
    let pushed = system.push_manifest(&editor, &document).await;
    assert_eq!(pushed.status(), 201, "{:?}", pushed.text().await);

    // The cluster knows the image.
    let digest = Digest::of(document.to_string().as_bytes()).to_string();
    let get = |path: String| {
        let request = http::Request::get(path).body(vec![]).unwrap();
        system.client.request::<Value>(request)
    };
    let stream = get("/apis/image.openshift.io/v1/namespaces/team/imagestreams/app".into()).await.unwrap();
    assert_eq!(stream["status"]["tags"][0]["items"][0]["image"], digest);
    let known = get(format!("/apis/image.openshift.io/v1/images/{digest}")).await.unwrap();
    assert_eq!(known["dockerImageLayers"][0]["name"], Digest::of(&layer).to_string());

    // Pull: by the viewer, not by a stranger.
    for reference in ["v1", &digest] {
        let got = system.ask(&viewer, Method::GET, &format!("/v2/team/app/manifests/{reference}"), vec![]).await;
        assert_eq!(got.status(), 200);
        assert_eq!(got.text().await.unwrap(), document.to_string());
    }
    let blob = format!("/v2/team/app/blobs/{}", Digest::of(&layer));
    assert_eq!(system.ask(&viewer, Method::GET, &blob, vec![]).await.bytes().await.unwrap(), layer);
    let signatures = format!("/extensions/v2/team/app/signatures/{digest}");
    assert_eq!(system.ask(&viewer, Method::GET, &signatures, vec![]).await.status(), 200);
    let refused = system.ask(&stranger, Method::GET, "/v2/team/app/manifests/v1", vec![]).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], "Basic realm=openshift,error=\"access denied\"");
    let anonymous = system.ask("anonymous", Method::GET, "/v2/team/app/manifests/v1", vec![]).await;
    assert_eq!(anonymous.status(), 401);

    // Metrics: for whom the documented role is bound.
    let metrics = "/extensions/v2/metrics";
    assert_eq!(system.ask(&stranger, Method::GET, metrics, vec![]).await.status(), 401);
    apply(&system.client, bind("ClusterRoleBinding", None, "prometheus-scraper", &system.name(2))).await;
    let scraped = system.ask(&stranger, Method::GET, metrics, vec![]).await.text().await.unwrap();
    assert!(scraped.contains("imageregistry_build_info{"), "{scraped}");

    // Anonymous pull, once the project is open to everybody.
    let everybody = json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:unauthenticated"});
    apply(&system.client, bind("RoleBinding", Some("team"), "registry-viewer", &everybody)).await;
    let anonymous = system.ask("anonymous", Method::GET, "/v2/team/app/manifests/v1", vec![]).await;
    assert_eq!(anonymous.status(), 200, "{:?}", anonymous.text().await);
    system.close().await;
}
