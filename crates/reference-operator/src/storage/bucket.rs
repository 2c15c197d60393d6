//! One S3 bucket over HTTP: looked at, made, configured, emptied and deleted with signed requests.
//! Which of these is called when is decided in `s3`; objects are never read or written here.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderName, Method};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use reqwest::Url;
use sha2::{Digest, Sha256};

pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(20);
const DELETES_AT_ONCE: usize = 8;

/// Who signs the requests. Neither part is ever logged.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(..)")
    }
}

/// Where a bucket is and how it is addressed.
#[derive(Clone, Debug)]
pub struct Address {
    /// Endpoint of the service, scheme included; blank means Amazon's of the region.
    pub endpoint: String,
    /// Region, part of the signature.
    pub region: String,
    /// Name of the bucket.
    pub bucket: String,
    /// The bucket is part of the host instead of the path.
    pub virtual_hosted: bool,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The service refused; `code` is its error code, or the HTTP phrase when it sent none.
    #[error("{code}: {message} (HTTP {status})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// For example `NoSuchBucket`.
        code: String,
        /// The service's words, without request ids, which would differ at each try.
        message: String,
    },
    /// No usable answer came.
    #[error("{0}")]
    Unreachable(String),
}

/// A client for one bucket.
#[derive(Debug)]
pub struct Bucket {
    http: reqwest::Client,
    base: Url,
    region: String,
    credential: AwsCredential,
}

impl Bucket {
    /// A client for the bucket at `address`. `trusted_ca`, PEM, replaces the system's roots.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] for an endpoint that is no URL or a CA that is no PEM.
    pub fn new(address: &Address, credentials: &Credentials, trusted_ca: Option<&str>) -> Result<Self, Failure> {
        let unusable = |what: String| Failure::Unreachable(what);
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_LIMIT).timeout(CALL_LIMIT);
        if let Some(pem) = trusted_ca {
            let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|error| unusable(format!("the trusted CA bundle is not PEM: {error}")))?;
            builder = builder.tls_certs_only(roots);
        }
        let http =
            builder.build().map_err(|error| unusable(format!("could not build an HTTP client: {}", chain(&error))))?;
        Ok(Self {
            http,
            base: base(address)?,
            region: address.region.clone(),
            credential: AwsCredential {
                key_id: credentials.access_key.clone(),
                secret_key: credentials.secret_key.clone(),
                token: None,
            },
        })
    }

    /// Asks whether the bucket is there and may be used.
    ///
    /// # Errors
    /// Refused with 404 and 403 when it is not; the service sends no code with these.
    pub async fn head(&self) -> Result<(), Failure> {
        self.call(Method::HEAD, self.base.clone(), None).await.map(|_| ())
    }

    /// Makes the bucket; one we own already is fine.
    ///
    /// # Errors
    /// The service's code, for example `BucketAlreadyExists` for somebody else's.
    pub async fn create(&self) -> Result<(), Failure> {
        let body = match self.region.as_str() {
            "" | "us-east-1" => None,
            region => Some(format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )),
        };
        match self.call(Method::PUT, self.base.clone(), body).await {
            Err(Failure::Refused { code, .. }) if code == "BucketAlreadyOwnedByYou" => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Sets one of the bucket's settings, named by its sub-resource, to an XML document.
    ///
    /// # Errors
    /// The service's code, for example `NotImplemented`.
    pub async fn configure(&self, setting: &str, document: String) -> Result<(), Failure> {
        let mut url = self.base.clone();
        url.set_query(Some(setting));
        self.call(Method::PUT, url, Some(document)).await.map(|_| ())
    }

    /// Deletes every object, then the bucket; gone already is fine.
    ///
    /// # Errors
    /// The first refusal, for example `BucketNotEmpty` where old versions are kept.
    pub async fn delete(&self) -> Result<(), Failure> {
        let gone = |failure: &Failure| matches!(failure, Failure::Refused { status: 404, .. });
        loop {
            let mut url = self.base.clone();
            url.set_query(Some("list-type=2&max-keys=1000"));
            let page = match self.call(Method::GET, url, None).await {
                Err(failure) if gone(&failure) => return Ok(()),
                result => result?,
            };
            let keys = elements(&page, "Key");
            if keys.is_empty() {
                break;
            }
            futures::stream::iter(keys)
                .map(|key| async move {
                    match self.call(Method::DELETE, self.object(&key), None).await {
                        Err(failure) if gone(&failure) => Ok(()),
                        result => result.map(|_| ()),
                    }
                })
                .buffer_unordered(DELETES_AT_ONCE)
                .try_collect::<Vec<()>>()
                .await?;
        }
        match self.call(Method::DELETE, self.base.clone(), None).await {
            Err(failure) if gone(&failure) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    fn object(&self, key: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}/{}", self.base.path().trim_end_matches('/'), escaped(key));
        url.set_path(&path);
        url
    }

    async fn call(&self, method: Method, url: Url, body: Option<String>) -> Result<String, Failure> {
        let broken = |what: &dyn fmt::Display| Failure::Unreachable(format!("could not sign a request: {what}"));
        let mut request = http::Request::builder().method(method.clone()).uri(url.as_str());
        if let Some(document) = &body {
            // Settings are refused without a checksum of the document.
            let sum = STANDARD.encode(Sha256::digest(document.as_bytes()));
            request = request
                .header("content-type", "application/xml")
                .header("x-amz-sdk-checksum-algorithm", "SHA256")
                .header("x-amz-checksum-sha256", sum);
        }
        let mut request = request
            .body(body.clone().map_or_else(HttpRequestBody::empty, HttpRequestBody::from))
            .map_err(|error| broken(&error))?;
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| broken(&error))?;
        let mut sent = self.http.request(method, url).headers(request.headers().clone());
        if let Some(document) = body {
            sent = sent.header(HeaderName::from_static("content-length"), document.len()).body(document);
        }
        let answer = sent.send().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
        if status.is_success() {
            return Ok(text);
        }
        let phrase = status.canonical_reason().unwrap_or("Refused").replace(' ', "");
        Err(Failure::Refused {
            status: status.as_u16(),
            code: elements(&text, "Code").into_iter().next().unwrap_or(phrase),
            message: elements(&text, "Message").into_iter().next().unwrap_or_default(),
        })
    }
}

fn base(address: &Address) -> Result<Url, Failure> {
    let endpoint = match address.endpoint.as_str() {
        "" => format!("https://s3.{}.amazonaws.com", address.region),
        endpoint => endpoint.to_owned(),
    };
    let wrong = |what: String| Failure::Unreachable(format!("regionEndpoint {endpoint} cannot be used: {what}"));
    let mut url = Url::parse(&endpoint).map_err(|error| wrong(error.to_string()))?;
    let host = url.host_str().ok_or_else(|| wrong("it names no host".into()))?.to_owned();
    if address.virtual_hosted {
        url.set_host(Some(&format!("{}.{host}", address.bucket))).map_err(|error| wrong(error.to_string()))?;
    } else {
        let path = format!("{}/{}", url.path().trim_end_matches('/'), escaped(&address.bucket));
        url.set_path(&path);
    }
    Ok(url)
}

/// Percent-encodes as signatures demand: everything but unreserved characters and `/`.
fn escaped(key: &str) -> String {
    key.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

/// Texts of all elements of this name; enough for S3's flat answers.
fn elements(document: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    document
        .split(&open)
        .skip(1)
        .filter_map(|rest| rest.split(&close).next())
        .map(|text| {
            let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
            text.replace("&apos;", "'").replace("&#39;", "'").replace("&amp;", "&")
        })
        .collect()
}

/// An error with its causes, which is where TLS and connection failures say what they are.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::path("http://s3.local:9000", false, "http://s3.local:9000/b")]
    #[case::no_port("http://rgw.svc.cluster.local", false, "http://rgw.svc.cluster.local/b")]
    #[case::virtual_hosted("https://s3.local", true, "https://b.s3.local/")]
    #[case::amazon("", false, "https://s3.eu-west-1.amazonaws.com/b")]
    fn addresses(#[case] endpoint: &str, #[case] virtual_hosted: bool, #[case] want: &str) {
        let address =
            Address { endpoint: endpoint.into(), region: "eu-west-1".into(), bucket: "b".into(), virtual_hosted };
        assert_eq!(base(&address).expect("a URL").as_str(), want);
    }

    #[test]
    fn answers_are_read() {
        let page = "<R><Contents><Key>a/b</Key></Contents><Contents><Key>c&amp;d</Key></Contents></R>";
        assert_eq!(elements(page, "Key"), ["a/b", "c&d"]);
        assert_eq!(escaped("a/b c+:"), "a/b%20c%2B%3A");
    }
}
