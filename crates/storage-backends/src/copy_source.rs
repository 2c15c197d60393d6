//! Where Azurite asks for the source of a copy: under the account's public name, which it would look up outside the machine.
//! It is told this proxy, which leads such questions back to the server itself, signature and all.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use local_cluster::chain;

use crate::Error;
use crate::served::Served;

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct CopySource {
    served: Served,
    way: Arc<Way>,
}

#[derive(Debug)]
struct Way {
    /// Known when the server starts, which is told this proxy's address before.
    server: RwLock<Option<SocketAddr>>,
    client: reqwest::Client,
}

impl CopySource {
    /// Opens a proxy on a free port of `listen`; it leads nowhere yet.
    pub(crate) fn start(listen: IpAddr, client: reqwest::Client) -> Result<CopySource, Error> {
        let (served, listener) = Served::on(listen)?;
        let way = Arc::new(Way { server: RwLock::default(), client });
        let app = Router::new().fallback(lead).with_state(way.clone());
        let proxy = axum_server::from_tcp(listener).map_err(Error::listening(listen))?;
        let proxy = proxy.handle(served.handle.clone());
        tokio::spawn(proxy.serve(app.into_make_service()));
        Ok(CopySource { served, way })
    }

    /// From now on it leads to the server at `server`.
    pub(crate) fn lead_to(&self, server: SocketAddr) {
        *self.way.server.write().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    /// The address of the proxy, as its user is told it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.served.address)
    }
}

/// Azurite's client writes the whole address of the source into the request line, also when it is `https`.
async fn lead(State(way): State<Arc<Way>>, request: Request) -> Response {
    let (Some(host), Some(target)) = (request.uri().host(), request.uri().path_and_query()) else {
        return (StatusCode::BAD_REQUEST, "a request through this proxy names a host").into_response();
    };
    let Some(server) = *way.server.read().unwrap_or_else(PoisonError::into_inner) else {
        return (StatusCode::BAD_GATEWAY, "there is no server yet").into_response();
    };
    let asked = way.client.request(request.method().clone(), format!("https://{server}{target}"));
    match asked.header(header::HOST, host).send().await {
        Ok(answer) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = answer.status();
            *response.body_mut() = Body::from_stream(answer.bytes_stream());
            response
        }
        Err(error) => (StatusCode::BAD_GATEWAY, chain(&error)).into_response(),
    }
}
