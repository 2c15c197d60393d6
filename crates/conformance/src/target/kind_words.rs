//! What kind and the engine say when they cannot: the few words of a long page that tell, and what a person should do. The
//! page itself is kept as a log.

use std::{path::Path, process::Stdio};

use harness::failure::{Failure, Tried as _};
use tokio::process::Command;

/// Words of lines that tell, in lower case.
const TELLING: [&str; 6] = ["error", "failed", "timed out", "cannot", "no space", "already"];
/// How many such lines are shown, beside the first.
const LINES: usize = 4;

const PORT: &str = "another program has the port; end it, or leave `hostPort` out of the kind configuration";
/// What helps, by words that are said.
const REMEDIES: [(&str, &str); 7] = [
    ("no space left on device", "free disk space: a node takes about 1 GB (`docker system df` shows what has it)"),
    ("port is already allocated", PORT),
    ("address already in use", PORT),
    (
        "failed to pull image",
        "give the images as files with --images DIR, or let this machine reach the registry of the node image",
    ),
    ("Cannot connect to the Docker daemon", "start the Docker daemon again"),
    ("already exist for a cluster", "somebody else makes a cluster of that name; wait for it, or give another name"),
    (
        "timed out waiting for the condition",
        "the machine was too slow for a control plane, or a node lacks something: end what else is busy, and see `doctor`",
    ),
];

/// Runs kind to its end and returns what it printed. When it fails, everything it said is in `log`.
///
/// # Errors
/// With the lines that tell, the place of the log and what helps.
pub(super) async fn output(command: &mut Command, tried: &str, log: &Path) -> Result<String, Failure> {
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await.tried(tried)?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let mut seen = format!("{}: {}", ran.status, gist(&said));
    let kept = log.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(log, said.as_bytes()));
    // A disk that takes no log is what the lines themselves tell of.
    if kept.is_ok() {
        seen.push_str(&format!("\nits whole log is {}", log.display()));
    }
    Err(Failure::error(tried, seen).next(remedy(&said)))
}

/// A failure of the engine with what helps.
pub(super) fn explained(failure: Failure) -> Failure {
    let next = remedy(failure.seen.as_deref().unwrap_or_default());
    failure.next(next)
}

fn remedy(said: &str) -> &'static str {
    let found = REMEDIES.iter().find(|(words, _)| said.contains(words));
    found.map_or("`doctor` says what kind lacks on this machine", |(_, next)| next)
}

/// The first line that tells and the last ones; the last lines at all when none does. Stack traces never tell.
fn gist(said: &str) -> String {
    let tells = |line: &&str| {
        let lower = line.to_lowercase();
        !line.contains(".go:") && TELLING.iter().any(|word| lower.contains(word))
    };
    let mut telling: Vec<&str> = said.lines().map(str::trim).filter(tells).collect();
    telling.dedup();
    if telling.is_empty() {
        telling = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    }
    if telling.len() > LINES + 1 {
        telling.drain(1..telling.len() - LINES);
    }
    telling.join("\n")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SLOW: &str = "Creating cluster \"c\" ...
 • Starting control-plane 🕹️  ...
ERROR: failed to create cluster: failed to init node with kubeadm: command \"docker exec c kubeadm init\" failed with error: exit status 1
Command Output: I1121 16:08:07.6 init.go:260] [init] Using Kubernetes version: v1.36.3
[api-check] The API server is not healthy after 4m0.0s
Unfortunately, an error has occurred, likely caused by:
\t- The kubelet is not running
error: error execution phase wait-control-plane: timed out waiting for the condition
k8s.io/kubernetes/cmd/kubeadm/app/cmd/phases/workflow.(*Runner).Run.func1
\tk8s.io/kubernetes@v1.36.3/cmd/kubeadm/app/cmd/phases/workflow/runner.go:261 error
runtime.main
\truntime/proc.go:290
";

    #[test]
    fn a_page_with_a_stack_trace_is_a_few_lines() {
        let gist = gist(SLOW);
        assert!(gist.starts_with("ERROR: failed to create cluster: failed to init node"), "{gist}");
        assert!(
            gist.ends_with("error execution phase wait-control-plane: timed out waiting for the condition"),
            "{gist}"
        );
        assert_eq!(gist.lines().count(), 3, "{gist}");
        assert!(remedy(SLOW).contains("too slow"));
    }

    #[rstest]
    #[case::nothing("", "")]
    #[case::no_telling_line("one\n\ntwo\n", "one\ntwo")]
    #[case::many(
        "error 1\nerror 2\nerror 3\nerror 4\nerror 5\nerror 6\nerror 7",
        "error 1\nerror 4\nerror 5\nerror 6\nerror 7"
    )]
    fn other_pages(#[case] said: &str, #[case] expected: &str) {
        assert_eq!(gist(said), expected);
    }

    #[tokio::test]
    async fn everything_that_was_said_is_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/kind.log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo 'ERROR: no space left on device' >&2; exit 3"]);
        let failure = output(&mut command, "making it", &log).await.unwrap_err();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "first\nERROR: no space left on device\n");
        let text = failure.text();
        assert!(text.contains("exit status: 3") && text.contains("kind.log") && !text.contains("first"), "{text}");
        assert!(failure.next.unwrap().contains("free disk space"));
    }
}
