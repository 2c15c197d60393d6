//! Reading from other registries: one request, answered challenge, one more request.
//! What to read and from where is decided by `pullthrough`.

use std::time::Duration;

use http::{Method, StatusCode, header};
use serde::Deserialize;

use crate::{
    cluster::in_full,
    manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST},
    pull_secret::Login,
    reference::ImageReference,
};

/// How long a remote may take to answer; the body may take longer.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a remote did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No connection, or not HTTP.
    #[error("{url}: {problem}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What happened.
        problem: String,
    },
    /// A failure status.
    #[error("{url}: the registry answered {status}")]
    Status {
        /// What was asked.
        url: String,
        /// What it said.
        status: StatusCode,
    },
}

impl RemoteError {
    /// The `code` label of `imageregistry_pullthrough_repository_errors_total`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Status { status, .. } if *status == StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
            Self::Status { status, .. } if *status == StatusCode::FORBIDDEN => "DENIED",
            Self::Status { status, .. } if *status == StatusCode::NOT_FOUND => "NOT_FOUND",
            _ => "UNKNOWN",
        }
    }
}

/// A client of other registries.
pub struct Remotes {
    strict: reqwest::Client,
    lax: reqwest::Client,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Remotes {
    /// A client that trusts the system's authorities and the mounted anchors, and follows the proxy variables.
    pub fn new() -> Result<Self, String> {
        let client =
            |lax| crate::trust::client(|builder| builder.connect_timeout(ANSWER).tls_danger_accept_invalid_certs(lax));
        Ok(Self { strict: client(false)?, lax: client(true)? })
    }

    /// Asks a registry for a manifest or blob. An insecure one may have any certificate, or speak plain HTTP.
    pub async fn ask(
        &self,
        method: Method,
        from: &ImageReference,
        what: &str,
        login: Option<&Login>,
        insecure: bool,
    ) -> Result<reqwest::Response, RemoteError> {
        let url = |scheme: &str| format!("{scheme}://{}/v2/{}/{what}", from.api_host(), from.repository);
        let secure = self.ask_url(method.clone(), &url("https"), from, login, insecure).await;
        match secure {
            Err(RemoteError::Unreachable { .. }) if insecure => {
                self.ask_url(method, &url("http"), from, login, insecure).await
            }
            answer => answer,
        }
    }

    async fn ask_url(
        &self,
        method: Method,
        url: &str,
        from: &ImageReference,
        login: Option<&Login>,
        insecure: bool,
    ) -> Result<reqwest::Response, RemoteError> {
        let client = if insecure { &self.lax } else { &self.strict };
        let unreachable = |problem: String| RemoteError::Unreachable { url: url.to_owned(), problem };
        let request = || {
            let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
            client.request(method.clone(), url).header(header::ACCEPT, accept)
        };
        let send = async |request: reqwest::RequestBuilder| match tokio::time::timeout(ANSWER, request.send()).await {
            Ok(answer) => answer.map_err(|error| unreachable(in_full(&error))),
            Err(_) => Err(unreachable(format!("no answer within {} s", ANSWER.as_secs()))),
        };
        let mut answer = send(request()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let challenge = answer.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            let challenge = challenge.unwrap_or_default().to_owned();
            let authorised = match challenge.split_once(' ') {
                Some((scheme, parameters)) if scheme.eq_ignore_ascii_case("bearer") => {
                    let realm = parameter(parameters, "realm").unwrap_or_default();
                    let mut query = vec![("scope", format!("repository:{}:pull", from.repository))];
                    query.extend(parameter(parameters, "service").map(|service| ("service", service)));
                    let mut fetch = client.get(&realm).query(&query);
                    if let Some(login) = login {
                        fetch = fetch.basic_auth(&login.user, Some(&login.password));
                    }
                    let fetched = send(fetch).await?;
                    if !fetched.status().is_success() {
                        return Err(RemoteError::Status { url: realm, status: fetched.status() });
                    }
                    let token: Token = fetched.json().await.map_err(|error| unreachable(in_full(&error)))?;
                    let token = if token.token.is_empty() { token.access_token } else { token.token };
                    Some(request().bearer_auth(token))
                }
                _ => login.map(|login| request().basic_auth(&login.user, Some(&login.password))),
            };
            if let Some(request) = authorised {
                answer = send(request).await?;
            }
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(RemoteError::Status { url: url.to_owned(), status: answer.status() })
    }
}

/// A quoted parameter of a challenge.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, following) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim_start_matches([',', ' ']).eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = following;
    }
    None
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("realm=\"https://a/token\",service=\"a b\"", "realm", Some("https://a/token"))]
    #[case("realm=\"https://a/token?x=1,2\", service=\"a b\"", "service", Some("a b"))]
    #[case("realm=\"x\"", "service", None)]
    #[case("realm=plain,service=s", "service", Some("s"))]
    fn challenge_parameters(#[case] text: &str, #[case] name: &str, #[case] expected: Option<&str>) {
        assert_eq!(parameter(text, name).as_deref(), expected);
    }
}
