//! Who may do what: the token dance, challenges, anonymous access, metrics, the catalogue, and limits.
//! The API server decides; these tests look at what the registry asks it and what it makes of the answers.

mod desk;

use desk::{Answer, Desk, OCI_MANIFEST, basic, image};
use http::Method;
use rstest::rstest;
use serde_json::json;

const BEARER: &str = "Bearer realm=\"https://image-registry.openshift-image-registry.svc:5000/openshift/token\"";
const DENIED: &str = "Basic realm=openshift,error=\"access denied\"";
const UNDECODABLE: &str = "Basic realm=openshift,error=\"failed to decode credentials\"";
const PULL: &str = "/v2/project/image/manifests/v1";

async fn get(desk: &Desk, uri: &str, authorization: &str) -> Answer {
    let headers = [("authorization", authorization), ("accept", OCI_MANIFEST)];
    desk.send(Method::GET, uri, if authorization.is_empty() { &headers[1..] } else { &headers }, "").await
}

#[tokio::test]
async fn a_login_gets_its_own_token_back_and_may_look_around() {
    let desk = Desk::new();
    let first = get(&desk, "/v2/", "").await;
    assert_eq!((first.status.as_u16(), first.header("www-authenticate")), (401, BEARER));
    assert_eq!(first.json()["errors"][0]["detail"], json!(null));
    let token = get(&desk, "/openshift/token?account=any", &basic("any", "editor-token")).await;
    assert_eq!(token.json(), json!({"token": "editor-token", "access_token": "editor-token"}));
    assert_eq!(token.header("x-registry-supports-signatures"), "");
    let second = get(&desk, "/v2/", "Bearer editor-token").await;
    assert_eq!((second.status.as_u16(), &second.body[..]), (200, &b"{}"[..]));
    assert_eq!(second.header("content-length"), "2");
    let calls = desk.calls();
    assert_eq!(calls, ["editor POST /apis/authentication.k8s.io/v1/selfsubjectreviews"; 2]);
}

#[rstest]
#[case("system:admin", "editor-token")]
#[case("editor", "wrong")]
#[tokio::test]
async fn logins_that_fail(#[case] user: &str, #[case] password: &str) {
    let desk = Desk::new();
    let token = get(&desk, "/openshift/token", &basic(user, password)).await;
    assert_eq!((token.status.as_u16(), token.body.len()), (401, 0));
    let direct = get(&desk, "/v2/", &basic(user, password)).await;
    assert_eq!((direct.status.as_u16(), direct.header("www-authenticate")), (401, DENIED));
}

#[rstest]
#[case("", 401, BEARER)]
#[case("Digest x", 401, BEARER)]
#[case("Basic !!!", 401, UNDECODABLE)]
#[case("Bearer nobody-token", 401, DENIED)]
#[case("Bearer unknown", 401, DENIED)]
#[case("Bearer anonymous", 401, DENIED)]
#[case("Bearer viewer-token", 200, "")]
#[case("Basic dTp2aWV3ZXItdG9rZW4=", 200, "")]
#[tokio::test]
async fn pulls(#[case] authorization: &str, #[case] status: u16, #[case] challenge: &str) {
    let desk = Desk::new();
    desk.push_image("project/image", "v1", b"layer").await;
    let got = get(&desk, PULL, authorization).await;
    assert_eq!((got.status.as_u16(), got.header("www-authenticate")), (status, challenge));
    if status == 401 {
        let detail = json!([{"Type": "repository", "Class": "", "Name": "project/image", "Action": "pull"}]);
        assert_eq!((got.code(), got.json()["errors"][0]["detail"].clone()), ("UNAUTHORIZED".into(), detail));
    }
}

#[tokio::test]
async fn a_viewer_cannot_push_and_leaves_no_trace() {
    let desk = Desk::new();
    for (method, uri) in [(Method::POST, "/v2/project/image/blobs/uploads/"), (Method::PUT, PULL)] {
        let refused = desk.ask("viewer-token", method, uri, "{}").await;
        assert_eq!((refused.status.as_u16(), refused.header("www-authenticate")), (401, DENIED));
    }
    assert!(desk.api.0.lock().unwrap().streams.is_empty());
}

#[tokio::test]
async fn anonymous_pull_is_asked_in_the_registrys_name() {
    let desk = Desk::new();
    desk.push_image("project/image", "v1", b"layer").await;
    desk.grant("system:anonymous get imagestreams/layers project");
    assert_eq!(get(&desk, "/openshift/token", "").await.json()["token"], "anonymous");
    desk.calls();
    assert_eq!(get(&desk, PULL, "Bearer anonymous").await.status, 200);
    assert_eq!(
        desk.calls()[..2],
        [
            "system:anonymous POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "registry POST /apis/authorization.k8s.io/v1/subjectaccessreviews",
        ]
    );
    assert_eq!(get(&desk, "/v2/", "Bearer anonymous").await.status, 200);
}

#[rstest]
#[case(500)]
#[case(503)]
#[tokio::test]
async fn an_api_server_in_trouble_is_a_bare_400(#[case] code: u16) {
    let desk = Desk::new();
    desk.api.0.lock().unwrap().broken = Some(code);
    let got = get(&desk, PULL, "Bearer viewer-token").await;
    assert_eq!((got.status.as_u16(), got.body.len()), (400, 0));
    assert_eq!(desk.send(Method::GET, "/healthz", &[], "").await.status, 200);
}

#[tokio::test]
async fn names_have_two_parts() {
    let desk = Desk::new();
    let single = get(&desk, "/v2/image/manifests/v1", "Bearer viewer-token").await;
    assert_eq!((single.status.as_u16(), single.body.len()), (400, 0));
    let scope = "/openshift/token?scope=repository:image:pull";
    let scoped = get(&desk, scope, &basic("any", "viewer-token")).await;
    assert_eq!(scoped.status, 401);
    assert!(scoped.json()["details"].as_str().unwrap().contains("must be of the format <project>/<name>"));
}

#[rstest]
#[case("no project", &["editor update imagestreams/layers ", "editor get imagestreams/layers "], "gone/image")]
#[case("no right to create", &[], "project/image")]
#[tokio::test]
async fn a_push_the_api_refuses_is_denied(#[case] _why: &str, #[case] rights: &[&str], #[case] repository: &str) {
    let desk = Desk::new();
    for right in rights {
        desk.grant(right);
    }
    desk.api.0.lock().unwrap().rights.remove("editor create imagestreams project");
    desk.push_blob(repository, b"{}").await;
    desk.push_blob(repository, b"layer").await;
    let put = desk.push_manifest(repository, "v1", OCI_MANIFEST, &image(b"{}", b"layer")).await;
    assert_eq!((put.status.as_u16(), put.code().as_str()), (403, "DENIED"));
    assert!(desk.api.0.lock().unwrap().streams.is_empty());
}

#[tokio::test]
async fn metrics_are_for_those_with_the_role() {
    let desk = Desk::new();
    let uri = "/extensions/v2/metrics";
    assert_eq!(get(&desk, uri, "").await.header("www-authenticate"), BEARER);
    assert_eq!(get(&desk, uri, "Bearer viewer-token").await.header("www-authenticate"), DENIED);
    desk.grant("viewer get registry/metrics ");
    let got = get(&desk, uri, &basic("anything", "viewer-token")).await;
    assert_eq!(got.status, 200);
    let text = std::str::from_utf8(&got.body).unwrap();
    for line in [
        "# TYPE imageregistry_build_info gauge",
        "imageregistry_http_in_flight_requests 1",
        "imageregistry_http_requests_total{code=\"401\",method=\"get\"} 2",
        "imageregistry_http_request_duration_seconds_count{method=\"get\"} 2",
    ] {
        assert!(text.lines().any(|seen| seen == line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn a_metrics_secret_replaces_the_role() {
    let desk = Desk::with(&[("REGISTRY_OPENSHIFT_METRICS_SECRET", "hush")]);
    desk.grant("viewer get registry/metrics ");
    let uri = "/extensions/v2/metrics";
    assert_eq!(get(&desk, uri, &basic("any", "hush")).await.status, 200);
    assert_eq!(get(&desk, uri, "Bearer viewer-token").await.status, 401);
    assert_eq!(get(&desk, PULL, "Bearer hush").await.status, 401);
    let off = Desk::with(&[("REGISTRY_OPENSHIFT_METRICS_ENABLED", "false")]);
    assert_eq!(get(&off, uri, "Bearer viewer-token").await.status, 404);
}

#[tokio::test]
async fn the_catalogue_is_what_the_caller_may_list() {
    let desk = Desk::new();
    for name in ["project/b", "project/a", "project/c"] {
        desk.push_image(name, "v1", b"layer").await;
    }
    assert_eq!(get(&desk, "/v2/_catalog", "Bearer viewer-token").await.status, 401);
    desk.grant("viewer list imagestreams ");
    desk.calls();
    let all = get(&desk, "/v2/_catalog", "Bearer viewer-token").await;
    assert_eq!(all.json(), json!({"repositories": ["project/a", "project/b", "project/c"]}));
    assert_eq!(desk.calls().last().unwrap(), "viewer GET /apis/image.openshift.io/v1/imagestreams");
    let first = get(&desk, "/v2/_catalog?n=2", "Bearer viewer-token").await;
    assert_eq!(first.header("link"), "</v2/_catalog?last=project%2Fb&n=2>; rel=\"next\"");
    let rest = get(&desk, "/v2/_catalog?last=project%2Fb&n=2", "Bearer viewer-token").await;
    assert_eq!(rest.json(), json!({"repositories": ["project/c"]}));
    let empty = get(&desk, "/v2/_catalog?n=0", "Bearer viewer-token").await;
    assert_eq!(empty.json(), json!({"repositories": []}));
    let bad = get(&desk, "/v2/_catalog?n=1001", "Bearer viewer-token").await;
    assert_eq!((bad.status.as_u16(), bad.code().as_str()), (400, "PAGINATION_NUMBER_INVALID"));
}

#[tokio::test]
async fn signatures_are_there_for_every_pull() {
    let desk = Desk::new();
    let document = desk.push_image("project/image", "v1", b"layer").await;
    let digest = reference_registry::digest::Digest::of(document.to_string().as_bytes());
    let uri = format!("/extensions/v2/project/image/signatures/{digest}");
    let got = get(&desk, &uri, "Bearer viewer-token").await;
    assert_eq!((got.status.as_u16(), got.json()), (200, json!({"signatures": []})));
    let missing = get(&desk, &uri.replace("image/", "none/"), "Bearer viewer-token").await;
    assert_eq!((missing.status.as_u16(), missing.body.len()), (404, 0));
}

#[rstest]
#[case(Method::OPTIONS, "/v2/project/image/tags/list", 401)]
#[case(Method::GET, "/v2/project/image/referrers/sha256:00", 404)]
#[case(Method::GET, "/v2/project/image/manifests/.bad", 404)]
#[case(Method::GET, "/nowhere", 404)]
#[tokio::test]
async fn odd_requests(#[case] method: Method, #[case] uri: &str, #[case] status: u16) {
    let desk = Desk::new();
    let got = desk.ask("viewer-token", method, uri, "").await;
    assert_eq!(got.status, status);
    assert_eq!(got.header("www-authenticate"), "");
    assert_eq!(got.header("docker-distribution-api-version"), "registry/2.0");
}

#[tokio::test]
async fn health_needs_no_token_and_has_no_api_version() {
    let desk = Desk::new();
    for uri in ["/", "/healthz"] {
        let got = desk.send(Method::GET, uri, &[], "").await;
        assert_eq!((got.status.as_u16(), got.body.len(), got.header("cache-control")), (200, 0, "no-cache"));
        assert_eq!(got.header("docker-distribution-api-version"), "");
    }
    assert!(desk.calls().is_empty());
}
