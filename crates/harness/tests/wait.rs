//! Waits against an API server of a few lines: it lists, then sends what a test puts into the watch.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use harness::{
    failure::Kind,
    wait::{Check, answers, wait},
};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, client::Body};
use serde_json::{Value, json};

fn object(value: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "it", "namespace": "here", "resourceVersion": version.to_string()},
        "data": {"is": value},
    })
}

/// A client of a server that lists `first` and then sends `later`, one after the other.
fn server(first: Option<Value>, later: Vec<(&'static str, Value)>) -> Api<ConfigMap> {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (first, later) = (first.clone(), later.clone());
        async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let frames = if query.contains("watch=true") {
                let events =
                    later.into_iter().map(|(kind, object)| format!("{}\n", json!({"type": kind, "object": object})));
                let frames: Vec<_> = events.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line)))).collect();
                stream::iter(frames).chain(stream::pending()).boxed()
            } else {
                let list = json!({
                    "apiVersion": "v1", "kind": "ConfigMapList",
                    "metadata": {"resourceVersion": "1"}, "items": first.into_iter().collect::<Vec<_>>(),
                });
                stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(list.to_string())))]).boxed()
            };
            Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
        }
    });
    Api::namespaced(Client::new(service, "here"), "here")
}

fn is(wanted: &'static str) -> impl FnMut(Option<&ConfigMap>) -> Check<()> {
    move |map| {
        let seen = map.and_then(|map| map.data.as_ref()?.get("is").cloned());
        Check::when(seen.as_deref() == Some(wanted), || format!("it is {seen:?}"))
    }
}

#[tokio::test]
async fn goes_on_when_an_event_makes_the_condition_true() {
    let api = server(Some(object("red", 1)), vec![("MODIFIED", object("green", 2))]);
    wait("green", Duration::from_secs(5)).object(&api, "it", is("green")).await.expect("it turned green");
}

#[tokio::test]
async fn a_deadline_names_what_was_awaited_how_long_and_the_last_observation() {
    let api = server(Some(object("red", 1)), vec![("MODIFIED", object("amber", 2))]);
    let wait = wait("the light to be green", Duration::from_millis(300)).of("lights");
    let failure = wait.object(&api, "it", is("green")).await.expect_err("it never turns green");
    assert_eq!(failure.kind, Kind::Fail);
    assert_eq!(failure.tried, "waited 300ms for the light to be green");
    assert_eq!(failure.seen.as_deref(), Some("it is Some(\"amber\")"));
    assert_eq!(failure.component.as_deref(), Some("lights"));
}

#[tokio::test]
async fn a_deleted_object_is_seen_as_absent() {
    let api = server(Some(object("red", 1)), vec![("DELETED", object("red", 2))]);
    let gone = |map: Option<&ConfigMap>| Check::when(map.is_none(), || "there".to_owned());
    wait("it to go", Duration::from_secs(5)).object(&api, "it", gone).await.expect("it goes");
}

#[tokio::test]
async fn what_must_stay_fails_at_the_first_change() {
    let api = server(Some(object("red", 1)), vec![("MODIFIED", object("green", 2)), ("MODIFIED", object("red", 3))]);
    let stays = wait("it stays red", Duration::from_secs(30)).stays(&api, "it", is("red"));
    let failure = tokio::time::timeout(Duration::from_secs(5), stays).await.expect("at once").expect_err("it changed");
    assert_eq!((failure.kind, failure.seen.as_deref()), (Kind::Fail, Some("it is Some(\"green\")")));
}

#[tokio::test]
async fn what_stays_holds_for_the_window() {
    let api = server(Some(object("red", 1)), vec![]);
    wait("it stays red", Duration::from_millis(300)).stays(&api, "it", is("red")).await.expect("it stays");
}

#[tokio::test]
async fn a_window_in_which_nothing_could_be_seen_is_our_error() {
    let service = tower::service_fn(|_: Request<Body>| async {
        let refusal =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden"});
        let body = http_body_util::Full::new(Bytes::from(refusal.to_string()));
        Ok::<_, Infallible>(Response::builder().status(403).body(body).expect("a response"))
    });
    let api: Api<ConfigMap> = Api::namespaced(Client::new(service, "here"), "here");
    let failure =
        wait("it stays red", Duration::from_millis(300)).stays(&api, "it", is("red")).await.expect_err("unseen");
    assert_eq!(failure.kind, Kind::Error);
    assert!(failure.seen.expect("an observation").contains("the watch was refused"));
}

#[tokio::test]
async fn asks_again_until_the_answer_is_right() {
    let mut asked = 0;
    let until = wait("the third answer", Duration::from_secs(5));
    let answer = answers(until, || {
        asked += 1;
        let now = asked;
        async move { if now == 3 { Check::Met(now) } else { Check::NotYet(format!("answer {now}")) } }
    })
    .await;
    assert_eq!(answer, Ok(3));
}
