//! The environment of one lane: everything a scenario may touch, opened before the first step and closed after the
//! last. A target makes it; steps only use it.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use kube::Client;

use crate::{
    doorway::Doorway,
    evidence::Evidence,
    failure::Failure,
    oci::{Account, Credentials, Registry, RegistryOptions},
    storage::StorageEndpoint,
    system::Limits,
    tenancy::Tenancy,
    trust::Authority,
};

/// A person with an API token. Never printed with it.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub token: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({})", self.name)
    }
}

impl User {
    /// The log-in of this user: any user name, the token as password. What stands before the last colon of a name is left
    /// out, because names with colons are refused.
    pub fn credentials(&self) -> Credentials {
        let user = self.name.rsplit(':').next().unwrap_or_default().to_owned();
        Credentials::Account(Account { user, password: self.token.clone() })
    }
}

/// The administrator and a pool of users without any role, handed out in turn.
#[derive(Debug)]
pub struct Users {
    administrator: User,
    pool: Vec<User>,
    next: AtomicUsize,
}

impl Users {
    /// The first is the administrator. There must be others.
    pub fn new(mut people: Vec<User>) -> Self {
        assert!(people.len() > 1, "a target gives an administrator and at least one plain user");
        let administrator = people.remove(0);
        Self { administrator, pool: people, next: AtomicUsize::new(0) }
    }

    /// The cluster administrator.
    pub fn administrator(&self) -> &User {
        &self.administrator
    }

    /// The next plain user; after the last comes the first again, whose roles an earlier scenario has taken back.
    pub fn take(&self) -> User {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.pool[index % self.pool.len()].clone()
    }
}

/// Files of the cluster's nodes, however a target reads them.
pub trait NodeFiles: Send + Sync {
    /// The names of all nodes.
    fn nodes(&self) -> Vec<String>;
    /// The text of a file by its path on the node; `None` when it does not exist.
    fn read<'a>(&'a self, node: &'a str, path: &'a str) -> BoxFuture<'a, io::Result<Option<String>>>;
}

/// Storage products, started when a scenario first asks for one.
pub trait Backends: Send + Sync {
    /// The endpoint of the backend of that name (a file in `backends/`), or of the target's own choice among those of a
    /// kind: `s3`, `gcs`, `azure`.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<StorageEndpoint, Failure>>;
}

/// Logs of the system's components, as the target keeps them.
pub trait ComponentLogs: Send + Sync {
    /// The last lines of a component (`operator`, `registry`, `node-agent` …), oldest first.
    fn tail<'a>(&'a self, component: &'a str, lines: usize) -> BoxFuture<'a, Vec<String>>;
}

/// What lies between a documented command and the world: its line on the way to the shell, and the files it wrote on the
/// way to whoever looks. A fault may sit here; without one, texts pass unchanged.
pub trait CommandSeam: Send + Sync {
    /// How the command line looks to the shell.
    fn line(&self, line: String) -> String;
    /// How a file that a command wrote looks; the path is relative to the scenario's folder.
    fn file(&self, path: &str, text: String) -> Option<String>;
}

/// What one lane works with.
pub struct Environment {
    /// The lane's number, from 1.
    pub lane: usize,
    pub tenancy: Tenancy,
    /// The API as the administrator.
    pub client: Client,
    /// The administrator's kubeconfig; commands get a copy of it.
    pub kubeconfig: PathBuf,
    /// The API server's URL.
    pub api_server: String,
    pub users: Users,
    pub doorway: Doorway,
    /// Signs the stand-ins' certificates.
    pub authority: Authority,
    /// A PEM bundle of every authority a documented client would trust, kept up to date by the target.
    pub trust: PathBuf,
    pub nodes: Arc<dyn NodeFiles>,
    pub commands: Arc<dyn CommandSeam>,
    pub backends: Arc<dyn Backends>,
    pub logs: Arc<dyn ComponentLogs>,
    pub limits: Limits,
    /// A private folder of the lane.
    pub folder: PathBuf,
    /// Searched first for documented commands.
    pub tools: PathBuf,
    pub evidence: Evidence,
    /// Where a route's traffic enters, for requests that bypass names.
    pub router: Option<SocketAddr>,
}

impl Environment {
    /// A client for a registry under its documented name, through the doorway.
    pub fn registry(&self, address: &str, credentials: Credentials, tls: Tls) -> Result<Registry, Failure> {
        let trust = std::fs::read(&self.trust)
            .map_err(|error| Failure::error(format!("reading the trust bundle {}", self.trust.display()), error))?;
        Registry::new(RegistryOptions {
            registry: address.to_owned(),
            proxy: self.doorway.url(),
            trust,
            insecure: tls == Tls::NotVerified,
            credentials,
            evidence: Some(self.evidence.clone()),
        })
    }

    /// A private folder below the lane's, made when it is not there.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        make_folder(&path)?;
        Ok(path)
    }
}

/// Whether a client checks the registry's certificate (`--tls-verify`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Verified,
    NotVerified,
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path)
        .map_err(|error| Failure::error(format!("making the folder {}", path.display()), error))
}
