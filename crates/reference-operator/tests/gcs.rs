//! The operator with storage in Google Cloud Storage, against fake-gcs-server: buckets are made, used, left alone, deleted.
//! Without that program, Go to build it, or openssl to make a key, this test says so and ends.

mod lane;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use api::names;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use lane::{Lane, message, platform, typed};
use local_cluster::port::ReservedPort;
use local_cluster::{Child, ChildOptions, Tool, tool};
use serde_json::{Value, json};

const KEY: &str = "REGISTRY_STORAGE_GCS_KEYFILE";

struct Server {
    _child: Child,
    address: SocketAddr,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Option<Self> {
        let tools = match tool::locate_all(&[Tool::FakeGcsServer], |line| eprintln!("{line}")).await {
            Ok(tools) => tools,
            Err(error) => {
                eprintln!("not run: {error}");
                return None;
            }
        };
        let folder = tempfile::tempdir().expect("a folder");
        let port = ReservedPort::near([127, 0, 0, 1].into(), 24200).expect("a port");
        let address = port.address();
        let program = tools.path(Tool::FakeGcsServer).expect("it was located");
        let mut child = ChildOptions::new("fake-gcs-server", program, folder.path().join("log"));
        let number = address.port().to_string();
        child.args =
            ["-scheme", "http", "-host", "127.0.0.1", "-port", &number, "-backend", "memory"].map(Into::into).into();
        port.release();
        let child = Child::spawn(child).await.expect("fake-gcs-server starts");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let server = Self { _child: child, address, http, _folder: folder };
        let ready = async {
            while server.bucket("any").await.is_none() {
                // There is nothing to watch before the port is open.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("fake-gcs-server answers within 20 s");
        Some(server)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and description of a bucket; nothing while nobody answers.
    async fn bucket(&self, name: &str) -> Option<(u16, Value)> {
        let answer = self.http.get(self.url(&format!("/storage/v1/b/{name}"))).send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }

    async fn make(&self, name: &str) {
        let made = self.http.post(self.url("/storage/v1/b?project=p")).json(&json!({ "name": name })).send().await;
        assert!(made.expect("an answer").status().is_success());
    }
}

fn key_file() -> Option<String> {
    let made = Command::new("openssl")
        .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .stderr(Stdio::null())
        .output();
    let Ok(made) = made else {
        eprintln!("not run: openssl cannot be run, which makes the key of a service account");
        return None;
    };
    let email = "registry@p.iam.gserviceaccount.com";
    let pem = String::from_utf8(made.stdout).expect("PEM");
    Some(json!({ "private_key": pem, "private_key_id": "1", "client_email": email }).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_made_used_left_alone_and_deleted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (Some(server), Some(key)) = (Server::start().await, key_file()) else { return };
    let lane = Lane::start(platform("None")).await;
    let operator = lane.operator_with(&server.url(""));
    lane.until_says(&["Available True Removed"]).await;

    // Without credentials, and with a Secret that lacks the key, the condition says so.
    lane.patch(json!({ "managementState": "Managed", "storage": { "gcs": { "bucket": "mine" } } })).await;
    let config = lane.until_says(&["StorageExists Unknown Unknown Error Occurred", "Progressing True Error"]).await;
    assert!(message(&config, "StorageExists").contains("unable to get cluster minted credentials"));
    let user = |data: Value| typed(json!({ "metadata": { "name": names::USER_STORAGE_SECRET }, "stringData": data }));
    lane.api::<Secret>().create(&PostParams::default(), &user(json!({ KEY: key }))).await.expect("the Secret");

    // A named bucket that is missing is the administrator's to make.
    let config = lane.until_says(&["StorageExists False Bucket does not exist", "Progressing True Error"]).await;
    assert!(message(&config, "Progressing").contains("mine"), "{}", message(&config, "Progressing"));
    server.make("mine").await;
    let config = lane.until_says(&["StorageExists True GCS Bucket Exists", "Available True Ready"]).await;
    assert_eq!(serde_json::to_value(&config.spec.storage).unwrap()["managementState"], "Unmanaged");
    let deployment = lane.api::<Deployment>().get(names::REGISTRY).await.unwrap();
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    let value = |name: &str| pod.containers[0].env.as_ref()?.iter().find(|entry| entry.name == name)?.value.clone();
    assert_eq!(value("REGISTRY_STORAGE").as_deref(), Some("gcs"));
    assert_eq!(value("REGISTRY_STORAGE_GCS_BUCKET").as_deref(), Some("mine"));
    assert_eq!(value(KEY).as_deref(), Some("/gcs/keyfile"));
    let mounts = pod.containers[0].volume_mounts.clone().unwrap_or_default();
    assert!(mounts.iter().any(|mount| mount.mount_path == "/gcs"));
    let copied = lane.api::<Secret>().get(names::STORAGE_SECRET).await.unwrap().data.unwrap();
    assert_eq!(copied[KEY].0, key.as_bytes());

    // It survives Removed.
    lane.patch(json!({ "managementState": "Removed" })).await;
    lane.until_says(&["Available True Removed", "Progressing False Removed"]).await;
    assert_eq!(server.bucket("mine").await.unwrap().0, 200);

    // A bucket without a name is made, labelled, and goes with the registry.
    let stanza = json!({ "bucket": null, "region": "europe-west1", "projectID": "p" });
    lane.patch(json!({ "managementState": "Managed", "storage": { "managementState": null, "gcs": stanza } })).await;
    let config = lane.until_says(&["StorageExists True Creation Successful", "Available True Ready"]).await;
    let bucket = config.spec.storage.gcs.clone().unwrap().bucket;
    assert!(bucket.starts_with("lane-image-registry-europe-west1-"), "{bucket}");
    lane.until_says(&["StorageLabeled True Bucket Labeled Successfully"]).await;
    assert_eq!(server.bucket(&bucket).await.unwrap().0, 200);
    lane.patch(json!({ "managementState": "Removed" })).await;
    lane.until_says(&["StorageExists False GCS Bucket Deleted"]).await;
    assert_eq!(server.bucket(&bucket).await.unwrap().0, 404);
    operator.stop().await;
    lane.stop().await;
}
