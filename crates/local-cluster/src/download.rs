//! Official downloads of the programs, as a data file: archives with their published checksums and the programs inside.
//! What does not have its checksum is not used, whoever served it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::cache::{self, Entry};
use crate::checksum::Checksum;
use crate::error::chain;
use crate::{Error, Tool};

/// Names a table to be used in place of the built-in one, such as one with the addresses of a mirror.
pub const TABLE_VARIABLE: &str = "REGISTRY_CONFORMANCE_DOWNLOADS";
const TABLE_FILE: &str = "ci/tools/downloads.yaml";
const TABLE: &str = include_str!("../../../ci/tools/downloads.yaml");
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A download that brings nothing for this long is given up.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// The data file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    downloads: Vec<Download>,
}

/// One archive of one project: a gzipped tar.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Download {
    url: String,
    /// Version of the programs; it may be another than that of the build.
    pub(crate) version: String,
    /// As Rust calls it: `x86_64`, `aarch64`.
    arch: String,
    checksum: Checksum,
    /// Names of programs, and their paths inside the archive.
    programs: BTreeMap<String, String>,
}

impl Download {
    /// The download of a program for this machine.
    ///
    /// # Errors
    /// [`Error::Way`] when the table has none or cannot be used.
    pub(crate) fn of(tool: Tool) -> Result<Download, Error> {
        let (name, table) = table()?;
        let arch = std::env::consts::ARCH;
        let mut downloads = table.downloads.into_iter();
        downloads
            .find(|download| download.arch == arch && download.programs.contains_key(tool.name()))
            .ok_or_else(|| Error::Way(format!("{name} names no download of {tool} for {arch}")))
    }

    /// Where the cache keeps its programs.
    pub(crate) fn entry(&self, tool: Tool) -> Entry {
        Entry::new(tool.module().name, &self.version, self.checksum.hex())
    }

    /// Fetches the archive, proves it and puts all its programs into the cache. The caller holds the module's lock.
    ///
    /// # Errors
    /// [`Error::Way`] when the network fails, the file is not the one of the table, or lacks a program.
    pub(crate) async fn fetch(&self, tool: Tool, progress: &impl Fn(&str)) -> Result<PathBuf, Error> {
        let names: Vec<&str> = self.programs.keys().map(String::as_str).collect();
        let names = names.join(", ");
        progress(&format!("downloading {names} {} from {}", self.version, self.url));
        let started = Instant::now();
        let workshop = cache::workshop(&format!("{}-download", tool.module().name))?;
        let outcome = self.fetch_in(&workshop, &self.entry(tool)).await;
        let tidied = cache::discard(&workshop);
        outcome?;
        tidied?;
        progress(&format!("downloaded {names} in {:.0} s", started.elapsed().as_secs_f64()));
        self.entry(tool).find(tool.name())
    }

    async fn fetch_in(&self, workshop: &Path, entry: &Entry) -> Result<(), Error> {
        let archive = workshop.join("archive");
        self.receive(&archive).await?;
        let found = self.checksum.of_same_kind(&archive)?;
        if found != self.checksum {
            return Err(Error::Way(format!("{} has {found}, published is {}", self.url, self.checksum)));
        }
        self.unpack(workshop, &archive).await?;
        let mut programs = Vec::new();
        for (name, member) in &self.programs {
            let path = workshop.join(member);
            make_executable(&path)?;
            programs.push((name.as_str(), path));
        }
        entry.store(&programs)
    }

    async fn receive(&self, file: &Path) -> Result<(), Error> {
        let failed = |error: reqwest::Error| Error::Way(format!("{}: {}", self.url, chain(&error)));
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(SILENT_FOR)
            .build()
            .map_err(failed)?;
        let answer =
            client.get(&self.url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        let mut target = tokio::fs::File::create(file).await.map_err(Error::file("make", file))?;
        let mut body = answer.bytes_stream();
        while let Some(bytes) = body.next().await {
            target.write_all(&bytes.map_err(failed)?).await.map_err(Error::file("write", file))?;
        }
        target.flush().await.map_err(Error::file("write", file))
    }

    /// Archives are opened by the system's `tar`; only a proven archive comes here.
    async fn unpack(&self, workshop: &Path, archive: &Path) -> Result<(), Error> {
        let output = tokio::process::Command::new("tar")
            .args(["--no-same-owner", "-xzf"])
            .args([archive, Path::new("-C"), workshop])
            .args(self.programs.values())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| Error::Way(format!("cannot run tar: {error}; install it")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Way(format!("tar cannot take the programs out of {}: {}", self.url, said.trim())));
        }
        Ok(())
    }
}

/// The table in use, and what messages call it.
fn table() -> Result<(String, Table), Error> {
    let Some(path) = std::env::var_os(TABLE_VARIABLE).filter(|path| !path.is_empty()) else {
        return Ok((TABLE_FILE.to_owned(), built_in()?));
    };
    let path = PathBuf::from(path);
    let name = format!("{TABLE_VARIABLE} ({})", path.display());
    let unusable = |why: String| Error::Way(format!("{name}: {why}"));
    let text = std::fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
    let table = serde_yaml::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    Ok((name, table))
}

fn built_in() -> Result<Table, Error> {
    serde_yaml::from_str(TABLE).map_err(|error| Error::Data { file: TABLE_FILE, reason: error.to_string() })
}

fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(Error::file("make executable", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_names_every_program_of_a_control_plane_for_both_architectures() {
        let table = built_in().unwrap();
        assert!(table.downloads.iter().all(|download| download.url.starts_with("https://")));
        assert!(table.downloads.iter().all(|download| download.url.contains(&download.version)));
        for tool in Tool::CONTROL_PLANE {
            for arch in ["x86_64", "aarch64"] {
                let has = |download: &&Download| download.arch == arch && download.programs.contains_key(tool.name());
                assert_eq!(table.downloads.iter().filter(has).count(), 1, "{tool} for {arch}");
            }
        }
    }
}
