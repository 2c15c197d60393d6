//! What outlives what: objects a restart of the image API, nothing its namespace.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::stage::{IMAGE_API, Image, Stage, mapping, new_stream, path, stage, start_image_api_until, start_plane};

#[tokio::test(flavor = "multi_thread")]
async fn objects_survive_a_restart_of_the_image_api() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = start_plane(folder.path()).await;
    let stop = CancellationToken::new();
    let first = start_image_api_until(&plane, stop.clone()).await;
    let admin = Stage::of(&plane).admin();
    let image = Image::single("kept");
    assert_eq!(admin.post(&path("default", "imagestreams"), &new_stream("app")).await.code, 201);
    let sent = mapping("default", "app", "v1", &image);
    assert_eq!(admin.post(&path("default", "imagestreammappings"), &sent).await.code, 201);
    let before = admin.get(&path("default", "imagestreams/app")).await.body;
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(1), first).await.expect("the image API ends within 1s");
    ended.expect("the image API ends well");
    assert_eq!(admin.get(&path("default", "imagestreams/app")).await.code, 503);

    let stop = CancellationToken::new();
    let second = start_image_api_until(&plane, stop.clone()).await;
    assert_eq!(admin.get(&path("default", "imagestreams/app")).await.body, before);
    assert_eq!(admin.get(&format!("{IMAGE_API}/images/{}", image.digest)).await.code, 200);
    stop.cancel();
    second.await.expect("the image API ends well");
    plane.stop().await;
}

#[tokio::test]
async fn streams_vanish_with_their_namespace() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    assert_eq!(admin.post(&path(&namespace, "imagestreams"), &new_stream("app")).await.code, 201);
    let query = format!("/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3D{namespace}");
    let mut watch = admin.watch(&query, "application/json").await;
    assert_eq!(admin.delete(&format!("/api/v1/namespaces/{namespace}")).await.code, 200);
    while watch.next().await["type"] != "DELETED" {}
    assert_eq!(admin.get(&path(&namespace, "imagestreams/app")).await.code, 404);
}
