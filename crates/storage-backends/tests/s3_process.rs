//! The S3 server as a child process: buckets and objects through the view, wrong credentials refused, nothing left after the stop.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use harness::datafile::DataFile;
use harness::storage::Secret;
use local_cluster::ledger::ProcessIdentity;
use local_cluster::{Tool, tool};
use object_store::{ObjectStoreExt, PutPayload};
use storage_backends::{Error, S3Process, S3View, ServerCertificate, ServerOptions, StorageBackends, StorageOptions};

fn certificate(folder: &Path) -> ServerCertificate {
    let authority = local_cluster::pki::Authority::create(folder, "ca", "storage test").unwrap();
    let server = authority.issue_server("server", &["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    ServerCertificate { certificate: server.certificate, key: server.key, authority: authority.pem().to_owned() }
}

fn client(authority: &str) -> reqwest::Client {
    let certificate = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_made_filled_inspected_and_removed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let certificate = certificate(folder.path());
    let tools = tool::locate_all(&[Tool::VersityGw], |line| eprintln!("{line}")).await.unwrap();
    let server = S3Process::start(ServerOptions {
        program: tools.path(Tool::VersityGw).unwrap().to_owned(),
        dir: folder.path().join("s3"),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        region: "eu-test-1".to_owned(),
        certificate: certificate.clone(),
        ledger: None,
        ready_within: Duration::from_secs(20),
    })
    .await
    .unwrap();
    let endpoint = server.endpoint().clone();
    assert!(!format!("{endpoint:?}").contains(endpoint.secret_key.reveal()));

    let view = &endpoint.view;
    assert!(!view.has_bucket("images").await.unwrap());
    view.make_bucket("images").await.unwrap();
    assert!(view.has_bucket("images").await.unwrap());
    assert_eq!(view.keys("images").await.unwrap(), Vec::<String>::new());

    let client = client(&certificate.authority);
    let own = S3View::new(&endpoint.url, &endpoint.region, &endpoint.access_key, &endpoint.secret_key, client.clone());
    let key = "docker/registry/v2/blobs/sha256/ab/abc/data";
    let objects = own.objects("images").unwrap();
    objects.put(&key.into(), PutPayload::from_static(b"layer")).await.unwrap();
    assert_eq!(view.keys("images").await.unwrap(), [key]);
    assert_eq!(view.read("images", key).await.unwrap().as_deref(), Some(b"layer".as_slice()));
    assert_eq!(view.read("images", "nothing").await.unwrap(), None);

    let stranger = S3View::new(&endpoint.url, &endpoint.region, &endpoint.access_key, &Secret::new("wrong"), client);
    let refused = harness::storage::StorageView::keys(&stranger, "images").await.unwrap_err();
    assert!(format!("{refused:?}").contains("SignatureDoesNotMatch"), "{refused:?}");

    let accesses = server.accesses().unwrap();
    assert!(
        accesses.iter().any(|access| access.operation.contains("PutObject") && access.key.is_some()),
        "{accesses:?}"
    );
    assert!(accesses.iter().any(|access| access.error.as_deref() == Some("SignatureDoesNotMatch")), "{accesses:?}");

    // A bucket with an upload that nobody finished can be removed as well.
    object_store::multipart::MultipartStore::create_multipart(&objects, &"open".into()).await.unwrap();
    view.remove_bucket("images").await.unwrap();
    assert!(!view.has_bucket("images").await.unwrap());

    let process = ProcessIdentity::of(server.child().pid()).unwrap();
    server.stop(Duration::from_secs(3)).await.unwrap();
    assert!(!process.is_alive());
    assert!(!folder.path().join("s3/data").exists() && folder.path().join("s3/access.log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_started_once_and_unknown_or_impossible_ones_say_so() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let tools = tool::locate_all(&[Tool::VersityGw], |line| eprintln!("{line}")).await.unwrap();
    let files = ["s3-local.yaml", "s3-container.yaml"].map(|name| {
        let path = format!("{}/../../backends/{name}", env!("CARGO_MANIFEST_DIR"));
        DataFile::new(format!("backends/{name}"), std::fs::read_to_string(path).unwrap())
    });
    let options = StorageOptions::new(files.into(), tools, folder.path(), certificate(folder.path()));
    let backends = StorageBackends::new(options).unwrap();
    let first = backends.endpoint("s3-local").await.unwrap();
    let second = backends.endpoint("s3-local").await.unwrap();
    assert_eq!((&first.url, &first.access_key), (&second.url, &second.access_key));
    let unknown = backends.endpoint("tape").await.unwrap_err().to_string();
    assert_eq!(unknown, "there is no storage backend \"tape\"; there are: s3-container, s3-local");
    // Whether this machine has a container engine or not, the answer is a value that says what was seen.
    match backends.endpoint("s3-container").await {
        Ok(endpoint) => assert!(endpoint.url.starts_with("https://")),
        Err(error @ Error::NoContainers { .. }) => assert!(error.to_string().contains("start Docker"), "{error}"),
        Err(error @ Error::NoImage { .. }) => assert!(error.to_string().contains("ci/air-gap"), "{error}"),
        Err(error @ Error::Container { .. }) => assert!(error.to_string().contains("minio"), "{error}"),
        Err(error) => panic!("{error}"),
    }
    backends.close(Duration::from_secs(3)).await.unwrap();
}
