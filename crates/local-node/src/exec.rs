//! Exec over WebSocket: the channels of Kubernetes' remote command protocol, versions 4 and 5.
//! kube-apiserver passes a client's WebSocket through because the node declares that it understands it; see `node`.

use std::process::ExitStatus;

use axum::{extract::Request, http::StatusCode, response::Response};
use futures::StreamExt;
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    launch::Prepared,
    spawner::{Process, Spawner},
    websocket::{self, frame, goodbye},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
/// Version 5: "close the channel named in the next byte".
const CLOSE: u8 = 255;
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const CHUNK_BYTES: usize = 32 * 1024;

/// What to run and which of its streams are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExecQuery {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl ExecQuery {
    /// From the query of kube-apiserver, which names the streams input, output and error.
    pub(crate) fn from_pairs(pairs: &[(String, String)]) -> Self {
        let mut query = Self::default();
        for (name, value) in pairs {
            let on = matches!(value.as_str(), "1" | "true");
            match name.as_str() {
                "command" => query.command.push(value.clone()),
                "input" | "stdin" => query.stdin = on,
                "output" | "stdout" => query.stdout = on,
                "error" | "stderr" => query.stderr = on,
                "tty" => query.tty = on,
                _ => {}
            }
        }
        query
    }
}

/// Answers the upgrade and runs the command once the connection is a WebSocket.
pub(crate) fn upgrade(
    mut request: Request,
    spawner: Spawner,
    prepared: Prepared,
    query: ExecQuery,
) -> Result<Response, (StatusCode, String)> {
    if query.command.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "exec needs a command".to_owned()));
    }
    let (response, upgrade) = websocket::accept(&mut request, "exec", &PROTOCOLS)?;
    tokio::spawn(serve(upgrade, spawner, prepared, query));
    Ok(response)
}

async fn serve(upgrade: OnUpgrade, spawner: Spawner, prepared: Prepared, query: ExecQuery) {
    let Some((messages, mut incoming, sender)) = websocket::open(upgrade).await else { return };
    // Tells the client that the command's streams are open.
    let _ = messages.send(frame(STDOUT, b"")).await;
    let status = match spawner.spawn(prepared.command(&query.command, query.stdin)).await {
        Ok(process) => {
            tokio::select! {
                status = communicate(process, &query, &messages, &mut incoming) => status,
                // Without a client the output goes nowhere; dropping the process ends it.
                () = messages.closed() => return,
            }
        }
        Err(error) => failure(&format!("failed to run {:?}: {error}", query.command[0]), None),
    };
    let _ = messages.send(frame(ERROR, status.to_string().as_bytes())).await;
    let _ = messages.send(goodbye()).await;
    drop(messages);
    let _ = sender.await;
}

async fn communicate<S>(
    mut process: Process,
    query: &ExecQuery,
    messages: &mpsc::Sender<Message>,
    incoming: &mut S,
) -> Value
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let mut stdin = process.child.stdin.take();
    let stdout = process.child.stdout.take();
    let stderr = process.child.stderr.take();
    // With a terminal there is but one stream; here it has no terminal's line discipline.
    let stderr_channel = if query.tty { STDOUT } else { STDERR };
    let output = async {
        tokio::join!(
            pump(stdout, STDOUT, query.stdout, messages),
            pump(stderr, stderr_channel, query.stderr || query.tty, messages)
        );
    };
    let input = async {
        while let Some(Ok(message)) = incoming.next().await {
            match message {
                Message::Binary(data) => match (data.first(), &mut stdin) {
                    (Some(&STDIN), Some(pipe)) if data.len() > 1 => {
                        let written = pipe.write_all(&data[1..]).await;
                        if written.is_err() || pipe.flush().await.is_err() {
                            stdin = None;
                        }
                    }
                    (Some(&CLOSE), _) if data.get(1) == Some(&STDIN) => stdin = None,
                    _ => {}
                },
                Message::Ping(data) => {
                    let _ = messages.send(Message::Pong(data)).await;
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
    };
    let finished = async {
        output.await;
        process.child.wait().await
    };
    tokio::select! {
        status = finished => match status {
            Ok(status) => outcome(status),
            Err(error) => failure(&error.to_string(), None),
        },
        () = input => failure("the client closed the connection", None),
    }
}

async fn pump(source: Option<impl AsyncRead + Unpin>, channel: u8, wanted: bool, messages: &mpsc::Sender<Message>) {
    let Some(mut source) = source else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(read) = source.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        if wanted && messages.send(frame(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

fn outcome(status: ExitStatus) -> Value {
    use std::os::unix::process::ExitStatusExt;
    match status.code().or_else(|| status.signal().map(|signal| 128 + signal)) {
        Some(0) => json!({"metadata": {}, "status": "Success"}),
        Some(code) => failure(&format!("command terminated with non-zero exit code: exit status {code}"), Some(code)),
        None => failure("the command ended without a status", None),
    }
}

fn failure(message: &str, code: Option<i32>) -> Value {
    match code {
        Some(code) => json!({
            "metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        None => {
            json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn queries_keep_the_order_of_the_command() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let query = ExecQuery::from_pairs(&[
            pair("command", "ls"),
            pair("output", "1"),
            pair("command", "-l"),
            pair("input", "0"),
        ]);
        assert_eq!(query.command, ["ls", "-l"]);
        assert!(query.stdout && !query.stdin && !query.stderr);
    }
}
