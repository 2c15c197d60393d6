//! The Google and Azure servers as child processes: containers through the view, wrong credentials refused, nothing left
//! after the stop. What a machine cannot run (no openssl, no Node) is told on standard error and left out.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
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

    // The older way to sign, which the registry's driver uses.
    let old = |path: &str, ends: u64, access: &str| {
        let key: serde_json::Value = serde_json::from_str(endpoint.secret_key.reveal()).unwrap();
        let pem = key["private_key"].as_str().unwrap().lines().filter(|line| !line.starts_with("-----"));
        let der = STANDARD.decode(pem.collect::<String>()).unwrap();
        let pair = ring::signature::RsaKeyPair::from_pkcs8(&der).unwrap();
        let mut signature = vec![0; pair.public().modulus_len()];
        let message = format!("GET\n\n\n{ends}\n{path}");
        let random = ring::rand::SystemRandom::new();
        pair.sign(&ring::signature::RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
        let mut url = reqwest::Url::parse(&format!("https://storage.googleapis.com{path}")).unwrap();
        url.query_pairs_mut()
            .append_pair("Expires", &ends.to_string())
            .append_pair("GoogleAccessId", access)
            .append_pair("Signature", &STANDARD.encode(signature));
        url
    };
    let key: serde_json::Value = serde_json::from_str(endpoint.secret_key.reveal()).unwrap();
    let email = key["client_email"].as_str().unwrap();
    let get = async |url: reqwest::Url| client.get(url).send().await.unwrap().status();
    let ends = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 1200;
    let signed = old("/images/a/b", ends, email);
    assert_eq!(client.get(signed.clone()).send().await.unwrap().text().await.unwrap(), "layer");
    assert_eq!(client.delete(signed.clone()).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let longer = signed.as_str().replace(&ends.to_string(), &(ends + 1).to_string());
    assert_eq!(get(longer.parse().unwrap()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(get(old("/images/a/b", 1, email)).await, StatusCode::UNAUTHORIZED, "its time is over");
    assert_eq!(get(old("/images/a/b", ends, "other@example.com")).await, StatusCode::UNAUTHORIZED);

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

    // As OpenShift's registry does it: an append blob, a copy from a signed address of it, which Azurite asks for under
    // the account's public name, and names that begin with a slash.
    let blob = |name: &str| format!("{}/images/{name}", endpoint.url);
    let key = object_store::azure::AzureAccessKey::try_new(endpoint.secret_key.reveal()).unwrap();
    let credential = object_store::azure::AzureCredential::AccessKey(key);
    let put = async |url: String, headers: &[(&'static str, String)], body: &'static str| {
        let mut request =
            object_store::client::HttpRequest::new(object_store::client::HttpRequestBody::from(body.to_owned()));
        *request.method_mut() = reqwest::Method::PUT;
        *request.uri_mut() = url.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request.headers_mut().insert("content-length", body.len().into());
        object_store::azure::AzureAuthorizer::new(&credential, &endpoint.access_key)
            .try_authorize(&mut request)
            .unwrap();
        let answer = client.put(url).headers(request.headers().clone()).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let kind = [("x-ms-blob-type", "AppendBlob".to_owned())];
    assert_eq!(put(blob("upload"), &kind, "").await.0, 201);
    assert_eq!(put(format!("{}?comp=appendblock", blob("upload")), &[], "layer").await.0, 201);
    let signed = own.signed_url(reqwest::Method::GET, &"upload".into(), life).await.unwrap();
    let copied = put(blob("data"), &[("x-ms-copy-source", signed.to_string())], "").await;
    assert_eq!(copied.0, 202, "{}", copied.1);
    assert_eq!(put(blob("/slash"), &kind, "").await.0, 201);
    assert_eq!(put(format!("{}?comp=appendblock", blob("/slash")), &[], "other").await.0, 201);
    assert_eq!(view.keys("images").await.unwrap(), ["a/b", "a/c", "data", "slash", "upload"]);
    assert_eq!(view.read("images", "slash").await.unwrap().as_deref(), Some(b"other".as_slice()));
    assert_eq!(view.read("images", "data").await.unwrap().as_deref(), Some(b"layer".as_slice()));

    view.remove_bucket("images").await.unwrap();
    assert!(!view.has_bucket("images").await.unwrap());
    backends.close(Duration::from_secs(3)).await.unwrap();
    assert!(!folder.path().join("azure-local/data").exists());
}
