//! Each action of a fault, seen by a client through the proxy in front of a tiny server that speaks like kube-apiserver.
//! The server counts what really reached it, so that a swallowed write is told from a forwarded one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use fault_proxy::{Fault, FaultProxy, HostHeader, ProxyOptions, Upstream};
use futures::StreamExt;
use rstest::rstest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Seen = Arc<Mutex<Vec<String>>>;

/// One configuration object, a list of it, a watch on it, a blob and an echo.
async fn upstream() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let router = Router::new()
        .route("/configs", any(configs))
        .route("/configs/cluster", any(config))
        .route("/blob", any(|| async { Bytes::from(vec![b'x'; 100_000]) }))
        .route("/count", any(count))
        .route("/echo", any(echo))
        .with_state(Arc::clone(&seen));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, seen)
}

fn object() -> Value {
    json!({
        "kind": "Config",
        "metadata": {"name": "cluster", "resourceVersion": "7"},
        "spec": {"replicas": 2, "readOnly": true},
    })
}

fn note(seen: &Seen, method: &Method, what: &str) {
    seen.lock().unwrap().push(format!("{method} {what}"));
}

async fn config(State(seen): State<Seen>, method: Method, body: Bytes) -> Response {
    note(&seen, &method, "cluster");
    if method == Method::GET { axum::Json(object()).into_response() } else { body.into_response() }
}

async fn configs(State(seen): State<Seen>, Query(query): Query<Vec<(String, String)>>, headers: HeaderMap) -> Response {
    let accept = headers.get("accept").and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if query.iter().any(|(name, value)| name == "watch" && value == "true") {
        note(&seen, &Method::GET, "watch");
        let event = |kind: &str| Bytes::from(format!("{}\n", json!({"type": kind, "object": object()})));
        let (first, second) = (event("ADDED"), event("BOOKMARK"));
        // The first event comes in two pieces, as it may on a real connection.
        let pieces = [first.slice(..10), first.slice(10..), second];
        let events = futures::stream::iter(pieces.map(Ok::<_, Infallible>)).chain(futures::stream::pending());
        return ([("content-type", "application/json")], Body::from_stream(events)).into_response();
    }
    note(&seen, &Method::GET, if accept.contains("protobuf") { "list as protobuf" } else { "list" });
    axum::Json(json!({"kind": "ConfigList", "items": [object()]})).into_response()
}

async fn count(State(seen): State<Seen>) -> String {
    note(&seen, &Method::GET, "count");
    seen.lock().unwrap().len().to_string()
}

async fn echo(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let said = json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "host": header("host"),
        "authorization": header("authorization"),
        "x": header("x-added"),
        "body": String::from_utf8_lossy(&body),
    });
    ([("x-upstream", "yes")], axum::Json(said)).into_response()
}

fn fault(rules: &str) -> Fault {
    let head = "id: test\ntitle: Test\nseam: operator-api\nrequirements: [X]\nrules:\n";
    Fault::read("test.yaml", &format!("{head}{rules}")).unwrap()
}

async fn proxy(rules: &str) -> (FaultProxy, reqwest::Client, Seen) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (address, seen) = upstream().await;
    let proxy = FaultProxy::start(ProxyOptions::new(Upstream::http(address))).await.unwrap();
    if !rules.is_empty() {
        proxy.set_faults(vec![fault(rules)]);
    }
    (proxy, reqwest::Client::builder().no_proxy().build().unwrap(), seen)
}

async fn json_of(client: &reqwest::Client, url: String) -> Value {
    client.get(url).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn without_faults_everything_passes_as_it_is() {
    let (proxy, client, _) = proxy("").await;
    let request = client.put(format!("{}/echo?a=b", proxy.url())).bearer_auth("token").body("sent");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-upstream"], "yes");
    let said: Value = answer.json().await.unwrap();
    assert_eq!((&said["method"], &said["body"]), (&json!("PUT"), &json!("sent")));
    assert_eq!(said["authorization"], "Bearer token");
    assert_eq!(said["host"], proxy.address().to_string(), "signed requests need the host as it was sent");
    let blob = client.get(format!("{}/blob", proxy.url())).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(blob.len(), 100_000);
    assert_eq!(proxy.hits(), []);
}

#[rstest]
#[case::respond("{respond: {status: 418, headers: {x-a: b}, body: {reason: Fault}}}", 418, json!({"reason": "Fault"}))]
#[case::status("{status: 503}", 503, object())]
#[case::patch(
    "{response: {patch: [{op: remove, path: /spec/readOnly}, {op: remove, path: /metadata}]}}",
    200,
    json!({"kind": "Config", "spec": {"replicas": 2}})
)]
#[case::merge("{response: {merge: {spec: null, metadata: null}}}", 200, json!({"kind": "Config"}))]
#[case::replace(
    "{response: {replace: [{find: '\"replicas\":\\d', with: '\"replicas\":9'}], merge: {metadata: null}}}",
    200,
    json!({"kind": "Config", "spec": {"replicas": 9, "readOnly": true}})
)]
#[tokio::test]
async fn answers_are_changed_or_made_up(#[case] act: &str, #[case] status: u16, #[case] body: Value) {
    let rules = format!("  - match: {{methods: [GET], path: ^/configs/cluster$}}\n    act: {act}\n");
    let (proxy, client, _) = proxy(&rules).await;
    let answer = client.get(format!("{}/configs/cluster", proxy.url())).send().await.unwrap();
    assert_eq!(answer.status(), status);
    assert_eq!(answer.json::<Value>().await.unwrap(), body);
    let other = client.get(format!("{}/echo", proxy.url())).send().await.unwrap();
    assert_eq!(other.status(), 200, "what does not match passes");
    let hits = proxy.hits();
    assert_eq!(hits.len(), 1);
    assert_eq!((hits[0].fault.as_str(), hits[0].rule, hits[0].path.as_str()), ("test", 0, "/configs/cluster"));
    proxy.clear();
    assert_eq!(json_of(&client, format!("{}/configs/cluster", proxy.url())).await, object());
}

#[tokio::test]
async fn list_items_are_changed_and_protobuf_is_not_asked_for() {
    let (proxy, client, seen) = proxy("  - act: {response: {patch: [{op: remove, path: /spec}]}}\n").await;
    let accept = "application/vnd.kubernetes.protobuf,application/json";
    let request = client.get(format!("{}/configs", proxy.url())).header("accept", accept);
    let list: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(list["items"][0].get("spec"), None);
    assert_eq!(*seen.lock().unwrap(), ["GET list"]);
}

#[tokio::test]
async fn requests_are_changed_on_their_way() {
    let rules = "  - match: {body: [{path: /spec/replicas, equals: 3}]}
    act: {request: {setHeaders: {x-added: here}, removeHeaders: [authorization], merge: {spec: {replicas: 0}}}}\n";
    let (proxy, client, _) = proxy(rules).await;
    let url = format!("{}/echo", proxy.url());
    let send = |replicas: u32| client.put(&url).bearer_auth("t").json(&json!({"spec": {"replicas": replicas}})).send();
    let said: Value = send(3).await.unwrap().json().await.unwrap();
    assert_eq!((&said["x"], &said["authorization"]), (&json!("here"), &Value::Null));
    assert_eq!(said["body"], json!({"spec": {"replicas": 0}}).to_string());
    let said: Value = send(4).await.unwrap().json().await.unwrap();
    assert_eq!(said["body"], json!({"spec": {"replicas": 4}}).to_string(), "only the matching body is changed");
}

#[tokio::test]
async fn a_closed_connection_and_a_broken_body_are_errors_for_the_client() {
    let rules = "  - match: {path: ^/echo}\n    act: {close: true}
  - match: {path: ^/blob}\n    act: {response: {breakAfter: 10}}\n";
    let (proxy, client, _) = proxy(rules).await;
    assert!(client.get(format!("{}/echo", proxy.url())).send().await.is_err());
    let answer = client.get(format!("{}/blob", proxy.url())).send().await.unwrap();
    assert_eq!(answer.content_length(), Some(100_000), "the length is still promised");
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn a_body_can_lose_its_end_or_one_byte() {
    let rules = "  - match: {query: short}\n    act: {response: {keepBytes: 10}}
  - match: {query: flip}\n    act: {response: {flipByteAt: 99999}}\n";
    let (proxy, client, _) = proxy(rules).await;
    let get = async |query: &str| {
        let answer = client.get(format!("{}/blob?{query}", proxy.url())).send().await.unwrap();
        answer.bytes().await.unwrap()
    };
    assert_eq!(get("short").await, Bytes::from_static(b"xxxxxxxxxx"));
    let flipped = get("flip").await;
    assert_eq!((flipped.len(), flipped[99_999], flipped[99_998]), (100_000, !b'x', b'x'));
}

#[tokio::test]
async fn a_delay_holds_back_and_a_hang_ends_with_the_fault() {
    let rules = "  - match: {path: ^/echo}\n    act: {delay: 120ms}
  - match: {path: ^/blob}\n    act: {hang: true}\n";
    let (proxy, client, _) = proxy(rules).await;
    let started = Instant::now();
    assert_eq!(client.get(format!("{}/echo", proxy.url())).send().await.unwrap().status(), 200);
    assert!(started.elapsed() >= Duration::from_millis(120));
    let hanging = tokio::spawn(client.get(format!("{}/blob", proxy.url())).send());
    let arrived = async {
        while proxy.hits().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), arrived).await.expect("the request arrives");
    assert!(!hanging.is_finished());
    proxy.clear();
    assert!(hanging.await.unwrap().is_err(), "a hanging request never gets an answer");
}

#[rstest]
#[case::put(Method::PUT, json!({"metadata": {"name": "cluster"}, "spec": {"replicas": 5}}), 200, 5)]
#[case::post(Method::POST, json!({"metadata": {"name": "cluster"}, "spec": {"replicas": 5}}), 201, 5)]
#[case::merge_patch(Method::PATCH, json!({"spec": {"replicas": 5}}), 200, 5)]
#[case::json_patch(Method::PATCH, json!([{"op": "replace", "path": "/spec/replicas", "value": 6}]), 200, 6)]
#[tokio::test]
async fn a_swallowed_write_looks_done_and_is_not(
    #[case] method: Method,
    #[case] body: Value,
    #[case] status: u16,
    #[case] replicas: u32,
) {
    let (proxy, client, seen) = proxy("  - act: {swallow: true}\n").await;
    let url = format!("{}/configs/cluster", proxy.url());
    let answer = client.request(method, &url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), status);
    let stored: Value = answer.json().await.unwrap();
    assert_eq!(stored["spec"]["replicas"], replicas);
    assert!(stored["metadata"]["uid"].is_string());
    assert!(seen.lock().unwrap().iter().all(|request| request.starts_with("GET")), "{seen:?}");
    assert_eq!(json_of(&client, url).await, object(), "reads pass");
}

#[tokio::test]
async fn a_stale_view_repeats_the_first_answer_and_its_watches_are_silent() {
    let (proxy, client, seen) = proxy("  - act: {stale: true}\n").await;
    let count = async || client.get(format!("{}/count", proxy.url())).send().await.unwrap().text().await.unwrap();
    assert_eq!([count().await, count().await, count().await], ["1", "1", "1"]);
    assert_eq!(seen.lock().unwrap().len(), 1);
    let watch = client.get(format!("{}/configs?watch=true", proxy.url())).send().await.unwrap();
    let mut events = watch.bytes_stream();
    assert!(tokio::time::timeout(Duration::from_millis(100), events.next()).await.is_err(), "no event comes");
    proxy.clear();
    assert!(events.next().await.is_none(), "the silent watch ends with the fault");
    assert_eq!(count().await, "2");
}

#[tokio::test]
async fn rules_count_and_wait_for_a_status() {
    let rules = "  - match: {path: ^/echo, after: 1, times: 2}\n    act: {status: 500}
  - match: {path: ^/nowhere, status: [404]}\n    act: {respond: {status: 200, body: found}}\n";
    let (proxy, client, _) = proxy(rules).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.get(format!("{}/echo", proxy.url())).send().await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [200, 500, 500, 200]);
    let found = client.get(format!("{}/nowhere", proxy.url())).send().await.unwrap();
    assert_eq!((found.status().as_u16(), found.text().await.unwrap()), (200, "found".to_owned()));
    assert_eq!(proxy.hits().len(), 3);
}

async fn next_event(
    events: &mut (impl futures::Stream<Item = reqwest::Result<Bytes>> + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<Value> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            return Some(serde_json::from_slice(&line).unwrap());
        }
        buffer.extend_from_slice(&events.next().await?.ok()?);
    }
}

#[tokio::test]
async fn watch_events_are_changed_and_a_new_fault_cuts_the_stream_and_makes_the_client_list_anew() {
    let (proxy, client, seen) = proxy("").await;
    let url = format!("{}/configs?watch=true&resourceVersion=7", proxy.url());
    let mut events = client.get(&url).send().await.unwrap().bytes_stream();
    let mut buffer = Vec::new();
    let first = next_event(&mut events, &mut buffer).await.unwrap();
    assert_eq!((&first["type"], &first["object"]["spec"]["replicas"]), (&json!("ADDED"), &json!(2)));

    proxy.set_faults(vec![fault("  - act: {response: {patch: [{op: remove, path: /spec/replicas}]}}\n")]);
    while next_event(&mut events, &mut buffer).await.is_some() {}
    let back = client.get(&url).send().await.unwrap().text().await.unwrap();
    let expired: Value = serde_json::from_str(back.trim()).unwrap();
    assert_eq!((&expired["type"], &expired["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(seen.lock().unwrap().len(), 1, "the old version is not asked for again");

    let mut events = client.get(&url).send().await.unwrap().bytes_stream();
    let mut buffer = Vec::new();
    let blind = next_event(&mut events, &mut buffer).await.unwrap();
    assert_eq!(blind["object"]["spec"], json!({"readOnly": true}));
    let bookmark = next_event(&mut events, &mut buffer).await.unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["spec"]["replicas"]), (&json!("BOOKMARK"), &json!(2)));
}

#[tokio::test]
async fn upgrades_pass_through_in_both_directions() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        assert!(String::from_utf8_lossy(&request[..length]).to_lowercase().contains("upgrade: shout"));
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word.map(|byte| byte.to_ascii_uppercase())).await.unwrap();
    });
    let proxy = FaultProxy::start(ProxyOptions::new(Upstream::http(address))).await.unwrap();
    let mut client = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    let head = "POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: shout\r\nContent-Length: 0\r\n\r\n";
    client.write_all(format!("{head}hello").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("HELLO"), "{answer}");
}

#[tokio::test]
async fn tls_is_terminated_and_spoken_to_the_real_server() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = rcgen::generate_simple_self_signed(["real.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = CertificateDer::from(key.cert.der().to_vec());
    let private = PrivateKeyDer::from_pem_slice(key.signing_key.serialize_pem().as_bytes()).unwrap();
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate.clone()], private).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let trust = Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());

    // The real server is a proxy of our own with TLS in front of the plain one.
    let (address, _) = upstream().await;
    let mut options = ProxyOptions::new(Upstream::http(address));
    options.server_tls = Some(Arc::new(server));
    let real = FaultProxy::start(options.clone()).await.unwrap();
    options.upstream = Upstream::https(real.address(), trust, "real.example");
    options.host = HostHeader::Set("real.example".to_owned());
    let front = FaultProxy::start(options).await.unwrap();

    let root = reqwest::Certificate::from_pem(key.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let answer = client.get(format!("{}/echo", front.url())).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.json::<Value>().await.unwrap()["host"], "real.example");
}

#[tokio::test]
async fn an_unreachable_server_is_a_502_that_says_so() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = FaultProxy::start(ProxyOptions::new(Upstream::http(free))).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(proxy.url()).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert!(answer.text().await.unwrap().contains(&format!("cannot reach {free}")));
    let address = proxy.address();
    proxy.stop().await;
    assert!(std::net::TcpListener::bind(address).is_ok(), "the port is free after the stop");
}
