//! Pull-through: a stream that refers to another registry serves its images, keeps a copy, and never asks itself.
//! The other registry is a second one of ours on plain HTTP, which asks for a token as strangers do.

mod desk;

use std::{net::SocketAddr, time::Duration};

use desk::Desk;
use http::Method;
use reference_registry::{digest::Digest, server};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "project/image";

struct Remote {
    desk: Desk,
    addr: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Remote {
    async fn start() -> Self {
        let desk = Desk::new();
        desk.grant("system:anonymous get imagestreams/layers project");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server::serve(desk.registry.clone(), listener, None, stop.clone()));
        Self { desk, addr, stop, serving }
    }

    async fn close(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

/// A stream of the near registry whose tag refers to the far one.
fn refer(near: &Desk, host: &str, document: &Value) -> String {
    let digest = Digest::of(document.to_string().as_bytes()).to_string();
    let reference = format!("{host}/{REPOSITORY}@{digest}");
    let mut world = near.api.0.lock().unwrap();
    world.images.insert(digest.clone(), json!({"metadata": {"name": digest}, "dockerImageReference": reference}));
    world.streams.insert(
        REPOSITORY.into(),
        json!({
            "metadata": {"annotations": {"openshift.io/image.insecureRepository": "true"}},
            "status": {
                "dockerImageRepository": format!("{}/{REPOSITORY}", desk::SERVER),
                "tags": [{"tag": "v1", "items": [{"image": digest, "dockerImageReference": reference}]}],
            },
        }),
    );
    digest
}

#[tokio::test]
async fn a_remote_image_is_served_and_stays_when_the_remote_is_gone() {
    let far = Remote::start().await;
    let document = far.desk.push_image(REPOSITORY, "v1", b"layer").await;
    let near = Desk::new();
    let digest = refer(&near, &far.addr.to_string(), &document);
    let manifest = format!("/v2/{REPOSITORY}/manifests/v1");
    let got = near.ask("viewer-token", Method::GET, &manifest, "").await;
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(
        (got.header("docker-content-digest"), &got.body[..]),
        (digest.as_str(), document.to_string().as_bytes())
    );
    let layer = Digest::of(b"layer");
    let blob = format!("/v2/{REPOSITORY}/blobs/{layer}");
    let head = near.ask("viewer-token", Method::HEAD, &blob, "").await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "5"));
    let got = near.ask("viewer-token", Method::GET, &blob, "").await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, &b"layer"[..]));
    assert_eq!((got.header("etag"), got.header("cache-control")), (layer.to_string().as_str(), ""));

    let copy = near
        .folder
        .path()
        .join(format!("docker/registry/v2/repositories/{REPOSITORY}/_layers/sha256/{}/link", layer.hex()));
    let copied = async {
        while !copy.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), copied).await.expect("the layer is copied in the background");
    far.close().await;
    assert_eq!(near.ask("viewer-token", Method::GET, &manifest, "").await.status, 200);
    assert_eq!(&near.ask("viewer-token", Method::GET, &blob, "").await.body[..], b"layer");
}

#[tokio::test]
async fn a_remote_that_does_not_answer_is_named() {
    let near = Desk::new();
    let document = desk::image(b"{}", b"layer");
    // Port 1 of the loopback refuses connections.
    refer(&near, "127.0.0.1:1", &document);
    let got = near.ask("viewer-token", Method::GET, &format!("/v2/{REPOSITORY}/manifests/v1"), "").await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (404, "OPENSHIFT_PULLTHROUGH_MANIFEST"));
    assert!(got.json()["errors"][0]["message"].as_str().unwrap().contains("127.0.0.1:1"), "{got:?}");
    let blob = format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(b"layer"));
    let got = near.ask("viewer-token", Method::GET, &blob, "").await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (404, "BLOB_UNKNOWN"));
}

#[tokio::test]
async fn a_reference_to_ourselves_is_not_followed() {
    let near = Desk::new();
    refer(&near, desk::SERVER, &desk::image(b"{}", b"layer"));
    let got = near.ask("viewer-token", Method::GET, &format!("/v2/{REPOSITORY}/manifests/v1"), "").await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    let blob = format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(b"layer"));
    assert_eq!(near.ask("viewer-token", Method::HEAD, &blob, "").await.status, 404);
}
