//! One bucket of Google Cloud Storage over its JSON API: looked at, made, emptied and deleted by a service account.
//! Which of these is called when is decided in `gcs`; objects are never read or written here.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use http::Method;
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorageBuilder};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bucket::{CALL_LIMIT, CONNECT_LIMIT, Failure, chain};

const DELETES_AT_ONCE: usize = 8;

/// What a bucket is made with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Making {
    /// Project it belongs to.
    pub project: String,
    /// Location; the service chooses one when it is blank.
    pub location: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Key of the key management that encrypts by default; the service's own when it is blank.
    pub kms_key: String,
}

impl Making {
    fn document(&self, bucket: &str) -> Value {
        let mut document = json!({ "name": bucket, "labels": self.labels });
        if !self.location.is_empty() {
            document["location"] = json!(self.location);
        }
        if !self.kms_key.is_empty() {
            document["encryption"] = json!({ "defaultKmsKeyName": self.kms_key });
        }
        document
    }
}

/// A client for one bucket.
#[derive(Debug)]
pub struct Bucket {
    http: reqwest::Client,
    endpoint: Url,
    name: String,
    credentials: GcpCredentialProvider,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    name: String,
}

impl Bucket {
    /// A client for the bucket `name` of the service at `endpoint`, acting as the service account of `key_file`.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] for a key file that holds no key and an endpoint that is no URL.
    pub fn new(endpoint: &str, name: &str, key_file: &str) -> Result<Self, Failure> {
        let unusable = |what: String| Failure::Unreachable(what);
        // The builder is only asked for what it makes of the key file.
        let account = GoogleCloudStorageBuilder::new()
            .with_service_account_key(key_file)
            .with_bucket_name(name)
            .build()
            .map_err(|error| unusable(format!("the service account's key cannot be used: {}", chain(&error))))?;
        let http = reqwest::Client::builder().connect_timeout(CONNECT_LIMIT).timeout(CALL_LIMIT).build();
        let endpoint = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        Ok(Self {
            http: http.map_err(|error| unusable(format!("could not build an HTTP client: {}", chain(&error))))?,
            endpoint: Url::parse(&endpoint).map_err(|error| unusable(format!("{endpoint} is no URL: {error}")))?,
            name: name.to_owned(),
            credentials: account.credentials().clone(),
        })
    }

    /// Whether the bucket is there.
    ///
    /// # Errors
    /// Refused by anything but "not found".
    pub async fn exists(&self) -> Result<bool, Failure> {
        match self.call(Method::GET, self.url(&[&self.name]), None).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused { status: 404, .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Makes the bucket.
    ///
    /// # Errors
    /// The service's refusal, 409 for somebody else's.
    pub async fn create(&self, making: &Making) -> Result<(), Failure> {
        let mut url = self.url(&[]);
        url.query_pairs_mut().append_pair("project", &making.project);
        self.call(Method::POST, url, Some(making.document(&self.name))).await.map(drop)
    }

    /// Deletes every object, then the bucket; gone already is fine.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn delete(&self) -> Result<(), Failure> {
        let gone = |result: Result<Value, Failure>| match result {
            Err(Failure::Refused { status: 404, .. }) => Ok(()),
            other => other.map(drop),
        };
        loop {
            let listed = match self.call(Method::GET, self.url(&[&self.name, "o"]), None).await {
                Err(Failure::Refused { status: 404, .. }) => return Ok(()),
                other => other?,
            };
            let unread = |error: serde_json::Error| Failure::Unreachable(format!("an unreadable list: {error}"));
            let page: Page = serde_json::from_value(listed).map_err(unread)?;
            let last = page.next_page_token.is_none_or(|token| token.is_empty());
            futures::stream::iter(page.items)
                .map(|item| async move {
                    gone(self.call(Method::DELETE, self.url(&[&self.name, "o", &item.name]), None).await)
                })
                .buffer_unordered(DELETES_AT_ONCE)
                .try_collect::<Vec<()>>()
                .await?;
            if last {
                return gone(self.call(Method::DELETE, self.url(&[&self.name]), None).await);
            }
        }
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["storage", "v1", "b"]).extend(segments);
        }
        url
    }

    async fn call(&self, method: Method, url: Url, body: Option<Value>) -> Result<Value, Failure> {
        let token = self.credentials.get_credential().await;
        let token =
            token.map_err(|error| Failure::Unreachable(format!("could not sign a token: {}", chain(&error))))?;
        let mut request = self.http.request(method, url).bearer_auth(&token.bearer);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
        let document: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(document);
        }
        let message = document["error"]["message"].as_str().unwrap_or_default().to_owned();
        let code = status.as_u16().to_string();
        Err(Failure::Refused { status: status.as_u16(), code, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_made_with_what_was_asked_for() {
        let making = Making {
            project: "p".into(),
            location: "europe-west1".into(),
            labels: [("kubernetes-io-cluster-lane".to_owned(), "owned".to_owned())].into(),
            kms_key: "projects/p/key".into(),
        };
        let want = json!({
            "name": "b",
            "labels": { "kubernetes-io-cluster-lane": "owned" },
            "location": "europe-west1",
            "encryption": { "defaultKmsKeyName": "projects/p/key" },
        });
        assert_eq!(making.document("b"), want);
        assert_eq!(Making::default().document("b"), json!({ "name": "b", "labels": {} }));
    }

    #[test]
    fn a_key_file_that_is_none_is_said() {
        let failure = Bucket::new("https://storage.googleapis.com", "b", "{}").expect_err("no key");
        assert!(failure.to_string().contains("the service account's key cannot be used"), "{failure}");
    }
}
