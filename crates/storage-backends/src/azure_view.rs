//! A look into an Azure Blob Storage server from beside the registry: containers, blobs and bytes by requests that are
//! signed with the account's key. Nothing is retried, so that what the server does is what is seen.

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use harness::failure::Failure;
use harness::storage::{Secret, StorageView};
use http_body_util::BodyExt;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody, HttpResponse};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig};
use reqwest::{Method, StatusCode};

use crate::Error;
use crate::reach::OurClient;
use local_cluster::chain;

/// The view of one account.
#[derive(Clone)]
pub struct AzureView {
    /// The account's address, the account in its path.
    url: String,
    account: String,
    key: Secret,
    credential: Arc<AzureCredential>,
    client: OurClient,
}

impl fmt::Debug for AzureView {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AzureView({})", self.url)
    }
}

impl AzureView {
    /// A view of an account of the server at `url`, addressed by path.
    ///
    /// # Errors
    /// [`Error::Client`] for a key that is no base64.
    pub fn new(url: &str, account: &str, key: &Secret, client: reqwest::Client) -> Result<AzureView, Error> {
        let url = format!("{}/{account}", url.trim_end_matches('/'));
        let key_of_account = AzureAccessKey::try_new(key.reveal());
        let key_of_account =
            key_of_account.map_err(|error| Error::Client { url: url.clone(), reason: chain(&error) })?;
        Ok(AzureView {
            account: account.to_owned(),
            key: key.clone(),
            credential: Arc::new(AzureCredential::AccessKey(key_of_account)),
            client: OurClient(client),
            url,
        })
    }

    /// The blobs of a container as an [`ObjectStore`], for whoever needs more than the view offers.
    ///
    /// # Errors
    /// What the client's builder says of an address that is not one.
    pub fn blobs(&self, container: &str) -> object_store::Result<MicrosoftAzure> {
        MicrosoftAzureBuilder::new()
            .with_account(&self.account)
            .with_access_key(self.key.reveal())
            .with_container_name(container)
            .with_endpoint(self.url.clone())
            .with_allow_http(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(self.client.clone())
            .build()
    }

    /// Asks for the containers of the account, which only its key may.
    ///
    /// # Errors
    /// What the server answered instead, or why it did not.
    pub async fn answers(&self) -> Result<(), String> {
        match self.request(Method::GET, "?comp=list").await? {
            (StatusCode::OK, _) => Ok(()),
            (status, code) => Err(format!("{status} {code}")),
        }
    }

    async fn list(&self, container: &str) -> object_store::Result<Vec<String>> {
        self.blobs(container)?.list(None).map_ok(|blob| blob.location.to_string()).try_collect().await
    }

    async fn get(&self, container: &str, key: &str) -> object_store::Result<Vec<u8>> {
        Ok(self.blobs(container)?.get(&Path::from(key)).await?.bytes().await?.to_vec())
    }

    /// The blob whose name is `key` after a slash. OpenShift's registry makes such names (distribution
    /// registry/storage/driver/azure/azure.go, `blobName`), and the client for everything else cannot say them.
    async fn get_after_slash(&self, container: &str, key: &str) -> Result<Option<Vec<u8>>, String> {
        let answer = self.answer(Method::GET, &format!("/{container}//{key}")).await?;
        match answer.status() {
            StatusCode::OK => {
                let body = answer.into_body().collect().await.map_err(|error| chain(&error))?;
                Ok(Some(body.to_bytes().to_vec()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            other => Err(format!("{other}")),
        }
    }

    /// A signed request without body: status and error code.
    async fn request(&self, method: Method, rest: &str) -> Result<(StatusCode, String), String> {
        let answer = self.answer(method, rest).await?;
        let code = answer.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        Ok((answer.status(), code.to_owned()))
    }

    async fn answer(&self, method: Method, rest: &str) -> Result<HttpResponse, String> {
        let mut request: HttpRequest = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{rest}", self.url).parse().map_err(|error| format!("{error}"))?;
        request.headers_mut().insert("content-length", 0.into());
        AzureAuthorizer::new(&self.credential, &self.account)
            .try_authorize(&mut request)
            .map_err(|error| chain(&error))?;
        HttpClient::new(self.client.0.clone()).execute(request).await.map_err(|error| chain(&error))
    }

    async fn expect(&self, method: Method, container: &str, good: &[StatusCode]) -> Result<StatusCode, Failure> {
        let rest = format!("/{container}?restype=container");
        let tried = format!("{method} {}{rest}", self.url);
        let asked = self.request(method, &rest).await;
        let (status, code) = asked.map_err(|reason| Failure::error(tried.as_str(), reason))?;
        if good.contains(&status) { Ok(status) } else { Err(Failure::error(tried, format!("{status} {code}"))) }
    }
}

impl StorageView for AzureView {
    fn make_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.expect(Method::PUT, bucket, &[StatusCode::CREATED]).await.map(drop) })
    }

    fn has_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async move {
            let good = [StatusCode::OK, StatusCode::NOT_FOUND];
            Ok(self.expect(Method::HEAD, bucket, &good).await? == StatusCode::OK)
        })
    }

    fn keys<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(async move {
            let tried = || format!("listing container {bucket} at {}", self.url);
            let mut keys = self.list(bucket).await.map_err(|error| Failure::error(tried(), chain(&error)))?;
            keys.sort();
            Ok(keys)
        })
    }

    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        Box::pin(async move {
            let tried = || format!("reading {key} of container {bucket} at {}", self.url);
            match self.get(bucket, key).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(object_store::Error::NotFound { .. }) => {
                    self.get_after_slash(bucket, key).await.map_err(|seen| Failure::error(tried(), seen))
                }
                Err(error) => Err(Failure::error(tried(), chain(&error))),
            }
        })
    }

    fn remove_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let good = [StatusCode::ACCEPTED, StatusCode::NOT_FOUND];
            self.expect(Method::DELETE, bucket, &good).await.map(drop)
        })
    }
}
