//! Official downloads of the programs, as a data file: address and SHA-256 per program, version and architecture.
//! What has no pinned checksum is not fetched, since nothing else would prove that it is the right thing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::error::chain;
use crate::{Error, Tool, cache};

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

/// One file of one project.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Download {
    tool: String,
    version: String,
    arch: String,
    url: String,
    #[serde(default)]
    sha256: Option<String>,
    /// Path of the program inside a gzipped tar archive; absent when the file is the program itself.
    #[serde(default)]
    member: Option<String>,
}

/// Fetches a program into the cache. The caller holds the module's lock.
///
/// # Errors
/// [`Error::Way`] when no checksum is pinned, the network fails, or the file is not the pinned one.
pub(crate) async fn fetch(tool: Tool, progress: &impl Fn(&str)) -> Result<PathBuf, Error> {
    let download = pinned(&table()?, tool, std::env::consts::ARCH)?;
    let workshop = cache::workshop(tool.name())?;
    progress(&format!("downloading {} from {}", tool.name(), download.url));
    let outcome = fetch_in(&workshop, tool, &download).await;
    let tidied = cache::discard(&workshop);
    let path = outcome?;
    tidied?;
    Ok(path)
}

fn table() -> Result<Table, Error> {
    serde_yaml::from_str(TABLE).map_err(|error| Error::Data { file: TABLE_FILE, reason: error.to_string() })
}

fn pinned(table: &Table, tool: Tool, arch: &str) -> Result<Download, Error> {
    let entry = table
        .downloads
        .iter()
        .find(|entry| entry.tool == tool.name() && entry.version == tool.version() && entry.arch == arch)
        .ok_or_else(|| Error::Way(format!("{TABLE_FILE} names no download of {tool} {} for {arch}", tool.version())))?;
    if entry.sha256.is_none() {
        return Err(Error::Way(format!("no pinned checksum for {}", entry.url)));
    }
    Ok(entry.clone())
}

async fn fetch_in(workshop: &Path, tool: Tool, download: &Download) -> Result<PathBuf, Error> {
    let file = workshop.join("download");
    receive(&download.url, &file).await?;
    let sha256 = cache::sha256_of(&file)?;
    if Some(&sha256) != download.sha256.as_ref() {
        return Err(Error::Way(format!("{} has sha256 {sha256}, which is not the pinned one", download.url)));
    }
    let program = match &download.member {
        None => file,
        Some(member) => unpack(workshop, &file, member).await?,
    };
    make_executable(&program)?;
    cache::store(tool.module(), &[(tool.name(), program)])?;
    cache::find(tool)
}

async fn receive(url: &str, file: &Path) -> Result<(), Error> {
    let failed = |error: reqwest::Error| Error::Way(format!("{url}: {}", chain(&error)));
    let client =
        reqwest::Client::builder().connect_timeout(CONNECT_WITHIN).read_timeout(SILENT_FOR).build().map_err(failed)?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut target = tokio::fs::File::create(file).await.map_err(Error::file("make", file))?;
    let mut body = answer.bytes_stream();
    while let Some(bytes) = body.next().await {
        target.write_all(&bytes.map_err(failed)?).await.map_err(Error::file("write", file))?;
    }
    target.flush().await.map_err(Error::file("write", file))
}

/// Archives are opened by the system's `tar`; only a proven archive comes here.
async fn unpack(workshop: &Path, archive: &Path, member: &str) -> Result<PathBuf, Error> {
    let output = tokio::process::Command::new("tar")
        .arg("-xzf")
        .args([archive, Path::new("-C"), workshop])
        .arg(member)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Error::Way(format!("cannot run tar: {error}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Way(format!("tar cannot take {member} out of the archive: {}", text.trim())));
    }
    Ok(workshop.join(member))
}

fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(Error::file("make executable", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        let table = table().unwrap();
        for entry in &table.downloads {
            assert!(entry.url.starts_with("https://"), "{}", entry.url);
            let tool = Tool::ALL.into_iter().find(|tool| tool.name() == entry.tool).expect("a known program");
            assert_eq!(entry.version, tool.version(), "{} of the table is not the pinned version", entry.tool);
            if let Some(sha256) = &entry.sha256 {
                assert!(sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", entry.url);
            }
        }
    }

    #[test]
    fn without_a_checksum_nothing_is_fetched() {
        let yaml = "downloads: [{tool: etcd, version: v3.6.8, arch: x86_64, url: 'https://example.com/etcd'}]";
        let table: Table = serde_yaml::from_str(yaml).unwrap();
        let error = pinned(&table, Tool::EtcD, "x86_64").unwrap_err().to_string();
        assert_eq!(error, "no pinned checksum for https://example.com/etcd");
        assert!(pinned(&table, Tool::EtcD, "riscv64").is_err());
    }
}
