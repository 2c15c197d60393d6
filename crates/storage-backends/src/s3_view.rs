//! A look into an S3 server from beside the registry: buckets, keys and bytes by signed requests.
//! Nothing is retried, so that what the server does is what is seen.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use harness::failure::Failure;
use harness::storage::{Secret, StorageView};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig};
use reqwest::{Method, StatusCode};

use crate::reach::OurClient;
use local_cluster::chain;

/// The view of one account.
#[derive(Clone)]
pub struct S3View {
    url: String,
    region: String,
    credential: Arc<AwsCredential>,
    client: OurClient,
}

impl fmt::Debug for S3View {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "S3View({} in {})", self.url, self.region)
    }
}

impl S3View {
    /// A view of the server at `url`, addressed in path style.
    pub fn new(url: &str, region: &str, access_key: &str, secret_key: &Secret, client: reqwest::Client) -> S3View {
        let credential =
            AwsCredential { key_id: access_key.to_owned(), secret_key: secret_key.reveal().to_owned(), token: None };
        S3View {
            url: url.trim_end_matches('/').to_owned(),
            region: region.to_owned(),
            credential: Arc::new(credential),
            client: OurClient(client),
        }
    }

    /// The objects of a bucket as an [`ObjectStore`], for whoever needs more than the view offers.
    ///
    /// # Errors
    /// What the client's builder says of an address that is not one.
    pub fn objects(&self, bucket: &str) -> object_store::Result<AmazonS3> {
        AmazonS3Builder::new()
            .with_endpoint(&self.url)
            .with_region(&self.region)
            .with_bucket_name(bucket)
            .with_access_key_id(&self.credential.key_id)
            .with_secret_access_key(&self.credential.secret_key)
            .with_allow_http(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(self.client.clone())
            .build()
    }

    /// Asks for the buckets of the account, which only its key may.
    ///
    /// # Errors
    /// What the server answered instead, or why it did not.
    pub async fn answers(&self) -> Result<(), String> {
        match self.request(Method::GET, "/").await? {
            (StatusCode::OK, _) => Ok(()),
            (status, body) => Err(format!("{status} {}", tag(&body, "Code").unwrap_or_default())),
        }
    }

    async fn list(&self, bucket: &str) -> object_store::Result<Vec<String>> {
        self.objects(bucket)?.list(None).map_ok(|object| object.location.to_string()).try_collect().await
    }

    async fn get(&self, bucket: &str, key: &str) -> object_store::Result<Vec<u8>> {
        Ok(self.objects(bucket)?.get(&Path::from(key)).await?.bytes().await?.to_vec())
    }

    async fn empty(&self, bucket: &str) -> object_store::Result<Vec<Path>> {
        let objects = self.objects(bucket)?;
        let locations = objects.list(None).map_ok(|object| object.location).boxed();
        objects.delete_stream(locations).try_collect().await
    }

    /// A signed request without body; `path_and_query` begins with a slash.
    async fn request(&self, method: Method, path_and_query: &str) -> Result<(StatusCode, String), String> {
        let mut request: HttpRequest = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path_and_query}", self.url).parse().map_err(|error| format!("{error}"))?;
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| chain(&error))?;
        let answer = HttpClient::new(self.client.0.clone()).execute(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        let body = answer.into_body().bytes().await.map_err(|error| chain(&error))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn expect(
        &self,
        method: Method,
        path_and_query: &str,
        good: &[StatusCode],
    ) -> Result<(StatusCode, String), Failure> {
        let tried = format!("{method} {}{path_and_query}", self.url);
        let (status, body) =
            self.request(method, path_and_query).await.map_err(|reason| Failure::error(tried.as_str(), reason))?;
        if good.contains(&status) {
            return Ok((status, body));
        }
        Err(Failure::error(tried, format!("{status} {}", tag(&body, "Code").unwrap_or_default())))
    }

    async fn abort_uploads(&self, bucket: &str) -> Result<(), Failure> {
        let (_, body) = self.expect(Method::GET, &format!("/{bucket}?uploads="), &[StatusCode::OK]).await?;
        for upload in body.split("<Upload>").skip(1) {
            if let (Some(key), Some(id)) = (tag(upload, "Key"), tag(upload, "UploadId")) {
                let path = Path::from(key);
                let target = format!("/{bucket}/{path}?uploadId={id}");
                self.expect(Method::DELETE, &target, &[StatusCode::NO_CONTENT, StatusCode::NOT_FOUND]).await?;
            }
        }
        Ok(())
    }
}

/// Text of the first element of that name; S3 answers have no attributes and no nesting where this is used.
fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

impl StorageView for S3View {
    fn make_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.expect(Method::PUT, &format!("/{bucket}"), &[StatusCode::OK, StatusCode::CREATED]).await?;
            Ok(())
        })
    }

    fn has_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async move {
            let good = [StatusCode::OK, StatusCode::NOT_FOUND];
            let (status, _) = self.expect(Method::HEAD, &format!("/{bucket}"), &good).await?;
            Ok(status == StatusCode::OK)
        })
    }

    fn keys<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(async move {
            let mut keys = self
                .list(bucket)
                .await
                .map_err(|error| Failure::error(format!("listing bucket {bucket} at {}", self.url), chain(&error)))?;
            keys.sort();
            Ok(keys)
        })
    }

    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        Box::pin(async move {
            match self.get(bucket, key).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => {
                    let tried = format!("reading {key} of bucket {bucket} at {}", self.url);
                    Err(Failure::error(tried, chain(&error)))
                }
            }
        })
    }

    fn remove_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            if !self.has_bucket(bucket).await? {
                return Ok(());
            }
            self.empty(bucket)
                .await
                .map_err(|error| Failure::error(format!("emptying bucket {bucket} at {}", self.url), chain(&error)))?;
            self.abort_uploads(bucket).await?;
            self.expect(Method::DELETE, &format!("/{bucket}"), &[StatusCode::NO_CONTENT, StatusCode::OK]).await?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_and_secrets_never_show() {
        let xml = "<Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>";
        assert_eq!(tag(xml, "Code"), Some("NoSuchBucket"));
        assert_eq!(tag(xml, "Key"), None);
        let secret = Secret::new("very-secret");
        let view = S3View::new("https://127.0.0.1:1/", "r", "id", &secret, reqwest_client());
        assert!(!format!("{view:?}").contains("very-secret"));
    }

    fn reqwest_client() -> reqwest::Client {
        // A second call only finds the provider that the first installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::new()
    }
}
