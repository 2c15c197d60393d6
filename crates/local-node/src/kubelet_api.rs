//! The HTTPS API of a node, as far as kube-apiserver uses it for logs, exec and port-forward.
//! Whoever has a certificate of the kubelet client CA may call everything; authorisation has happened in kube-apiserver.

use std::{net::TcpListener, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::{
    exec,
    log_stream::{self, LogQuery},
    node::Node,
    pod_table::ContainerEntry,
    port_forward,
};

const SHUTDOWN_LIMIT: Duration = Duration::from_millis(300);

type Names = Path<(String, String, String)>;
type Refusal = (StatusCode, String);

/// Serves until `stop`; what is open is cut off then.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, tls: Arc<ServerConfig>, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/stats/summary", get(summary))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .route("/exec/{namespace}/{pod}/{container}", get(execute).post(execute))
        .route("/portForward/{namespace}/{pod}", get(forward).post(forward))
        .route("/run/{namespace}/{pod}/{container}", axum::routing::post(run))
        .with_state(node.clone());
    let handle = axum_server::Handle::new();
    let server = listener
        .set_nonblocking(true)
        .and_then(|()| axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(tls)));
    let server = match server {
        Ok(server) => server.handle(handle.clone()).serve(router.into_make_service()),
        Err(error) => {
            tracing::error!(node = node.name, %error, "the kubelet API cannot be served; logs, exec and port-forward do not work");
            return;
        }
    };
    let mut server = std::pin::pin!(server);
    tokio::select! {
        result = &mut server => tracing::error!(node = node.name, ?result, "the kubelet API has ended; logs, exec and port-forward do not work"),
        () = stop.cancelled() => {
            handle.graceful_shutdown(Some(SHUTDOWN_LIMIT));
            let _ = server.await;
        }
    }
}

fn find(node: &Node, namespace: &str, pod: &str, container: &str) -> Result<ContainerEntry, Refusal> {
    let entry = node
        .pods
        .get(namespace, pod)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not run on node {}", node.name)))?;
    entry.containers.get(container).cloned().ok_or_else(|| {
        (
            StatusCode::BAD_REQUEST,
            format!("container {container:?} in pod {pod:?} is waiting to start or does not exist"),
        )
    })
}

async fn logs(
    State(node): State<Arc<Node>>,
    Path((namespace, pod, container)): Names,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let entry = find(&node, &namespace, &pod, &container)?;
    let log = if query.previous { entry.previous_log } else { entry.log };
    let log = log.ok_or_else(|| {
        let which = if query.previous { "previous terminated container" } else { "container" };
        (StatusCode::BAD_REQUEST, format!("{which} {container:?} in pod {pod:?} not found"))
    })?;
    let body = Body::from_stream(log_stream::stream(log, query));
    Ok(([("content-type", "text/plain; charset=utf-8")], body).into_response())
}

async fn execute(
    State(node): State<Arc<Node>>,
    Path((namespace, pod, container)): Names,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let entry = find(&node, &namespace, &pod, &container)?;
    let prepared = entry
        .prepared
        .ok_or_else(|| (StatusCode::BAD_REQUEST, format!("container {container:?} in pod {pod:?} is not running")))?;
    exec::upgrade(request, node.shared.spawner.clone(), prepared, exec::ExecQuery::from_pairs(&query))
}

async fn forward(
    State(node): State<Arc<Node>>,
    Path((namespace, pod)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let entry = node
        .pods
        .get(&namespace, &pod)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not run on node {}", node.name)))?;
    let address = entry.pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
    let address =
        address.ok_or_else(|| (StatusCode::BAD_REQUEST, format!("pod {namespace}/{pod} has no address yet")))?;
    port_forward::upgrade(request, api::address::listen_address(address), port_forward::ports(&query)?)
}

async fn run(
    State(node): State<Arc<Node>>,
    Path((namespace, pod, container)): Names,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Vec<u8>, Refusal> {
    let failed = |error: std::io::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let entry = find(&node, &namespace, &pod, &container)?;
    let prepared =
        entry.prepared.ok_or_else(|| (StatusCode::BAD_REQUEST, format!("container {container:?} is not running")))?;
    let command = query.iter().find(|(name, _)| name == "cmd").map(|(_, value)| value.clone()).unwrap_or_default();
    let command: Vec<_> = command.split(' ').map(str::to_owned).collect();
    let mut process = node.shared.spawner.spawn(prepared.command(&command, false)).await.map_err(failed)?;
    let mut output = Vec::new();
    if let (Some(stdout), Some(stderr)) = (process.child.stdout.take(), process.child.stderr.take()) {
        stdout.chain(stderr).read_to_end(&mut output).await.map_err(failed)?;
    }
    let status = process.child.wait().await.map_err(failed)?;
    if status.success() {
        Ok(output)
    } else {
        Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("command ended with {status}: {}", String::from_utf8_lossy(&output)),
        ))
    }
}

async fn pods(State(node): State<Arc<Node>>) -> Json<Value> {
    let items: Vec<_> = node.pods.all().iter().map(|pod| json!(**pod)).collect();
    Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

async fn summary(State(node): State<Arc<Node>>) -> Json<Value> {
    let pods: Vec<_> = node
        .pods
        .all()
        .iter()
        .map(|pod| {
            let metadata = &pod.metadata;
            let reference = json!({"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid});
            json!({"podRef": reference, "containers": []})
        })
        .collect();
    Json(json!({"node": {"nodeName": node.name}, "pods": pods}))
}
