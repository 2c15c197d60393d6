//! `oc debug node/NAME -- COMMAND`: looks at a node's own files.
//!
//! No debug image is pulled: the command runs in the node agent's pod on that node, which has the node's root
//! mounted. `chroot /host COMMAND` and paths below `/host` mean the node's root, as in a debug pod.

use crate::command_line::{Arguments, Command, value};
use crate::exec;
use crate::failure::Failure;
use crate::resource::{escape, targets};
use crate::session::Session;
use crate::workload;
use futures::future::FutureExt;
use serde_json::Value;

pub const COMMAND: Command = Command {
    path: "debug",
    usage: "node/NAME [-- COMMAND [ARG...]]",
    about: "Look at a node's own files",
    flags: &[
        value("image", None, "not supported: the node agent's pod is used"),
        value("to-namespace", None, "project of the node agent"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

const AGENT_NAMESPACE: &str = "openshift-machine-config-operator";
const AGENT_LABEL: &str = "k8s-app=machine-config-daemon";

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    if args.text("image").is_some() {
        return Err(Failure::usage("--image is not supported: the node agent's pod is used instead of a debug pod"));
    }
    let targets = targets(session.catalogue().await?, &args.words)?;
    let [target] = targets.as_slice() else { return Err(Failure::usage("one node must be named: oc debug node/NAME")) };
    let (Some(name), "Node") = (target.name.as_deref(), target.resource.kind.as_str()) else {
        return Err(Failure::usage(format!("only nodes can be debugged, not {}", target.resource.printed())));
    };
    session.get(&target.resource.object(None, name)).await?;
    let pod = agent(session, args, name).await?;
    eprintln!("Starting pod/{}-debug ...\nTo use host binaries, run `chroot /host`", name.replace('.', "-"));
    let root = mounted_root(&pod)?;
    let command = args.command.clone().unwrap_or_default();
    let end = exec::run(session, &pod, None, &shell(&root, &command), command.is_empty()).await;
    eprintln!("\nRemoving debug pod ...");
    end
}

async fn agent(session: &Session, args: &Arguments, node: &str) -> Result<Value, Failure> {
    let namespace = args.text("to-namespace").unwrap_or(AGENT_NAMESPACE);
    let query =
        format!("labelSelector={}&fieldSelector={}", escape(AGENT_LABEL), escape(&format!("spec.nodeName={node}")));
    let list = session.get(&format!("/api/v1/namespaces/{}/pods?{query}", escape(namespace))).await?;
    let ready = list["items"].as_array().into_iter().flatten().find(|pod| workload::is_ready(pod)).cloned();
    ready.ok_or_else(|| {
        Failure::usage(format!("no node agent is ready on node {node}; look at 'oc get pods -n {namespace} -o wide'"))
    })
}

/// Where the agent's container has the node's root; the environment variable is read in the container, because only
/// there the path is known for sure.
fn mounted_root(pod: &Value) -> Result<String, Failure> {
    let env = pod["spec"]["containers"][0]["env"].as_array().into_iter().flatten();
    match env.into_iter().find(|variable| variable["name"] == "NODE_ROOT") {
        Some(_) => Ok("${NODE_ROOT:?}".into()),
        None => {
            let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().into_iter().flatten();
            let root = mounts
                .into_iter()
                .find(|mount| mount["name"] == "rootfs")
                .and_then(|mount| mount["mountPath"].as_str());
            root.map(str::to_owned).ok_or_else(|| Failure::usage("the node agent's pod does not mount the node's root"))
        }
    }
}

/// A shell command line that runs `command` with the node's root in place of `/host`.
fn shell(root: &str, command: &[String]) -> Vec<String> {
    let sh = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let (in_root, command) = match command {
        [chroot, host, rest @ ..] if chroot == "chroot" && host == "/host" => (true, rest),
        other => (false, other),
    };
    if command.is_empty() {
        return sh(format!("cd \"{root}\" && exec /bin/sh"));
    }
    let words = command.iter().enumerate().map(|(place, word)| {
        let below = if in_root { word.starts_with('/').then_some(word.as_str()) } else { word.strip_prefix("/host") };
        match below {
            Some(path) if place > 0 && (path.is_empty() || path.starts_with('/')) => {
                format!("\"{root}\"{}", quoted(path))
            }
            _ => quoted(word),
        }
    });
    sh(format!("cd \"{root}\" && exec {}", words.collect::<Vec<_>>().join(" ")))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&["chroot", "/host", "cat", "/etc/containers/registries.conf"], "cd \"/r\" && exec 'cat' \"/r\"'/etc/containers/registries.conf'")]
    #[case(&["cat", "/host/etc/containers/registries.conf"], "cd \"/r\" && exec 'cat' \"/r\"'/etc/containers/registries.conf'")]
    #[case(&["cat", "/hostile"], "cd \"/r\" && exec 'cat' '/hostile'")]
    #[case(&["echo", "it's"], "cd \"/r\" && exec 'echo' 'it'\\''s'")]
    #[case(&[], "cd \"/r\" && exec /bin/sh")]
    #[case(&["chroot", "/host"], "cd \"/r\" && exec /bin/sh")]
    fn shells(#[case] command: &[&str], #[case] expected: &str) {
        let command: Vec<String> = command.iter().map(|word| word.to_string()).collect();
        assert_eq!(shell("/r", &command), ["/bin/sh", "-c", expected]);
    }
}
