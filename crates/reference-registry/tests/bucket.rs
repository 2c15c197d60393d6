//! The registry over S3: the bucket holds what was pushed, uploads go on across restarts, and redirects lead into the bucket.
//! The server is s3s-fs in this process, which checks every signature.

mod desk;

use std::{net::SocketAddr, sync::Arc};

use desk::{Desk, path};
use http::Method;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reference_registry::{
    digest::Digest,
    settings::S3Settings,
    storage::{Driver, s3},
};
use rstest::rstest;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};

const REPOSITORY: &str = "project/image";
const MIB: usize = 1 << 20;

struct Bucket {
    addr: SocketAddr,
    folder: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Bucket {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("images")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A client that goes away ends its connection with an error.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { addr, folder, server }
    }

    fn settings(&self) -> S3Settings {
        S3Settings {
            bucket: "images".into(),
            region: "us-east-1".into(),
            endpoint: Some(format!("http://{}", self.addr)),
            access_key: Some("key".into()),
            secret_key: Some("secret".into()),
            path_style: true,
            root: "sub".into(),
            chunk_bytes: 6 << 20,
            ..S3Settings::default()
        }
    }

    fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(s3::open(&self.settings()).unwrap())
    }

    fn objects(&self) -> Vec<String> {
        let mut open = vec![self.folder.path().join("images")];
        let mut found = Vec::new();
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.path().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
            }
        }
        let name = |path: &std::path::Path| path.strip_prefix(self.folder.path()).unwrap().display().to_string();
        let mut found: Vec<_> = found.iter().map(|path| name(path)).filter(|name| !name.contains("/.")).collect();
        found.sort();
        found
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[rstest]
#[case(&[0])]
#[case(&[3])]
#[case(&[2 * MIB, 2 * MIB, 3 * MIB])]
#[case(&[7 * MIB, 1])]
#[case(&[13 * MIB])]
#[case(&[5 * MIB + 1, 5 * MIB, 0, 2 * MIB])]
#[tokio::test]
async fn uploads_of_many_shapes_arrive_whole_even_when_every_chunk_meets_another_replica(#[case] chunks: &[usize]) {
    let bucket = Bucket::start().await;
    let mut desk = Desk::with(&[("REGISTRY_STORAGE_REDIRECT_DISABLE", "true")]).on(bucket.driver());
    let whole = content(chunks.iter().sum());
    let digest = Digest::of(&whole);
    let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), "").await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let mut location = path(begun.header("location")).to_owned();
    let mut offset = 0;
    for chunk in chunks {
        desk = desk.on(bucket.driver());
        let piece = whole[offset..offset + chunk].to_vec();
        let patched = desk.ask("editor-token", Method::PATCH, &location, piece).await;
        assert_eq!(patched.status, 202, "{patched:?}");
        location = path(patched.header("location")).to_owned();
        offset += chunk;
    }
    let desk = desk.on(bucket.driver());
    let done = desk.ask("editor-token", Method::PUT, &format!("{location}&digest={digest}"), "").await;
    assert_eq!(done.status, 201, "{done:?}");
    let uri = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let got = desk.ask("viewer-token", Method::GET, &uri, "").await;
    assert_eq!(got.status, 200);
    assert!(got.body == whole, "{} bytes came back", got.body.len());
    let hex = digest.hex();
    assert_eq!(
        bucket.objects(),
        [
            format!("images/sub/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]),
            format!("images/sub/docker/registry/v2/repositories/{REPOSITORY}/_layers/sha256/{hex}/link"),
        ]
    );
}

#[tokio::test]
async fn a_blob_is_fetched_from_the_bucket_by_a_signed_redirect() {
    let bucket = Bucket::start().await;
    let desk = Desk::new().on(bucket.driver());
    let digest = desk.push_blob(REPOSITORY, b"layer").await;
    let uri = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let sent = desk.ask("viewer-token", Method::GET, &uri, "").await;
    assert_eq!(sent.status, 307);
    let location = sent.header("location").to_owned();
    let got = reqwest::get(&location).await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "layer");
    let tampered = reqwest::get(location.replace("X-Amz-Expires=1200", "X-Amz-Expires=1201")).await.unwrap();
    assert_eq!(tampered.status(), 403);
}

#[tokio::test]
async fn wrong_keys_fail_the_request_and_the_probe() {
    let bucket = Bucket::start().await;
    let settings = S3Settings { secret_key: Some("wrong".into()), ..bucket.settings() };
    let driver = s3::open(&settings).unwrap();
    assert!(driver.probe().await.is_err());
    let desk = Desk::new().on(Arc::new(driver));
    let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), "").await;
    assert_eq!((begun.status.as_u16(), begun.code().as_str()), (500, "UNKNOWN"));
}

#[tokio::test]
async fn a_cancelled_upload_leaves_nothing() {
    let bucket = Bucket::start().await;
    let desk = Desk::new().on(bucket.driver());
    let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), "").await;
    let patched = desk.ask("editor-token", Method::PATCH, path(begun.header("location")), content(7 * MIB)).await;
    let cancelled = desk.ask("editor-token", Method::DELETE, path(patched.header("location")), "").await;
    assert_eq!(cancelled.status, 204, "{cancelled:?}");
    assert_eq!(bucket.objects(), Vec::<String>::new());
}
