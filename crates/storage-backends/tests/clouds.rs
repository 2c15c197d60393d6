//! The Google and Azure servers as child processes: containers through the view, wrong credentials refused, nothing left
//! after the stop. What a machine cannot run (no openssl, no Node) is told on standard error and left out.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use harness::datafile::DataFile;
use harness::storage::StorageEndpoint;
use local_cluster::{npm, tool};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig};
use reqwest::StatusCode;
use storage_backends::{ServerCertificate, StorageBackends, StorageOptions, service_accounts_can_be_made};

fn certificate(folder: &Path) -> ServerCertificate {
    let authority = local_cluster::pki::Authority::create(folder, "ca", "storage test").unwrap();
    let mut names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    names.extend(storage_backends::server_names());
    let server = authority.issue_server("server", &names).unwrap();
    ServerCertificate { certificate: server.certificate, key: server.key, authority: authority.pem().to_owned() }
}

fn backends(folder: &Path) -> StorageBackends {
    let files = ["gcs-local.yaml", "azure-local.yaml"].map(|name| {
        let path = format!("{}/../../backends/{name}", env!("CARGO_MANIFEST_DIR"));
        DataFile::new(format!("backends/{name}"), std::fs::read_to_string(path).unwrap())
    });
    let tools = tool::Tools::default();
    StorageBackends::new(StorageOptions::new(files.into(), tools, folder, certificate(folder))).unwrap()
}

/// A client that finds the cloud's host names where the endpoint is.
fn client(endpoint: &StorageEndpoint) -> reqwest::Client {
    let certificate = reqwest::Certificate::from_pem(endpoint.ca.as_ref().unwrap().as_bytes()).unwrap();
    let address = endpoint.address.unwrap();
    assert_eq!(address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]);
    let hosts = endpoint.hosts.iter().map(|host| host.trim_end_matches(":443"));
    hosts.fold(builder, |builder, host| builder.resolve(host, address)).build().unwrap()
}

#[derive(Debug)]
struct Found(reqwest::Client);

impl object_store::client::HttpConnector for Found {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<object_store::client::HttpClient> {
        Ok(object_store::client::HttpClient::new(self.0.clone()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn google_buckets_open_to_the_service_account_alone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Err(why) = service_accounts_can_be_made() {
        return eprintln!("left out: {why}");
    }
    let folder = tempfile::tempdir().unwrap();
    let backends = backends(folder.path());
    let endpoint = backends.endpoint("gcs").await.unwrap();
    let view = &endpoint.view;
    assert!(!view.has_bucket("images").await.unwrap());
    view.make_bucket("images").await.unwrap();
    assert!(view.has_bucket("images").await.unwrap());

    let client = client(&endpoint);
    let upload = "https://storage.googleapis.com/upload/storage/v1/b/images/o?uploadType=media&name=a%2Fb";
    let anonymous = client.post(upload).body("layer").send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    let stranger = client.post(upload).bearer_auth("ya29.unknown").body("layer").send().await.unwrap();
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);

    let store = GoogleCloudStorageBuilder::new()
        .with_service_account_key(endpoint.secret_key.reveal())
        .with_bucket_name("images")
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .with_http_connector(Found(client.clone()))
        .build()
        .unwrap();
    let token = store.credentials().get_credential().await.unwrap();
    let sent = client.post(upload).bearer_auth(&token.bearer).body("layer").send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::OK, "{}", sent.text().await.unwrap());
    assert_eq!(view.keys("images").await.unwrap(), ["a/b"]);
    assert_eq!(view.read("images", "a/b").await.unwrap().as_deref(), Some(b"layer".as_slice()));
    assert_eq!(view.read("images", "nothing").await.unwrap(), None);
    assert_eq!(store.get(&"a/b".into()).await.unwrap().bytes().await.unwrap(), "layer");

    // A token for a signed assertion, as Google's own clients ask for one.
    let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &token.bearer)];
    let answer = client.post("https://oauth2.googleapis.com/token").form(&form).send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    let bearer = answer["access_token"].as_str().unwrap();
    let listed = client.get("https://storage.googleapis.com/storage/v1/b/images/o").bearer_auth(bearer).send();
    assert_eq!(listed.await.unwrap().status(), StatusCode::OK);
    let forged = [("assertion", format!("{}AA", &token.bearer[..token.bearer.len() - 2]))];
    let refused = client.post("https://oauth2.googleapis.com/token").form(&forged).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);

    // A signed address serves whoever has it, for one method, and only as it was signed.
    let life = Duration::from_secs(1200);
    let url = store.signed_url(reqwest::Method::GET, &"a/b".into(), life).await.unwrap();
    assert_eq!(client.get(url.clone()).send().await.unwrap().text().await.unwrap(), "layer");
    assert_eq!(client.delete(url.clone()).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let longer = url.as_str().replace("X-Goog-Expires=1200", "X-Goog-Expires=9200");
    assert_eq!(client.get(longer).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let log = std::fs::read_to_string(folder.path().join("gcs-local/front.log")).unwrap();
    assert!(log.contains("401 refused") && log.contains("200 jwt") && log.contains("200 bearer"), "{log}");
    assert!(!log.contains(&token.bearer));
    view.remove_bucket("images").await.unwrap();
    assert!(!view.has_bucket("images").await.unwrap());
    backends.close(Duration::from_secs(3)).await.unwrap();
    assert!(!folder.path().join("gcs-local/data").exists());
    assert!(client.get(upload).send().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_containers_open_to_the_accounts_key_alone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Err(why) = npm::can_be_had() {
        return eprintln!("left out: {why}");
    }
    let folder = tempfile::tempdir().unwrap();
    let backends = backends(folder.path());
    let endpoint = backends.endpoint("azure-local").await.unwrap();
    let view = &endpoint.view;
    assert!(!view.has_bucket("images").await.unwrap());
    view.make_bucket("images").await.unwrap();
    assert!(view.has_bucket("images").await.unwrap());

    // By the account's host name, as the registry does it.
    let client = client(&endpoint);
    let blobs = |key: &str| {
        object_store::azure::MicrosoftAzureBuilder::new()
            .with_account(&endpoint.access_key)
            .with_access_key(key)
            .with_container_name("images")
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Found(client.clone()))
            .build()
            .unwrap()
    };
    let own = blobs(endpoint.secret_key.reveal());
    own.put(&"a/b".into(), "layer".into()).await.unwrap();
    own.copy(&"a/b".into(), &"a/c".into()).await.unwrap();
    assert_eq!(view.keys("images").await.unwrap(), ["a/b", "a/c"]);
    assert_eq!(view.read("images", "a/c").await.unwrap().as_deref(), Some(b"layer".as_slice()));
    assert_eq!(view.read("images", "nothing").await.unwrap(), None);
    let refused = blobs("d3Jvbmcga2V5").put(&"a/d".into(), "layer".into()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("AuthorizationFailure"), "{refused:?}");

    let life = Duration::from_secs(1200);
    let url = own.signed_url(reqwest::Method::GET, &"a/b".into(), life).await.unwrap();
    assert_eq!(client.get(url.clone()).send().await.unwrap().text().await.unwrap(), "layer");
    let tampered = url.as_str().replace("sp=r", "sp=rw");
    assert_eq!(client.get(tampered).send().await.unwrap().status(), StatusCode::FORBIDDEN);

    view.remove_bucket("images").await.unwrap();
    assert!(!view.has_bucket("images").await.unwrap());
    backends.close(Duration::from_secs(3)).await.unwrap();
    assert!(!folder.path().join("azure-local/data").exists());
}
