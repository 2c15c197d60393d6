//! One user's connection to one cluster: where it is, who asks, in which project, and plain requests to it.

use crate::command_line::{Arguments, Command};
use crate::failure::Failure;
use crate::resource::{Catalogue, Resource};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use std::path::PathBuf;
use tokio::sync::OnceCell;

/// Everything a command needs of the outside; the connection is made when it is first used.
pub struct Session {
    namespace: Option<String>,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    server: Option<String>,
    token: Option<String>,
    authority: Option<PathBuf>,
    insecure: bool,
    impersonate: Option<String>,
    connection: OnceCell<Connection>,
    catalogue: OnceCell<Catalogue>,
}

/// A client and the configuration it was made from.
pub struct Connection {
    pub client: Client,
    pub config: Config,
}

/// How a patch is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
}

impl PatchType {
    fn content_type(self) -> &'static str {
        match self {
            PatchType::Json => "application/json-patch+json",
            PatchType::Merge => "application/merge-patch+json",
            PatchType::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

impl Session {
    /// A session as the global flags describe it; nothing is contacted yet. A command that gives a global flag its
    /// own meaning, as the pruner does with the authorities of the registry, keeps that flag to itself.
    pub fn new(command: &Command, args: &Arguments) -> Self {
        let own = |flag: &str| command.flags.iter().any(|own| own.name == flag);
        let text = |flag: &str| args.text(flag).map(str::to_owned);
        Session {
            namespace: text("namespace"),
            kubeconfig: text("kubeconfig").map(PathBuf::from),
            context: text("context"),
            server: text("server"),
            token: text("token"),
            authority: text("certificate-authority").filter(|_| !own("certificate-authority")).map(PathBuf::from),
            insecure: args.is_on("insecure-skip-tls-verify"),
            impersonate: text("as"),
            connection: OnceCell::new(),
            catalogue: OnceCell::new(),
        }
    }

    /// The file that logins and project changes are written to.
    pub fn kubeconfig_path(&self) -> PathBuf {
        if let Some(path) = &self.kubeconfig {
            return path.clone();
        }
        let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
        let first = std::env::split_paths(&listed).find(|path| !path.as_os_str().is_empty());
        first.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".kube/config"))
    }

    /// The project of the command line, else that of the current context, else `default`.
    ///
    /// # Errors
    /// There is no usable client configuration.
    pub async fn namespace(&self) -> Result<String, Failure> {
        match &self.namespace {
            Some(namespace) => Ok(namespace.clone()),
            None => Ok(self.connection().await?.config.default_namespace.clone()),
        }
    }

    /// The project named on the command line, if any.
    pub fn asked_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The connection, made on first use.
    ///
    /// # Errors
    /// There is no usable client configuration.
    pub async fn connection(&self) -> Result<&Connection, Failure> {
        self.connection.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let unusable = |error: &dyn std::error::Error| {
            Failure::usage(format!("error loading config: {}", crate::failure::chain(error)))
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unusable(&error))?
            }
            None if self.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?
            }
            None => match (Config::infer().await, &self.server) {
                (Ok(config), _) => config,
                (Err(_), Some(server)) => Config::new(address(server)?),
                (Err(error), None) if self.kubeconfig_path().exists() => return Err(unusable(&error)),
                (Err(_), None) => return Err(Failure::usage(NO_CONFIGURATION)),
            },
        };
        if let Some(server) = &self.server {
            config.cluster_url = address(server)?;
        }
        if let Some(token) = &self.token {
            config.auth_info = kube::config::AuthInfo { token: Some(token.clone().into()), ..Default::default() };
        }
        if let Some(path) = &self.authority {
            config.root_cert = Some(crate::trust::read(path)?);
            config.root_cert_file = None;
        }
        if config.root_cert.is_none()
            && config.root_cert_file.is_none()
            && let Some(path) = crate::trust::environment_file()
        {
            config.root_cert = Some(crate::trust::read(&path)?);
        }
        if self.insecure {
            config.accept_invalid_certs = true;
        }
        if let Some(user) = &self.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        config.default_retry = false;
        // API servers keep it as the manager of the fields that are written (Kubernetes documentation, Server-Side Apply).
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(AGENT)));
        let server = config.cluster_url.clone();
        let client =
            Client::try_from(config.clone()).map_err(|error| Failure::from_client(error, &server.to_string()))?;
        Ok(Connection { client, config })
    }

    /// `host:port` of the API server, for messages.
    async fn server_name(&self) -> Result<String, Failure> {
        let url = &self.connection().await?.config.cluster_url;
        Ok(url.authority().map(ToString::to_string).unwrap_or_else(|| url.to_string()))
    }

    /// The kinds the server serves, asked once.
    ///
    /// # Errors
    /// The server cannot be reached or refuses to tell.
    pub async fn catalogue(&self) -> Result<&Catalogue, Failure> {
        self.catalogue.get_or_try_init(|| Catalogue::discover(self)).await
    }

    /// Sends a request and returns the body.
    ///
    /// # Errors
    /// The server cannot be reached or answers with a failure.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<String, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(body).map_err(|error| Failure::usage(format!("unusable request {path:?}: {error}")))?;
        let client = &self.connection().await?.client;
        match client.request_text(request).await {
            Ok(text) => Ok(text),
            Err(error) => Err(Failure::from_client(error, &self.server_name().await?)),
        }
    }

    /// Sends a JSON body, if any, and reads a JSON answer.
    ///
    /// # Errors
    /// As [`Session::send`], or the answer is not JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let headers = [("Accept", "application/json"), ("Content-Type", "application/json")];
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        parse(path, &self.send(method, path, &headers, bytes).await?)
    }

    /// Reads one object or a list.
    ///
    /// # Errors
    /// As [`Session::json`].
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, None).await
    }

    /// Patches one object and returns it.
    ///
    /// # Errors
    /// As [`Session::json`].
    pub async fn patch(&self, path: &str, kind: PatchType, body: &Value) -> Result<Value, Failure> {
        self.patch_text(path, kind, body.to_string()).await
    }

    /// Patches one object with text that is sent as it is, and returns the object.
    ///
    /// # Errors
    /// As [`Session::json`].
    pub async fn patch_text(&self, path: &str, kind: PatchType, body: String) -> Result<Value, Failure> {
        let headers = [("Accept", "application/json"), ("Content-Type", kind.content_type())];
        parse(path, &self.send(Method::PATCH, path, &headers, body.into_bytes()).await?)
    }

    /// The namespace in which objects of this kind are looked for, or `None` for cluster-wide kinds.
    ///
    /// # Errors
    /// There is no usable client configuration.
    pub async fn scope(&self, resource: &Resource) -> Result<Option<String>, Failure> {
        if resource.namespaced { self.namespace().await.map(Some) } else { Ok(None) }
    }
}

fn parse(path: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::usage(format!("the answer to {path} is not JSON: {error}")))
}

/// Reads an address, with `https` when it names no scheme.
///
/// # Errors
/// It is no address.
pub fn address(server: &str) -> Result<http::Uri, Failure> {
    let full = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    full.parse().map_err(|error| Failure::usage(format!("the server address {server:?} cannot be used: {error}")))
}

/// How commands call themselves to the API server.
const AGENT: &str = "registry-conformance-oc";

const NO_CONFIGURATION: &str =
    "Missing or incomplete configuration info.  Please point to an existing, complete config file:


  1. Via the command-line flag --kubeconfig
  2. Via the KUBECONFIG environment variable
  3. In your home directory as ~/.kube/config

To view or setup config directly use the 'config' command.";
