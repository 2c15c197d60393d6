//! How pods reach the API server: its address, the per-container kubeconfig, and overrides for single service accounts.
//! An override is how a proxy is put between one component and the API; the component is not told.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where in-cluster clients look for their token; the mount at this path is what the kubeconfig points to.
pub(crate) const SERVICE_ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The API server as pods shall see it.
#[derive(Debug, Clone)]
pub(crate) struct ClusterAccess {
    /// `host:port` for pods without override.
    pub(crate) server: String,
    /// File with overrides; read at each container start, so that a change holds from the next start on.
    pub(crate) overrides: Option<PathBuf>,
}

/// One entry of the override file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiOverride {
    /// `namespace/name` of the service account whose pods are concerned.
    pub service_account: String,
    /// `https://HOST:PORT` that they get instead of the API server.
    pub server: String,
    /// CA bundle by which that server is verified; the cluster's own CA if absent.
    #[serde(default)]
    pub certificate_authority: Option<PathBuf>,
}

/// What one container is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) host: String,
    pub(crate) port: String,
    certificate_authority: Option<PathBuf>,
}

/// Why a container cannot be told how to reach the API server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("reading the API overrides {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no list of API overrides: {source}; each entry has serviceAccount and server")]
    Parse { path: PathBuf, source: serde_yaml::Error },
    #[error("API server address {server:?} is not HOST:PORT")]
    Address { server: String },
    #[error("writing the kubeconfig {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

impl ClusterAccess {
    /// What pods of a service account (`namespace/name`) are told.
    pub(crate) fn of(&self, service_account: &str) -> Result<Access, AccessError> {
        let found = self.read_overrides()?.into_iter().find(|entry| entry.service_account == service_account);
        let server = found.as_ref().map_or(&self.server, |entry| &entry.server);
        let (host, port) = split(server)?;
        Ok(Access { host, port, certificate_authority: found.and_then(|entry| entry.certificate_authority) })
    }

    fn read_overrides(&self) -> Result<Vec<ApiOverride>, AccessError> {
        let Some(path) = &self.overrides else { return Ok(Vec::new()) };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            // The file may be written later.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(AccessError::Read { path: path.clone(), source }),
        };
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_yaml::from_str(&text).map_err(|source| AccessError::Parse { path: path.clone(), source })
    }
}

/// Host and port of `host:port` or of an https address; an IPv6 host keeps its brackets.
fn split(server: &str) -> Result<(String, String), AccessError> {
    let address = server.strip_prefix("https://").unwrap_or(server).trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok((host.to_owned(), port.to_owned())),
        _ => Err(AccessError::Address { server: server.to_owned() }),
    }
}

impl Access {
    /// The same, with the authority's file called as `rename` says.
    pub(crate) fn with_authority(mut self, rename: impl FnOnce(&Path) -> PathBuf) -> Self {
        self.certificate_authority = self.certificate_authority.map(|path| rename(&path));
        self
    }

    /// Writes a kubeconfig that uses token and CA of the service account volume lying at `account`.
    pub(crate) fn write_kubeconfig(&self, path: &Path, account: &Path, namespace: &str) -> Result<(), AccessError> {
        let ca = self.certificate_authority.clone().unwrap_or_else(|| account.join("ca.crt"));
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": {
                "server": format!("https://{}:{}", self.host, self.port),
                "certificate-authority": ca,
            }}],
            "users": [{"name": "pod", "user": {"tokenFile": account.join("token")}}],
            "contexts": [{"name": "pod", "context": {"cluster": "cluster", "user": "pod", "namespace": namespace}}],
            "current-context": "pod",
        });
        // JSON is YAML, and needs no second serialiser.
        std::fs::write(path, format!("{config:#}\n"))
            .map_err(|source| AccessError::Write { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_hold_for_their_service_account_only_and_are_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overrides.yaml");
        let access = ClusterAccess { server: "127.0.0.1:6443".into(), overrides: Some(path.clone()) };
        assert_eq!(access.of("a/b").unwrap().port, "6443");
        std::fs::write(&path, "- serviceAccount: a/b\n  server: https://127.0.0.1:7001\n").unwrap();
        assert_eq!(access.of("a/b").unwrap().port, "7001");
        assert_eq!(access.of("a/c").unwrap().port, "6443");
        std::fs::write(&path, "- account: a/b\n").unwrap();
        assert!(access.of("a/b").is_err());
    }

    #[test]
    fn the_kubeconfig_is_one_that_clients_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let access = ClusterAccess { server: "127.0.0.1:6443".into(), overrides: None }.of("a/b").unwrap();
        access.write_kubeconfig(&path, Path::new("/sa"), "ns").unwrap();
        let config = kube::config::Kubeconfig::read_from(&path).unwrap();
        let cluster = config.clusters[0].cluster.clone().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
        assert_eq!(config.auth_infos[0].auth_info.clone().unwrap().token_file.as_deref(), Some("/sa/token"));
    }
}
