//! node-ca: brings the registry certificates of a mounted ConfigMap into the node's per-registry trust folders.
//! It acts when the mounted folder changes and never looks at a clock.

mod trust_folder;

use crate::folder_watch::FolderWatch;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use trust_folder::TrustFolder;

/// What node-ca must be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Folder with one PEM file per registry, named `host` or `host..port`
    #[arg(long, env = "NODE_CA_SOURCE", value_name = "DIR", default_value = "/tmp/serviceca")]
    pub source: PathBuf,
    /// The node's trust folder, one sub-folder per registry
    #[arg(long, env = "NODE_CA_TARGET", value_name = "DIR", default_value = "/etc/docker/certs.d")]
    pub target: PathBuf,
}

/// Why node-ca ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not watch {path}: {source}; check that the certificates are mounted there")]
    Watch { path: PathBuf, source: std::io::Error },
}

/// Keeps the trust folders equal to the certificates until `stop` is cancelled.
///
/// A folder that node-ca did not make is never removed. A failed write is logged and tried again with growing
/// pauses of at most five seconds; a source folder that is absent counts as unknown and changes nothing.
///
/// # Errors
/// The source folder cannot be watched.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let watch_failed = |source| Error::Watch { path: options.source.clone(), source };
    let mut watch = FolderWatch::new(&options.source).map_err(watch_failed)?;
    let target = TrustFolder::new(&options.target);
    tracing::info!(source = %options.source.display(), target = %options.target.display(), "node-ca started");
    let mut pause = Duration::from_millis(100);
    loop {
        watch.renew().map_err(watch_failed)?;
        let retry = match target.follow(&options.source) {
            Ok(change) => {
                pause = Duration::from_millis(100);
                if change.is_any() {
                    tracing::info!(
                        "copied: {:03} skipped: {:03} trimmed: {:03}",
                        change.copied,
                        change.skipped,
                        change.trimmed
                    );
                }
                None
            }
            Err(error) => {
                tracing::warn!(retry_in_ms = pause.as_millis(), "{error}");
                let retry = pause;
                pause = (pause * 2).min(Duration::from_secs(5));
                Some(retry)
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            changed = watch.changed() => changed.map_err(watch_failed)?,
            () = async { tokio::time::sleep(retry.unwrap_or_default()).await }, if retry.is_some() => {}
        }
    }
    tracing::info!("shutting down node-ca");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(tokio::time::Instant::now() < deadline, "waited 10s until {what}");
            tokio::task::yield_now().await;
        }
    }

    fn swap(mount: &Path, generation: &str, files: &[(&str, &str)]) {
        let fresh = mount.join(generation);
        std::fs::create_dir_all(&fresh).expect("a folder");
        for (name, content) in files {
            std::fs::write(fresh.join(name), content).expect("a file");
            let link = mount.join(name);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(name), link).expect("a link");
            }
        }
        symlink(generation, mount.join("..data_tmp")).expect("a link");
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("the swap");
    }

    #[tokio::test]
    async fn follows_a_mounted_config_map() {
        let root = tempfile::tempdir().expect("a folder");
        let (source, target) = (root.path().join("mount"), root.path().join("certs.d"));
        std::fs::create_dir_all(target.join("admin.example.com")).expect("a folder");
        swap(&source, "..1", &[("r.example.com", "A"), ("r.example.com..5000", "B")]);
        let stop = CancellationToken::new();
        let agent = tokio::spawn(run(Options { source: source.clone(), target: target.clone() }, stop.clone()));
        let read = |name: &str| std::fs::read_to_string(target.join(name).join("ca.crt")).unwrap_or_default();

        until("both certificates are there", || read("r.example.com") == "A" && read("r.example.com:5000") == "B")
            .await;
        swap(&source, "..2", &[("r.example.com", "A2")]);
        std::fs::remove_file(source.join("r.example.com..5000")).expect("removal");
        until("the change is followed", || {
            read("r.example.com") == "A2" && !target.join("r.example.com:5000").exists()
        })
        .await;
        assert!(target.join("admin.example.com").exists(), "a folder made by hand stays");

        stop.cancel();
        agent.await.expect("no panic").expect("a clean end");
    }

    #[tokio::test]
    async fn waits_for_a_mount_that_comes_later() {
        let root = tempfile::tempdir().expect("a folder");
        let (source, target) = (root.path().join("late"), root.path().join("certs.d"));
        let stop = CancellationToken::new();
        let agent = tokio::spawn(run(Options { source: source.clone(), target: target.clone() }, stop.clone()));
        tokio::task::yield_now().await;
        std::fs::create_dir(&source).expect("a folder");
        std::fs::write(source.join("r"), "A").expect("a file");
        until("the certificate is there", || target.join("r/ca.crt").exists()).await;
        stop.cancel();
        agent.await.expect("no panic").expect("a clean end");
    }
}
