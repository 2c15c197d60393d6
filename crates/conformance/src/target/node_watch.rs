//! Whether the containers that are a cluster's nodes still run. The engine's own events are listened to, so that its end is
//! known at once and what fails after it is not laid at a system's door.

use std::process::Stdio;

use harness::failure::{Failure, Tried as _};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    sync::watch,
    task::JoinHandle,
};

use super::engine::Engine;

/// Listens until it is dropped.
pub(super) struct NodeWatch {
    broken: watch::Receiver<Option<Failure>>,
    listening: JoinHandle<()>,
}

impl Drop for NodeWatch {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl NodeWatch {
    /// Listens for the end of every container with a label.
    ///
    /// # Errors
    /// When the engine's client cannot be started.
    pub(super) fn start(engine: &Engine, label: &str) -> Result<Self, Failure> {
        let tried = "listening to the container engine";
        let mut child = Command::new(engine.client())
            .args(["events", "--filter", "type=container", "--filter", "event=die"])
            .args(["--filter", &format!("label={label}"), "--format", "{{.Actor.Attributes.name}}"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .tried(tried)?;
        let output = child.stdout.take().ok_or_else(|| Failure::error(tried, "it has no standard output"))?;
        let (tell, broken) = watch::channel(None);
        let listening = tokio::spawn(async move {
            let ended = BufReader::new(output).lines().next_line().await;
            drop(child);
            let seen = match ended {
                Ok(Some(node)) => {
                    format!("the container {node} stopped: it, or the container engine, was stopped from outside")
                }
                _ => "the container engine went away".to_owned(),
            };
            let next = "start the container engine again if `docker ps` does not answer, then run again: what this run left in it is removed first";
            tell.send_replace(Some(Failure::error("keeping the cluster's nodes running", seen).next(next)));
        });
        Ok(Self { broken, listening })
    }

    /// Resolves when a node or the engine has ended.
    pub(super) async fn broken(&self) -> Failure {
        let mut broken = self.broken.clone();
        match broken.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::a_node("echo cluster-worker; exec sleep 60", "the container cluster-worker stopped")]
    #[case::the_engine("exit 1", "the container engine went away")]
    #[tokio::test]
    async fn the_end_of_a_node_or_of_the_engine_is_told(#[case] script: &str, #[case] expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let client = folder.path().join("docker");
        std::fs::write(&client, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).unwrap();
        let watch = NodeWatch::start(&Engine::of(client), "a=b").unwrap();
        let failure = tokio::time::timeout(Duration::from_secs(20), watch.broken()).await.unwrap();
        assert!(failure.text().contains(expected) && failure.next.is_some(), "{}", failure.text());
    }

    #[tokio::test]
    async fn while_nothing_ends_nothing_is_told() {
        use futures::FutureExt as _;
        let folder = tempfile::tempdir().unwrap();
        let client = folder.path().join("docker");
        std::fs::write(&client, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).unwrap();
        let watch = NodeWatch::start(&Engine::of(client), "a=b").unwrap();
        assert!(watch.broken().now_or_never().is_none());
    }
}
