//! The kubeconfig of a cluster that was there before: what its current context leads to, as whom, and a client for it.
//! What is wrong with it is told by what it is, not by what a connection happens to say.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use harness::failure::{Failure, Tried as _, chain};
use http::header::{HeaderValue, USER_AGENT};
use kube::{
    Client, Config,
    config::{Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext},
};
use serde_json::{Value, json};

/// How long a connection to the API server may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A kubeconfig reduced to its current context.
#[derive(Clone)]
pub(super) struct Access {
    /// The file, absolute.
    pub path: PathBuf,
    pub config: Config,
    /// What the context calls the user.
    pub user: String,
    /// The bearer token, when it stands in the file.
    pub token: Option<String>,
    authority: Value,
}

impl Access {
    /// The URL of the API server.
    pub(super) fn server(&self) -> String {
        self.config.cluster_url.to_string().trim_end_matches('/').to_owned()
    }

    /// A kubeconfig that leads to the same server with this token.
    pub(super) fn with_token(&self, token: &str) -> String {
        let mut cluster = self.authority.clone();
        cluster["server"] = json!(self.server());
        json!({
            "apiVersion": "v1", "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "administrator", "user": {"token": token}}],
            "contexts": [{"name": "administrator", "context": {"cluster": "cluster", "user": "administrator"}}],
            "current-context": "administrator",
        })
        .to_string()
    }
}

/// Reads a kubeconfig.
///
/// # Errors
/// When it is not there, is no kubeconfig, or its current context names what it does not have.
pub(super) async fn read(path: &Path) -> Result<Access, Failure> {
    let tried = format!("reading the kubeconfig {}", path.display());
    let next = "give the file with which `kubectl` or `oc` reach the cluster to --kubeconfig";
    let wrong = |seen: String| Failure::error(&tried, seen).next(next);
    let absolute = std::path::absolute(path).tried(&tried)?;
    std::fs::metadata(&absolute).map_err(|error| wrong(error.to_string()))?;
    let read = Kubeconfig::read_from(&absolute);
    // A parser's drawing of the place stands below its words.
    let read = read.map_err(|error| wrong(chain(&error).lines().next().unwrap_or_default().to_owned()))?;
    let name = read.current_context.clone().unwrap_or_default();
    let context = read.contexts.iter().find(|context: &&NamedContext| context.name == name);
    let context = context
        .and_then(|named| named.context.clone())
        .ok_or_else(|| wrong(format!("its current context is {name:?}, and it has no context of that name")))?;
    let cluster = read.clusters.iter().find(|cluster: &&NamedCluster| cluster.name == context.cluster);
    let cluster = cluster.and_then(|named| named.cluster.clone()).ok_or_else(|| {
        wrong(format!("context {name:?} names the cluster {:?}, which it does not have", context.cluster))
    })?;
    let user = context.user.clone().unwrap_or_default();
    let named = read.auth_infos.iter().find(|info: &&NamedAuthInfo| info.name == user);
    let auth = named.and_then(|named| named.auth_info.clone()).unwrap_or_default();
    // Only as it is written does the token show itself.
    let written = serde_json::to_value(&auth).tried(&tried)?;
    let token = match (written["token"].as_str(), &auth.token_file) {
        (Some(token), _) => Some(token.to_owned()),
        (None, Some(file)) => Some(std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?),
        (None, None) => None,
    };
    let token = token.map(|token| token.trim().to_owned());
    let authority = json!({
        "certificate-authority": cluster.certificate_authority,
        "certificate-authority-data": cluster.certificate_authority_data,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "tls-server-name": cluster.tls_server_name,
    });
    let authority = without_nulls(authority);
    let loaded = Config::from_custom_kubeconfig(read, &Default::default()).await;
    let mut config = loaded.map_err(|error| wrong(chain(&error)))?;
    config.connect_timeout = Some(CONNECT);
    of_the_suite(&mut config);
    Ok(Access { path: absolute, config, user, token, authority })
}

/// What every client of the suite is: it does not try again in silence, which would hide what a system or a fault does, and
/// calls itself by the name that API servers keep as the manager of the fields that it writes (Kubernetes documentation,
/// Server-Side Apply).
pub(super) fn of_the_suite(config: &mut Config) {
    config.default_retry = false;
    config.headers.push((USER_AGENT, HeaderValue::from_static("registry-conformance")));
}

/// A client as whom the kubeconfig names.
///
/// # Errors
/// When its credentials cannot be used.
pub(super) fn client(access: &Access) -> Result<Client, Failure> {
    Client::try_from(access.config.clone()).tried(format!("using the kubeconfig {}", access.path.display()))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        other => other,
    }
}
