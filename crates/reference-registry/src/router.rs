//! From path to place: which resource of the registry a request names, and which methods that resource knows.
//! Pure; the engine's route table is registry/api/v2/descriptors.go, the added paths are the registry's own.

use std::str::FromStr;

use http::{Method, Uri};

use crate::digest::{Digest, is_repository_name, is_tag};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `/` and `/healthz`.
    Health,
    /// `/openshift/token…`.
    Token,
    /// `/extensions/v2/metrics`.
    Metrics,
    /// `/v2/`.
    Base,
    /// `/v2`, which redirects to `/v2/`.
    BaseWithoutSlash,
    /// `/v2/_catalog`.
    Catalog,
    /// `/admin/blobs/<digest>`.
    AdminBlob(Digest),
    /// Something inside a repository.
    Repository {
        /// The name as sent; it may not have two parts.
        name: String,
        /// Which resource of the repository.
        resource: Resource,
    },
    /// No route.
    Nowhere,
}

/// A resource of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `tags/list`.
    Tags,
    /// `manifests/<reference>`.
    Manifest(Reference),
    /// `blobs/<digest>`; the digest may be one the registry does not know how to compute.
    Blob(String),
    /// `blobs/uploads/`.
    Uploads,
    /// `blobs/uploads/<uuid>`.
    Upload(String),
    /// `/extensions/v2/<name>/signatures/<digest>`.
    Signatures(Digest),
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By tag.
    Tag(String),
    /// By digest.
    Digest(Digest),
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl Place {
    /// Finds the place of a path (not percent-decoded: no valid name needs escaping except the colon of a digest).
    pub fn of(path: &str) -> Self {
        let path = path.replace("%3A", ":").replace("%3a", ":");
        match path.as_str() {
            "/" | "/healthz" => return Self::Health,
            "/extensions/v2/metrics" => return Self::Metrics,
            "/v2" => return Self::BaseWithoutSlash,
            "/v2/" => return Self::Base,
            "/v2/_catalog" => return Self::Catalog,
            path if path.starts_with("/openshift/token") => return Self::Token,
            _ => {}
        }
        if let Some(digest) = path.strip_prefix("/admin/blobs/") {
            return digest.parse().map_or(Self::Nowhere, Self::AdminBlob);
        }
        let found = if let Some(rest) = path.strip_prefix("/extensions/v2/") {
            signatures(rest)
        } else {
            path.strip_prefix("/v2/").and_then(in_repository)
        };
        match found {
            Some((name, resource)) if is_repository_name(name) => Self::Repository { name: name.to_owned(), resource },
            _ => Self::Nowhere,
        }
    }

    /// The methods a place answers; empty means all.
    pub fn methods(&self) -> &'static [Method] {
        const READ: &[Method] = &[Method::GET, Method::HEAD];
        match self {
            Self::Health | Self::Base | Self::BaseWithoutSlash | Self::Nowhere => &[],
            Self::Token | Self::Metrics | Self::Catalog => READ,
            Self::AdminBlob(_) => &[Method::DELETE],
            Self::Repository { resource, .. } => match resource {
                Resource::Tags => READ,
                Resource::Manifest(_) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
                Resource::Blob(_) => &[Method::GET, Method::HEAD, Method::DELETE],
                Resource::Uploads => &[Method::POST],
                Resource::Upload(_) => &[Method::GET, Method::HEAD, Method::PATCH, Method::PUT, Method::DELETE],
                Resource::Signatures(_) => &[Method::GET, Method::PUT],
            },
        }
    }
}

fn signatures(rest: &str) -> Option<(&str, Resource)> {
    let (name, digest) = rest.rsplit_once("/signatures/")?;
    Some((name, Resource::Signatures(digest.parse().ok()?)))
}

fn in_repository(rest: &str) -> Option<(&str, Resource)> {
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Some((name, Resource::Tags));
    }
    if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        return Some((name, Resource::Uploads));
    }
    let (head, last) = rest.rsplit_once('/')?;
    if let Some(name) = head.strip_suffix("/manifests") {
        let reference = match Digest::from_str(last) {
            Ok(digest) => Reference::Digest(digest),
            Err(_) if is_tag(last) => Reference::Tag(last.to_owned()),
            Err(_) => return None,
        };
        return Some((name, Resource::Manifest(reference)));
    }
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.=".contains(&b);
        return (!last.is_empty() && last.bytes().all(plain)).then(|| (name, Resource::Upload(last.to_owned())));
    }
    let name = head.strip_suffix("/blobs")?;
    last.contains(':').then(|| (name, Resource::Blob(last.to_owned())))
}

/// The value of a query parameter, percent-decoded.
pub fn query(uri: &Uri, key: &str) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(name) == key).then(|| unescape(value))
    })
}

/// All values of a query parameter, percent-decoded.
pub fn query_all(uri: &Uri, key: &str) -> Vec<String> {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name) == key).then(|| unescape(value))
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|&b| (b as char).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
                continue;
            }
            (b'+', ..) => bytes.push(b' '),
            (other, ..) => bytes.push(other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encodes a query value.
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        if plain(byte) {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn repository(name: &str, resource: Resource) -> Place {
        Place::Repository { name: name.to_owned(), resource }
    }

    #[rstest]
    #[case("/", Place::Health)]
    #[case("/healthz", Place::Health)]
    #[case("/healthz/", Place::Nowhere)]
    #[case("/openshift/token", Place::Token)]
    #[case("/v2/", Place::Base)]
    #[case("/v2/a/b/tags/list", repository("a/b", Resource::Tags))]
    #[case("/v2/a/b/manifests/v1", repository("a/b", Resource::Manifest(Reference::Tag("v1".into()))))]
    #[case("/v2/a/b/manifests/.v1", Place::Nowhere)]
    #[case("/v2/a/b/blobs/uploads/", repository("a/b", Resource::Uploads))]
    #[case("/v2/a/b/blobs/uploads/u-1", repository("a/b", Resource::Upload("u-1".into())))]
    #[case("/v2/a/blobs/md5:00", repository("a", Resource::Blob("md5:00".into())))]
    #[case("/v2/A/b/tags/list", Place::Nowhere)]
    #[case("/v2/a/b/referrers/x", Place::Nowhere)]
    #[case("/extensions/v2/metrics", Place::Metrics)]
    fn places(#[case] path: &str, #[case] expected: Place) {
        assert_eq!(Place::of(path), expected);
    }

    #[test]
    fn digests_are_recognised_where_they_stand() {
        let digest: Digest = DIGEST.parse().unwrap();
        assert_eq!(Place::of(&format!("/admin/blobs/{DIGEST}")), Place::AdminBlob(digest.clone()));
        assert_eq!(
            Place::of(&format!("/v2/a/b/manifests/{}", DIGEST.replace(':', "%3A"))),
            repository("a/b", Resource::Manifest(Reference::Digest(digest.clone())))
        );
        assert_eq!(
            Place::of(&format!("/extensions/v2/a/b/signatures/{DIGEST}")),
            repository("a/b", Resource::Signatures(digest))
        );
    }

    #[rstest]
    #[case("/x?digest=sha256%3Aab&n=1", "digest", Some("sha256:ab"))]
    #[case("/x?last=a%2Fb+c", "last", Some("a/b c"))]
    #[case("/x?n", "n", Some(""))]
    #[case("/x", "n", None)]
    #[case("/x?a=%zz", "a", Some("%zz"))]
    fn queries(#[case] uri: &str, #[case] key: &str, #[case] value: Option<&str>) {
        assert_eq!(query(&uri.parse().unwrap(), key).as_deref(), value);
    }
}
