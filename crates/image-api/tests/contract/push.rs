//! The calls of a push and a pull, in the order and with the bodies of the registry.

use rstest::rstest;
use serde_json::{Value, json};

use crate::stage::{IMAGE_API, Image, REGISTRY, mapping, new_stream, path, stage};

async fn stream_with(namespace: &str, name: &str, tag: &str, image: &Image) {
    let admin = stage().admin();
    let answer = admin.post(&path(namespace, "imagestreams"), &new_stream(name)).await;
    assert!(matches!(answer.code, 201 | 409), "{answer:?}");
    let answer = admin.post(&path(namespace, "imagestreammappings"), &mapping(namespace, name, tag, image)).await;
    assert_eq!(answer.code, 201, "{answer:?}");
}

fn items<'a>(stream: &'a Value, tag: &str) -> &'a [Value] {
    let tags = stream["status"]["tags"].as_array().expect("tags");
    let entry = tags.iter().find(|entry| entry["tag"] == tag).expect("the tag");
    entry["items"].as_array().expect("items")
}

#[tokio::test]
async fn a_mapping_to_a_missing_stream_names_the_mapping_and_the_stream() {
    let namespace = stage().namespace().await;
    let sent = mapping(&namespace, "app", "v1", &Image::single("missing stream"));
    let answer = stage().admin().post(&path(&namespace, "imagestreammappings"), &sent).await;
    assert_eq!(answer.code, 404);
    assert_eq!(answer.body["kind"], "Status");
    assert_eq!(answer.body["reason"], "NotFound");
    assert_eq!(answer.body["code"], 404);
    assert_eq!(answer.body["details"]["kind"], "imagestreammappings");
    assert_eq!(answer.body["details"]["name"], "app");
}

#[tokio::test]
async fn a_mapping_in_a_missing_namespace_names_the_namespace() {
    let sent = mapping("nowhere", "app", "v1", &Image::single("missing namespace"));
    let answer = stage().admin().post(&path("nowhere", "imagestreammappings"), &sent).await;
    assert_eq!((answer.code, &answer.body["details"]["kind"]), (404, &json!("namespaces")));
    let answer = stage().admin().post(&path("nowhere", "imagestreams"), &new_stream("app")).await;
    assert_eq!((answer.code, &answer.body["details"]["kind"]), (404, &json!("namespaces")));
}

#[tokio::test]
async fn a_push_to_a_new_stream_leaves_stream_image_and_tag() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    let image = Image::single("first push");
    let created = admin.post(&path(&namespace, "imagestreams"), &new_stream("app")).await;
    assert_eq!(created.code, 201);
    assert_eq!(created.body["status"]["dockerImageRepository"], format!("{REGISTRY}/{namespace}/app"));
    let again = admin.post(&path(&namespace, "imagestreams"), &new_stream("app")).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));
    let mapped = admin.post(&path(&namespace, "imagestreammappings"), &mapping(&namespace, "app", "v1", &image)).await;
    assert_eq!((mapped.code, &mapped.body["status"]), (201, &json!("Success")));

    let stream = admin.get(&path(&namespace, "imagestreams/app")).await.body;
    let newest = &items(&stream, "v1")[0];
    assert_eq!(newest["image"], image.digest);
    assert_eq!(newest["dockerImageReference"], format!("{REGISTRY}/{namespace}/app@{}", image.digest));
    assert_eq!(newest["generation"], 1);
    assert!(newest["created"].is_string());

    let stored = admin.get(&format!("{IMAGE_API}/images/{}", image.digest)).await.body;
    assert_eq!(stored["metadata"]["name"], image.digest);
    assert_eq!(stored["metadata"]["annotations"]["openshift.io/image.managed"], "true");
    assert_eq!(stored["dockerImageLayers"], image.layers);
    assert_eq!(stored["dockerImageManifestMediaType"], image.media_type);
    assert_eq!(stored["dockerImageMetadata"]["Id"], image.manifest["config"]["digest"]);
    assert_eq!(stored["dockerImageMetadata"]["Architecture"], "amd64");
    assert!(stored.get("dockerImageManifest").is_none(), "the registry keeps the manifest as a blob");

    let tag = admin.get(&path(&namespace, "imagestreamtags/app:v1")).await.body;
    assert_eq!(tag["image"]["metadata"]["name"], image.digest);
}

#[tokio::test]
async fn the_same_push_again_changes_nothing() {
    let namespace = stage().namespace().await;
    let image = Image::single("again");
    stream_with(&namespace, "app", "v1", &image).await;
    let before = stage().admin().get(&path(&namespace, "imagestreams/app")).await.body;
    stream_with(&namespace, "app", "v1", &image).await;
    assert_eq!(stage().admin().get(&path(&namespace, "imagestreams/app")).await.body, before);
}

#[tokio::test]
async fn a_new_image_becomes_the_first_of_the_history() {
    let namespace = stage().namespace().await;
    let (first, second) = (Image::single("old"), Image::single("new"));
    stream_with(&namespace, "app", "v1", &first).await;
    stream_with(&namespace, "app", "v1", &second).await;
    let stream = stage().admin().get(&path(&namespace, "imagestreams/app")).await.body;
    let seen: Vec<&Value> = items(&stream, "v1").iter().map(|event| &event["image"]).collect();
    assert_eq!(seen, [&json!(second.digest), &json!(first.digest)]);
}

#[tokio::test]
async fn an_image_pushed_elsewhere_before_is_pulled_from_this_stream() {
    let (one, other) = (stage().namespace().await, stage().namespace().await);
    let image = Image::single("elsewhere");
    stream_with(&one, "app", "v1", &image).await;
    stream_with(&other, "copy", "v1", &image).await;
    let stream = stage().admin().get(&path(&other, "imagestreams/copy")).await.body;
    let expected = format!("{REGISTRY}/{other}/copy@{}", image.digest);
    assert_eq!(items(&stream, "v1")[0]["dockerImageReference"], expected);
}

#[tokio::test]
async fn twenty_pushes_into_one_new_stream_all_arrive() {
    let namespace = stage().namespace().await;
    let pushes = (0..20).map(|number| {
        let namespace = namespace.clone();
        tokio::spawn(async move {
            let image = Image::single(&format!("parallel {number}"));
            stream_with(&namespace, "app", &format!("v{number}"), &image).await;
        })
    });
    for push in pushes.collect::<Vec<_>>() {
        push.await.expect("a push that arrives");
    }
    let stream = stage().admin().get(&path(&namespace, "imagestreams/app")).await.body;
    assert_eq!(stream["status"]["tags"].as_array().map(Vec::len), Some(20));
}

#[tokio::test]
async fn a_push_by_digest_twice_is_told_that_the_image_exists() {
    let object = Image::single("by digest").object("p", "app");
    let admin = stage().admin();
    assert_eq!(admin.post(&format!("{IMAGE_API}/images"), &object).await.code, 201);
    let again = admin.post(&format!("{IMAGE_API}/images"), &object).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again.body["details"]["kind"], "images");
}

#[tokio::test]
async fn layers_and_stream_images_reach_the_children_of_an_index() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    let child = Image::single("child");
    let index = Image::index("index", &[&child]);
    assert_eq!(admin.post(&format!("{IMAGE_API}/images"), &child.object(&namespace, "app")).await.code, 201);
    stream_with(&namespace, "app", "v1", &index).await;

    let layers = admin.get(&path(&namespace, "imagestreams/app/layers")).await.body;
    assert_eq!(layers["kind"], "ImageStreamLayers");
    assert_eq!(layers["images"][&index.digest]["manifests"], json!([child.digest]));
    assert_eq!(layers["images"][&child.digest]["layers"], json!([child.layer()]));
    assert_eq!(layers["images"][&child.digest]["config"], child.manifest["config"]["digest"]);
    assert_eq!(layers["blobs"][child.layer()]["size"], 10);
    for digest in [&index.digest, &child.digest] {
        assert!(layers["blobs"].get(digest).is_some(), "every manifest is itself a blob");
        let seen = admin.get(&path(&namespace, &format!("imagestreamimages/app@{digest}"))).await;
        assert_eq!((seen.code, &seen.body["image"]["metadata"]["name"]), (200, &json!(digest)));
    }
}

#[tokio::test]
async fn a_sparse_index_is_shown_with_its_missing_child() {
    let namespace = stage().namespace().await;
    let child = Image::single("absent child");
    let index = Image::index("sparse", &[&child]);
    stream_with(&namespace, "app", "v1", &index).await;
    let layers = stage().admin().get(&path(&namespace, "imagestreams/app/layers")).await.body;
    assert_eq!(layers["images"][&child.digest]["imageMissing"], true);
}

#[rstest]
#[case("imagestreamimages/app@sha256:0000000000000000000000000000000000000000000000000000000000000000", 404)]
#[case("imagestreamimages/missing@sha256:0000000000000000000000000000000000000000000000000000000000000000", 404)]
#[case("imagestreamimages/app", 400)]
#[case("imagestreams/missing", 404)]
#[case("imagestreams/missing/layers", 404)]
#[case("imagestreamtags/app:missing", 404)]
#[case("imagestreamtags/app", 400)]
#[tokio::test]
async fn what_is_not_there_is_a_status_with_details(#[case] what: &str, #[case] code: u16) {
    let namespace = stage().namespace().await;
    stream_with(&namespace, "app", "v1", &Image::single("there")).await;
    let answer = stage().admin().get(&path(&namespace, what)).await;
    assert_eq!((answer.code, &answer.body["kind"]), (code, &json!("Status")));
    if code == 404 {
        let resource = what.split('/').next().unwrap_or_default();
        assert_eq!(answer.body["details"]["kind"], resource);
        assert!(answer.body["details"]["name"].is_string());
    }
}

#[tokio::test]
async fn pull_secrets_are_a_list_of_this_group() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    let secret = |name: &str, kind: &str, excluded: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "annotations": {"openshift.io/image.excludeSecret": excluded}},
            "type": kind,
            "stringData": {".dockerconfigjson": "{\"auths\":{}}", ".dockercfg": "{}"},
        })
    };
    for object in [
        secret("pull", "kubernetes.io/dockerconfigjson", ""),
        secret("hidden", "kubernetes.io/dockerconfigjson", "true"),
        secret("other", "Opaque", ""),
    ] {
        assert_eq!(admin.post(&format!("/api/v1/namespaces/{namespace}/secrets"), &object).await.code, 201);
    }
    let list = admin.get(&path(&namespace, "imagestreams/any/secrets")).await.body;
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("SecretList"), &json!("image.openshift.io/v1")));
    let names: Vec<&Value> = list["items"].as_array().expect("items").iter().map(|s| &s["metadata"]["name"]).collect();
    assert_eq!(names, [&json!("pull")]);
    assert!(list["items"][0]["data"][".dockerconfigjson"].is_string());
}

#[tokio::test]
async fn signatures_are_kept_with_their_image() {
    let image = Image::single("signed");
    let admin = stage().admin();
    assert_eq!(admin.post(&format!("{IMAGE_API}/images"), &image.object("p", "app")).await.code, 201);
    let name = format!("{}@one", image.digest);
    let signature = json!({"metadata": {"name": name}, "type": "AtomicImageV1", "content": "c2lnbmVk"});
    let signatures = format!("{IMAGE_API}/imagesignatures");
    assert_eq!(admin.post(&signatures, &signature).await.code, 201);
    let again = admin.post(&signatures, &signature).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));
    let stored = admin.get(&format!("{IMAGE_API}/images/{}", image.digest)).await.body;
    assert_eq!(stored["signatures"][0]["content"], "c2lnbmVk");
    assert_eq!(admin.delete(&format!("{signatures}/{name}")).await.code, 200);
    assert_eq!(admin.delete(&format!("{signatures}/{name}")).await.code, 404);
}

#[tokio::test]
async fn a_push_beyond_a_limit_range_is_refused_in_the_words_the_registry_knows() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    let range = json!({
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "images"},
        "spec": {"limits": [
            {"type": "openshift.io/Image", "max": {"storage": "50"}},
            {"type": "openshift.io/ImageStream", "max": {"openshift.io/image-tags": "1", "openshift.io/images": "1"}},
        ]},
    });
    assert_eq!(admin.post(&format!("/api/v1/namespaces/{namespace}/limitranges"), &range).await.code, 201);
    assert_eq!(admin.post(&path(&namespace, "imagestreams"), &new_stream("app")).await.code, 201);
    let sent = mapping(&namespace, "app", "v1", &Image::single("too large"));
    let answer = admin.post(&path(&namespace, "imagestreammappings"), &sent).await;
    assert_eq!(answer.code, 403, "{answer:?}");
    let message = answer.body["message"].as_str().expect("a message");
    assert!(message.contains("exceeds the maximum limit"), "{message}");
}

#[tokio::test]
async fn a_stream_beyond_a_quota_is_refused_in_the_words_the_registry_knows() {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    let quota = json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "streams"},
        "spec": {"hard": {"openshift.io/imagestreams": "1"}},
    });
    assert_eq!(admin.post(&format!("/api/v1/namespaces/{namespace}/resourcequotas"), &quota).await.code, 201);
    assert_eq!(admin.post(&path(&namespace, "imagestreams"), &new_stream("one")).await.code, 201);
    let answer = admin.post(&path(&namespace, "imagestreams"), &new_stream("two")).await;
    assert_eq!(answer.code, 403, "{answer:?}");
    let message = answer.body["message"].as_str().expect("a message");
    assert!(message.contains("exceeded quota: streams"), "{message}");
}
