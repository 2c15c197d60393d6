//! Who asks and whether the cluster lets them: credentials, access records, reviews and challenges.
//! The API server decides everything; its refusals become challenges, never 403 (registry source
//! pkg/dockerregistry/server/auth.go).

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ring::hmac;
use serde_json::{Value, json};

use crate::{
    cluster::{Attributes, CallError, Caller, Cluster, Token, User},
    digest::Repository,
    error::{Code, Refusal},
    log::Log,
    request::{Identity, Request},
    router::{self, Place, Resource},
    settings::Settings,
};

/// The token by which a client says that it has none.
pub const ANONYMOUS: &str = "anonymous";

const GROUP: &str = "image.openshift.io";

/// One thing a request needs to be allowed to do, in the words of the distribution engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    kind: &'static str,
    name: String,
    action: Action,
}

/// What is done to the thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read from a repository.
    Pull,
    /// Write to a repository.
    Push,
    /// Give up an upload.
    Cancel,
    /// Remove a manifest or blob.
    Prune,
    /// Read another repository's blob in order to link it.
    MountFrom,
    /// List all repositories.
    Catalog,
    /// Read metrics.
    Metrics,
    /// Add a signature.
    Sign,
}

impl Record {
    fn repository(name: &str, action: Action) -> Self {
        Self { kind: "repository", name: name.to_owned(), action }
    }

    fn to_json(&self) -> Value {
        let action = match self.action {
            Action::Pull | Action::MountFrom => "pull",
            Action::Push => "push",
            Action::Cancel => "delete",
            Action::Prune if self.kind == "admin" => "prune",
            Action::Prune => "delete",
            Action::Catalog => "*",
            Action::Metrics => "get",
            Action::Sign => "put",
        };
        json!({"Type": self.kind, "Class": "", "Name": self.name, "Action": action})
    }

    /// The question to the authorizer; an error for a repository that has not two parts.
    fn attributes(&self) -> Result<Attributes, Refusal> {
        let cluster = |resource, subresource, verb| Attributes {
            group: GROUP,
            resource,
            subresource,
            verb,
            namespace: String::new(),
            name: String::new(),
        };
        let verb = match self.action {
            Action::Pull | Action::MountFrom => "get",
            Action::Push | Action::Cancel => "update",
            Action::Sign => "create",
            Action::Prune => return Ok(cluster("images", "", "delete")),
            Action::Catalog => return Ok(cluster("imagestreams", "", "list")),
            Action::Metrics => return Ok(cluster("registry", "metrics", "get")),
        };
        let resource = if self.action == Action::Sign { "imagesignatures" } else { "imagestreams/layers" };
        let repository = Repository::parse(&self.name).ok_or_else(|| Refusal::Bare {
            status: StatusCode::BAD_REQUEST,
            reason: format!("repository name \"{}\" must be of the format <project>/<name>", self.name),
        })?;
        Ok(Attributes {
            group: GROUP,
            resource,
            subresource: "",
            verb,
            namespace: repository.namespace().to_owned(),
            name: repository.stream().to_owned(),
        })
    }
}

/// What a request needs, or `None` when the method can be given no meaning.
pub fn records(request: &Request, place: &Place) -> Option<Vec<Record>> {
    let reading = matches!(request.method, Method::GET | Method::HEAD);
    match place {
        Place::Catalog => Some(vec![Record { kind: "registry", name: "catalog".into(), action: Action::Catalog }]),
        Place::Metrics => Some(vec![Record { kind: "metrics", name: String::new(), action: Action::Metrics }]),
        Place::AdminBlob(_) => Some(vec![Record { kind: "admin", name: String::new(), action: Action::Prune }]),
        Place::Repository { name, resource } => {
            let one = |action| Record::repository(name, action);
            match (&request.method, resource) {
                (&Method::GET, Resource::Signatures(_)) => {
                    Some(vec![Record { kind: "signature", ..one(Action::Pull) }, one(Action::Pull)])
                }
                (&Method::PUT, Resource::Signatures(_)) => {
                    Some(vec![Record { kind: "signature", ..one(Action::Sign) }, one(Action::Pull), one(Action::Push)])
                }
                _ if reading => Some(vec![one(Action::Pull)]),
                (&Method::DELETE, Resource::Upload(_)) => Some(vec![one(Action::Cancel)]),
                (&Method::DELETE, _) => Some(vec![one(Action::Prune)]),
                (&Method::POST | &Method::PUT | &Method::PATCH, _) => {
                    let mut records = vec![one(Action::Pull), one(Action::Push)];
                    if *resource == Resource::Uploads
                        && let Some(from) = router::query(&request.uri, "from").filter(|from| !from.is_empty())
                    {
                        records.push(Record::repository(&from, Action::MountFrom));
                    }
                    Some(records)
                }
                _ => None,
            }
        }
        _ => Some(Vec::new()),
    }
}

/// What the Authorization header holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A token; `anonymous` and the empty one stand for nobody.
    Token(Token),
    /// Nothing usable: the client is asked to fetch a token.
    Absent,
    /// Basic credentials that cannot be decoded or have no password.
    Undecodable,
}

/// The password of a Basic header. The name ends at the *first* colon, so a name with a colon spoils the password.
pub fn basic_password(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    (!password.is_empty()).then(|| password.to_owned())
}

/// Reads an Authorization header.
pub fn credentials(header: &str) -> Credentials {
    let Some((scheme, value)) = header.split_once(' ') else { return Credentials::Absent };
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Credentials::Token(Token::new(value.trim())),
        "basic" => {
            basic_password(value).map_or(Credentials::Undecodable, |password| Credentials::Token(Token::new(password)))
        }
        _ => Credentials::Absent,
    }
}

fn is_nobody(token: &Token) -> bool {
    matches!(token.reveal(), ANONYMOUS | "")
}

/// Compares without telling by time how much was right.
fn is_same(secret: &str, token: &Token) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"metrics secret");
    hmac::verify(&key, token.reveal().as_bytes(), hmac::sign(&key, secret.as_bytes()).as_ref()).is_ok()
}

/// Authorises requests.
pub struct Gate<'a> {
    /// Settings of realm and metrics.
    pub settings: &'a Settings,
    /// Who is asked.
    pub cluster: &'a Cluster,
    /// Where refusals are noted.
    pub log: &'a Log,
}

impl Gate<'_> {
    /// Lets a request through in somebody's name, or refuses it.
    ///
    /// # Errors
    /// 401 with a challenge when credentials are missing, unusable, or not good enough; a bare 400 when the API server
    /// cannot be asked or the repository name has not two parts.
    pub async fn authorise(&self, request: &Request, records: &[Record]) -> Result<Identity, Refusal> {
        let challenge = |value: String| challenge(value, records);
        let token = match credentials(request.header(&header::AUTHORIZATION)) {
            Credentials::Token(token) => token,
            Credentials::Absent => return Err(challenge(self.bearer(request))),
            Credentials::Undecodable => return Err(challenge(self.basic("failed to decode credentials"))),
        };
        if self.settings.metrics_enabled
            && let Some(secret) = &self.settings.metrics_secret
        {
            let known = is_same(secret, &token);
            let for_metrics = records.iter().any(|record| record.action == Action::Metrics);
            match (known, for_metrics) {
                (true, _) if for_metrics || records.is_empty() => return Ok(nobody()),
                (false, true) => return Err(challenge(self.basic("access denied"))),
                _ => {}
            }
        }
        let mut identity = if is_nobody(&token) {
            nobody()
        } else {
            let user = self.cluster.whoami(token.clone()).await.map_err(|error| match error.code() {
                Some(401 | 403) => challenge(self.basic("access denied")),
                _ => self.cannot_ask(&error),
            })?;
            Identity { caller: Caller::User(token), user, may_mount: false }
        };
        for record in records {
            let attributes = record.attributes()?;
            let allowed = self.allowed(&identity.caller, &attributes).await?;
            match (record.action, allowed) {
                // A denied mount becomes an ordinary upload.
                (Action::MountFrom, allowed) => identity.may_mount = allowed,
                (_, true) => {}
                (_, false) => return Err(challenge(self.basic("access denied"))),
            }
        }
        Ok(identity)
    }

    async fn allowed(&self, caller: &Caller, attributes: &Attributes) -> Result<bool, Refusal> {
        match self.cluster.may(caller.clone(), attributes).await {
            Ok(allowed) => Ok(allowed),
            Err(error) => match (error.code(), caller) {
                // A stock API server has no self review for the anonymous user; the registry asks in its own name.
                (Some(403), Caller::Anonymous) => match self.cluster.may_anonymous(attributes).await {
                    Ok(allowed) => Ok(allowed),
                    Err(error) if matches!(error.code(), Some(401 | 403)) => Ok(false),
                    Err(error) => Err(self.cannot_ask(&error)),
                },
                (Some(401 | 403), _) => Ok(false),
                _ => Err(self.cannot_ask(&error)),
            },
        }
    }

    fn cannot_ask(&self, error: &CallError) -> Refusal {
        let reason = format!("asking the API server for access: {error}");
        self.log.error(&format!("error checking authorization: {error}"), vec![]);
        Refusal::Bare { status: StatusCode::BAD_REQUEST, reason }
    }

    fn bearer(&self, request: &Request) -> String {
        let base = self.settings.token_realm.clone().unwrap_or_else(|| {
            let (scheme, host) = request.token_origin();
            format!("{scheme}://{host}")
        });
        format!("Bearer realm=\"{}/openshift/token\"", base.trim_end_matches('/'))
    }

    fn basic(&self, error: &str) -> String {
        format!("Basic realm={},error=\"{error}\"", self.settings.realm)
    }
}

fn nobody() -> Identity {
    let user = User { name: ANONYMOUS.to_owned(), uid: String::new() };
    Identity { caller: Caller::Anonymous, user, may_mount: false }
}

/// 401 without a challenge, for methods that mean nothing.
pub fn unchallenged() -> Refusal {
    Code::Unauthorized.into()
}

fn challenge(value: String, records: &[Record]) -> Refusal {
    let mut entry = Code::Unauthorized.entry();
    let list: Vec<Value> = records.iter().map(Record::to_json).collect();
    entry.detail = Some(if list.is_empty() { Value::Null } else { list.into() });
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(header::WWW_AUTHENTICATE, value);
    }
    Refusal::Document { entries: vec![entry], headers }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::request::tests::request;

    #[rstest]
    #[case("", Credentials::Absent)]
    #[case("Bearer", Credentials::Absent)]
    #[case("Digest x", Credentials::Absent)]
    #[case("Bearer t", Credentials::Token(Token::new("t")))]
    #[case("bearer anonymous", Credentials::Token(Token::new("anonymous")))]
    #[case("Basic dXNlcjp0b2tlbg==", Credentials::Token(Token::new("token")))]
    // kube:admin:token, cut at the first colon
    #[case("Basic a3ViZTphZG1pbjp0b2tlbg==", Credentials::Token(Token::new("admin:token")))]
    #[case("Basic dXNlcjo=", Credentials::Undecodable)]
    #[case("Basic %%%", Credentials::Undecodable)]
    fn headers(#[case] header: &str, #[case] expected: Credentials) {
        assert_eq!(credentials(header), expected);
    }

    #[rstest]
    #[case(Method::GET, "/v2/a/b/manifests/v1", &["get"])]
    #[case(Method::PUT, "/v2/a/b/manifests/v1", &["get", "update"])]
    #[case(Method::POST, "/v2/a/b/blobs/uploads/?mount=x&from=c/d", &["get", "update", "get"])]
    #[case(Method::DELETE, "/v2/a/b/blobs/uploads/u", &["update"])]
    #[case(Method::DELETE, "/v2/a/b/manifests/v1", &["delete"])]
    #[case(Method::GET, "/v2/_catalog", &["list"])]
    #[case(Method::GET, "/v2/", &[])]
    fn verbs_asked(#[case] method: Method, #[case] uri: &str, #[case] verbs: &[&str]) {
        let request = request(method, uri, &[]);
        let records = records(&request, &Place::of(request.uri.path())).unwrap();
        let asked: Vec<_> = records.iter().map(|record| record.attributes().unwrap().verb).collect();
        assert_eq!(asked, verbs);
    }

    #[test]
    fn layers_are_one_word_and_metrics_two() {
        let pull = Record::repository("a/b", Action::Pull).attributes().unwrap();
        assert_eq!((pull.resource, pull.subresource), ("imagestreams/layers", ""));
        let metrics = Record { kind: "metrics", name: String::new(), action: Action::Metrics };
        let metrics = metrics.attributes().unwrap();
        assert_eq!((metrics.resource, metrics.subresource), ("registry", "metrics"));
    }

    #[test]
    fn options_inside_a_repository_means_nothing() {
        let request = request(Method::OPTIONS, "/v2/a/b/tags/list", &[]);
        assert!(records(&request, &Place::of(request.uri.path())).is_none());
    }

    #[test]
    fn a_name_of_one_part_is_a_bare_400() {
        let refusal = Record::repository("single", Action::Pull).attributes().unwrap_err();
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        assert!(matches!(refusal, Refusal::Bare { .. }));
    }
}
