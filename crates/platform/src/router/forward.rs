//! Hands HTTP requests on to pods, streaming both bodies, and says in headers where they came from.
//! A request is sent once: what a client or pod makes of a broken connection is not hidden from either.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::route::{InsecurePolicy, Termination};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::connection::{Current, Door};
use super::page;
use super::table::{Backend, Served};

/// How long one pod may take to accept a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// What the router answers with: a pod's body or a page of its own.
pub(super) type Body = BoxBody<Bytes, hyper::Error>;

/// Connects to one of the pods; none if no pod accepts.
pub(super) async fn dial(backend: &Backend) -> Option<TcpStream> {
    for address in backend.in_turn() {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Only latency is at stake.
                let _ = stream.set_nodelay(true);
                return Some(stream);
            }
            Ok(Err(error)) => tracing::debug!(%address, %error, "pod does not accept"),
            Err(_) => tracing::debug!(%address, "pod does not answer"),
        }
    }
    None
}

/// Serves the requests of one client connection, and keeps one pod connection open between them.
pub(super) struct Forwarder {
    current: Current,
    client: SocketAddr,
    door: Door,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    served: Arc<Served>,
    sender: SendRequest<Incoming>,
}

impl Forwarder {
    pub(super) fn new(current: Current, client: SocketAddr, door: Door) -> Self {
        Self { current, client, door, kept: Mutex::new(None) }
    }

    /// The answer to one request, whatever happens.
    pub(super) async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let Some((host, authority)) = host(&request) else {
            return own(StatusCode::BAD_REQUEST, page::bad_request());
        };
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        let served = self.current.borrow().find(&host, request.uri().path()).cloned();
        let Some(served) = served else { return own(StatusCode::SERVICE_UNAVAILABLE, page::unavailable(&host)) };
        match way(served.termination, served.insecure, self.door) {
            Way::Forward => {}
            Way::Refuse => return own(StatusCode::SERVICE_UNAVAILABLE, page::unavailable(&host)),
            Way::Redirect => return redirect(&host, &path),
        }
        let Some(mut sender) = self.sender(&served).await else {
            return own(StatusCode::SERVICE_UNAVAILABLE, page::unavailable(&host));
        };
        address(request.headers_mut(), &authority, self.client, self.door);
        // Pods get the path only, whatever form the client used.
        *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
        *request.version_mut() = Version::HTTP_11;
        match sender.send_request(request).await {
            Ok(mut response) => {
                remove_hop_by_hop(response.headers_mut());
                *self.kept.lock().await = Some(Kept { served, sender });
                response.map(BodyExt::boxed)
            }
            Err(error) => {
                tracing::debug!(route = served.route, %error, "pod broke off");
                own(StatusCode::BAD_GATEWAY, page::broken(&host))
            }
        }
    }

    /// The kept connection if it leads to the same table entry and is still open, else a new one.
    async fn sender(&self, served: &Arc<Served>) -> Option<SendRequest<Incoming>> {
        if let Some(mut kept) = self.kept.lock().await.take()
            && Arc::ptr_eq(&kept.served, served)
            && !kept.sender.is_closed()
            && kept.sender.ready().await.is_ok()
        {
            return Some(kept.sender);
        }
        for address in served.backend.in_turn() {
            match tokio::time::timeout(CONNECT, connect(&served.backend, address)).await {
                Ok(Ok(sender)) => return Some(sender),
                Ok(Err(error)) => tracing::warn!(route = served.route, %address, %error, "pod does not accept"),
                Err(_) => tracing::warn!(route = served.route, %address, "pod does not answer"),
            }
        }
        None
    }
}

async fn connect(backend: &Backend, address: SocketAddr) -> io::Result<SendRequest<Incoming>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match &backend.tls {
        None => shake_hands(TokioIo::new(stream)).await,
        Some((config, name)) => {
            let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?;
            shake_hands(TokioIo::new(stream)).await
        }
    }
}

async fn shake_hands<S>(stream: S) -> io::Result<SendRequest<Incoming>>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    // Ends with its sender, or with the pod.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a pod ended early");
        }
    });
    Ok(sender)
}

#[derive(Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Redirect,
    Refuse,
}

/// What becomes of a request of a route that came through a door.
fn way(termination: Option<Termination>, insecure: InsecurePolicy, door: Door) -> Way {
    match (door, termination, insecure) {
        (Door::Tls, Some(Termination::Edge | Termination::Reencrypt), _) => Way::Forward,
        // A passthrough route that came after this connection was made, or a route without TLS.
        (Door::Tls, Some(Termination::Passthrough) | None, _) => Way::Refuse,
        (Door::Plain, None, _) => Way::Forward,
        (Door::Plain, Some(_), InsecurePolicy::Redirect) => Way::Redirect,
        (Door::Plain, Some(Termination::Edge | Termination::Reencrypt), InsecurePolicy::Allow) => Way::Forward,
        (Door::Plain, Some(_), _) => Way::Refuse,
    }
}

/// The host a request is for, in lower case and without port, and as the client wrote it.
fn host<B>(request: &Request<B>) -> Option<(String, String)> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST)?.to_str().ok()?,
    };
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    Some((name.to_ascii_lowercase(), authority.to_owned()))
}

const FORWARDED: HeaderName = header::FORWARDED;
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Tells the pod whom the request came from and what the client had asked for. What clients claim is kept before it.
fn address(headers: &mut HeaderMap, authority: &str, client: SocketAddr, door: Door) {
    remove_hop_by_hop(headers);
    let (proto, port) = match door {
        Door::Tls => ("https", "443"),
        Door::Plain => ("http", "80"),
    };
    let address = client.ip().to_string();
    let forwarded = format!("for={address};host={authority};proto={proto}");
    // An authority that is no header value was no header value before either.
    let value = |text: &str| HeaderValue::from_str(text).ok();
    for (name, text) in [(FOR, &*address), (FORWARDED, &*forwarded)] {
        value(text).map(|value| headers.append(name, value));
    }
    for (name, text) in [(HOST, authority), (PORT, port), (PROTO, proto), (header::HOST, authority)] {
        value(text).map(|value| headers.insert(name, value));
    }
}

/// Takes away what concerns one connection only (RFC 9110, section 7.6.1). Message framing is hyper's.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [header::CONNECTION, header::UPGRADE, header::TE, header::PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn redirect(host: &str, path: &str) -> Response<Body> {
    let mut response = own(StatusCode::FOUND, String::new());
    if let Ok(location) = HeaderValue::from_str(&format!("https://{host}{path}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn own(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=0, no-cache, no-store"));
    response
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Some(Termination::Reencrypt), InsecurePolicy::None, Door::Tls, Way::Forward)]
    #[case(Some(Termination::Reencrypt), InsecurePolicy::None, Door::Plain, Way::Refuse)]
    #[case(Some(Termination::Edge), InsecurePolicy::Allow, Door::Plain, Way::Forward)]
    #[case(Some(Termination::Edge), InsecurePolicy::Redirect, Door::Plain, Way::Redirect)]
    #[case(Some(Termination::Passthrough), InsecurePolicy::Redirect, Door::Plain, Way::Redirect)]
    #[case(Some(Termination::Passthrough), InsecurePolicy::Allow, Door::Plain, Way::Refuse)]
    #[case(None, InsecurePolicy::None, Door::Plain, Way::Forward)]
    #[case(None, InsecurePolicy::None, Door::Tls, Way::Refuse)]
    fn plain_requests_follow_the_policy(
        #[case] termination: Option<Termination>,
        #[case] insecure: InsecurePolicy,
        #[case] door: Door,
        #[case] expected: Way,
    ) {
        assert_eq!(way(termination, insecure, door), expected);
    }

    #[rstest]
    #[case("Registry.Apps.test:443", Some("registry.apps.test"))]
    #[case("registry.apps.test", Some("registry.apps.test"))]
    fn hosts_lose_their_port(#[case] header: &str, #[case] expected: Option<&str>) {
        let request = Request::builder().uri("/v2/").header("host", header).body(()).expect("request");
        assert_eq!(host(&request).map(|(host, _)| host).as_deref(), expected);
    }

    #[test]
    fn the_pod_learns_where_a_request_came_from() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("close, x-private"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        let client = "127.0.0.1:9".parse().expect("literal");
        address(&mut headers, "h.test:8443", client, Door::Tls);
        assert!(!headers.contains_key("connection") && !headers.contains_key("x-private"));
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "h.test:8443");
        assert_eq!(headers["host"], "h.test:8443");
        let chain: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(chain, ["192.0.2.1", "127.0.0.1"]);
    }
}
