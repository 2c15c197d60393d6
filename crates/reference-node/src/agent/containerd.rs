//! containerd's folder of registry hosts on the node: reads who trusts whom, writes hosts.toml files, and removes those it
//! made itself. What somebody else put there is never touched.

use crate::containerd_hosts::{self, Departure, HostFiles, HostTrust, MARKER, Trust};
use crate::folder_watch::FolderWatch;
use crate::node_file::{self, NodeFileError};
use crate::registries_conf::Registry;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Where the node has its trust by registry host, filled by node-ca and by administrators.
const TRUST: &str = "/etc/docker/certs.d";
const FILE: &str = "hosts.toml";

pub(super) struct Containerd {
    /// The folder of hosts as the node sees it, for what is told of it.
    folder: PathBuf,
    /// The same folder as it is seen from here.
    hosts: PathBuf,
    trust: PathBuf,
    watch: FolderWatch,
}

impl Containerd {
    /// # Errors
    /// The trust folder cannot be watched.
    pub(super) fn new(root: &Path, folder: &Path) -> io::Result<Self> {
        let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        let trust = below(Path::new(TRUST));
        Ok(Containerd { folder: folder.to_owned(), hosts: below(folder), watch: FolderWatch::new(&trust)?, trust })
    }

    /// Returns when the node's trust may have changed since [`Containerd::wanted`] looked at it.
    ///
    /// # Errors
    /// The watch is broken.
    pub(super) async fn trust_changed(&mut self) -> io::Result<()> {
        self.watch.changed().await
    }

    /// What is to be written for these tables with the trust that the node has now. Hosts that somebody else configures are
    /// left out, and are among the departures.
    ///
    /// # Errors
    /// A folder could not be read.
    pub(super) fn wanted(&mut self, tables: &[Registry]) -> Result<HostFiles, NodeFileError> {
        self.watch.renew().map_err(|source| NodeFileError::new("watch", &self.trust, source))?;
        let mut wanted = containerd_hosts::render(tables, &self.trust()?);
        for host in wanted.files.keys().cloned().collect::<Vec<_>>() {
            if let Some(path) = self.foreign(&host)? {
                wanted.files.remove(&host);
                wanted.departures.insert(Departure::Foreign { host, path: self.on_node(&path).display().to_string() });
            }
        }
        Ok(wanted)
    }

    /// Brings the files to their wanted content, removes the ones made before that are not wanted, and returns what changed as
    /// the node names it.
    ///
    /// # Errors
    /// A file could not be written or removed; the ones before it are as wanted.
    pub(super) fn write(&self, wanted: &HostFiles) -> Result<Vec<PathBuf>, NodeFileError> {
        let mut changed = Vec::new();
        for (host, text) in &wanted.files {
            let path = self.hosts.join(host).join(FILE);
            if node_file::put(&path, text.as_bytes())? {
                changed.push(self.on_node(&path));
            }
        }
        for folder in folders(&self.hosts)? {
            let path = folder.join(FILE);
            let is_wanted = name(&folder).is_some_and(|host| wanted.files.contains_key(host));
            if !is_wanted && is_own(&path)? && node_file::remove(&path)? {
                // A folder in which something else lies stays.
                let _ = std::fs::remove_dir(&folder);
                changed.push(self.on_node(&path));
            }
        }
        Ok(changed)
    }

    fn on_node(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.hosts).map_or_else(|_| path.to_owned(), |rest| self.folder.join(rest))
    }

    fn trust(&self) -> Result<Trust, NodeFileError> {
        let mut trust = Trust::new();
        for folder in folders(&self.trust)? {
            let Some(host) = name(&folder) else { continue };
            let names = files(&folder)?;
            let on_node = |file: &str| format!("{TRUST}/{host}/{file}");
            let authorities: Vec<_> =
                names.iter().filter(|file| file.ends_with(".crt")).map(|file| on_node(file)).collect();
            let clients: Vec<_> = names
                .iter()
                .filter_map(|file| Some((file, file.strip_suffix(".cert")?)))
                .map(|(file, stem)| {
                    let key = format!("{stem}.key");
                    (on_node(file), if names.contains(&key) { on_node(&key) } else { String::new() })
                })
                .collect();
            if !authorities.is_empty() || !clients.is_empty() {
                trust.insert(host.to_owned(), HostTrust { authorities, clients });
            }
        }
        Ok(trust)
    }

    /// What of somebody else decides about the host. containerd takes the first folder that exists of `host_port_` and
    /// `host:port`, and certificates in it only while there is no hosts.toml (hosts.go, HostDirFromRoot and loadHostDir).
    fn foreign(&self, host: &str) -> Result<Option<PathBuf>, NodeFileError> {
        if let Some((name, port)) = host.rsplit_once(':') {
            let other = self.hosts.join(format!("{name}_{port}_"));
            if other.exists() {
                return Ok(Some(other));
            }
        }
        let folder = self.hosts.join(host);
        let file = folder.join(FILE);
        if file.exists() {
            return Ok((!is_own(&file)?).then_some(file));
        }
        let is_certificate = |name: &&String| [".crt", ".cert", ".key"].iter().any(|end| name.ends_with(end));
        Ok(files(&folder)?.iter().find(is_certificate).map(|name| folder.join(name)))
    }
}

fn is_own(path: &Path) -> Result<bool, NodeFileError> {
    match std::fs::read(path) {
        Ok(content) => Ok(content.starts_with(MARKER.as_bytes())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(NodeFileError::new("read", path, source)),
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn folders(path: &Path) -> Result<BTreeSet<PathBuf>, NodeFileError> {
    Ok(entries(path)?.into_iter().filter(|entry| entry.is_dir()).collect())
}

fn files(path: &Path) -> Result<BTreeSet<String>, NodeFileError> {
    let files = entries(path)?.into_iter().filter(|entry| entry.is_file());
    Ok(files.filter_map(|entry| name(&entry).map(str::to_owned)).filter(|name| !name.starts_with('.')).collect())
}

/// Nothing when the folder does not exist.
fn entries(path: &Path) -> Result<Vec<PathBuf>, NodeFileError> {
    let failed = |source| NodeFileError::new("list", path, source);
    match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registries_conf::tables;
    use crate::registries_conf::tests::rules;
    use rstest::rstest;

    fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    fn bring(root: &Path, input: &str) -> (usize, Vec<String>) {
        let mut containerd = Containerd::new(root, Path::new("/etc/containerd/certs.d")).expect("a watch");
        let wanted = containerd.wanted(&tables(&rules(input)).expect("tables")).expect("readable");
        let changed = containerd.write(&wanted).expect("writable").len();
        (changed, wanted.departures.iter().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn files_come_change_and_go() {
        let root = node(&[
            ("etc/docker/certs.d/m.com/ca.crt", "A"),
            ("etc/docker/certs.d/m.com/me.cert", "B"),
            ("etc/docker/certs.d/m.com/me.key", "C"),
            ("etc/docker/certs.d/.node-ca-folders", "m.com"),
            ("etc/containerd/certs.d/admin.com/hosts.toml", "server = \"https://x\""),
        ]);
        let at = |host: &str| root.path().join("etc/containerd/certs.d").join(host);
        assert_eq!(bring(root.path(), "I{s.com:5000=>m.com}"), (2, vec![]));
        let text = std::fs::read_to_string(at("s.com:5000").join(FILE)).expect("a file");
        let end = "  ca = [\"/etc/docker/certs.d/m.com/ca.crt\"]\n  client = [[\"/etc/docker/certs.d/m.com/me.cert\", \"/etc/docker/certs.d/m.com/me.key\"]]\n";
        assert!(text.starts_with(MARKER) && text.ends_with(end), "{text}");
        assert_eq!(bring(root.path(), "I{s.com:5000=>m.com}").0, 0, "what is right is not touched");
        std::fs::write(at("m.com").join("note"), "mine").expect("a file");
        std::fs::remove_dir_all(root.path().join("etc/docker/certs.d/m.com")).expect("removal");
        assert_eq!(bring(root.path(), "").0, 2);
        assert!(!at("s.com:5000").exists() && at("m.com").join("note").exists() && at("admin.com").join(FILE).exists());
    }

    #[rstest]
    #[case("s.com/hosts.toml")]
    #[case("s.com/ca.crt")]
    #[case("s.com_5000_/anything")]
    #[tokio::test]
    async fn what_somebody_else_made_stays(#[case] path: &str) {
        let root = node(&[(&format!("etc/containerd/certs.d/{path}"), "mine")]);
        let (changed, departures) = bring(root.path(), "I{s.com=>m.com;s.com:5000=>m.com}");
        assert_eq!(changed, 1, "the other host has its file");
        assert!(departures.len() == 1 && departures[0].contains("somebody else"), "{departures:?}");
        let text = std::fs::read_to_string(root.path().join("etc/containerd/certs.d").join(path)).expect("a file");
        assert_eq!(text, "mine");
    }
}
