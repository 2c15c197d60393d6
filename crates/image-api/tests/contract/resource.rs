//! How streams and images behave as Kubernetes resources: versions, patches, selectors, paging, watches, forms.

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::stage::{IMAGE_API, Image, mapping, new_stream, path, stage};

async fn make(namespace: &str, name: &str) -> Value {
    let answer = stage().admin().post(&path(namespace, "imagestreams"), &new_stream(name)).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    answer.body
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_new_stream_has_the_metadata_of_any_object() {
    let namespace = stage().namespace().await;
    let stream = make(&namespace, "my_app").await;
    let metadata = &stream["metadata"];
    assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!("my_app"), &json!(namespace)));
    for key in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(metadata[key].is_string(), "{key}");
    }
    assert_eq!(metadata["generation"], 1);
    assert_eq!(stage().admin().get(&path(&namespace, "imagestreams/my_app")).await.body, stream);
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec_only() {
    let namespace = stage().namespace().await;
    make(&namespace, "app").await;
    let admin = stage().admin();
    let stream = path(&namespace, "imagestreams/app");
    let labelled = admin.patch(&stream, "merge-patch+json", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!((labelled.code, &labelled.body["metadata"]["generation"]), (200, &json!(1)));
    let changed = admin.patch(&stream, "merge-patch+json", &json!({"spec": {"lookupPolicy": {"local": true}}})).await;
    assert_eq!(changed.body["metadata"]["generation"], 2);
    assert_eq!(changed.body["metadata"]["labels"]["a"], "b");
}

#[rstest]
#[case("merge-patch+json", json!({"metadata": {"labels": {"x": "1"}}}), 200)]
#[case("strategic-merge-patch+json", json!({"metadata": {"labels": {"x": "1"}}}), 200)]
#[case("json-patch+json", json!([{"op": "add", "path": "/metadata/labels", "value": {"x": "1"}}]), 200)]
#[case("apply-patch+yaml", json!({"apiVersion": "image.openshift.io/v1", "kind": "ImageStream", "metadata": {"labels": {"x": "1"}}}), 200)]
#[case("json-patch+json", json!([{"op": "test", "path": "/metadata/name", "value": "other"}]), 422)]
#[case("octet-stream", json!({}), 415)]
#[tokio::test]
async fn every_kind_of_patch_is_understood(#[case] kind: &str, #[case] patch: Value, #[case] code: u16) {
    let namespace = stage().namespace().await;
    make(&namespace, "app").await;
    let stream = path(&namespace, "imagestreams/app?fieldManager=test");
    let answer = stage().admin().patch(&stream, kind, &patch).await;
    assert_eq!(answer.code, code, "{answer:?}");
    if code == 200 {
        assert_eq!(answer.body["metadata"]["labels"]["x"], "1");
    }
}

#[tokio::test]
async fn a_stale_version_is_a_conflict() {
    let namespace = stage().namespace().await;
    let old = make(&namespace, "app").await;
    let admin = stage().admin();
    let stream = path(&namespace, "imagestreams/app");
    let mut fresh = old.clone();
    fresh["metadata"]["labels"] = json!({"n": "1"});
    assert_eq!(admin.put(&stream, &fresh).await.code, 200);
    let stale = admin.put(&stream, &old).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
    let mut careless = old.clone();
    careless["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    assert_eq!(admin.put(&stream, &careless).await.code, 200);
}

#[tokio::test]
async fn users_cannot_write_the_status_and_the_status_cannot_write_the_spec() {
    let namespace = stage().namespace().await;
    make(&namespace, "app").await;
    let admin = stage().admin();
    let stream = path(&namespace, "imagestreams/app");
    let tags = json!([{"tag": "v1", "items": [{"image": "sha256:x", "dockerImageReference": "a/b", "created": null}]}]);
    let through_spec = admin.patch(&stream, "merge-patch+json", &json!({"status": {"tags": tags}})).await;
    assert!(through_spec.body["status"].get("tags").is_none());
    let both = json!({"status": {"tags": tags}, "spec": {"lookupPolicy": {"local": true}}});
    let through_status = admin.patch(&path(&namespace, "imagestreams/app/status"), "merge-patch+json", &both).await;
    assert_eq!(through_status.body["status"]["tags"][0]["items"][0]["generation"], 1);
    assert_eq!(through_status.body["spec"]["lookupPolicy"]["local"], false);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    let tried = admin.post(&path(&namespace, "imagestreams?dryRun=All"), &new_stream("app")).await;
    assert_eq!(tried.code, 201);
    assert_eq!(admin.get(&path(&namespace, "imagestreams/app")).await.code, 404);
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    for name in ["a", "b", "c"] {
        let mut stream = new_stream(name);
        stream["metadata"]["labels"] = json!({"odd": (name != "b").to_string()});
        assert_eq!(admin.post(&path(&namespace, "imagestreams"), &stream).await.code, 201);
    }
    let list = admin.get(&path(&namespace, "imagestreams?labelSelector=odd%3Dtrue")).await.body;
    assert_eq!((&list["kind"], names(&list)), (&json!("ImageStreamList"), vec!["a", "c"]));
    let list = admin.get(&path(&namespace, "imagestreams?fieldSelector=metadata.name%3Db")).await.body;
    assert_eq!(names(&list), ["b"]);
    let first = admin.get(&path(&namespace, "imagestreams?limit=2")).await.body;
    assert_eq!(names(&first), ["a", "b"]);
    let token = first["metadata"]["continue"].as_str().expect("a continue token");
    let rest = admin.get(&path(&namespace, &format!("imagestreams?limit=2&continue={token}"))).await.body;
    assert_eq!(names(&rest), ["c"]);
    let refused = admin.get(&path(&namespace, "imagestreams?fieldSelector=spec.x%3D1")).await;
    assert_eq!(refused.code, 400);
    assert_eq!(admin.delete(&path(&namespace, "imagestreams?labelSelector=odd%3Dtrue")).await.code, 200);
    let list = admin.get(&path(&namespace, "imagestreams")).await.body;
    assert_eq!(names(&list), ["b"]);
}

#[tokio::test]
async fn a_watch_tells_every_change_once() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    let list = admin.get(&path(&namespace, "imagestreams")).await.body;
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
    let since =
        path(&namespace, &format!("imagestreams?watch=true&allowWatchBookmarks=true&resourceVersion={version}"));
    let mut watch = admin.watch(&since, "application/json").await;
    make(&namespace, "my_app").await;
    let added = watch.next().await;
    assert_eq!((&added["type"], &added["object"]["kind"]), (&json!("ADDED"), &json!("ImageStream")));
    assert_eq!(added["object"]["metadata"]["name"], "my_app");
    assert!(added["object"]["status"]["dockerImageRepository"].is_string());
    let sent = mapping(&namespace, "my_app", "v1", &Image::single("watched"));
    assert_eq!(admin.post(&path(&namespace, "imagestreammappings"), &sent).await.code, 201);
    let modified = watch.next().await;
    assert_eq!(
        (&modified["type"], &modified["object"]["status"]["tags"][0]["tag"]),
        (&json!("MODIFIED"), &json!("v1"))
    );
    assert_eq!(admin.delete(&path(&namespace, "imagestreams/my_app")).await.code, 200);
    assert_eq!(watch.next().await["type"], "DELETED");
}

#[tokio::test]
async fn a_watch_list_ends_its_beginning_with_a_bookmark() {
    let namespace = stage().namespace().await;
    make(&namespace, "app").await;
    let query =
        "imagestreams?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = stage().admin().watch(&path(&namespace, query), "application/json").await;
    assert_eq!(watch.next_of_any_type().await["type"], "ADDED");
    let bookmark = watch.next_of_any_type().await;
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ImageStream")));
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_from_the_distant_past_is_expired() {
    let namespace = stage().namespace().await;
    let query = path(&namespace, "imagestreams?watch=true&resourceVersion=1&timeoutSeconds=1");
    let answer = stage().admin().get(&query).await;
    let gone = answer.code == 410 || answer.body["object"]["code"] == 410 || answer.body.as_str() == Some("");
    assert!(gone, "{answer:?}");
}

#[tokio::test]
async fn kubectl_gets_tables_and_controllers_get_metadata() {
    let namespace = stage().namespace().await;
    make(&namespace, "app").await;
    let admin = stage().admin();
    let streams = path(&namespace, "imagestreams");
    let table = admin.send(Method::GET, &streams, "application/json;as=Table;v=v1;g=meta.k8s.io", None).await.body;
    assert_eq!((&table["kind"], &table["columnDefinitions"][1]["name"]), (&json!("Table"), &json!("Image Repository")));
    assert_eq!(table["rows"][0]["cells"][0], "app");
    let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let partial = admin.send(Method::GET, &streams, accept, None).await.body;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("status").is_none());
}

#[tokio::test]
async fn images_are_a_resource_of_their_own() {
    let admin = stage().admin();
    let image = Image::single("resource");
    let images = format!("{IMAGE_API}/images");
    assert_eq!(admin.post(&images, &image.object("p", "app")).await.code, 201);
    let one = format!("{images}/{}", image.digest);
    let patched = admin.patch(&one, "merge-patch+json", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!((patched.code, &patched.body["metadata"]["labels"]["a"]), (200, &json!("b")));
    let selected = admin.get(&format!("{images}?fieldSelector=metadata.name%3D{}", image.digest)).await.body;
    assert_eq!(names(&selected), [image.digest.as_str()]);
    let deleted = admin.delete(&one).await;
    assert_eq!((deleted.code, &deleted.body["details"]["name"]), (200, &json!(image.digest)));
    let missing = admin.get(&one).await;
    assert_eq!((missing.code, &missing.body["details"]["kind"]), (404, &json!("images")));
}

#[rstest]
#[case(json!({"metadata": {"name": "App"}}), 422)]
#[case(json!({"metadata": {}}), 422)]
#[case(json!({"kind": "Image", "metadata": {"name": "app"}}), 400)]
#[case(json!({"metadata": {"name": "app", "namespace": "other"}}), 400)]
#[case(json!({"metadata": {"name": "app", "resourceVersion": "5"}}), 400)]
#[case(json!([]), 400)]
#[tokio::test]
async fn bad_streams_are_refused(#[case] stream: Value, #[case] code: u16) {
    let namespace = stage().namespace().await;
    let answer = stage().admin().post(&path(&namespace, "imagestreams"), &stream).await;
    assert_eq!((answer.code, &answer.body["kind"]), (code, &json!("Status")), "{answer:?}");
}

#[rstest]
#[case(Method::PUT, "images", 405)]
#[case(Method::GET, "imagestreammappings", 405)]
#[case(Method::GET, "unheard", 404)]
#[tokio::test]
async fn what_is_not_offered_is_refused(#[case] method: Method, #[case] what: &str, #[case] code: u16) {
    let answer = stage().admin().send(method, &format!("{IMAGE_API}/{what}"), "", None).await;
    assert_eq!(answer.code, code, "{answer:?}");
}

#[tokio::test]
async fn discovery_lists_every_resource() {
    let admin = stage().admin();
    let list = admin.get(IMAGE_API).await.body;
    let offered: Vec<&str> =
        list["resources"].as_array().expect("resources").iter().filter_map(|r| r["name"].as_str()).collect();
    for name in ["images", "imagestreams", "imagestreams/layers", "imagestreams/secrets", "imagestreamimages"] {
        assert!(offered.contains(&name), "{offered:?}");
    }
    let schema = admin.get("/openapi/v3/apis/image.openshift.io/v1").await;
    assert_eq!(schema.code, 200);
    assert!(schema.body["paths"].get(format!("{IMAGE_API}/images")).is_some());
}
