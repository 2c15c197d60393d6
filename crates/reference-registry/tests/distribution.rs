//! The distribution API of the registry: uploads, manifests, tags, deletion, and what refuses them.
//! Every test has its own registry over its own folder.

mod desk;

use desk::{DOCKER_MANIFEST, Desk, OCI_INDEX, OCI_MANIFEST, image, path};
use http::Method;
use reference_registry::digest::Digest;
use rstest::rstest;
use serde_json::json;

const REPOSITORY: &str = "project/image";

#[tokio::test]
async fn what_is_pushed_is_pulled_back_by_tag_and_by_digest() {
    let desk = Desk::new();
    let document = desk.push_image(REPOSITORY, "v1", b"layer").await;
    let digest = Digest::of(document.to_string().as_bytes()).to_string();
    for reference in ["v1", &digest] {
        let uri = format!("/v2/{REPOSITORY}/manifests/{reference}");
        let got = desk.ask("viewer-token", Method::GET, &uri, "").await;
        assert_eq!(got.status, 200, "{got:?}");
        assert_eq!(got.body, document.to_string());
        assert_eq!(got.header("docker-content-digest"), digest);
        assert_eq!(got.header("etag"), format!("\"{digest}\""));
        assert_eq!(got.header("content-type"), OCI_MANIFEST);
        assert_eq!(got.header("docker-distribution-api-version"), "registry/2.0");
        assert_eq!(got.header("x-registry-supports-signatures"), "1");
    }
    let uri = format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(b"layer"));
    let got = desk.ask("viewer-token", Method::GET, &uri, "").await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, &b"layer"[..]));
    assert_eq!(got.header("cache-control"), "max-age=31536000");
}

#[tokio::test]
async fn a_push_makes_the_stream_with_the_users_rights_and_tags_it() {
    let desk = Desk::new();
    desk.push_image(REPOSITORY, "v1", b"layer").await;
    let calls = desk.calls();
    let told: Vec<&str> = calls.iter().rev().take(3).rev().map(String::as_str).collect();
    assert_eq!(
        told,
        [
            "registry POST /apis/image.openshift.io/v1/namespaces/project/imagestreammappings",
            "editor POST /apis/image.openshift.io/v1/namespaces/project/imagestreams",
            "registry POST /apis/image.openshift.io/v1/namespaces/project/imagestreammappings",
        ]
    );
    let world = desk.api.0.lock().unwrap();
    let image = world.images.values().next().unwrap();
    assert_eq!(image["metadata"]["annotations"]["openshift.io/image.managed"], "true");
    assert!(
        image["dockerImageReference"]
            .as_str()
            .unwrap()
            .starts_with("image-registry.openshift-image-registry.svc:5000/project/image@sha256:")
    );
    assert_eq!(image["dockerImageConfig"], "{\"architecture\":\"amd64\",\"os\":\"linux\"}");
}

#[tokio::test]
async fn the_files_have_the_distribution_layout() {
    let desk = Desk::new();
    desk.push_image(REPOSITORY, "v1", b"layer").await;
    let digest = Digest::of(b"layer");
    let root = desk.folder.path().join("docker/registry/v2");
    let blob = root.join(format!("blobs/sha256/{}/{}/data", &digest.hex()[..2], digest.hex()));
    assert_eq!(std::fs::read(blob).unwrap(), b"layer");
    let link = root.join(format!("repositories/{REPOSITORY}/_layers/sha256/{}/link", digest.hex()));
    assert_eq!(std::fs::read_to_string(link).unwrap(), digest.to_string());
    let uploads = std::fs::read_dir(root.join(format!("repositories/{REPOSITORY}/_uploads"))).unwrap();
    assert_eq!(uploads.count(), 0);
}

#[tokio::test]
async fn chunks_go_on_after_a_restart_and_only_in_order() {
    let desk = Desk::new();
    let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), "").await;
    let start = path(begun.header("location")).to_owned();
    assert_eq!(begun.header("range"), "0-0");
    let chunk = |location: String, range: &'static str, content: &'static str| {
        let length = content.len().to_string();
        async move { (location, range, content, length) }
    };
    let (location, range, content, length) = chunk(start.clone(), "0-4", "first").await;
    let headers = [
        ("authorization", "Bearer editor-token"),
        ("content-range", range),
        ("content-length", length.as_str()),
        ("content-type", "application/octet-stream"),
    ];
    let patched = desk.send(Method::PATCH, &location, &headers, content).await;
    assert_eq!((patched.status.as_u16(), patched.header("range")), (202, "0-4"));
    let next = path(patched.header("location")).to_owned();

    // The old state no longer fits, a chunk further on neither.
    let again = desk.ask("editor-token", Method::PATCH, &start, "again").await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (416, "RANGE_INVALID"));
    let headers = [("authorization", "Bearer editor-token"), ("content-range", "9-13"), ("content-length", "5")];
    let far = desk.send(Method::PATCH, &next, &headers, "later").await;
    assert_eq!((far.status.as_u16(), far.code().as_str()), (416, "RANGE_INVALID"));

    let desk = desk.restarted();
    let bare = next.split('?').next().unwrap();
    let status = desk.ask("editor-token", Method::GET, bare, "").await;
    assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-4"));
    let patched = desk.ask("editor-token", Method::PATCH, path(status.header("location")), " second").await;
    assert_eq!(patched.header("range"), "0-11");
    let digest = Digest::of(b"first second third");
    let uri = format!("{}&digest={digest}", path(patched.header("location")));
    let done = desk.ask("editor-token", Method::PUT, &uri, " third").await;
    assert_eq!(done.status, 201, "{done:?}");
    let got = desk.ask("viewer-token", Method::GET, &format!("/v2/{REPOSITORY}/blobs/{digest}"), "").await;
    assert_eq!(&got.body[..], b"first second third");
}

#[tokio::test]
async fn content_that_does_not_match_its_digest_is_refused_and_leaves_nothing() {
    let desk = Desk::new();
    let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), "").await;
    let location = path(begun.header("location")).to_owned();
    let uri = format!("{location}&digest={}", Digest::of(b"other"));
    let refused = desk.ask("editor-token", Method::PUT, &uri, "content").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "DIGEST_INVALID"));
    let gone = desk.ask("editor-token", Method::PUT, &uri, "content").await;
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[tokio::test]
async fn uploads_can_be_sha512_and_can_be_given_up() {
    let desk = Desk::new();
    let uploads = format!("/v2/{REPOSITORY}/blobs/uploads/");
    let begun = desk.ask("editor-token", Method::POST, &uploads, "").await;
    let digest = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
    let uri = format!("{}&digest={digest}", path(begun.header("location")));
    assert_eq!(desk.ask("editor-token", Method::PUT, &uri, "").await.status, 201);

    let begun = desk.ask("editor-token", Method::POST, &uploads, "").await;
    let location = path(begun.header("location")).to_owned();
    assert_eq!(desk.ask("editor-token", Method::DELETE, &location, "").await.status, 204);
    let gone = desk.ask("editor-token", Method::PATCH, &location, "x").await;
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[rstest]
#[case("", 404, "BLOB_UPLOAD_INVALID")]
#[case("?_state=AAAA", 404, "BLOB_UPLOAD_INVALID")]
#[tokio::test]
async fn a_foreign_upload_state_is_refused(#[case] query: &str, #[case] status: u16, #[case] code: &str) {
    let desk = Desk::new();
    let uri = format!("/v2/{REPOSITORY}/blobs/uploads/some-uuid{query}");
    let refused = desk.ask("editor-token", Method::PATCH, &uri, "x").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (status, code));
}

#[tokio::test]
async fn a_blob_is_mounted_only_by_who_may_pull_it_there() {
    let desk = Desk::new();
    desk.api.0.lock().unwrap().projects.insert("other".into());
    let digest = desk.push_blob(REPOSITORY, b"shared").await;
    desk.grant("editor update imagestreams/layers other");
    desk.grant("editor get imagestreams/layers other");
    let uri = format!("/v2/other/image/blobs/uploads/?mount={digest}&from={REPOSITORY}");
    let mounted = desk.ask("editor-token", Method::POST, &uri, "").await;
    assert_eq!(mounted.status, 201, "{mounted:?}");
    assert!(mounted.header("location").ends_with(&format!("/v2/other/image/blobs/{digest}")));

    let secret = Desk::new();
    secret.push_blob(REPOSITORY, b"shared").await;
    secret.api.0.lock().unwrap().users.insert("third-token".into(), "third".into());
    secret.grant("third get imagestreams/layers other");
    secret.grant("third update imagestreams/layers other");
    let denied = secret.ask("third-token", Method::POST, &uri, "").await;
    assert_eq!(denied.status, 202, "{denied:?}");
    let hidden = secret.ask("third-token", Method::HEAD, &format!("/v2/other/image/blobs/{digest}"), "").await;
    assert_eq!(hidden.status, 404);
}

#[rstest]
#[case("bytes=0-1", 206, "la")]
#[case("bytes=3-", 206, "er")]
#[case("bytes=-2", 206, "er")]
#[tokio::test]
async fn parts_of_blobs(#[case] range: &str, #[case] status: u16, #[case] content: &str) {
    let desk = Desk::new();
    let digest = desk.push_blob(REPOSITORY, b"layer").await;
    let headers = [("authorization", "Bearer viewer-token"), ("range", range)];
    let uri = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let got = desk.send(Method::GET, &uri, &headers, "").await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (status, content.as_bytes()));
    assert!(got.header("content-range").ends_with("/5"));
    let headers = [("authorization", "Bearer viewer-token"), ("range", "bytes=9-")];
    let beyond = desk.send(Method::GET, &uri, &headers, "").await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */5"));
}

#[tokio::test]
async fn a_manifest_needs_its_blobs_and_their_true_sizes() {
    let desk = Desk::new();
    let mut document = image(b"{}", b"layer");
    let refused = desk.push_manifest(REPOSITORY, "v1", OCI_MANIFEST, &document).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(refused.json()["errors"].as_array().unwrap().len(), 2);
    desk.push_blob(REPOSITORY, b"{}").await;
    desk.push_blob(REPOSITORY, b"layer").await;
    document["layers"][0]["size"] = json!(99);
    let refused = desk.push_manifest(REPOSITORY, "v1", OCI_MANIFEST, &document).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (500, "UNKNOWN"));
    assert_eq!(refused.json()["errors"].as_array().unwrap().len(), 2);
    assert!(desk.api.0.lock().unwrap().streams.is_empty());
}

#[rstest]
#[case("v1", "application/json", json!({"schemaVersion": 1}), 400, "MANIFEST_INVALID")]
#[case("v1", OCI_MANIFEST, json!("text"), 400, "MANIFEST_INVALID")]
#[case("v1", DOCKER_MANIFEST, image(b"{}", b"x"), 400, "MANIFEST_INVALID")]
#[case("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", OCI_INDEX,
       json!({"schemaVersion": 2, "manifests": []}), 400, "DIGEST_INVALID")]
#[tokio::test]
async fn manifests_that_are_not_taken(
    #[case] reference: &str,
    #[case] kind: &str,
    #[case] document: serde_json::Value,
    #[case] status: u16,
    #[case] code: &str,
) {
    let desk = Desk::new();
    let refused = desk.push_manifest(REPOSITORY, reference, kind, &document).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (status, code), "{refused:?}");
}

#[tokio::test]
async fn a_manifest_of_more_than_4_mib_is_invalid() {
    let desk = Desk::new();
    let document = json!({"schemaVersion": 2, "manifests": [], "annotations": {"a": "x".repeat(4 << 20)}});
    let refused = desk.push_manifest(REPOSITORY, "v1", OCI_INDEX, &document).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "MANIFEST_INVALID"));
}

#[tokio::test]
async fn an_index_is_pushed_and_its_children_are_found_through_it() {
    let desk = Desk::new();
    let child = desk.push_image(REPOSITORY, "amd64", b"layer").await.to_string();
    let digest = Digest::of(child.as_bytes()).to_string();
    desk.api.0.lock().unwrap().streams.clear();
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest, "size": child.len()}],
    });
    let put = desk.push_manifest(REPOSITORY, "multi", OCI_INDEX, &index).await;
    assert_eq!(put.status, 201, "{put:?}");
    let got = desk.ask("viewer-token", Method::GET, &format!("/v2/{REPOSITORY}/manifests/{digest}"), "").await;
    assert_eq!(got.status, 200, "{got:?}");
}

#[tokio::test]
async fn an_image_pushed_by_digest_belongs_to_no_stream_yet() {
    let desk = Desk::new();
    let document = desk.push_image(REPOSITORY, "v1", b"layer").await;
    let config = br#"{"architecture":"arm64","os":"linux"}"#;
    desk.push_blob(REPOSITORY, config).await;
    let other = image(config, b"layer");
    let digest = Digest::of(other.to_string().as_bytes()).to_string();
    for _ in 0..2 {
        assert_eq!(desk.push_manifest(REPOSITORY, &digest, OCI_MANIFEST, &other).await.status, 201);
    }
    let uri = format!("/v2/{REPOSITORY}/manifests/{digest}");
    let got = desk.ask("viewer-token", Method::GET, &uri, "").await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    assert!(desk.api.0.lock().unwrap().images.contains_key(&digest));
    assert_ne!(document, other);
}

#[tokio::test]
async fn what_a_client_accepts_decides_what_it_gets() {
    let desk = Desk::new();
    desk.push_image(REPOSITORY, "v1", b"layer").await;
    let uri = format!("/v2/{REPOSITORY}/manifests/v1");
    let plain = desk.send(Method::GET, &uri, &[("authorization", "Bearer viewer-token")], "").await;
    assert_eq!((plain.status.as_u16(), plain.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    assert!(plain.json()["errors"][0]["message"].as_str().unwrap().contains("accept header does not support"));

    let config =
        json!({"architecture": "amd64", "rootfs": {"diff_ids": ["sha256:1"]}, "history": [{"created_by": "ADD"}]});
    let config = config.to_string();
    desk.push_blob(REPOSITORY, config.as_bytes()).await;
    let mut docker = image(config.as_bytes(), b"layer");
    docker["mediaType"] = json!(DOCKER_MANIFEST);
    assert_eq!(desk.push_manifest(REPOSITORY, "old", DOCKER_MANIFEST, &docker).await.status, 201);
    let uri = format!("/v2/{REPOSITORY}/manifests/old");
    let old = desk.send(Method::GET, &uri, &[("authorization", "Bearer viewer-token")], "").await;
    assert_eq!(old.header("content-type"), "application/vnd.docker.distribution.manifest.v1+prettyjws", "{old:?}");
    assert_eq!(old.json()["fsLayers"][0]["blobSum"], Digest::of(b"layer").to_string());
}

#[tokio::test]
async fn tags_are_sorted_and_paged() {
    let desk = Desk::new();
    for tag in ["c", "a", "b"] {
        desk.push_image(REPOSITORY, tag, b"layer").await;
    }
    let uri = format!("/v2/{REPOSITORY}/tags/list");
    let all = desk.ask("viewer-token", Method::GET, &uri, "").await;
    assert_eq!(all.json(), json!({"name": REPOSITORY, "tags": ["a", "b", "c"]}));
    let first = desk.ask("viewer-token", Method::GET, &format!("{uri}?n=2"), "").await;
    assert_eq!(first.json()["tags"], json!(["a", "b"]));
    let next = first.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
    let second = desk.ask("viewer-token", Method::GET, &next, "").await;
    assert_eq!((second.json()["tags"].clone(), second.header("link")), (json!(["c"]), ""));
    let missing = desk.ask("viewer-token", Method::GET, "/v2/project/none/tags/list", "").await;
    assert_eq!((missing.status.as_u16(), missing.code().as_str()), (404, "NAME_UNKNOWN"));
}

#[rstest]
#[case("manifests/v2", 404, "MANIFEST_UNKNOWN")]
#[case("blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 404, "BLOB_UNKNOWN")]
#[case("blobs/sha256:e3", 400, "DIGEST_INVALID")]
#[case("blobs/md5:e3", 400, "DIGEST_INVALID")]
#[tokio::test]
async fn what_is_not_there(#[case] what: &str, #[case] status: u16, #[case] code: &str) {
    let desk = Desk::new();
    desk.push_image(REPOSITORY, "v1", b"layer").await;
    let got = desk.ask("viewer-token", Method::GET, &format!("/v2/{REPOSITORY}/{what}"), "").await;
    assert_eq!((got.status.as_u16(), got.code().as_str()), (status, code), "{got:?}");
}

#[tokio::test]
async fn deletion_needs_the_pruners_right_and_an_untagged_image() {
    let desk = Desk::new();
    let document = desk.push_image(REPOSITORY, "v1", b"layer").await;
    let digest = Digest::of(document.to_string().as_bytes()).to_string();
    let uri = format!("/v2/{REPOSITORY}/manifests/{digest}");
    assert_eq!(desk.ask("editor-token", Method::DELETE, &uri, "").await.status, 401);
    desk.grant("editor delete images ");
    let tagged = desk.ask("editor-token", Method::DELETE, &uri, "").await;
    assert_eq!((tagged.status.as_u16(), tagged.code().as_str()), (405, "UNSUPPORTED"));
    let by_tag = desk.ask("editor-token", Method::DELETE, &format!("/v2/{REPOSITORY}/manifests/v1"), "").await;
    assert_eq!(by_tag.status, 202);
    desk.api.0.lock().unwrap().streams.get_mut(REPOSITORY).unwrap()["status"]["tags"] = json!([]);
    assert_eq!(desk.ask("editor-token", Method::DELETE, &uri, "").await.status, 202);
    assert_eq!(desk.ask("editor-token", Method::DELETE, &uri, "").await.status, 404);

    let layer = Digest::of(b"layer");
    let blob = format!("/v2/{REPOSITORY}/blobs/{layer}");
    assert_eq!(desk.ask("editor-token", Method::DELETE, &blob, "").await.status, 202);
    assert_eq!(desk.ask("viewer-token", Method::HEAD, &blob, "").await.status, 404);
    for _ in 0..2 {
        assert_eq!(desk.ask("editor-token", Method::DELETE, &format!("/admin/blobs/{layer}"), "").await.status, 204);
    }
    let data =
        desk.folder.path().join(format!("docker/registry/v2/blobs/sha256/{}/{}", &layer.hex()[..2], layer.hex()));
    assert!(!data.exists());
}

#[tokio::test]
async fn read_only_refuses_writes_with_405_after_authorisation() {
    let desk = Desk::with(&[("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}")]);
    let uri = format!("/v2/{REPOSITORY}/blobs/uploads/");
    let refused = desk.ask("editor-token", Method::POST, &uri, "").await;
    assert_eq!(refused.status, 405);
    assert_eq!(&refused.body[..], b"Method not allowed\n");
    assert!(refused.headers.contains_key("allow"));
    assert_eq!(desk.send(Method::POST, &uri, &[], "").await.status, 401);
    let put = desk.push_manifest(REPOSITORY, "v1", OCI_MANIFEST, &image(b"{}", b"")).await;
    assert_eq!((put.status.as_u16(), put.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn copied_tags_share_blobs_through_the_stream() {
    let desk = Desk::new();
    desk.push_image(REPOSITORY, "v1", b"layer").await;
    let stream = desk.api.0.lock().unwrap().streams[REPOSITORY].clone();
    desk.api.0.lock().unwrap().streams.insert("project/copy".into(), stream);
    let uri = format!("/v2/project/copy/blobs/{}", Digest::of(b"layer"));
    assert_eq!(desk.ask("viewer-token", Method::GET, &uri, "").await.status, 200);
    assert_eq!(desk.ask("viewer-token", Method::GET, "/v2/project/copy/manifests/v1", "").await.status, 200);
}
