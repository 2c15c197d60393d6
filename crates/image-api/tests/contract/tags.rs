//! Tags as objects: `oc tag`, triggers and `oc get istag` rest on these.

use serde_json::json;

use crate::stage::{Image, REGISTRY, mapping, new_stream, path, stage};

async fn pushed(namespace: &str, name: &str, tag: &str) -> Image {
    let admin = stage().admin();
    let answer = admin.post(&path(namespace, "imagestreams"), &new_stream(name)).await;
    assert!(matches!(answer.code, 201 | 409), "{answer:?}");
    let image = Image::single(&format!("{name}:{tag}"));
    let answer = admin.post(&path(namespace, "imagestreammappings"), &mapping(namespace, name, tag, &image)).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    image
}

#[tokio::test]
async fn a_tag_of_another_stream_makes_the_stream_and_points_to_its_own_repository() {
    let (source, target) = (stage().namespace().await, stage().namespace().await);
    let image = pushed(&source, "base", "v1").await;
    let tag = json!({
        "metadata": {"name": "app:stable"},
        "tag": {"name": "stable", "from": {"kind": "ImageStreamTag", "namespace": source, "name": "base:v1"}},
    });
    let admin = stage().admin();
    let made = admin.post(&path(&target, "imagestreamtags"), &tag).await;
    assert_eq!((made.code, &made.body["image"]["metadata"]["name"]), (201, &json!(image.digest)));
    let own = format!("{REGISTRY}/{target}/app@{}", image.digest);
    assert_eq!(made.body["image"]["dockerImageReference"], own);
    let again = admin.post(&path(&target, "imagestreamtags"), &tag).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));
    let stream = admin.get(&path(&target, "imagestreams/app")).await.body;
    assert_eq!(stream["spec"]["tags"][0]["importPolicy"]["importMode"], "Legacy");
    assert_eq!(stream["spec"]["tags"][0]["referencePolicy"]["type"], "Source");
    assert_eq!(stream["status"]["tags"][0]["items"][0]["dockerImageReference"], own);
}

#[tokio::test]
async fn a_tag_that_follows_another_moves_with_the_next_push() {
    let namespace = stage().namespace().await;
    pushed(&namespace, "app", "v1").await;
    let tag = json!({
        "metadata": {"name": "app:follower"},
        "tag": {"name": "follower", "from": {"kind": "ImageStreamTag", "name": "v1"}},
    });
    assert_eq!(stage().admin().put(&path(&namespace, "imagestreamtags/app:follower"), &tag).await.code, 201);
    let next = pushed(&namespace, "app", "v1").await;
    let follower = stage().admin().get(&path(&namespace, "imagestreamtags/app:follower")).await.body;
    assert_eq!(follower["image"]["metadata"]["name"], next.digest);
}

#[tokio::test]
async fn a_tag_can_be_annotated_listed_and_removed() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    pushed(&namespace, "app", "v1").await;
    let kept = pushed(&namespace, "app", "v2").await;
    let one = path(&namespace, "imagestreamtags/app:v1");
    let refused = admin.patch(&one, "merge-patch+json", &json!({"metadata": {"annotations": {"a": "b"}}})).await;
    assert_eq!(refused.code, 400, "a pushed tag has no spec to annotate");
    let list = admin.get(&path(&namespace, "imagestreamtags")).await.body;
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("ImageStreamTagList"), Some(2)));
    let selected = admin.get(&path(&namespace, "imagestreamtags?fieldSelector=metadata.name%3Dapp:v2")).await.body;
    assert_eq!(selected["items"][0]["image"]["metadata"]["name"], kept.digest);
    assert_eq!(admin.delete(&one).await.code, 200);
    let missing = admin.get(&one).await;
    assert_eq!((missing.code, &missing.body["details"]["kind"]), (404, &json!("imagestreamtags")));
    let stream = admin.get(&path(&namespace, "imagestreams/app")).await.body;
    assert_eq!(stream["status"]["tags"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_other_view_shows_spec_status_and_image() {
    let namespace = stage().namespace().await;
    let image = pushed(&namespace, "app", "v1").await;
    let tag = stage().admin().get(&path(&namespace, "imagetags/app:v1")).await.body;
    assert_eq!((&tag["kind"], &tag["spec"]), (&json!("ImageTag"), &json!(null)));
    assert_eq!(tag["status"]["items"][0]["image"], image.digest);
    assert_eq!(tag["image"]["metadata"]["name"], image.digest);
}

#[tokio::test]
async fn a_source_that_is_not_there_is_refused() {
    let namespace = stage().namespace().await;
    let tag = json!({
        "metadata": {"name": "app:v1"},
        "tag": {"name": "v1", "from": {"kind": "ImageStreamTag", "name": "missing:v1"}},
    });
    let refused = stage().admin().post(&path(&namespace, "imagestreamtags"), &tag).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["reason"]), (422, &json!("FieldValueNotFound")));
}
