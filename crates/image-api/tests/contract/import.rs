//! Imports from a registry elsewhere, which is a small one of this test: plain HTTP, one user, one image.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::Digest;
use tokio::net::TcpListener;

use crate::stage::{IMAGE_API, path, stage};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(text: &str) -> String {
    let hash = sha2::Sha256::digest(text.as_bytes());
    hash.iter().fold("sha256:".to_owned(), |out, byte| format!("{out}{byte:02x}"))
}

/// A registry that answers `GET` for what it was given, to whoever knows the password.
struct Elsewhere {
    address: String,
    image: String,
    index: String,
}

impl Elsewhere {
    async fn start() -> Self {
        let config = r#"{"architecture":"amd64","os":"linux"}"#;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": config.len()},
            "layers": [{"mediaType": "layer", "digest": digest("layer"), "size": 5}],
        })
        .to_string();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{"mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(), "platform": {"architecture": "amd64", "os": "linux"}}],
        })
        .to_string();
        let (image_digest, index_digest) = (digest(&manifest), digest(&index));
        let mut answers = BTreeMap::new();
        for reference in ["v1", &image_digest] {
            answers.insert(format!("/v2/org/app/manifests/{reference}"), (MANIFEST, manifest.clone()));
        }
        for reference in ["multi", &index_digest] {
            answers.insert(format!("/v2/org/app/manifests/{reference}"), (INDEX, index.clone()));
        }
        answers.insert(format!("/v2/org/app/blobs/{}", digest(config)), ("text/plain", config.to_owned()));
        answers
            .insert("/v2/org/app/tags/list".into(), ("application/json", json!({"tags": ["v1", "multi"]}).to_string()));
        let answers = Arc::new(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let answers = answers.clone();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let answer = respond(&request, &answers);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        Self { address, image: image_digest, index: index_digest }
    }

    fn spec(&self, tag: &str) -> String {
        format!("{}/org/app:{tag}", self.address)
    }
}

fn respond<B>(request: &Request<B>, answers: &BTreeMap<String, (&str, String)>) -> Response<Full<Bytes>> {
    let known = format!("Basic {}", STANDARD.encode("puller:secret"));
    let builder = Response::builder();
    let answer = if request.headers().get("authorization").is_none_or(|given| given != known.as_str()) {
        builder.status(StatusCode::UNAUTHORIZED).header("www-authenticate", "Basic realm=test").body(Full::default())
    } else if let Some((media_type, text)) = answers.get(request.uri().path()) {
        builder.header("content-type", *media_type).body(Full::from(text.clone()))
    } else {
        builder.status(StatusCode::NOT_FOUND).body(Full::default())
    };
    answer.expect("a response")
}

async fn add_login(namespace: &str, address: &str) {
    let config = json!({"auths": {address: {"username": "puller", "password": "secret"}}}).to_string();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pull"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    });
    let answer = stage().admin().post(&format!("/api/v1/namespaces/{namespace}/secrets"), &secret).await;
    assert_eq!(answer.code, 201);
}

fn import(spec: &str, mode: &str) -> Value {
    json!({
        "kind": "ImageStreamImport",
        "apiVersion": "image.openshift.io/v1",
        "metadata": {"name": "app"},
        "spec": {"import": true, "images": [{
            "from": {"kind": "DockerImage", "name": spec},
            "importPolicy": {"insecure": true, "importMode": mode},
            "referencePolicy": {"type": "Local"},
        }]},
    })
}

#[tokio::test]
async fn an_image_elsewhere_becomes_a_tag() {
    let namespace = stage().namespace().await;
    let elsewhere = Elsewhere::start().await;
    add_login(&namespace, &elsewhere.address).await;
    let admin = stage().admin();
    let answer = admin.post(&path(&namespace, "imagestreamimports"), &import(&elsewhere.spec("v1"), "Legacy")).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    let outcome = &answer.body["status"]["images"][0];
    assert_eq!((&outcome["status"]["status"], &outcome["tag"]), (&json!("Success"), &json!("v1")), "{outcome}");
    assert_eq!(outcome["image"]["metadata"]["name"], elsewhere.image);
    let stream = admin.get(&path(&namespace, "imagestreams/app")).await.body;
    assert_eq!(answer.body["status"]["import"]["metadata"]["uid"], stream["metadata"]["uid"]);
    let expected = format!("{}/org/app@{}", elsewhere.address, elsewhere.image);
    assert_eq!(stream["status"]["tags"][0]["items"][0]["dockerImageReference"], expected);
    assert_eq!(stream["spec"]["tags"][0]["from"]["name"], elsewhere.spec("v1"));
    assert!(stream["metadata"]["annotations"]["openshift.io/image.dockerRepositoryCheck"].is_string());
    let image = admin.get(&format!("{IMAGE_API}/images/{}", elsewhere.image)).await.body;
    assert_eq!(image["dockerImageLayers"][0]["size"], 5);
    let tag = admin.get(&path(&namespace, "imagestreamtags/app:v1")).await.body;
    let local = tag["image"]["dockerImageReference"].as_str().expect("a pull spec");
    assert!(local.contains(&format!("/{namespace}/app@")), "a local tag is pulled through the stream: {local}");
}

#[tokio::test]
async fn an_index_is_kept_or_reduced_to_this_platform() {
    let namespace = stage().namespace().await;
    let elsewhere = Elsewhere::start().await;
    add_login(&namespace, &elsewhere.address).await;
    let admin = stage().admin();
    let imports = path(&namespace, "imagestreamimports");
    let reduced = admin.post(&imports, &import(&elsewhere.spec("multi"), "Legacy")).await.body;
    assert_eq!(reduced["status"]["images"][0]["image"]["metadata"]["name"], elsewhere.image);
    let kept = admin.post(&imports, &import(&elsewhere.spec("multi"), "PreserveOriginal")).await.body;
    let outcome = &kept["status"]["images"][0];
    assert_eq!(outcome["image"]["metadata"]["name"], elsewhere.index);
    assert_eq!(outcome["manifests"][0]["metadata"]["name"], elsewhere.image);
    let layers = admin.get(&path(&namespace, "imagestreams/app/layers")).await.body;
    assert_eq!(layers["images"][&elsewhere.index]["manifests"], json!([elsewhere.image]));
}

#[tokio::test]
async fn a_repository_is_imported_tag_by_tag() {
    let namespace = stage().namespace().await;
    let elsewhere = Elsewhere::start().await;
    add_login(&namespace, &elsewhere.address).await;
    let object = json!({
        "metadata": {"name": "app"},
        "spec": {"import": true, "repository": {
            "from": {"kind": "DockerImage", "name": format!("{}/org/app", elsewhere.address)},
            "importPolicy": {"insecure": true},
        }},
    });
    let admin = stage().admin();
    let answer = admin.post(&path(&namespace, "imagestreamimports"), &object).await;
    assert_eq!(answer.body["status"]["repository"]["status"]["status"], "Success", "{answer:?}");
    let stream = admin.get(&path(&namespace, "imagestreams/app")).await.body;
    let tags: Vec<&Value> = stream["status"]["tags"].as_array().expect("tags").iter().map(|t| &t["tag"]).collect();
    assert_eq!(tags, [&json!("multi"), &json!("v1")]);
}

#[tokio::test]
async fn what_cannot_be_fetched_is_told_in_status_and_conditions() {
    let namespace = stage().namespace().await;
    let elsewhere = Elsewhere::start().await;
    let admin = stage().admin();
    let imports = path(&namespace, "imagestreamimports");
    let refused = admin.post(&imports, &import(&elsewhere.spec("v1"), "Legacy")).await;
    assert_eq!(refused.code, 201);
    assert_eq!(refused.body["status"]["images"][0]["status"]["reason"], "Unauthorized");
    add_login(&namespace, &elsewhere.address).await;
    let missing = admin.post(&imports, &import(&elsewhere.spec("other"), "Legacy")).await;
    assert_eq!(missing.body["status"]["images"][0]["status"]["reason"], "NotFound");
    let stream = admin.get(&path(&namespace, "imagestreams/app")).await.body;
    let conditions: Vec<&Value> =
        stream["status"]["tags"].as_array().expect("tags").iter().map(|t| &t["conditions"][0]).collect();
    assert_eq!((&conditions[0]["type"], &conditions[0]["reason"]), (&json!("ImportSuccess"), &json!("NotFound")));
    assert_eq!(conditions[1]["reason"], "Unauthorized");
}

#[tokio::test]
async fn an_import_that_only_looks_leaves_nothing() {
    let namespace = stage().namespace().await;
    let elsewhere = Elsewhere::start().await;
    add_login(&namespace, &elsewhere.address).await;
    let mut look = import(&elsewhere.spec("v1"), "Legacy");
    look["spec"]["import"] = false.into();
    let admin = stage().admin();
    let answer = admin.post(&path(&namespace, "imagestreamimports"), &look).await;
    assert_eq!(answer.body["status"]["images"][0]["image"]["metadata"]["name"], elsewhere.image);
    assert_eq!(admin.get(&path(&namespace, "imagestreams/app")).await.code, 404);
}
