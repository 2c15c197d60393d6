//! One request on its way through the registry: what the client said, and how links back to us must look for it.
//! Holds no decision about access; that is `auth`.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, Method, Uri, header};

use crate::{
    body::Received,
    cluster::{Caller, User},
};

/// A request and what is known about its connection.
pub struct Request {
    /// Unique id of this request, for the log.
    pub id: String,
    /// Method.
    pub method: Method,
    /// Target.
    pub uri: Uri,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; taken by the handler that reads it.
    pub body: Received,
    /// The client's address.
    pub peer: Option<SocketAddr>,
    /// The connection is encrypted.
    pub encrypted: bool,
}

/// In whose name a request runs, after it was authorised.
#[derive(Debug, Clone)]
pub struct Identity {
    /// For calls in the user's name.
    pub caller: Caller,
    /// Who that is.
    pub user: User,
    /// The mount of another repository's blob is allowed, if one was asked for.
    pub may_mount: bool,
}

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

impl Request {
    /// A header as text; empty when absent or unreadable.
    pub fn header(&self, name: &HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The host the client addressed.
    pub fn host(&self) -> &str {
        match self.uri.authority() {
            Some(authority) => authority.as_str(),
            None => self.header(&header::HOST),
        }
    }

    /// Scheme and host of links in `Location` headers (distribution registry/api/v2/urls.go:51-98): the `Forwarded` header,
    /// then `X-Forwarded-Proto` and `X-Forwarded-Host`, then the connection.
    pub fn origin(&self) -> (String, String) {
        let mut scheme = if self.encrypted { "https" } else { "http" }.to_owned();
        let mut host = self.host().to_owned();
        let first = |text: &str| text.split(',').next().unwrap_or_default().trim().to_owned();
        let forwarded = first(self.header(&FORWARDED));
        let parameter = |name: &str| {
            forwarded.split(';').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        let or = |own: Option<String>, other: &HeaderName| {
            own.or_else(|| Some(first(self.header(other)))).filter(|text| !text.is_empty())
        };
        if let Some(proto) = or(parameter("proto"), &FORWARDED_PROTO) {
            scheme = proto;
        }
        if let Some(forwarded) = or(parameter("host"), &FORWARDED_HOST) {
            host = forwarded;
        }
        (scheme, host)
    }

    /// Scheme and host of the token endpoint in challenges (openshift/library-go pkg/apiserver/httprequest/
    /// httprequest.go:59-128): like [`Request::origin`], with `X-Forwarded-Port`, and without default ports.
    pub fn token_origin(&self) -> (String, String) {
        let (scheme, mut host) = self.origin();
        let port = self.header(&FORWARDED_PORT);
        if !port.is_empty() && !self.header(&FORWARDED_HOST).is_empty() && !host.contains(':') {
            host = format!("{host}:{port}");
        }
        let default = if scheme == "https" { ":443" } else { ":80" };
        (scheme, host.strip_suffix(default).map_or(host.clone(), str::to_owned))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rstest::rstest;

    use super::*;
    use crate::body;

    pub(crate) fn request(method: Method, uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        Request {
            id: "id".into(),
            method,
            uri: uri.parse().unwrap(),
            headers: map,
            body: body::received(""),
            peer: None,
            encrypted: true,
        }
    }

    #[rstest]
    #[case(&[("host", "r.svc:5000")], "https://r.svc:5000")]
    #[case(&[("host", "r.svc:443")], "https://r.svc")]
    #[case(&[("host", "pod"), ("x-forwarded-host", "route.example.com"), ("x-forwarded-proto", "http")], "http://route.example.com")]
    #[case(&[("host", "pod"), ("x-forwarded-host", "route"), ("x-forwarded-port", "443"), ("x-forwarded-proto", "https")], "https://route")]
    #[case(&[("host", "pod"), ("forwarded", "for=1.2.3.4;host=\"a.b\";proto=https, for=x")], "https://a.b")]
    fn token_origins(#[case] headers: &[(&str, &str)], #[case] expected: &str) {
        let (scheme, host) = request(Method::GET, "/v2/", headers).token_origin();
        assert_eq!(format!("{scheme}://{host}"), expected);
    }
}
