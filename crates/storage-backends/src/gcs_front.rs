//! What stands before the Google Cloud Storage server, which asks nobody who he is: TLS, tokens for a service account's key,
//! and a refusal of every request without a token or a signature of that account. It answers for all of Google's host names.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use serde_json::json;

use crate::Error;
use crate::reach::{self, file};
use crate::served::Served;
use crate::service_account::ServiceAccount;
use crate::started::ServerCertificate;
use local_cluster::chain;

/// The address of Google's objects.
pub(crate) const STORAGE_HOST: &str = "storage.googleapis.com";
/// The address of Google's sessions (distribution registry/storage/driver/gcs/gcs.go:855-882).
pub(crate) const SESSION_HOST: &str = "www.googleapis.com";
/// The address of Google's tokens.
pub(crate) const TOKEN_HOST: &str = "oauth2.googleapis.com";
/// Life of a token, seconds.
const TOKEN_LIFE: u64 = 3600;
/// A request with a larger body is refused, bytes.
const MAX_BODY: usize = 1 << 30;
/// Headers that belong to one connection.
const OF_A_CONNECTION: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::HOST];

/// A running front. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct GcsFront {
    served: Served,
}

struct Desk {
    account: ServiceAccount,
    server: String,
    client: reqwest::Client,
    tokens: Mutex<BTreeSet<String>>,
    log: Mutex<std::fs::File>,
}

impl GcsFront {
    /// Opens a front on a free port of `listen` for the server at `server`, a URL without path.
    pub(crate) async fn start(
        listen: IpAddr,
        server: &str,
        account: ServiceAccount,
        certificate: &ServerCertificate,
        log: &Path,
    ) -> Result<GcsFront, Error> {
        let tls = axum_server::tls_rustls::RustlsConfig::from_pem_file(&certificate.certificate, &certificate.key);
        let tls = tls.await.map_err(file("use", &certificate.certificate))?;
        let (served, listener) = Served::on(listen)?;
        let desk = Desk {
            account,
            server: server.trim_end_matches('/').to_owned(),
            client: reach::client(server, None)?,
            tokens: Mutex::default(),
            log: Mutex::new(std::fs::File::create(log).map_err(file("make", log))?),
        };
        let app = Router::new().fallback(serve).with_state(Arc::new(desk));
        let server = axum_server::from_tcp_rustls(listener, tls).map_err(Error::listening(listen))?;
        let server = server.handle(served.handle.clone());
        tokio::spawn(server.serve(app.into_make_service()));
        Ok(GcsFront { served })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.served.address
    }
}

async fn serve(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let host = match uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => {
            let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
            named.unwrap_or_default().to_owned()
        }
    };
    let host = host.trim_end_matches(":443").to_owned();
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let (answer, who) = if path == "/token" && method == Method::POST {
        (desk.token(request).await, "token")
    } else {
        match desk.allowed(&method, &host, path, query, request.headers()) {
            Ok(who) => (desk.forward(&host, request).await, who),
            Err(why) => (refusal(StatusCode::UNAUTHORIZED, &why), "refused"),
        }
    };
    desk.note(&format!("{method} {host}{path} {} {who}", answer.status().as_u16()));
    answer
}

fn refusal(status: StatusCode, why: &str) -> Response {
    let error = json!({"code": status.as_u16(), "message": why, "errors": [{"reason": "authError", "message": why}]});
    (status, axum::Json(json!({ "error": error }))).into_response()
}

impl Desk {
    /// Who asks, unless nobody may.
    fn allowed(
        &self,
        method: &Method,
        host: &str,
        path: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<&'static str, String> {
        let now = SystemTime::now();
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match bearer {
            Some(token) if self.tokens.lock().expect("no panic while holding").contains(token) => Ok("bearer"),
            // An account may sign its own token.
            Some(token) => {
                self.account.check_jwt(token, now).map(|()| "jwt").map_err(|why| format!("Invalid Credentials: {why}"))
            }
            None if query.contains("X-Goog-Signature=") => self
                .account
                .check_url(method.as_str(), host, path, query, now)
                .map(|()| "signed")
                .map_err(|why| format!("SignatureDoesNotMatch: {why}")),
            None if query.contains("GoogleAccessId=") => self
                .account
                .check_old_url(method.as_str(), path, query, now)
                .map(|()| "signed")
                .map_err(|why| format!("SignatureDoesNotMatch: {why}")),
            // An upload goes on under the address of its session alone.
            None if query.contains("upload_id=") => Ok("session"),
            None => Err("Anonymous caller does not have access to the bucket".to_owned()),
        }
    }

    /// A token for a JWT (RFC 7523).
    async fn token(&self, request: Request) -> Response {
        let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap_or_default();
        let assertion = String::from_utf8_lossy(&body);
        let assertion = assertion.split('&').find_map(|pair| pair.strip_prefix("assertion=")).unwrap_or_default();
        match self.account.check_jwt(assertion, SystemTime::now()) {
            Ok(()) => {
                let token = format!("ya29.{}", uuid::Uuid::new_v4().simple());
                self.tokens.lock().expect("no panic while holding").insert(token.clone());
                axum::Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFE}))
                    .into_response()
            }
            Err(why) => {
                let answer = json!({"error": "invalid_grant", "error_description": why});
                (StatusCode::BAD_REQUEST, axum::Json(answer)).into_response()
            }
        }
    }

    async fn forward(&self, host: &str, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = match axum::body::to_bytes(body, MAX_BODY).await {
            Ok(body) => body,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let has_body = !matches!(parts.method, Method::GET | Method::HEAD);
        // Sessions are made for the host and scheme of the request.
        let mut sent = self
            .client
            .request(parts.method, format!("{}{target}", self.server))
            .headers(end_to_end(&parts.headers))
            .header(header::HOST, host)
            .header("x-forwarded-proto", "https");
        if has_body {
            sent = sent.header(header::CONTENT_LENGTH, body.len()).body(body);
        }
        match sent.send().await {
            Ok(answer) => {
                let mut response = Response::builder().status(answer.status());
                if let Some(headers) = response.headers_mut() {
                    *headers = end_to_end(answer.headers());
                    // A length without a body is what a HEAD is for.
                    if let Some(length) = answer.headers().get(header::CONTENT_LENGTH) {
                        headers.insert(header::CONTENT_LENGTH, length.clone());
                    }
                }
                let body = Body::from_stream(answer.bytes_stream());
                response.body(body).unwrap_or_else(|error| refusal(StatusCode::BAD_GATEWAY, &error.to_string()))
            }
            Err(error) => refusal(StatusCode::BAD_GATEWAY, &chain(&error)),
        }
    }

    fn note(&self, line: &str) {
        let mut log = self.log.lock().expect("no panic while writing");
        // The log is for people; a full disk shows elsewhere.
        let _ = writeln!(log, "{} {line}", jiff::Timestamp::now());
    }
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| !OF_A_CONNECTION.contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
