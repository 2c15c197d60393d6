//! One API request taken apart: who asks, for what, with which verb and in which form the answer is wanted.
//! Nothing here decides whether the request is allowed or what it does.

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use serde_json::Value;

use crate::status::{GROUP, StatusError};
use crate::table::Form;

/// Path under which all objects of the group live.
pub const ROOT: &str = "/apis/image.openshift.io/v1";

/// What a request does, in the words of RBAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// The verb as RBAC rules and access reviews spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// The caller the aggregator vouches for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// `authentication.kubernetes.io/...` and the like, each with all its values.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// Reads the `X-Remote-*` headers; `None` without a user name.
    ///
    /// Groups come as one header each and must be read as a list: a map keeps only the last one.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let all = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let name = text("x-remote-user").filter(|name| !name.is_empty())?;
        let extra = headers
            .keys()
            .filter_map(|key| {
                let suffix = key.as_str().strip_prefix("x-remote-extra-")?;
                Some((percent_decode(suffix)?, all(key.as_str())))
            })
            .collect();
        Some(Self { name, uid: text("x-remote-uid").unwrap_or_default(), groups: all("x-remote-group"), extra })
    }
}

/// The parameters behind the question mark, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Asks for what the API server has at hand. Without this a list right after a write waits until the API
    /// server's cache has caught up with all of etcd, about 80 ms; with it the answer may be that much older.
    pub fn at_hand() -> Self {
        Self::default().with("resourceVersion", Some("0"))
    }

    /// Reads the query of `uri`.
    pub fn of(uri: &Uri) -> Self {
        Self::parse(uri.query().unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |part: &str| percent_decode(&part.replace('+', " ")).unwrap_or_else(|| part.to_owned());
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of `key` that is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Whether `key` is switched on.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }

    /// Sets `key` to `value`, or takes it away.
    #[must_use]
    pub fn with(mut self, key: &str, value: Option<&str>) -> Self {
        self.0.retain(|(k, _)| k != key);
        if let Some(value) = value {
            self.0.push((key.to_owned(), value.to_owned()));
        }
        self
    }

    /// Only the parameters in `keys`.
    #[must_use]
    pub fn only(&self, keys: &[&str]) -> Self {
        Self(self.0.iter().filter(|(k, _)| keys.contains(&k.as_str())).cloned().collect())
    }

    /// The query as it is written in a URL, without the question mark.
    pub fn encode(&self) -> String {
        self.0.iter().map(|(k, v)| format!("{}={}", percent_encode(k), percent_encode(v))).collect::<Vec<_>>().join("&")
    }
}

/// What a path under [`ROOT`] names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    pub namespace: Option<String>,
    pub resource: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    /// Takes a path apart; `None` if it is not one of an object or collection of this group.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?.strip_prefix('/')?;
        let mut parts = rest.trim_end_matches('/').split('/').map(percent_decode);
        let mut target = Self::default();
        let mut next = parts.next()??;
        if next == "namespaces" {
            target.namespace = Some(parts.next()??);
            next = parts.next()??;
        }
        target.resource = next;
        target.name = parts.next().flatten();
        target.subresource = parts.next().flatten();
        let complete = parts.next().is_none() && !target.resource.is_empty();
        complete.then_some(target)
    }

    /// Resource and subresource as discovery and RBAC write them: `imagestreams/layers`.
    pub fn full_resource(&self) -> String {
        match &self.subresource {
            Some(sub) => format!("{}/{sub}", self.resource),
            None => self.resource.clone(),
        }
    }
}

/// One request for an object or a collection.
#[derive(Debug, Clone)]
pub struct Call {
    pub verb: Verb,
    pub target: Target,
    pub query: Query,
    pub user: User,
    /// What the client accepts.
    pub form: Form,
    pub content_type: String,
    pub body: Bytes,
}

impl Call {
    /// Puts method, path, headers and body together.
    ///
    /// # Errors
    /// 404 for a path outside the group, 405 for a method that collections or objects do not have.
    pub fn new(method: &Method, uri: &Uri, headers: &HeaderMap, user: User, body: Bytes) -> Result<Self, StatusError> {
        let target = Target::parse(uri.path()).ok_or_else(StatusError::no_such_path)?;
        let query = Query::of(uri);
        let verb = match (method.as_str(), &target.name) {
            ("GET" | "HEAD", Some(_)) => Verb::Get,
            ("GET" | "HEAD", None) if query.flag("watch") => Verb::Watch,
            ("GET" | "HEAD", None) => Verb::List,
            ("POST", _) => Verb::Create,
            ("PUT", Some(_)) => Verb::Update,
            ("PATCH", Some(_)) => Verb::Patch,
            ("DELETE", Some(_)) => Verb::Delete,
            ("DELETE", None) => Verb::DeleteCollection,
            (other, _) => return Err(StatusError::method_not_supported(&target.resource, &other.to_lowercase())),
        };
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let content_type = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned();
        Ok(Self { verb, target, query, user, form: Form::of(text(header::ACCEPT)), content_type, body })
    }

    /// The namespace in the path.
    ///
    /// # Errors
    /// 400 if the resource is namespaced and the path has none.
    pub fn namespace(&self) -> Result<&str, StatusError> {
        self.target.namespace.as_deref().ok_or_else(|| {
            StatusError::bad_request(format!("{} live in a namespace: none was given", self.target.resource))
        })
    }

    /// The name in the path, empty for collections.
    pub fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    /// `dryRun=All`, to be handed on to the store.
    pub fn dry_run(&self) -> bool {
        self.query.get("dryRun").is_some()
    }

    /// The object in the body, with kind and namespace checked against the path.
    ///
    /// # Errors
    /// 415 for a format other than JSON or YAML, 400 for a body that is no object or belongs elsewhere.
    pub fn object(&self, kind: &str) -> Result<Value, StatusError> {
        let mut object = match self.content_type.as_str() {
            "" | "application/json" => serde_json::from_slice::<Value>(&self.body).map_err(|e| e.to_string()),
            "application/yaml" => serde_yaml::from_slice::<Value>(&self.body).map_err(|e| e.to_string()),
            other => return Err(StatusError::unsupported_media_type(other, "application/json, application/yaml")),
        }
        .map_err(|e| StatusError::bad_request(format!("the body of the request could not be decoded: {e}")))?;
        self.fit(&mut object, kind)?;
        Ok(object)
    }

    /// Fills kind, apiVersion and namespace of `object` from the request, and refuses others.
    ///
    /// # Errors
    /// 400 where the body contradicts the path.
    pub fn fit(&self, object: &mut Value, kind: &str) -> Result<(), StatusError> {
        let Some(map) = object.as_object_mut() else {
            return Err(StatusError::bad_request("the body of the request is not an object"));
        };
        match map.get("kind").and_then(Value::as_str) {
            None | Some("") => {}
            Some(given) if given == kind => {}
            Some(given) => {
                return Err(StatusError::bad_request(format!(
                    "the object provided is of kind {given:?}; this path takes {kind:?}"
                )));
            }
        }
        match map.get("apiVersion").and_then(Value::as_str) {
            None | Some("" | "v1" | "image.openshift.io/v1") => {}
            Some(given) => {
                return Err(StatusError::bad_request(format!(
                    "the API version in the data ({given}) does not match the expected API version ({GROUP}/v1)"
                )));
            }
        }
        map.insert("kind".into(), kind.into());
        map.insert("apiVersion".into(), format!("{GROUP}/v1").into());
        let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
        let Some(metadata) = metadata.as_object_mut() else {
            return Err(StatusError::bad_request("metadata is not an object"));
        };
        if let Some(namespace) = &self.target.namespace {
            match metadata.get("namespace").and_then(Value::as_str) {
                None | Some("") => {}
                Some(given) if given == namespace => {}
                Some(_) => {
                    return Err(StatusError::bad_request(
                        "the namespace of the provided object does not match the namespace sent on the request",
                    ));
                }
            }
            metadata.insert("namespace".into(), namespace.clone().into());
        }
        if let Some(name) = &self.target.name {
            match metadata.get("name").and_then(Value::as_str) {
                None | Some("") => {
                    metadata.insert("name".into(), name.clone().into());
                }
                Some(given) if given == name => {}
                Some(given) => {
                    return Err(StatusError::bad_request(format!(
                        "the name of the object ({given}) does not match the name on the URL ({name})"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Options of a deletion: the body if it can be read, otherwise none.
    ///
    /// # Errors
    /// 400 for a JSON body that is no object.
    pub fn delete_options(&self) -> Result<Value, StatusError> {
        if self.body.is_empty() || !(self.content_type.is_empty() || self.content_type == "application/json") {
            return Ok(serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"}));
        }
        let mut options: Value = serde_json::from_slice(&self.body)
            .map_err(|e| StatusError::bad_request(format!("the delete options could not be decoded: {e}")))?;
        if let Some(map) = options.as_object_mut() {
            map.insert("kind".into(), "DeleteOptions".into());
            map.insert("apiVersion".into(), "v1".into());
        }
        Ok(options)
    }
}

/// Resolves `%XX`; `None` if the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// Writes everything but unreserved characters as `%XX`.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use rstest::rstest;

    #[rstest]
    #[case("/images", None, "images", None, None)]
    #[case("/images/sha256:ab", None, "images", Some("sha256:ab"), None)]
    #[case("/images/sha256%3Aab", None, "images", Some("sha256:ab"), None)]
    #[case("/namespaces/p/imagestreams/app/layers", Some("p"), "imagestreams", Some("app"), Some("layers"))]
    #[case(
        "/namespaces/p/imagestreamimages/app@sha256:ab",
        Some("p"),
        "imagestreamimages",
        Some("app@sha256:ab"),
        None
    )]
    fn paths_are_taken_apart(
        #[case] path: &str,
        #[case] namespace: Option<&str>,
        #[case] resource: &str,
        #[case] name: Option<&str>,
        #[case] subresource: Option<&str>,
    ) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let expected = Target {
            namespace: owned(namespace),
            resource: resource.into(),
            name: owned(name),
            subresource: owned(subresource),
        };
        assert_eq!(Target::parse(&format!("{ROOT}{path}")), Some(expected));
    }

    #[rstest]
    #[case("/apis/image.openshift.io/v1")]
    #[case("/apis/image.openshift.io/v1/namespaces/p")]
    #[case("/apis/image.openshift.io/v1/a/b/c/d")]
    #[case("/healthz")]
    fn other_paths_are_not_targets(#[case] path: &str) {
        assert_eq!(Target::parse(path), None);
    }

    #[test]
    fn every_group_header_counts() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("kubeadmin"));
        headers.append("x-remote-group", HeaderValue::from_static("system:masters"));
        headers.append("x-remote-group", HeaderValue::from_static("system:authenticated"));
        headers.append("x-remote-extra-example.org%2fkey", HeaderValue::from_static("a"));
        headers.append("x-remote-extra-example.org%2fkey", HeaderValue::from_static("b"));
        let user = User::from_headers(&headers).expect("a user name is there");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
        assert_eq!(user.extra, [("example.org/key".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
    }

    #[test]
    fn a_query_survives_the_round_trip() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&limit=5&watch=true");
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert!(query.flag("watch"));
        assert_eq!(query.only(&["labelSelector"]).encode(), "labelSelector=a%3Db%2Cc");
    }
}
