//! What a run has in a container engine, found again by the label that all of it carries: containers, networks, volumes.
//! Removing it needs nothing but the engine's client, so that the next start can do it for a run that was killed.

use std::path::Path;
use std::process::{Command, Stdio};

/// Label of everything a run makes in a container engine; its value is the name of the run's ledger.
pub const LABEL: &str = "registry-conformance.run";

/// Removes every container of the run and every container on a network of the run with their volumes, then the networks
/// and volumes of the run, then those images. Says what was removed; what is gone already is no failure.
///
/// # Errors
/// In one sentence, when the engine does not answer or refuses.
pub fn remove(engine: &Path, run: &str, images: &[String]) -> Result<Vec<String>, String> {
    let ours = format!("label={LABEL}={run}");
    let networks = list(engine, &["network", "ls", "--quiet", "--filter", &ours])?;
    let mut containers = list(engine, &["ps", "--all", "--quiet", "--no-trunc", "--filter", &ours])?;
    for network in &networks {
        containers.extend(list(
            engine,
            &["ps", "--all", "--quiet", "--no-trunc", "--filter", &format!("network={network}")],
        )?);
    }
    containers.sort();
    containers.dedup();
    let mut removed = Vec::new();
    let mut remove = |what: &str, args: &[&str], names: &[String]| -> Result<(), String> {
        for name in names {
            match run_client(engine, &[args, &[name.as_str()]].concat()) {
                Ok(_) => {
                    removed.push(format!("{what} {}", name.get(..12).filter(|_| what == "container").unwrap_or(name)))
                }
                Err(reason) if reason.to_lowercase().contains("no such") || reason.contains("not found") => {}
                Err(reason) => return Err(reason),
            }
        }
        Ok(())
    };
    remove("container", &["rm", "--force", "--volumes"], &containers)?;
    remove("network", &["network", "rm"], &networks)?;
    let volumes = list(engine, &["volume", "ls", "--quiet", "--filter", &ours])?;
    remove("volume", &["volume", "rm", "--force"], &volumes)?;
    remove("image", &["image", "rm", "--force"], images)?;
    Ok(removed)
}

fn list(engine: &Path, args: &[&str]) -> Result<Vec<String>, String> {
    Ok(run_client(engine, args)?.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

fn run_client(engine: &Path, args: &[&str]) -> Result<String, String> {
    let tried = || format!("`{} {}`", engine.display(), args.join(" "));
    let ran = Command::new(engine)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} could not be run: {error}", tried()))?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(format!("{} failed: {}", tried(), said.trim().lines().last().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An engine's client that answers from a script and writes down what it was asked.
    fn client(folder: &Path, script: &str) -> std::path::PathBuf {
        let path = folder.join("docker");
        let text = format!("#!/bin/sh\necho \"$*\" >> {}/asked\n{script}\n", folder.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn containers_go_before_their_network_and_only_those_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let script = "case \"$*\" in
            'network ls --quiet --filter label=registry-conformance.run=r1') echo n1;;
            'ps --all --quiet --no-trunc --filter label=registry-conformance.run=r1') echo cccccccccccc1;;
            'ps --all --quiet --no-trunc --filter network=n1') echo cccccccccccc1; echo dddddddddddd2;;
        esac";
        let removed = remove(&client(folder.path(), script), "r1", &["a/b:1".to_owned()]).unwrap();
        assert_eq!(removed, ["container cccccccccccc", "container dddddddddddd", "network n1", "image a/b:1"]);
        let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap();
        let removals: Vec<_> = asked.lines().filter(|line| line.contains("rm ")).collect();
        assert_eq!(
            removals,
            [
                "rm --force --volumes cccccccccccc1",
                "rm --force --volumes dddddddddddd2",
                "network rm n1",
                "image rm --force a/b:1"
            ]
        );
    }

    #[test]
    fn an_engine_that_does_not_answer_is_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo 'Cannot connect to the Docker daemon' >&2; exit 1";
        let reason = remove(&client(folder.path(), script), "r1", &[]).unwrap_err();
        assert!(reason.contains("Cannot connect to the Docker daemon") && !reason.contains('\n'), "{reason}");
    }
}
