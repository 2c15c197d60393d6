//! Who may do what: every request is checked for the user the aggregator forwards, with the resource, subresource,
//! verb and name that OpenShift's roles speak of.

use rstest::rstest;
use serde_json::{Value, json};

use crate::stage::{Caller, IMAGE_API, Image, mapping, new_stream, path, stage};

fn rule(resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": ["", "image.openshift.io"], "resources": resources, "verbs": verbs})
}

fn user(number: usize) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("user-{number:02}")})
}

/// A service account with exactly the rules of `system:registry` that concern this group
/// (cluster-image-registry-operator pkg/resource/clusterrole.go:39-113).
async fn registry(namespace: &str) -> Caller {
    let admin = stage().admin();
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "registry"}});
    assert_eq!(admin.post(&accounts, &account).await.code, 201);
    let rules = json!([
        rule(&["imagestreamimages", "imagestreams/layers", "imagestreams/secrets"], &["get"]),
        rule(&["imagestreams"], &["get", "update"]),
        rule(&["imagestreamtags"], &["delete"]),
        rule(&["images"], &["get", "update", "create"]),
        rule(&["imagestreammappings"], &["create"]),
    ]);
    let subject = json!({"kind": "ServiceAccount", "name": "registry", "namespace": namespace});
    stage().allow(&subject, "", &rules).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = admin.post(&format!("{accounts}/registry/token"), &request).await;
    stage().with_token(answer.body["status"]["token"].as_str().expect("a token"))
}

#[tokio::test]
async fn the_rules_of_the_registry_are_enough_for_a_push_and_a_pull() {
    let namespace = stage().namespace().await;
    let registry = registry(&namespace).await;
    let image = Image::single("as the registry");
    let mapped = path(&namespace, "imagestreammappings");
    assert_eq!(registry.post(&mapped, &mapping(&namespace, "app", "v1", &image)).await.code, 404);
    assert_eq!(registry.post(&path(&namespace, "imagestreams"), &new_stream("app")).await.code, 403);
    assert_eq!(stage().admin().post(&path(&namespace, "imagestreams"), &new_stream("app")).await.code, 201);
    assert_eq!(registry.post(&mapped, &mapping(&namespace, "app", "v1", &image)).await.code, 201);
    for what in ["imagestreams/app", "imagestreams/app/layers", "imagestreams/app/secrets"] {
        assert_eq!(registry.get(&path(&namespace, what)).await.code, 200, "{what}");
    }
    assert_eq!(registry.get(&path(&namespace, &format!("imagestreamimages/app@{}", image.digest))).await.code, 200);
    assert_eq!(registry.get(&format!("{IMAGE_API}/images/{}", image.digest)).await.code, 200);
    assert_eq!(registry.get(&format!("{IMAGE_API}/images")).await.code, 403, "listing takes system:image-pruner");
}

#[tokio::test]
async fn a_stranger_is_refused_with_a_status_that_says_what_was_refused() {
    let namespace = stage().namespace().await;
    let answer = stage().user(1).get(&path(&namespace, "imagestreams/app/layers")).await;
    assert_eq!((answer.code, &answer.body["reason"]), (403, &json!("Forbidden")));
    let message = answer.body["message"].as_str().expect("a message");
    for part in ["user-01", "imagestreams/layers", namespace.as_str()] {
        assert!(message.contains(part), "{message}");
    }
}

#[rstest]
#[case(2, &["imagestreams/layers"], &["get"], "imagestreams/app/layers", 200)]
#[case(3, &["imagestreams/layers"], &["get"], "imagestreams/app", 403)]
#[case(4, &["imagestreams"], &["get", "list"], "imagestreams/app/layers", 403)]
#[case(5, &["imagestreamtags"], &["get"], "imagestreamtags/app:v1", 200)]
#[case(6, &["imagestreams"], &["list"], "imagestreams", 200)]
#[case(7, &["imagestreams"], &["list"], "imagestreams?watch=true&timeoutSeconds=1", 403)]
#[tokio::test]
async fn each_right_opens_exactly_its_door(
    #[case] number: usize,
    #[case] resources: &[&str],
    #[case] verbs: &[&str],
    #[case] what: &str,
    #[case] code: u16,
) {
    let namespace = stage().namespace().await;
    let admin = stage().admin();
    assert_eq!(admin.post(&path(&namespace, "imagestreams"), &new_stream("app")).await.code, 201);
    let sent = mapping(&namespace, "app", "v1", &Image::single("doors"));
    assert_eq!(admin.post(&path(&namespace, "imagestreammappings"), &sent).await.code, 201);
    stage().allow(&user(number), &namespace, &json!([rule(resources, verbs)])).await;
    assert_eq!(stage().user(number).get(&path(&namespace, what)).await.code, code);
}

#[tokio::test]
async fn a_right_may_be_for_one_stream_only() {
    let namespace = stage().namespace().await;
    for name in ["mine", "theirs"] {
        assert_eq!(stage().admin().post(&path(&namespace, "imagestreams"), &new_stream(name)).await.code, 201);
    }
    let mut only_mine = rule(&["imagestreams/layers"], &["get"]);
    only_mine["resourceNames"] = json!(["mine"]);
    stage().allow(&user(8), &namespace, &json!([only_mine])).await;
    let user = stage().user(8);
    assert_eq!(user.get(&path(&namespace, "imagestreams/mine/layers")).await.code, 200);
    assert_eq!(user.get(&path(&namespace, "imagestreams/theirs/layers")).await.code, 403);
}

#[tokio::test]
async fn an_image_can_be_tagged_only_by_who_may_pull_it() {
    let (source, target) = (stage().namespace().await, stage().namespace().await);
    let admin = stage().admin();
    assert_eq!(admin.post(&path(&source, "imagestreams"), &new_stream("base")).await.code, 201);
    let image = Image::single("secret base");
    let sent = mapping(&source, "base", "v1", &image);
    assert_eq!(admin.post(&path(&source, "imagestreammappings"), &sent).await.code, 201);
    stage().allow(&user(9), &target, &json!([rule(&["imagestreams", "imagestreamtags"], &["*"])])).await;
    let tag = json!({
        "metadata": {"name": "app:v1"},
        "tag": {"name": "v1", "from": {"kind": "ImageStreamTag", "namespace": source, "name": "base:v1"}},
    });
    let user_9 = stage().user(9);
    let refused = user_9.post(&path(&target, "imagestreamtags"), &tag).await;
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")));
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "FieldValueForbidden");
    stage().allow(&user(9), &source, &json!([rule(&["imagestreams/layers"], &["get"])])).await;
    let allowed = user_9.post(&path(&target, "imagestreamtags"), &tag).await;
    assert_eq!((allowed.code, &allowed.body["image"]["metadata"]["name"]), (201, &json!(image.digest)));
}

#[tokio::test]
async fn a_withdrawn_right_is_withdrawn_at_once() {
    let namespace = stage().namespace().await;
    stage().allow(&user(10), &namespace, &json!([rule(&["imagestreams"], &["list"])])).await;
    let user_10 = stage().user(10);
    let streams = path(&namespace, "imagestreams");
    assert_eq!(user_10.get(&streams).await.code, 200);
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    assert_eq!(stage().admin().delete(&bindings).await.code, 200);
    assert_eq!(user_10.get(&streams).await.code, 403);
}
