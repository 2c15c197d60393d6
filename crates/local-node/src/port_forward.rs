//! Port-forward over WebSocket: a connection to a port of a pod for each pair of channels, the even one for its bytes and
//! the odd one for what went wrong with it (kubelet source pkg/kubelet/server/portforward/websocket.go).

use std::{net::Ipv4Addr, sync::Arc};

use axum::{extract::Request, http::StatusCode, response::Response};
use futures::StreamExt;
use hyper::upgrade::OnUpgrade;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::Message;

use crate::websocket::{self, frame, goodbye};

const PROTOCOLS: [&str; 1] = ["v4.channel.k8s.io"];
const CHUNK_BYTES: usize = 32 * 1024;

/// The ports that kube-apiserver asks for, which it joins with commas.
pub(crate) fn ports(pairs: &[(String, String)]) -> Result<Vec<u16>, (StatusCode, String)> {
    let named = pairs.iter().filter(|(name, _)| name == "port").flat_map(|(_, value)| value.split(','));
    let ports: Result<Vec<u16>, _> = named.map(str::parse).collect();
    match ports {
        Ok(ports) if (1..=127).contains(&ports.len()) => Ok(ports),
        _ => Err((StatusCode::BAD_REQUEST, "port-forward needs the numbers of up to 127 ports".to_owned())),
    }
}

/// Answers the upgrade and connects to the ports of the pod once the connection is a WebSocket.
pub(crate) fn upgrade(
    mut request: Request,
    address: Ipv4Addr,
    ports: Vec<u16>,
) -> Result<Response, (StatusCode, String)> {
    let (response, upgrade) = websocket::accept(&mut request, "port-forward", &PROTOCOLS)?;
    tokio::spawn(serve(upgrade, address, ports));
    Ok(response)
}

async fn serve(upgrade: OnUpgrade, address: Ipv4Addr, ports: Vec<u16>) {
    let Some((messages, mut incoming, sender)) = websocket::open(upgrade).await else { return };
    let messages = Arc::new(messages);
    let mut writers: Vec<Option<OwnedWriteHalf>> = Vec::with_capacity(ports.len());
    let mut readers = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(2 * index).unwrap_or(u8::MAX);
        // Tells the client which port the channels are of.
        for channel in [channel, channel + 1] {
            let _ = messages.send(frame(channel, &port.to_le_bytes())).await;
        }
        match TcpStream::connect((address, port)).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                let (reader, writer) = stream.into_split();
                readers.spawn(pump(reader, channel, messages.clone()));
                writers.push(Some(writer));
            }
            Err(error) => {
                let text = format!("failed to connect to {address}:{port} inside the pod: {error}");
                let _ = messages.send(frame(channel + 1, text.as_bytes())).await;
                writers.push(None);
            }
        }
    }
    let input = async {
        while let Some(Ok(message)) = incoming.next().await {
            match message {
                Message::Binary(data) => {
                    let writer = data.first().filter(|channel| **channel % 2 == 0);
                    let writer = writer.and_then(|channel| writers.get_mut(usize::from(channel / 2)));
                    if let Some(Some(writer)) = writer
                        && writer.write_all(&data[1..]).await.is_err()
                    {
                        break;
                    }
                }
                Message::Ping(data) => drop(messages.send(Message::Pong(data)).await),
                Message::Close(_) => break,
                _ => {}
            }
        }
    };
    tokio::select! {
        () = input => {}
        // The pod's side has ended everywhere: there is nothing left to answer with.
        () = async { while readers.join_next().await.is_some() {} } => {}
        () = messages.closed() => {}
    }
    let _ = messages.send(goodbye()).await;
    readers.shutdown().await;
    drop(messages);
    let _ = sender.await;
}

async fn pump(mut source: OwnedReadHalf, channel: u8, messages: Arc<mpsc::Sender<Message>>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = source.read(&mut buffer).await {
        if messages.send(frame(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&["5000"], Some(vec![5000]))]
    #[case(&["5000,6000"], Some(vec![5000, 6000]))]
    #[case(&["5000", "6000"], Some(vec![5000, 6000]))]
    #[case(&[], None)]
    #[case(&["http"], None)]
    fn ports_are_numbers(#[case] given: &[&str], #[case] expected: Option<Vec<u16>>) {
        let pairs: Vec<_> = given.iter().map(|value| ("port".to_owned(), (*value).to_owned())).collect();
        assert_eq!(ports(&pairs).ok(), expected);
    }
}
