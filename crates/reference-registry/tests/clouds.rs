//! The registry over Google Cloud Storage and Azure Blob Storage: blobs arrive whole, uploads go on with another replica,
//! nothing is left beside them. The servers are fake-gcs-server and Azurite as child processes of the test; what a machine
//! cannot run (no openssl, no Node) is told on standard error and left out.

mod desk;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use desk::{Desk, path};
use http::Method;
use local_cluster::{Child, ChildOptions, Tool, npm, port::ReservedPort, tool};
use reference_registry::{
    digest::Digest,
    settings::{AzureSettings, GcsSettings},
    storage::{Driver, azure, gcs},
};
use rstest::rstest;

const REPOSITORY: &str = "project/image";
const MIB: usize = 1 << 20;
const ACCOUNT: &str = "registryaccount";
const ACCOUNT_KEY: &str = "dGhlIGtleSBvZiBhbiBhY2NvdW50IHRoYXQgbGl2ZXMgZm9yIG9uZSB0ZXN0";

/// How many servers were started, and one more.
static SERVERS: AtomicU8 = AtomicU8::new(1);

/// A server, and a bucket `images` in it.
struct Cloud {
    folder: tempfile::TempDir,
    address: SocketAddr,
    kind: Kind,
    _server: Child,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Google,
    Azure,
}

impl Cloud {
    /// `None` where the machine cannot run it.
    async fn start(kind: Kind) -> Option<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (program, script) = match kind {
            Kind::Google => {
                if !make_key(&folder.path().join("key.pem")) {
                    eprintln!("left out: openssl cannot be run, which makes the key of a service account");
                    return None;
                }
                let tools = tool::locate_all(&[Tool::FakeGcsServer], |line| eprintln!("{line}")).await.unwrap();
                (tools.path(Tool::FakeGcsServer).unwrap().to_owned(), None)
            }
            Kind::Azure => {
                if let Err(why) = npm::can_be_had() {
                    eprintln!("left out: {why}");
                    return None;
                }
                let script = npm::obtain(&npm::AZURITE, |line| eprintln!("{line}")).await.unwrap();
                (PathBuf::from("node"), Some(script))
            }
        };
        // An address of its own: a port that was let go for one server would be found free by the next until it listens.
        let host = [127, 80, 0, SERVERS.fetch_add(1, Ordering::Relaxed)];
        let port = ReservedPort::near(host.into(), 24000).unwrap();
        let address = port.address();
        let (host, number) = (address.ip().to_string(), address.port().to_string());
        let mut child = ChildOptions::new("cloud", program, folder.path().join("server.log"));
        child.args = match script {
            None => ["-scheme", "http", "-host", &host, "-port", &number, "-public-host", &host]
                .iter()
                .chain(&["-backend", "memory"])
                .map(Into::into)
                .collect(),
            Some(script) => std::iter::once(script.into())
                .chain(["--blobHost", &host, "--blobPort", &number].map(Into::into))
                .chain(["--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"].map(Into::into))
                .collect(),
        };
        child.env = vec![("AZURITE_ACCOUNTS".into(), format!("{ACCOUNT}:{ACCOUNT_KEY}").into())];
        port.release();
        let server = Child::spawn(child).await.unwrap();
        let cloud = Self { folder, address, kind, _server: server };
        let up = async {
            while cloud.make_bucket().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), up).await.expect("the server answers within 120 s");
        Some(cloud)
    }

    async fn make_bucket(&self) -> Result<(), String> {
        let client = reqwest::Client::new();
        let request = match self.kind {
            Kind::Google => client
                .post(format!("http://{}/storage/v1/b?project=p", self.address))
                .json(&serde_json::json!({"name": "images"})),
            Kind::Azure => {
                let url = format!("http://{}/{ACCOUNT}/images?restype=container", self.address);
                let mut request =
                    object_store::client::HttpRequest::new(object_store::client::HttpRequestBody::empty());
                *request.method_mut() = Method::PUT;
                *request.uri_mut() = url.parse().unwrap();
                request.headers_mut().insert("content-length", 0.into());
                let key = object_store::azure::AzureAccessKey::try_new(ACCOUNT_KEY).unwrap();
                let credential = object_store::azure::AzureCredential::AccessKey(key);
                object_store::azure::AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).unwrap();
                client.put(url).headers(request.headers().clone())
            }
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    }

    fn driver(&self) -> Arc<dyn Driver> {
        match self.kind {
            Kind::Google => Arc::new(gcs::open(&self.gcs()).unwrap()),
            Kind::Azure => Arc::new(azure::open(&self.azure()).unwrap()),
        }
    }

    fn gcs(&self) -> GcsSettings {
        let pem = std::fs::read_to_string(self.folder.path().join("key.pem")).unwrap();
        let key = serde_json::json!({
            "type": "service_account", "private_key": pem, "private_key_id": "1",
            "client_email": "registry@project.iam.gserviceaccount.com",
        });
        let key_file = self.folder.path().join("keyfile");
        std::fs::write(&key_file, key.to_string()).unwrap();
        GcsSettings {
            bucket: "images".into(),
            key_file,
            root: "sub".into(),
            chunk_bytes: 6 << 20,
            endpoint: format!("http://{}", self.address),
        }
    }

    fn azure(&self) -> AzureSettings {
        AzureSettings {
            account_name: ACCOUNT.into(),
            account_key: ACCOUNT_KEY.into(),
            container: "images".into(),
            service_url: Some(format!("http://{}/{ACCOUNT}", self.address)),
            root: "sub".into(),
            ..AzureSettings::default()
        }
    }
}

fn make_key(path: &std::path::Path) -> bool {
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(path)
        .stderr(Stdio::inherit())
        .status();
    made.is_ok_and(|status| status.success())
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_many_shapes_arrive_whole_even_when_every_chunk_meets_another_replica(
    #[values(Kind::Google, Kind::Azure)] kind: Kind,
) {
    let shapes: [&[usize]; 6] =
        [&[0], &[3], &[2 * MIB, 2 * MIB, 3 * MIB], &[7 * MIB, 1], &[13 * MIB], &[5 * MIB + 1, 5 * MIB, 0, 2 * MIB]];
    let Some(cloud) = Cloud::start(kind).await else { return };
    for chunks in shapes {
        let repository = format!("{REPOSITORY}-{}", chunks.len());
        let mut desk = Desk::with(&[("REGISTRY_STORAGE_REDIRECT_DISABLE", "true")]).on(cloud.driver());
        let whole = content(chunks.iter().sum());
        let digest = Digest::of(&whole);
        let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{repository}/blobs/uploads/"), "").await;
        assert_eq!(begun.status, 202, "{chunks:?}: {begun:?}");
        let mut location = path(begun.header("location")).to_owned();
        let mut offset = 0;
        for chunk in chunks {
            desk = desk.on(cloud.driver());
            let piece = whole[offset..offset + chunk].to_vec();
            let patched = desk.ask("editor-token", Method::PATCH, &location, piece).await;
            assert_eq!(patched.status, 202, "{chunks:?}: {patched:?}");
            location = path(patched.header("location")).to_owned();
            offset += chunk;
        }
        let desk = desk.on(cloud.driver());
        let done = desk.ask("editor-token", Method::PUT, &format!("{location}&digest={digest}"), "").await;
        assert_eq!(done.status, 201, "{chunks:?}: {done:?}");
        let got = desk.ask("viewer-token", Method::GET, &format!("/v2/{repository}/blobs/{digest}"), "").await;
        assert_eq!(got.status, 200);
        assert!(got.body == whole, "{chunks:?}: {} bytes came back", got.body.len());
        // Of the upload nothing is left.
        let links = cloud.driver().walk(&format!("docker/registry/v2/repositories/{repository}")).await.unwrap();
        let hex = digest.hex();
        let link = format!("docker/registry/v2/repositories/{repository}/_layers/sha256/{hex}/link");
        assert!(links.contains(&link) && links.iter().all(|path| path.ends_with("/link")), "{links:?}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_in_part_moved_and_removed(#[values(Kind::Google, Kind::Azure)] kind: Kind) {
    let Some(cloud) = Cloud::start(kind).await else { return };
    let driver = cloud.driver();
    driver.probe().await.unwrap();
    assert_eq!(driver.size("a/b").await.unwrap(), None);
    assert!(driver.get("a/b").await.unwrap_err().is_not_found());
    assert!(driver.remove("a").await.unwrap_err().is_not_found());
    driver.put("a/b", "0123456789".into()).await.unwrap();
    driver.put("a/d+ä %", "x".into()).await.unwrap();
    assert_eq!(driver.size("a/b").await.unwrap(), Some(10));
    assert_eq!(driver.get("a/b").await.unwrap(), "0123456789");
    let part = driver.read("a/b", 3..7).await.unwrap();
    let part: Vec<_> = futures::TryStreamExt::try_collect(part).await.unwrap();
    assert_eq!(part.concat(), b"3456");
    driver.rename("a/b", "c/e", 10).await.unwrap();
    assert_eq!(driver.size("a/b").await.unwrap(), None);
    assert_eq!(driver.walk("a").await.unwrap(), ["a/d+ä %"]);
    assert_eq!(driver.walk("c").await.unwrap(), ["c/e"]);
    driver.remove("c").await.unwrap();
    assert!(driver.walk("c").await.unwrap_err().is_not_found());
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upload_leaves_nothing(#[values(Kind::Google, Kind::Azure)] kind: Kind) {
    let Some(cloud) = Cloud::start(kind).await else { return };
    let desk = Desk::new().on(cloud.driver());
    let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), "").await;
    let patched = desk.ask("editor-token", Method::PATCH, path(begun.header("location")), content(7 * MIB)).await;
    let cancelled = desk.ask("editor-token", Method::DELETE, path(patched.header("location")), "").await;
    assert_eq!(cancelled.status, 204, "{cancelled:?}");
    assert!(cloud.driver().walk("docker").await.unwrap_err().is_not_found());
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_or_a_wrong_key_fails_the_probe(#[values(Kind::Google, Kind::Azure)] kind: Kind) {
    let Some(cloud) = Cloud::start(kind).await else { return };
    let wrong: Arc<dyn Driver> = match kind {
        Kind::Google => Arc::new(gcs::open(&GcsSettings { bucket: "nowhere".into(), ..cloud.gcs() }).unwrap()),
        Kind::Azure => {
            let settings = AzureSettings { account_key: "d3Jvbmcga2V5".into(), ..cloud.azure() };
            Arc::new(azure::open(&settings).unwrap())
        }
    };
    assert!(wrong.probe().await.is_err());
    let desk = Desk::new().on(wrong);
    let begun = desk.ask("editor-token", Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), "").await;
    assert_eq!((begun.status.as_u16(), begun.code().as_str()), (500, "UNKNOWN"));
}

#[test]
fn a_key_file_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("keyfile");
    std::fs::write(&key_file, "not JSON").unwrap();
    let settings = GcsSettings {
        bucket: "images".into(),
        key_file,
        root: String::new(),
        chunk_bytes: 5 << 20,
        endpoint: "https://storage.googleapis.com".into(),
    };
    let error = gcs::open(&settings).err().expect("no key, no store");
    assert!(error.contains("REGISTRY_STORAGE_GCS_KEYFILE="), "{error}");
}
