//! A look into a Google Cloud Storage server from beside the registry, by its JSON API without credentials: it is only
//! reachable for us, behind the front that asks for them.

use std::fmt;

use futures::future::BoxFuture;
use harness::failure::{Failure, Tried as _};
use harness::storage::StorageView;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;

/// The view of one server.
#[derive(Clone)]
pub struct GcsView {
    url: Url,
    project: String,
    client: reqwest::Client,
}

impl fmt::Debug for GcsView {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "GcsView({})", self.url)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    next_page_token: String,
}

#[derive(Deserialize)]
struct Item {
    name: String,
}

impl GcsView {
    /// A view of the server at `url`, which has no path.
    ///
    /// # Errors
    /// [`Error::Client`] for something that is no URL.
    pub fn new(url: &str, project: &str, client: reqwest::Client) -> Result<GcsView, Error> {
        let parsed = Url::parse(url);
        let url = parsed.map_err(|error| Error::Client { url: url.to_owned(), reason: error.to_string() })?;
        Ok(GcsView { url, project: project.to_owned(), client })
    }

    fn place(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["storage", "v1", "b"]).extend(segments);
        }
        url
    }

    /// Asks for the buckets of the project.
    ///
    /// # Errors
    /// What the server answered instead, or why it did not.
    pub async fn answers(&self) -> Result<(), String> {
        let answer = self.ask(Method::GET, self.buckets(), None, &[StatusCode::OK]).await;
        answer.map(drop).map_err(|failure| failure.seen.unwrap_or_default())
    }

    /// The buckets of the project.
    fn buckets(&self) -> Url {
        let mut url = self.place(&[]);
        url.query_pairs_mut().append_pair("project", &self.project);
        url
    }

    async fn ask(
        &self,
        method: Method,
        url: Url,
        body: Option<Value>,
        good: &[StatusCode],
    ) -> Result<Response, Failure> {
        let tried = format!("{method} {url}");
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.tried(tried.as_str())?;
        let status = answer.status();
        if good.contains(&status) {
            return Ok(answer);
        }
        Err(Failure::error(tried, format!("{status} {}", answer.text().await.unwrap_or_default())))
    }
}

impl StorageView for GcsView {
    fn make_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.ask(Method::POST, self.buckets(), Some(json!({ "name": bucket })), &[StatusCode::OK]).await.map(drop)
        })
    }

    fn has_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async move {
            let good = [StatusCode::OK, StatusCode::NOT_FOUND];
            let answer = self.ask(Method::GET, self.place(&[bucket]), None, &good).await?;
            Ok(answer.status() == StatusCode::OK)
        })
    }

    fn keys<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(async move {
            let (mut keys, mut token) = (Vec::new(), String::new());
            loop {
                let mut url = self.place(&[bucket, "o"]);
                if !token.is_empty() {
                    url.query_pairs_mut().append_pair("pageToken", &token);
                }
                let answer = self.ask(Method::GET, url, None, &[StatusCode::OK]).await?;
                let page: Page = answer.json().await.tried(format!("listing bucket {bucket}"))?;
                keys.extend(page.items.into_iter().map(|item| item.name));
                token = page.next_page_token;
                if token.is_empty() {
                    keys.sort();
                    return Ok(keys);
                }
            }
        })
    }

    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        Box::pin(async move {
            let mut url = self.place(&[bucket, "o", key]);
            url.query_pairs_mut().append_pair("alt", "media");
            let answer = self.ask(Method::GET, url, None, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            Ok(Some(answer.bytes().await.tried(format!("reading {key} of bucket {bucket}"))?.to_vec()))
        })
    }

    fn remove_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            if !self.has_bucket(bucket).await? {
                return Ok(());
            }
            let gone = [StatusCode::OK, StatusCode::NO_CONTENT, StatusCode::NOT_FOUND];
            for key in self.keys(bucket).await? {
                self.ask(Method::DELETE, self.place(&[bucket, "o", &key]), None, &gone).await?;
            }
            self.ask(Method::DELETE, self.place(&[bucket]), None, &gone).await.map(drop)
        })
    }
}
