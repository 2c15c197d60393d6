//! Answers that are not successes: the error document of the distribution API and the plain-text refusals around it.
//! Codes, messages and HTTP statuses are those of the distribution engine (registry/api/errcode, registry/api/v2/errors.go).

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use crate::body::{self, Body};

/// A code of the distribution API's error document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Anything that has no better name.
    Unknown,
    /// The operation exists but is not allowed in this state.
    Unsupported,
    /// No or unusable credentials, or the API server says no.
    Unauthorized,
    /// The API server refused the metadata of a push.
    Denied,
    /// A health check is red.
    Unavailable,
    /// Content does not match its digest, or the digest is no digest.
    DigestInvalid,
    /// Content length does not match the content range.
    SizeInvalid,
    /// A chunk does not start where the upload ends.
    RangeInvalid,
    /// The image stream does not exist.
    NameUnknown,
    /// The repository name is not a name.
    NameInvalid,
    /// No such tag or digest in the repository.
    ManifestUnknown,
    /// The document is not a manifest the registry takes.
    ManifestInvalid,
    /// The manifest names a blob the repository does not have.
    ManifestBlobUnknown,
    /// No such blob in the repository.
    BlobUnknown,
    /// No such upload.
    BlobUploadUnknown,
    /// The upload state of the request is not one this registry signed for this upload.
    BlobUploadInvalid,
    /// The `n` of a page is out of bounds.
    PaginationNumberInvalid,
    /// The signature document is not valid.
    SignatureInvalid,
    /// The signature is already there.
    SignatureExists,
    /// The remote a stream points at did not give the manifest.
    PullthroughManifest,
}

impl Code {
    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Unknown => ("UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR, "unknown error"),
            Self::Unsupported => ("UNSUPPORTED", StatusCode::METHOD_NOT_ALLOWED, "The operation is unsupported."),
            Self::Unauthorized => ("UNAUTHORIZED", StatusCode::UNAUTHORIZED, "authentication required"),
            Self::Denied => ("DENIED", StatusCode::FORBIDDEN, "requested access to the resource is denied"),
            Self::Unavailable => ("UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE, "service unavailable"),
            Self::DigestInvalid => {
                ("DIGEST_INVALID", StatusCode::BAD_REQUEST, "provided digest did not match uploaded content")
            }
            Self::SizeInvalid => {
                ("SIZE_INVALID", StatusCode::BAD_REQUEST, "provided length did not match content length")
            }
            Self::RangeInvalid => ("RANGE_INVALID", StatusCode::RANGE_NOT_SATISFIABLE, "invalid content range"),
            Self::NameUnknown => ("NAME_UNKNOWN", StatusCode::NOT_FOUND, "repository name not known to registry"),
            Self::NameInvalid => ("NAME_INVALID", StatusCode::BAD_REQUEST, "invalid repository name"),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", StatusCode::NOT_FOUND, "manifest unknown"),
            Self::ManifestInvalid => ("MANIFEST_INVALID", StatusCode::BAD_REQUEST, "manifest invalid"),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", StatusCode::BAD_REQUEST, "blob unknown to registry"),
            Self::BlobUnknown => ("BLOB_UNKNOWN", StatusCode::NOT_FOUND, "blob unknown to registry"),
            Self::BlobUploadUnknown => {
                ("BLOB_UPLOAD_UNKNOWN", StatusCode::NOT_FOUND, "blob upload unknown to registry")
            }
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", StatusCode::NOT_FOUND, "blob upload invalid"),
            Self::PaginationNumberInvalid => {
                ("PAGINATION_NUMBER_INVALID", StatusCode::BAD_REQUEST, "invalid number of results requested")
            }
            Self::SignatureInvalid => ("SIGNATURE_INVALID", StatusCode::BAD_REQUEST, "invalid image signature"),
            Self::SignatureExists => ("SIGNATURE_EXISTS", StatusCode::CONFLICT, "image signature already exists"),
            Self::PullthroughManifest => (
                "OPENSHIFT_PULLTHROUGH_MANIFEST",
                StatusCode::NOT_FOUND,
                "unable to pull manifest from remote repository",
            ),
        }
    }

    /// The word in the document.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        self.facts().1
    }

    /// An entry with this code and its usual message.
    pub fn entry(self) -> Entry {
        Entry { code: self, message: self.facts().2.to_owned(), detail: None }
    }

    /// An entry with a cause as detail.
    pub fn because(self, cause: impl std::fmt::Display) -> Refusal {
        Entry { detail: Some(Value::String(cause.to_string())), ..self.entry() }.into()
    }
}

/// One entry of the `errors` list.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What went wrong.
    pub code: Code,
    /// One sentence for people.
    pub message: String,
    /// Facts for programs; left out when `None`.
    pub detail: Option<Value>,
}

/// An entry in the order in which the engine writes it.
#[derive(Serialize)]
struct WireEntry<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a Value>,
}

#[derive(Serialize)]
struct WireDocument<'a> {
    errors: Vec<WireEntry<'a>>,
}

fn document(entries: &[Entry]) -> WireDocument<'_> {
    let errors = entries.iter().map(|entry| WireEntry {
        code: entry.code.name(),
        message: &entry.message,
        detail: entry.detail.as_ref(),
    });
    WireDocument { errors: errors.collect() }
}

/// A request that is not carried out, as the client will see it.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The JSON error document; the first entry gives the HTTP status.
    Document {
        /// At least one entry.
        entries: Vec<Entry>,
        /// Further headers, such as a challenge.
        headers: HeaderMap,
    },
    /// A status with a short text.
    Text {
        /// HTTP status.
        status: StatusCode,
        /// Body, as plain text.
        text: &'static str,
        /// Further headers.
        headers: HeaderMap,
    },
    /// A status with an empty body (registry source pkg/dockerregistry/server/auth.go:174-177: what is neither a
    /// success nor a challenge is a bare 400). The reason is for our log only.
    Bare {
        /// HTTP status.
        status: StatusCode,
        /// What happened, never sent.
        reason: String,
    },
}

impl From<Entry> for Refusal {
    fn from(entry: Entry) -> Self {
        Self::Document { entries: vec![entry], headers: HeaderMap::new() }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        code.entry().into()
    }
}

impl Refusal {
    /// Several entries in one document.
    pub fn several(entries: Vec<Entry>) -> Self {
        Self::Document { entries, headers: HeaderMap::new() }
    }

    /// No route has this path (the engine's router answers with Go's default page).
    pub fn no_such_page() -> Self {
        Self::Text { status: StatusCode::NOT_FOUND, text: "404 page not found\n", headers: HeaderMap::new() }
    }

    /// The path is right and the method is not; `allow` lists what would be.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        Self::Text { status: StatusCode::METHOD_NOT_ALLOWED, text: "Method not allowed\n", headers }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Document { entries, .. } => {
                entries.first().map_or(StatusCode::INTERNAL_SERVER_ERROR, |entry| entry.code.status())
            }
            Self::Text { status, .. } | Self::Bare { status, .. } => *status,
        }
    }

    /// The first entry in words, for the log: code, message, detail.
    pub fn in_words(&self) -> (String, String, String) {
        match self {
            Self::Document { entries, .. } => entries.first().map_or_else(Default::default, |entry| {
                let detail = entry.detail.as_ref().map(|detail| match detail {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                (entry.code.name().to_lowercase(), entry.message.clone(), detail.unwrap_or_default())
            }),
            Self::Text { text, .. } => ("unknown".into(), text.trim().to_owned(), String::new()),
            Self::Bare { reason, .. } => ("unknown".into(), reason.clone(), String::new()),
        }
    }

    /// The HTTP response.
    pub fn into_response(self) -> Response<Body> {
        let status = self.status();
        let (mut response, headers) = match self {
            Self::Document { entries, headers } => (body::json(&document(&entries)), headers),
            Self::Text { text, headers, .. } => {
                let mut response = body::text(text);
                response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                (response, headers)
            }
            Self::Bare { .. } => (body::nothing(), HeaderMap::new()),
        };
        *response.status_mut() = status;
        response.headers_mut().extend(headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Code::BlobUploadInvalid, 404)]
    #[case(Code::RangeInvalid, 416)]
    #[case(Code::Unsupported, 405)]
    #[case(Code::ManifestBlobUnknown, 400)]
    #[case(Code::Denied, 403)]
    fn statuses(#[case] code: Code, #[case] status: u16) {
        assert_eq!(Refusal::from(code).into_response().status(), status);
    }

    #[test]
    fn a_detail_may_be_absent_or_null() {
        let absent = Code::NameUnknown.entry();
        let null = Entry { detail: Some(Value::Null), ..Code::Unauthorized.entry() };
        assert_eq!(
            serde_json::to_string(&document(&[absent, null])).unwrap(),
            "{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"repository name not known to registry\"},\
             {\"code\":\"UNAUTHORIZED\",\"message\":\"authentication required\",\"detail\":null}]}"
        );
    }
}
