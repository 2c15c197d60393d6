//! The operator with S3 storage against a server that keeps objects and checks signatures (versitygw).
//! Without that program in KUBEBUILDER_ASSETS or PATH these tests say so and end.

mod lane;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use api::names;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use lane::{Lane, message, platform, said, typed};
use serde_json::json;

const ACCESS: &str = "operator-test";
const SECRET: &str = "operator-test-secret";

/// A running versitygw whose buckets are folders.
struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = assets.into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join("versitygw")).find(|file| file.is_file())
}

impl Server {
    async fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let child = Command::new(program)
            .args(["--port", &format!("127.0.0.1:{port}"), "--health", "/health", "--quiet", "posix"])
            .arg(folder.path())
            .env("ROOT_ACCESS_KEY", ACCESS)
            .env("ROOT_SECRET_KEY", SECRET)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("versitygw starts");
        let server = Self { child, port, folder };
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let ready = async {
            while client.get(format!("{}/health", server.endpoint())).send().await.is_err() {
                // There is nothing to watch before the port is open.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("versitygw answers within 20 s");
        server
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn bucket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn give_keys(lane: &Lane, secret: &str) {
    let keys = json!({ "metadata": { "name": names::USER_STORAGE_SECRET }, "stringData": {
        "REGISTRY_STORAGE_S3_ACCESSKEY": ACCESS, "REGISTRY_STORAGE_S3_SECRETKEY": secret } });
    lane.api::<Secret>().create(&PostParams::default(), &typed(keys)).await.expect("the Secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_made_used_left_alone_and_deleted() {
    let Some(program) = program() else {
        eprintln!("not run: versitygw is neither in KUBEBUILDER_ASSETS nor in PATH");
        return;
    };
    let lane = Lane::start(platform("None")).await;
    let server = Server::start(&program).await;
    let operator = lane.operator();
    lane.until_says(&["Available True Removed"]).await;

    // A named bucket that is missing is the administrator's to make.
    give_keys(&lane, SECRET).await;
    let stanza = json!({ "bucket": "mine", "region": "us-east-1", "regionEndpoint": server.endpoint() });
    lane.patch(json!({ "managementState": "Managed", "storage": { "s3": stanza } })).await;
    let config = lane.until_says(&["StorageExists False NotFound", "Progressing True Error"]).await;
    assert!(message(&config, "Progressing").contains("S3 bucket mine"), "{}", message(&config, "Progressing"));
    std::fs::create_dir(server.bucket("mine")).expect("a bucket");
    let config = lane.until_says(&["StorageExists True S3 Bucket Exists", "Available True Ready"]).await;
    assert_eq!(serde_json::to_value(&config.spec.storage).unwrap()["managementState"], "Unmanaged");
    assert!(!said(&config).iter().any(|said| said.starts_with("StorageTagged")), "settings were touched");
    let deployment = lane.api::<Deployment>().get(names::REGISTRY).await.unwrap();
    let container = &deployment.spec.unwrap().template.spec.unwrap().containers[0];
    let value = |name: &str| container.env.as_ref()?.iter().find(|entry| entry.name == name).cloned();
    assert_eq!(value("REGISTRY_STORAGE_S3_BUCKET").unwrap().value.as_deref(), Some("mine"));
    assert!(value("REGISTRY_STORAGE_S3_SECRETKEY").unwrap().value_from.is_some());
    let copied = lane.api::<Secret>().get(names::STORAGE_SECRET).await.unwrap().data.unwrap();
    assert_eq!(copied["REGISTRY_STORAGE_S3_SECRETKEY"].0, SECRET.as_bytes());

    // It survives Removed.
    lane.patch(json!({ "managementState": "Removed" })).await;
    lane.until_says(&["Available True Removed", "Progressing False Removed"]).await;
    assert!(server.bucket("mine").is_dir());

    // A bucket without a name is made, configured as far as the server can, and goes with the registry.
    let stanza = json!({ "bucket": null, "region": "us-east-1", "regionEndpoint": server.endpoint() });
    lane.patch(json!({ "managementState": "Managed", "storage": { "managementState": null, "s3": stanza } })).await;
    let config = lane.until_says(&["StorageExists True Creation Successful", "Available True Ready"]).await;
    let bucket = config.spec.storage.s3.clone().unwrap().bucket;
    assert!(bucket.starts_with("lane-image-registry-us-east-1-"), "{bucket}");
    assert!(server.bucket(&bucket).is_dir());
    for condition in
        ["StorageTagged", "StorageEncrypted", "StoragePublicAccessBlocked", "StorageIncompleteUploadCleanupEnabled"]
    {
        assert!(said(&config).iter().any(|said| said.starts_with(condition)), "{:?}", said(&config));
        eprintln!("{condition}: {}", message(&config, condition));
    }
    std::fs::create_dir_all(server.bucket(&bucket).join("docker/registry")).unwrap();
    std::fs::write(server.bucket(&bucket).join("docker/registry/a b+c"), "blob").unwrap();
    lane.patch(json!({ "managementState": "Removed" })).await;
    let config = lane.until_says(&["StorageExists False S3 Bucket Deleted", "Progressing False Removed"]).await;
    assert!(!server.bucket(&bucket).exists());
    assert_eq!(config.spec.storage.s3.unwrap().bucket, "");
    operator.stop().await;
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_dead_endpoints_are_said() {
    let Some(program) = program() else {
        eprintln!("not run: versitygw is neither in KUBEBUILDER_ASSETS nor in PATH");
        return;
    };
    let lane = Lane::start(platform("None")).await;
    let server = Server::start(&program).await;
    std::fs::create_dir(server.bucket("mine")).expect("a bucket");
    let operator = lane.operator();
    lane.until_says(&["Available True Removed"]).await;
    give_keys(&lane, "wrong").await;
    let stanza = json!({ "bucket": "mine", "region": "us-east-1", "regionEndpoint": server.endpoint() });
    lane.patch(json!({ "managementState": "Managed", "storage": { "s3": stanza } })).await;
    lane.until_says(&["StorageExists False Forbidden", "Available False DeploymentNotFound"]).await;
    lane.patch(json!({ "storage": { "s3": { "regionEndpoint": "http://127.0.0.1:1" } } })).await;
    let config = lane.until_says(&["StorageExists Unknown Unknown Error Occurred"]).await;
    assert!(message(&config, "StorageExists").contains("refused"), "{}", message(&config, "StorageExists"));
    operator.stop().await;
    lane.stop().await;
}
