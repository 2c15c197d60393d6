//! The registry on sockets: TLS with HTTP/2, a certificate that is replaced while serving, memory that does not follow the layer,
//! a stop that lets uploads finish, limits, and starts that fail with one clear error.

mod desk;

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use desk::Desk;
use futures::{SinkExt, StreamExt, channel::mpsc};
use reference_registry::{
    Error, Options,
    digest::{Algorithm, Digest, Hasher},
    server::{self, Tls},
    settings::TlsFiles,
};
use reqwest::StatusCode;
use rstest::rstest;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const NAME: &str = "registry.test";

struct Served {
    desk: Desk,
    addr: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Served {
    async fn start(desk: Desk, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server::serve(desk.registry.clone(), listener, tls, stop.clone()));
        Self { desk, addr, stop, serving }
    }

    /// Waits until a request is being served.
    async fn is_busy(&self) {
        let busy = async {
            while !self.desk.registry.metrics.text().contains("imageregistry_http_in_flight_requests 1") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), busy).await.expect("a running request");
    }

    /// Begins an upload and gives its address.
    async fn upload(&self) -> String {
        let url = format!("http://{}/v2/project/image/blobs/uploads/", self.addr);
        let begun = reqwest::Client::new().post(url).bearer_auth("editor-token").send().await.unwrap();
        assert_eq!(begun.status(), 202);
        begun.headers()["location"].to_str().unwrap().to_owned()
    }
}

/// Writes a certificate for [`NAME`] and gives its PEM, which is its own authority.
fn certificate(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
    made.cert.pem()
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        only_tls13: false,
        cipher_suites: vec![],
    }
}

async fn ask(pem: &str, addr: SocketAddr) -> reqwest::Result<reqwest::Response> {
    let url = format!("https://{NAME}:{}/healthz", addr.port());
    client(pem, addr).get(url).send().await
}

fn client(pem: &str, addr: SocketAddr) -> reqwest::Client {
    let authority = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    reqwest::Client::builder().tls_certs_only([authority]).resolve(NAME, addr).no_proxy().build().unwrap()
}

#[tokio::test]
async fn http2_over_tls_and_a_new_certificate_without_restart() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new();
    let old = certificate(folder.path());
    let served = Served::start(desk, Some(Tls::load(&files(folder.path())).unwrap())).await;
    assert_eq!(ask(&old, served.addr).await.unwrap().version(), http::Version::HTTP_2);
    let url = format!("https://{NAME}:{}/v2/project/image/blobs/{}", served.addr.port(), Digest::of(b"x"));
    for (token, status) in [("unknown", 401), ("viewer-token", 404)] {
        let head = client(&old, served.addr).head(&url).bearer_auth(token).send().await.unwrap();
        assert_eq!((head.version(), head.status().as_u16()), (http::Version::HTTP_2, status));
        assert_ne!(head.headers()["content-length"], "0");
        assert_eq!(head.bytes().await.unwrap(), "");
    }
    let new = certificate(folder.path());
    let replaced = async {
        while ask(&new, served.addr).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), replaced).await.expect("the new certificate is served");
    assert!(ask(&old, served.addr).await.is_err());
    served.stop.cancel();
    served.serving.await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_a_running_upload_finish() {
    let served = Served::start(Desk::new(), None).await;
    let location = served.upload().await;
    let (mut send, receive) = mpsc::channel::<std::io::Result<Bytes>>(0);
    let body = reqwest::Body::wrap_stream(receive);
    let request = reqwest::Client::new().patch(location).bearer_auth("editor-token").body(body);
    let uploading = tokio::spawn(request.send());
    send.send(Ok(Bytes::from_static(b"before "))).await.unwrap();
    served.is_busy().await;
    served.stop.cancel();
    send.send(Ok(Bytes::from_static(b"after"))).await.unwrap();
    drop(send);
    let answer = uploading.await.unwrap().unwrap();
    assert_eq!((answer.status(), answer.headers()["range"].to_str().unwrap()), (StatusCode::ACCEPTED, "0-11"));
    served.serving.await.unwrap();
    assert!(tokio::net::TcpStream::connect(served.addr).await.is_err());
}

#[tokio::test]
async fn a_layer_passes_through_in_both_directions_without_staying_in_memory() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 192;
    let served = Served::start(Desk::new(), None).await;
    let location = served.upload().await;
    let piece = Bytes::from((0..PIECE).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let mut hasher = Hasher::new(Algorithm::Sha256);
    (0..PIECES).for_each(|_| hasher.update(&piece));
    let digest = hasher.finish();
    let before = resident_bytes();
    let content = futures::stream::iter((0..PIECES).map(move |_| std::io::Result::Ok(piece.clone())));
    let client = reqwest::Client::new();
    let put = client.put(format!("{location}&digest={digest}")).bearer_auth("editor-token");
    let put = put.body(reqwest::Body::wrap_stream(content)).send().await.unwrap();
    assert_eq!(put.status(), 201);
    let url = format!("http://{}/v2/project/image/blobs/{digest}", served.addr);
    let mut got = client.get(url).bearer_auth("viewer-token").send().await.unwrap().bytes_stream();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    while let Some(piece) = got.next().await {
        hasher.update(&piece.unwrap());
    }
    assert_eq!(hasher.finish(), digest);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 96 << 20, "the process grew by {grown} bytes over a layer of {} bytes", PIECE * PIECES);
    drop(served.desk);
    served.stop.cancel();
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_request_over_the_limit_is_told_to_come_back() {
    let desk = Desk::with(&[("REGISTRY_OPENSHIFT_REQUESTS_WRITE_MAXRUNNING", "1")]);
    let served = Served::start(desk, None).await;
    let location = served.upload().await;
    let (mut send, receive) = mpsc::channel::<std::io::Result<Bytes>>(0);
    let body = reqwest::Body::wrap_stream(receive);
    let running = tokio::spawn(reqwest::Client::new().patch(location).bearer_auth("editor-token").body(body).send());
    send.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
    served.is_busy().await;
    let url = format!("http://{}/v2/project/image/blobs/uploads/", served.addr);
    let refused = reqwest::Client::new().post(&url).bearer_auth("editor-token").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.text().await.unwrap(), "Too many requests, please try again later.\n");
    let health = reqwest::get(format!("http://{}/healthz", served.addr)).await.unwrap();
    assert_eq!(health.status(), 200);
    drop(send);
    assert_eq!(running.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
    served.stop.cancel();
    served.serving.await.unwrap();
}

#[rstest]
#[case(Some("none.yml"), "none.yml")]
#[case(None, "REGISTRY_")]
#[tokio::test]
async fn a_start_that_cannot_work_says_why(#[case] file: Option<&str>, #[case] words: &str) {
    let options = Options { config: file.map(Into::into) };
    let error = reference_registry::run(options, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::Setting(_)), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn unusable_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |what: &str| {
        let error = Tls::load(&files(folder.path())).err().expect("an error").to_string();
        assert!(error.contains(what), "{error}");
    };
    error("REGISTRY_HTTP_TLS_CERTIFICATE");
    certificate(folder.path());
    std::fs::write(folder.path().join("tls.key"), "rubbish").unwrap();
    error("REGISTRY_HTTP_TLS_KEY");
    let mut files = files(folder.path());
    files.cipher_suites = vec!["TLS_NULL_WITH_NULL_NULL".into()];
    assert!(Tls::load(&files).is_err());
}
