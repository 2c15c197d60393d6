//! The storage products of one environment: started when first asked for, shared by its scenarios, ended together.
//! This is what the harness sees as its `Backends`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use harness::datafile::DataFile;
use harness::environment::Backends;
use harness::failure::Failure;
use harness::storage::{Secret, StorageEndpoint};
use local_cluster::{Ledger, Tool, Tools, npm};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::reach::{self, file};
use crate::s3_view::S3View;
use crate::server::ServerOptions;
use crate::{AzureProcess, Backend, EndpointRun, Error, GcsProcess, Program, Run, S3Process, StorageContainer};

/// Certificate and key (PEM files) of a server, and the authority (PEM text) that its clients must trust.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// The authority's certificate.
    pub authority: String,
}

impl ServerCertificate {
    /// Copies certificate and key into `dir/tls`, where a server may read them as long as it runs.
    pub(crate) fn write(&self, dir: &Path) -> Result<ServerCertificate, Error> {
        let folder = dir.join("tls");
        std::fs::create_dir_all(&folder).map_err(file("make", &folder))?;
        let copy = |from: &Path, name: &str| {
            let to = folder.join(name);
            std::fs::copy(from, &to).map_err(file("copy", from))?;
            Ok::<PathBuf, Error>(to)
        };
        Ok(ServerCertificate {
            certificate: copy(&self.certificate, "server.crt")?,
            key: copy(&self.key, "server.key")?,
            authority: self.authority.clone(),
        })
    }
}

/// What the storage products of an environment share.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The backend files.
    pub files: Vec<DataFile>,
    /// Programs; only looked at when a backend runs as a process.
    pub tools: Tools,
    /// Folder in which each product gets one of its own.
    pub dir: PathBuf,
    /// Address for processes, and for what stands before servers that ask nobody who he is.
    pub listen: IpAddr,
    /// Certificate for `listen`, 127.0.0.1, `localhost` and [`crate::server_names`].
    pub certificate: ServerCertificate,
    /// Which of the backends of a kind is meant when only the kind is named.
    pub preferred: Preferred,
    /// Whether an image that the engine lacks may be pulled, where it is still published.
    pub pull: bool,
    /// Network of the container engine that containers are put on.
    pub network: Option<String>,
    /// Where children are recorded.
    pub ledger: Option<Ledger>,
    /// Limit from start to healthy.
    pub ready_within: Duration,
}

impl StorageOptions {
    /// Processes on 127.0.0.1, no ledger, 30 s to become healthy; what is published may be pulled.
    pub fn new(
        files: Vec<DataFile>,
        tools: Tools,
        dir: impl Into<PathBuf>,
        certificate: ServerCertificate,
    ) -> StorageOptions {
        StorageOptions {
            files,
            tools,
            dir: dir.into(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate,
            preferred: Preferred::Processes,
            pull: true,
            network: None,
            ledger: None,
            ready_within: Duration::from_secs(30),
        }
    }
}

/// One of two ways to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preferred {
    /// As a child process: `s3` means `s3-local`.
    Processes,
    /// As a container: `s3` means `s3-container`.
    Containers,
}

impl Preferred {
    /// The backend that is meant by a kind.
    pub fn of_kind(self, kind: &str) -> String {
        match self {
            Preferred::Processes => format!("{kind}-local"),
            Preferred::Containers => format!("{kind}-container"),
        }
    }
}

/// The storage products of one environment.
#[derive(Debug)]
pub struct StorageBackends {
    options: StorageOptions,
    products: BTreeMap<String, Product>,
    /// What starts products ahead of time; it ends with this.
    ahead: std::sync::Mutex<JoinSet<()>>,
}

/// A product, which runs or not.
#[derive(Debug)]
struct Product {
    backend: Backend,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
enum Running {
    S3(S3Process),
    Gcs(Box<GcsProcess>),
    Azure(Box<AzureProcess>),
    Container(Box<StorageContainer>),
    Elsewhere(StorageEndpoint),
}

impl Running {
    fn endpoint(&self) -> &StorageEndpoint {
        match self {
            Running::S3(process) => process.endpoint(),
            Running::Gcs(process) => process.endpoint(),
            Running::Azure(process) => process.endpoint(),
            Running::Container(container) => container.endpoint(),
            Running::Elsewhere(endpoint) => endpoint,
        }
    }
}

impl StorageBackends {
    /// Reads the backend files; nothing is started yet.
    ///
    /// # Errors
    /// [`Error::Data`], [`Error::Meaning`] with file and line.
    pub fn new(options: StorageOptions) -> Result<StorageBackends, Error> {
        let products = options.files.iter().map(|file| {
            let backend = Backend::read(file)?;
            Ok((backend.name.clone(), Product { backend, running: Mutex::default() }))
        });
        let products = products.collect::<Result<_, Error>>()?;
        Ok(StorageBackends { options, products, ahead: std::sync::Mutex::default() })
    }

    /// Starts one after the other what will be asked for and takes its time, so that it is there by then. What fails is
    /// tried again, and told, when it is asked for.
    pub fn expect(self: &Arc<Self>, kinds: impl IntoIterator<Item = String>) {
        let names = kinds.into_iter().map(|kind| self.options.preferred.of_kind(&kind));
        let is_slow = |name: &String| {
            self.products.get(name).is_some_and(|product| matches!(product.backend.run(), Run::Container(_)))
        };
        let names: Vec<_> = names.filter(is_slow).collect();
        let backends = Arc::downgrade(self);
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            for name in names {
                let Some(backends) = backends.upgrade() else { return };
                if let Err(error) = backends.endpoint(&name).await {
                    tracing::debug!(name, %error, "starting a storage product ahead of time failed");
                }
            }
        });
    }

    /// The endpoint of a backend, named or meant by its kind, which is started if it does not run yet.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the known names, [`Error::NoContainers`], and whatever keeps it from starting.
    pub async fn endpoint(&self, asked: &str) -> Result<StorageEndpoint, Error> {
        let meant = self.options.preferred.of_kind(asked);
        let product = self.products.get(asked).or_else(|| self.products.get(&meant));
        let Product { backend, running } = product.ok_or_else(|| Error::Unknown {
            name: asked.to_owned(),
            known: self.products.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })?;
        let mut running = running.lock().await;
        let running = match &mut *running {
            Some(running) => running,
            none => none.insert(self.start(backend).await?),
        };
        Ok(running.endpoint().clone())
    }

    async fn start(&self, backend: &Backend) -> Result<Running, Error> {
        match backend.run() {
            Run::Process(program) => self.start_process(backend, program).await,
            Run::Container(run) => {
                let dir = self.options.dir.join(&backend.name);
                let container = StorageContainer::start(backend, run, &self.options, &dir).await?;
                Ok(Running::Container(Box::new(container)))
            }
            Run::Endpoint(run) => elsewhere(backend, run).map(Running::Elsewhere),
        }
    }

    async fn start_process(&self, backend: &Backend, program: Program) -> Result<Running, Error> {
        let progress = |line: &str| tracing::info!("{line}");
        // What not every run needs is had when the first scenario asks.
        let had = async |tool| match self.options.tools.path(tool) {
            Ok(path) => Ok::<_, Error>(path.to_owned()),
            Err(_) => Ok(local_cluster::tool::locate_all(&[tool], progress).await?.path(tool)?.to_owned()),
        };
        let program_path = match program {
            Program::Versitygw => had(Tool::VersityGw).await?,
            Program::FakeGcsServer => had(Tool::FakeGcsServer).await?,
            Program::Azurite => npm::obtain(&npm::AZURITE, progress).await?,
        };
        let options = ServerOptions {
            program: program_path,
            dir: self.options.dir.join(&backend.name),
            listen: self.options.listen,
            region: backend.region.clone(),
            certificate: self.options.certificate.clone(),
            ledger: self.options.ledger.clone(),
            ready_within: self.options.ready_within,
        };
        Ok(match program {
            Program::Versitygw => Running::S3(S3Process::start(options).await?),
            Program::FakeGcsServer => Running::Gcs(Box::new(GcsProcess::start(options).await?)),
            Program::Azurite => Running::Azure(Box::new(AzureProcess::start(options).await?)),
        })
    }

    /// Ends everything that was started and removes its data.
    ///
    /// # Errors
    /// The first failure; the rest is ended all the same.
    pub async fn close(&self, grace: Duration) -> Result<(), Error> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        let mut outcome = Ok(());
        for product in self.products.values() {
            let Some(running) = product.running.lock().await.take() else { continue };
            let ended = match running {
                Running::S3(process) => process.stop(grace).await.map(drop),
                Running::Gcs(process) => process.stop(grace).await.map(drop),
                Running::Azure(process) => process.stop(grace).await.map(drop),
                Running::Container(container) => container.stop().await,
                Running::Elsewhere(_) => Ok(()),
            };
            outcome = outcome.and(ended);
        }
        outcome
    }
}

fn elsewhere(backend: &Backend, run: &EndpointRun) -> Result<StorageEndpoint, Error> {
    let variable = |what, name: &str| {
        std::env::var(name).map_err(|_| Error::NoCredential {
            backend: backend.name.clone(),
            what,
            variable: name.to_owned(),
        })
    };
    let access_key = variable("access key", &run.access_key_variable)?;
    let secret_key = Secret::new(variable("secret key", &run.secret_key_variable)?);
    let ca = match &run.ca_variable {
        Some(name) => {
            let path = PathBuf::from(variable("authority's certificate", name)?);
            Some(std::fs::read_to_string(&path).map_err(file("read", &path))?)
        }
        None => None,
    };
    let client = reach::client(&run.url, ca.as_deref())?;
    let view = S3View::new(&run.url, &backend.region, &access_key, &secret_key, client);
    Ok(StorageEndpoint {
        kind: backend.kind.name().to_owned(),
        url: run.url.clone(),
        hosts: Vec::new(),
        address: None,
        region: backend.region.clone(),
        access_key,
        secret_key,
        ca,
        view: Arc::new(view),
    })
}

impl Backends for StorageBackends {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<StorageEndpoint, Failure>> {
        Box::pin(async move {
            self.endpoint(name).await.map_err(|error| error.failure(format!("opening the storage backend {name}")))
        })
    }
}
