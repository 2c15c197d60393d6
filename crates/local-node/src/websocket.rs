//! WebSockets as kube-apiserver passes them through to a node: the answer to the upgrade and the frames, each of which
//! belongs to a channel that its first byte names. What the channels mean stands with what they are used for.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _, stream::SplitStream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

/// A connection that became a WebSocket.
type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers the upgrade in the first of these protocols that the client offers; the connection follows the answer.
///
/// # Errors
/// 400 when the request asks for no WebSocket, or offers none of the protocols; `what` is named in the message.
pub(crate) fn accept(
    request: &mut Request,
    what: &str,
    protocols: &[&'static str],
) -> Result<(Response, OnUpgrade), (StatusCode, String)> {
    let refused = |text: String| (StatusCode::BAD_REQUEST, text);
    let headers = request.headers();
    let is_websocket = headers
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let spoken = protocols.join(" and ");
    if !is_websocket {
        return Err(refused(format!(
            "local nodes serve {what} over WebSocket only; use kube-apiserver 1.36 or later and a client that speaks {spoken}"
        )));
    }
    let protocol = choose(headers, protocols).ok_or_else(|| refused(format!("{what} speaks {spoken}")))?;
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| refused("the WebSocket request has no key".to_owned()))?;
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(request);
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(Body::empty())
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok((response, upgrade))
}

/// The connection once the client has the answer; nothing when the client went away. Many may send: what they send goes
/// out in order, and the connection is closed, and the task ends, after the last of them is dropped.
pub(crate) async fn open(upgrade: OnUpgrade) -> Option<(mpsc::Sender<Message>, SplitStream<Socket>, JoinHandle<()>)> {
    let connection = match upgrade.await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "the client of a WebSocket went away");
            return None;
        }
    };
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await;
    let (mut sink, incoming) = socket.split();
    let (messages, mut outgoing) = mpsc::channel(16);
    let sender = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    Some((messages, incoming, sender))
}

/// Bytes of a channel.
pub(crate) fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.extend_from_slice(&[channel]);
    bytes.extend_from_slice(data);
    Message::Binary(Bytes::from(bytes))
}

/// The end in good order: clients take any other code, even none, for a broken connection.
pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn choose(headers: &HeaderMap, protocols: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    protocols.iter().copied().find(|known| offered.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("v5.channel.k8s.io,v4.channel.k8s.io", Some("v5.channel.k8s.io"))]
    #[case("channel.k8s.io, v4.channel.k8s.io", Some("v4.channel.k8s.io"))]
    #[case("base64.channel.k8s.io", None)]
    fn protocols(#[case] offered: &str, #[case] expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap());
        assert_eq!(choose(&headers, &["v5.channel.k8s.io", "v4.channel.k8s.io"]), expected);
    }
}
