//! Registries elsewhere, as far as an import needs them: manifests, configurations and lists of tags, with the
//! token and password logins of the distribution specification.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{StatusCode, header};
use reqwest::{Certificate, Client, ClientBuilder, Response, Url};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::credentials::{Keyring, Login};
use crate::reference::{Reference, is_digest};
use crate::status::StatusError;

/// How long one answer of a registry may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const MANIFEST_LIMIT_BYTES: usize = 4 << 20;
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Why registries elsewhere cannot be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("the trust bundle {path} cannot be read: {reason}")]
    TrustBundle { path: PathBuf, reason: String },
    #[error("no HTTP client for imports: {0}")]
    Client(#[from] reqwest::Error),
}

/// The way to registries elsewhere; cheap to clone.
#[derive(Clone)]
pub struct Remote {
    verifying: Client,
    trusting: Client,
}

/// A manifest as it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub digest: String,
    pub media_type: String,
    pub text: String,
}

impl Remote {
    /// Trusts the certificates in `bundle` besides the machine's, and goes through `proxy` if one is given.
    ///
    /// # Errors
    /// If the bundle cannot be read or the proxy is no URL.
    pub fn new(bundle: Option<&Path>, proxy: Option<&str>) -> Result<Self, RemoteError> {
        let mut certificates = Vec::new();
        if let Some(path) = bundle {
            let unreadable = |reason: String| RemoteError::TrustBundle { path: path.to_owned(), reason };
            let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
            certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))?;
        }
        let proxy = proxy.filter(|url| !url.is_empty()).map(reqwest::Proxy::all).transpose()?;
        let builder = || {
            let builder = Client::builder().timeout(ANSWER_LIMIT).user_agent("registry-conformance-image-api");
            match &proxy {
                Some(proxy) => builder.proxy(proxy.clone()),
                None => builder,
            }
        };
        let verifying = |builder: ClientBuilder| builder.tls_certs_merge(certificates.clone()).build();
        // A machine without any CA of its own still has those of the bundle.
        let verifying = verifying(builder()).or_else(|_| builder().tls_certs_only(certificates.clone()).build())?;
        let trusting = builder().tls_certs_only([]).tls_danger_accept_invalid_certs(true).build()?;
        Ok(Self { verifying, trusting })
    }

    /// A repository, with the login `keyring` has for it. `insecure` allows certificates nobody vouches for, and
    /// plain HTTP where there is no TLS.
    pub fn repository(&self, reference: &Reference, insecure: bool, keyring: &Keyring) -> Repository {
        let name = reference.repository();
        Repository {
            client: if insecure { self.trusting.clone() } else { self.verifying.clone() },
            insecure,
            login: keyring.find(&reference.registry, &name).cloned(),
            host: match reference.registry.as_str() {
                "docker.io" | "index.docker.io" => "registry-1.docker.io".to_owned(),
                other => other.to_owned(),
            },
            spec: reference.to_string(),
            name,
            authorization: Mutex::new(None),
        }
    }
}

/// One repository of one registry, with what was found out about getting in.
pub struct Repository {
    client: Client,
    insecure: bool,
    login: Option<Login>,
    host: String,
    name: String,
    spec: String,
    authorization: Mutex<Option<String>>,
}

impl Repository {
    /// The manifest of a tag or digest; its digest is worked out here, and must be the one asked for.
    ///
    /// # Errors
    /// 401 if the registry wants another login, 404 if there is no such manifest, 500 for everything else, as
    /// imports of OpenShift report it.
    pub async fn manifest(&self, tag_or_digest: &str) -> Result<Manifest, StatusError> {
        let response = self.get(&format!("manifests/{tag_or_digest}"), MANIFEST_TYPES).await?;
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .to_owned();
        let text = self.text(response).await?;
        let hash = Sha256::digest(text.as_bytes());
        let digest = hash.iter().fold("sha256:".to_owned(), |out, byte| format!("{out}{byte:02x}"));
        if tag_or_digest.starts_with("sha256:") && is_digest(tag_or_digest) && digest != tag_or_digest {
            return Err(self.failure(format!("the registry answered {digest} when asked for {tag_or_digest}")));
        }
        Ok(Manifest { digest, media_type, text })
    }

    /// A small blob as text: an image configuration.
    ///
    /// # Errors
    /// As for [`Repository::manifest`].
    pub async fn blob(&self, digest: &str) -> Result<String, StatusError> {
        let response = self.get(&format!("blobs/{digest}"), "*/*").await?;
        self.text(response).await
    }

    /// All tags of the repository's first page.
    ///
    /// # Errors
    /// As for [`Repository::manifest`].
    pub async fn tags(&self) -> Result<Vec<String>, StatusError> {
        let response = self.get("tags/list", "application/json").await?;
        let list: Value = serde_json::from_str(&self.text(response).await?).map_err(|error| self.failure(error))?;
        let tags = list["tags"].as_array().into_iter().flatten();
        Ok(tags.filter_map(|tag| tag.as_str().map(str::to_owned)).collect())
    }

    fn failure(&self, cause: impl std::fmt::Display) -> StatusError {
        StatusError::internal(format!("import of {}: {cause}", self.spec))
    }

    async fn text(&self, mut response: Response) -> Result<String, StatusError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(causes(&error)))? {
            if bytes.len() + chunk.len() > MANIFEST_LIMIT_BYTES {
                return Err(self.failure("the answer is larger than 4 MiB"));
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).map_err(|error| self.failure(error))
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Response, StatusError> {
        let secure = format!("https://{}/v2/{}/{path}", self.host, self.name);
        let answer = match self.get_url(&secure, accept).await {
            Err(error) if self.insecure && !error.is_timeout() => {
                let plain = format!("http://{}/v2/{}/{path}", self.host, self.name);
                self.get_url(&plain, accept).await.map_err(|_| error)
            }
            other => other,
        };
        let response = answer.map_err(|error| self.failure(causes(&error)))?;
        match response.status() {
            code if code.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(StatusError {
                message: format!("you may not have access to the container image {:?}", self.spec),
                ..StatusError::unauthorized()
            }),
            StatusCode::NOT_FOUND => Err(StatusError::not_found("dockerimage", &self.spec)),
            code => Err(self.failure(format!("the registry answered {code}"))),
        }
    }

    async fn get_url(&self, url: &str, accept: &str) -> reqwest::Result<Response> {
        let mut authorization = self.authorization.lock().await;
        let response = self.send(url, accept, authorization.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let Some(fresh) = self.authorize(challenge.unwrap_or_default()).await? else { return Ok(response) };
        let response = self.send(url, accept, Some(&fresh)).await?;
        *authorization = Some(fresh);
        Ok(response)
    }

    async fn send(&self, url: &str, accept: &str, authorization: Option<&str>) -> reqwest::Result<Response> {
        let mut request = self.client.get(url).header(header::ACCEPT, accept);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.send().await
    }

    /// What to send in answer to a challenge; `None` if there is nothing.
    async fn authorize(&self, challenge: &str) -> reqwest::Result<Option<String>> {
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(self.login.as_ref().map(basic));
        }
        let parameters = parameters(rest);
        let find = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let Some(mut realm) = find("realm").and_then(|realm| Url::parse(realm).ok()) else { return Ok(None) };
        if let Some(service) = find("service") {
            realm.query_pairs_mut().append_pair("service", service);
        }
        realm.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.name));
        let login = self.login.as_ref().map(basic);
        let response = self.send(realm.as_str(), "application/json", login.as_deref()).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let body: Value = response.json().await?;
        let token = body["token"].as_str().or_else(|| body["access_token"].as_str());
        Ok(token.map(|token| format!("Bearer {token}")))
    }
}

fn basic(login: &Login) -> String {
    use base64::Engine;
    let pair = format!("{}:{}", login.user, login.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// The parameters of a challenge: `realm="…",service="…"`.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_ascii_lowercase();
        let (value, remaining) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((key, value.to_owned()));
        rest = remaining;
    }
    found
}

/// An error with everything behind it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let seen = parameters(r#"realm="https://r/token?a=b,c",service=svc, scope="repository:x:pull,push""#);
        let expected = [("realm", "https://r/token?a=b,c"), ("service", "svc"), ("scope", "repository:x:pull,push")];
        assert_eq!(seen, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
