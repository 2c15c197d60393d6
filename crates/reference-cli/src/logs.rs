//! `oc logs`: prints what a container wrote.

use crate::command_line::{Arguments, Command, switch, value};
use crate::failure::Failure;
use crate::resource::escape;
use crate::session::Session;
use crate::workload;
use futures::future::FutureExt;
use futures::io::AsyncReadExt;
use http::Request;
use std::io::Write;

pub const COMMAND: Command = Command {
    path: "logs",
    usage: "[-f] (POD | TYPE/NAME) [-c CONTAINER]",
    about: "Print what a container wrote",
    flags: &[
        switch("follow", Some('f'), "go on as more is written"),
        switch("previous", Some('p'), "the container's previous run"),
        switch("timestamps", None, "put the time before each line"),
        value("container", Some('c'), "which container of the pod"),
        value("tail", None, "how many of the last lines; -1 is all"),
        value("since", None, "only lines newer than this, such as 5m"),
        value("limit-bytes", None, "how much to print at most"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let [word] = args.words.as_slice() else {
        return Err(Failure::usage(
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the \
             logs command\nSee 'oc logs -h' for help and examples",
        ));
    };
    let chosen = workload::pod(session, word).await?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (text(&chosen.pod["metadata"]["name"]), text(&chosen.pod["metadata"]["namespace"]));
    if chosen.candidates > 1 {
        eprintln!("Found {} pods, using pod/{name}", chosen.candidates);
    }
    let containers: Vec<String> =
        chosen.pod["spec"]["containers"].as_array().into_iter().flatten().map(|c| text(&c["name"])).collect();
    let mut query = Vec::new();
    match (args.text("container"), containers.as_slice()) {
        (Some(container), _) => query.push(format!("container={}", escape(container))),
        (None, [_]) => {}
        (None, [first, ..]) => {
            eprintln!("Defaulted container {first:?} out of: {}", containers.join(", "));
            query.push(format!("container={}", escape(first)));
        }
        (None, []) => {}
    }
    for (flag, key) in [("follow", "follow"), ("previous", "previous"), ("timestamps", "timestamps")] {
        if args.is_on(flag) {
            query.push(format!("{key}=true"));
        }
    }
    if let Some(lines) = args.number("tail")?.filter(|lines| *lines >= 0) {
        query.push(format!("tailLines={lines}"));
    }
    if let Some(bytes) = args.number("limit-bytes")? {
        query.push(format!("limitBytes={bytes}"));
    }
    if let Some(since) = args.text("since") {
        query.push(format!("sinceSeconds={}", workload::duration(since)?.as_secs().max(1)));
    }
    let path = format!("/api/v1/namespaces/{}/pods/{}/log?{}", escape(&namespace), escape(&name), query.join("&"));
    stream(session, &path).await
}

/// Copies the log to standard output as it comes.
async fn stream(session: &Session, path: &str) -> Result<(), Failure> {
    let connection = session.connection().await?;
    let server = connection.config.cluster_url.to_string();
    let request = Request::get(path).body(Vec::new()).map_err(|error| Failure::usage(error.to_string()))?;
    let log = connection.client.request_stream(request).await.map_err(|error| Failure::from_client(error, &server))?;
    let mut log = std::pin::pin!(log);
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let count =
            log.read(&mut chunk).await.map_err(|error| Failure::usage(format!("the log broke off: {error}")))?;
        let mut out = std::io::stdout().lock();
        if count == 0 || out.write_all(&chunk[..count]).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
}
