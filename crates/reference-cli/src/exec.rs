//! `oc exec` and `oc rsh`: run a program in a container.

use crate::command_line::{Arguments, Command, switch, value};
use crate::failure::Failure;
use crate::session::Session;
use crate::workload;
use futures::future::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const EXEC: Command = Command {
    path: "exec",
    usage: "(POD | TYPE/NAME) [-c CONTAINER] [-i] -- COMMAND [ARG...]",
    about: "Run a program in a container",
    flags: &[
        value("container", Some('c'), "which container of the pod"),
        switch("stdin", Some('i'), "pass standard input on"),
        switch("tty", Some('t'), "standard input is a terminal"),
    ],
    flags_after_words: true,
    run: |session, args| exec(session, args).boxed_local(),
};

pub const RSH: Command = Command {
    path: "rsh",
    usage: "[-c CONTAINER] (POD | TYPE/NAME) [COMMAND [ARG...]]",
    about: "Open a shell in a container",
    flags: &[
        value("container", Some('c'), "which container of the pod"),
        value("shell", None, "the shell to open; /bin/sh when absent"),
        switch("no-tty", Some('T'), "never ask for a terminal"),
        switch("tty", Some('t'), "standard input is a terminal"),
    ],
    flags_after_words: false,
    run: |session, args| rsh(session, args).boxed_local(),
};

async fn exec(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let Some((pod, rest)) = args.words.split_first() else {
        return Err(Failure::usage("pod, type/name or --filename must be specified"));
    };
    let command = match &args.command {
        Some(command) if rest.is_empty() => command.clone(),
        None => rest.to_vec(),
        Some(_) => return Err(Failure::usage("give the command after --")),
    };
    if command.is_empty() {
        return Err(Failure::usage("you must specify at least one command for the container"));
    }
    let chosen = workload::pod(session, pod).await?;
    run(session, &chosen.pod, args.text("container"), &command, args.is_on("stdin")).await
}

async fn rsh(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let Some((pod, rest)) = args.words.split_first() else {
        return Err(Failure::usage("rsh requires a single Pod to connect to"));
    };
    let mut command = args.command.clone().unwrap_or_else(|| rest.to_vec());
    if command.is_empty() {
        command.push(args.text("shell").unwrap_or("/bin/sh").to_owned());
    }
    let chosen = workload::pod(session, pod).await?;
    run(session, &chosen.pod, args.text("container"), &command, true).await
}

/// Runs a program in a pod's container, with this process's standard streams.
///
/// # Errors
/// The program could not be started, or it ended with another status than 0 ([`Failure::Exit`]).
pub async fn run(
    session: &Session,
    pod: &serde_json::Value,
    container: Option<&str>,
    command: &[String],
    stdin: bool,
) -> Result<(), Failure> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let connection = session.connection().await?;
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &text(&pod["metadata"]["namespace"]));
    let first = pod["spec"]["containers"].as_array().and_then(|containers| containers.first());
    let container = container.map(str::to_owned).or_else(|| first.map(|first| text(&first["name"])));
    let params = AttachParams { container, stdin, stdout: true, stderr: true, tty: false, ..AttachParams::default() };
    let server = connection.config.cluster_url.to_string();
    let mut process = pods
        .exec(&text(&pod["metadata"]["name"]), command, &params)
        .await
        .map_err(|error| Failure::from_client(error, &server))?;
    attend(&mut process, stdin).await
}

async fn attend(process: &mut AttachedProcess, stdin: bool) -> Result<(), Failure> {
    let status = process.take_status();
    if let Some(mut input) = process.stdin().filter(|_| stdin) {
        // Reading the terminal cannot be interrupted, so it must not be waited for when the program ends.
        tokio::spawn(async move {
            let mut own = tokio::io::stdin();
            let _ = tokio::io::copy(&mut own, &mut input).await;
            let _ = input.shutdown().await;
        });
    }
    let out = copy(process.stdout(), tokio::io::stdout());
    let err = copy(process.stderr(), tokio::io::stderr());
    tokio::join!(out, err);
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    let Some(status) = status else {
        return Err(Failure::usage("the connection to the container broke off before the program ended"));
    };
    if status.status.as_deref() == Some("Failure") {
        let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
        let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
        return Err(match code.and_then(|cause| cause.message?.parse().ok()) {
            Some(code) => Failure::Exit(code),
            None => Failure::usage(status.message.unwrap_or_default()),
        });
    }
    Ok(())
}

async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl AsyncWrite + Unpin) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut chunk).await {
        if count == 0 || to.write_all(&chunk[..count]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
}
