//! What the registry asks the API server: who a token is, what its owner may do, and the image metadata.
//! A [`Transport`] carries single calls; the questions and the shapes of their answers are here, and no decision is.

use api::image::{
    Image, ImageSignature, ImageStream, ImageStreamImage, ImageStreamLayers, ImageStreamMapping, SecretList,
};
use futures::{FutureExt, future::BoxFuture};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

use crate::digest::{Digest, Repository};

/// How long one call to the API server may take before it counts as failed.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// In whose name a call is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The registry's own service account.
    Registry,
    /// The owner of the token a client sent.
    User(Token),
    /// Nobody: without credentials.
    Anonymous,
}

/// A bearer token of the API server. Its text is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes the text of a token.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the Authorization header only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The API server answered with a failure status.
    #[error("{message}")]
    Status {
        /// HTTP status.
        code: u16,
        /// `reason` of the Status object, empty when there was none.
        reason: String,
        /// `message` of the Status object, or the HTTP status in words.
        message: String,
        /// `details.kind` of the Status object.
        kind: String,
        /// `details.name` of the Status object.
        name: String,
    },
    /// There was no usable answer.
    #[error("the API server gave no usable answer: {0}")]
    Transport(String),
}

impl CallError {
    /// The HTTP status, if the API server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Transport(_) => None,
        }
    }

    /// True for 404.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// True when quota admission refused (openshift/library-go pkg/quota/quotautil/error.go:11-30).
    pub fn is_quota(&self) -> bool {
        match self {
            Self::Status { code: 403, message, .. } => {
                message.contains("exceeded quota:") || message.contains("exceeds the maximum limit")
            }
            Self::Status { code: 422, message, .. } => message.contains("exceeds the maximum limit"),
            _ => false,
        }
    }

    fn from_status(code: StatusCode, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let message = match text("/message") {
            empty if empty.is_empty() => format!("the API server answered {code}"),
            message => message,
        };
        Self::Status {
            code: code.as_u16(),
            reason: text("/reason"),
            message,
            kind: text("/details/kind"),
            name: text("/details/name"),
        }
    }
}

/// One call: method, path with query, and a JSON body.
#[derive(Debug, Clone)]
pub struct Call {
    /// In whose name.
    pub caller: Caller,
    /// GET or POST.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The object sent.
    pub body: Option<Value>,
}

/// Carries calls to an API server.
pub trait Transport: Send + Sync + 'static {
    /// Makes one call; any status outside 2xx is an error.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Value, CallError>>;
}

/// What is asked of the authorizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attributes {
    /// API group.
    pub group: &'static str,
    /// Resource; `imagestreams/layers` stays one string here, as the real registry sends it.
    pub resource: &'static str,
    /// Subresource, mostly empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub subresource: &'static str,
    /// Verb.
    pub verb: &'static str,
    /// Project; empty for cluster scope.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Object name; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// Who a token belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Unique id, empty if the API server has none.
    pub uid: String,
}

/// The API server as the registry sees it.
#[derive(Clone)]
pub struct Cluster {
    transport: Arc<dyn Transport>,
}

impl Cluster {
    /// Asks through `transport`.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        caller: Caller,
        method: Method,
        path: String,
        body: Option<Value>,
    ) -> Result<T, CallError> {
        let answer = self.transport.call(Call { caller, method, path, body }).await?;
        serde_json::from_value(answer).map_err(|error| CallError::Transport(error.to_string()))
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, CallError> {
        self.call(Caller::Registry, Method::GET, path, None).await
    }

    /// Resolves a token with a SelfSubjectReview (openshift/image-registry pkg/dockerregistry/server/auth.go:388).
    pub async fn whoami(&self, token: Token) -> Result<User, CallError> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned();
        let answer: Value = self.call(Caller::User(token), Method::POST, path, Some(review)).await?;
        let text = |pointer| answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(User { name: text("/status/userInfo/username"), uid: text("/status/userInfo/uid") })
    }

    /// Asks whether a caller may do something, by a SelfSubjectAccessReview in the caller's name.
    pub async fn may(&self, caller: Caller, attributes: &Attributes) -> Result<bool, CallError> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned();
        let answer: Value = self.call(caller, Method::POST, path, Some(review)).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or_default())
    }

    /// Asks in the registry's name whether the anonymous user may do something
    /// (openshift/image-registry pkg/dockerregistry/server/auth.go:456-481).
    pub async fn may_anonymous(&self, attributes: &Attributes) -> Result<bool, CallError> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": "system:anonymous", "groups": ["system:unauthenticated"],
                "resourceAttributes": attributes,
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned();
        let answer: Value = self.call(Caller::Registry, Method::POST, path, Some(review)).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or_default())
    }

    /// The image stream behind a repository.
    pub async fn stream(&self, repository: &Repository) -> Result<ImageStream, CallError> {
        self.get(namespaced(repository, "imagestreams", repository.stream())).await
    }

    /// The blobs and manifests of all images a stream lists.
    pub async fn layers(&self, repository: &Repository) -> Result<ImageStreamLayers, CallError> {
        self.get(format!("{}/layers", namespaced(repository, "imagestreams", repository.stream()))).await
    }

    /// The pull secrets of a stream's project.
    pub async fn secrets(&self, repository: &Repository) -> Result<SecretList, CallError> {
        self.get(format!("{}/secrets", namespaced(repository, "imagestreams", repository.stream()))).await
    }

    /// An image by digest.
    pub async fn image(&self, digest: &Digest) -> Result<Image, CallError> {
        self.get(format!("/apis/image.openshift.io/v1/images/{digest}")).await
    }

    /// An image as one stream has it, with its signatures.
    pub async fn stream_image(&self, repository: &Repository, digest: &Digest) -> Result<ImageStreamImage, CallError> {
        let name = format!("{}@{digest}", repository.stream());
        self.get(namespaced(repository, "imagestreamimages", &name)).await
    }

    /// Stores an image that no stream lists yet.
    pub async fn create_image(&self, image: &Image) -> Result<(), CallError> {
        let path = "/apis/image.openshift.io/v1/images".to_owned();
        self.post(Caller::Registry, path, image).await
    }

    /// Tags an image in a stream.
    pub async fn map(&self, repository: &Repository, mapping: &ImageStreamMapping) -> Result<(), CallError> {
        let path = format!("/apis/image.openshift.io/v1/namespaces/{}/imagestreammappings", repository.namespace());
        self.post(Caller::Registry, path, mapping).await
    }

    /// Makes an empty stream in a user's name.
    pub async fn create_stream(&self, caller: Caller, repository: &Repository) -> Result<(), CallError> {
        let mut stream = ImageStream::default();
        stream.metadata.name = Some(repository.stream().to_owned());
        let path = format!("/apis/image.openshift.io/v1/namespaces/{}/imagestreams", repository.namespace());
        self.post(caller, path, &stream).await
    }

    /// Adds a signature in a user's name.
    pub async fn create_signature(&self, caller: Caller, signature: &ImageSignature) -> Result<(), CallError> {
        self.post(caller, "/apis/image.openshift.io/v1/imagesignatures".to_owned(), signature).await
    }

    /// One page of all streams a caller may list: `<project>/<stream>` names and the token of the next page.
    pub async fn streams(
        &self,
        caller: Caller,
        limit: usize,
        next: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), CallError> {
        let mut path = format!("/apis/image.openshift.io/v1/imagestreams?limit={limit}");
        if let Some(next) = next {
            path.push_str("&continue=");
            path.push_str(&crate::router::escape(next));
        }
        let page: Value = self.call(caller, Method::GET, path, None).await?;
        let text = |item: &Value, pointer| item.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let names = page["items"].as_array().into_iter().flatten().filter_map(|item| {
            Some(format!("{}/{}", text(item, "/metadata/namespace")?, text(item, "/metadata/name")?))
        });
        Ok((names.collect(), text(&page, "/metadata/continue").filter(|next| !next.is_empty())))
    }

    /// All objects of a mirror policy kind, given its path.
    pub async fn mirror_policies<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, CallError> {
        let mut list: Value = self.get(path.to_owned()).await?;
        serde_json::from_value(list["items"].take()).map_err(|error| CallError::Transport(error.to_string()))
    }

    async fn post<T: Serialize>(&self, caller: Caller, path: String, object: &T) -> Result<(), CallError> {
        let body = serde_json::to_value(object).map_err(|error| CallError::Transport(error.to_string()))?;
        self.transport.call(Call { caller, method: Method::POST, path, body: Some(body) }).await.map(drop)
    }
}

fn namespaced(repository: &Repository, resource: &str, name: &str) -> String {
    format!("/apis/image.openshift.io/v1/namespaces/{}/{resource}/{name}", repository.namespace())
}

/// Calls a real API server: found as every Kubernetes client finds it (KUBECONFIG, then the pod's service account).
pub struct KubeTransport {
    registry: kube::Client,
    bare: kube::Client,
}

impl KubeTransport {
    /// Reads the client configuration; makes no call.
    pub async fn infer() -> Result<Self, kube::Error> {
        let config = kube::Config::infer().await.map_err(|error| kube::Error::Service(Box::new(error)))?;
        Self::new(config)
    }

    /// Uses a given configuration: its credentials for the registry's own calls, none for those of users.
    pub fn new(mut config: kube::Config) -> Result<Self, kube::Error> {
        config.default_retry = false;
        // The proxy variables are meant for stores and other registries; the API server is reached directly.
        config.proxy_url = None;
        config.connect_timeout = Some(CALL_LIMIT);
        config.read_timeout = Some(CALL_LIMIT);
        let mut bare = config.clone();
        bare.auth_info = kube::config::AuthInfo::default();
        Ok(Self { registry: kube::Client::try_from(config)?, bare: kube::Client::try_from(bare)? })
    }

    async fn send(&self, call: Call) -> Result<Value, CallError> {
        let mut request = http::Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::USER_AGENT, concat!("dockerregistry/", env!("CARGO_PKG_VERSION")));
        let client = match &call.caller {
            Caller::Registry => &self.registry,
            Caller::Anonymous => &self.bare,
            Caller::User(token) => {
                request = request.header(http::header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
                &self.bare
            }
        };
        let body = match call.body {
            None => kube::client::Body::empty(),
            Some(object) => {
                request = request.header(http::header::CONTENT_TYPE, "application/json");
                kube::client::Body::from(object.to_string().into_bytes())
            }
        };
        let broken = |error: &dyn std::error::Error| CallError::Transport(in_full(error));
        let response = client.send(request.body(body).map_err(|e| broken(&e))?).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
        if !status.is_success() {
            return Err(CallError::from_status(status, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|e| broken(&e))
    }
}

impl Transport for KubeTransport {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Value, CallError>> {
        async move {
            match tokio::time::timeout(CALL_LIMIT, self.send(call)).await {
                Ok(answer) => answer,
                Err(_) => Err(CallError::Transport(format!("no answer within {} s", CALL_LIMIT.as_secs()))),
            }
        }
        .boxed()
    }
}

/// An error with its causes: the outermost alone rarely says what happened.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(403, "pods is forbidden: exceeded quota: q", true)]
    #[case(422, "requested usage exceeds the maximum limit per openshift.io/Image", true)]
    #[case(403, "forbidden", false)]
    #[case(422, "exceeded quota: q", false)]
    fn quota_is_told_by_its_words(#[case] code: u16, #[case] message: &str, #[case] quota: bool) {
        let body = json!({"kind": "Status", "message": message}).to_string();
        let error = CallError::from_status(StatusCode::from_u16(code).unwrap(), body.as_bytes());
        assert_eq!(error.is_quota(), quota);
    }

    #[test]
    fn a_failure_without_a_status_object_still_has_words() {
        let error = CallError::from_status(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(error.to_string(), "the API server answered 502 Bad Gateway");
    }

    #[test]
    fn a_token_is_never_printed() {
        assert!(!format!("{:?}", Caller::User(Token::new("sha256~secret"))).contains("secret"));
    }
}
