//! The seams of an embedded lane: the connections a fault may sit on. A proxy is put in when a fault first needs it and
//! stays, transparent, until the lane is closed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use api::names;
use fault_proxy::{Address, Fault, FaultProxy, FileView, ProxyOptions, Seam, Upstream};
use futures::{FutureExt as _, future::BoxFuture};
use harness::{
    environment::{Backends, CommandSeam, NodeFiles},
    failure::{Failure, Tried as _},
    storage::StorageEndpoint,
    trust::Authority,
    wait::{Check, wait},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams},
    config::Kubeconfig,
};
use local_cluster::pki::CertificateFiles;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::sync::Mutex;

/// Service accounts of the pods behind the API seams.
const ACCOUNTS: [(Seam, &str, &str); 3] = [
    (Seam::OperatorApi, names::REGISTRY_NAMESPACE, names::OPERATOR_DEPLOYMENT),
    (Seam::RegistryApi, names::REGISTRY_NAMESPACE, names::REGISTRY_SERVICE_ACCOUNT),
    (Seam::NodeApi, names::MACHINE_CONFIG_NAMESPACE, names::MACHINE_CONFIG_DAEMON),
];

/// What the seams of a lane are made from.
pub struct SeamOptions {
    pub client: Client,
    pub api_server: SocketAddr,
    /// PEM file of the API server's authority.
    pub cluster_ca: PathBuf,
    /// The address of this machine by which pods reach proxies.
    pub listen: IpAddr,
    /// A certificate of that authority for `listen`.
    pub api_serving: CertificateFiles,
    /// How pods are led to another address of the API server.
    pub detours: Arc<dyn Detours>,
    /// The kubeconfig that commands get a copy of.
    pub command_kubeconfig: PathBuf,
    /// Certificates for the proxies that clients of the registry and of the storage meet.
    pub registry_serving: Arc<ServerConfig>,
    pub storage_serving: Arc<ServerConfig>,
    /// PEM of the authorities that signed the registry's and the storage's own certificates.
    pub trust: PathBuf,
    /// Where the registry itself is, for the proxy that stands before it.
    pub registry: Arc<fault_proxy::Resolve>,
    /// How long replaced pods may take.
    pub limit: std::time::Duration,
}

/// Another address of the API server for the pods of a service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detour<'a> {
    pub namespace: &'a str,
    pub service_account: &'a str,
    pub api_server: SocketAddr,
}

/// How a target leads pods that start from now on to another address of the API server.
pub trait Detours: Send + Sync {
    /// These detours hold, and no others.
    ///
    /// # Errors
    /// When the target cannot be told.
    fn lead(&self, detours: &[Detour<'_>]) -> Result<(), Failure>;
}

/// The file in which nodes of the embedded target look up other API addresses.
pub struct OverrideFile(pub PathBuf);

impl Detours for OverrideFile {
    fn lead(&self, detours: &[Detour<'_>]) -> Result<(), Failure> {
        let entries: Vec<_> = detours
            .iter()
            .map(|detour| {
                let account = format!("{}/{}", detour.namespace, detour.service_account);
                serde_json::json!({"serviceAccount": account, "server": format!("https://{}", detour.api_server)})
            })
            .collect();
        let tried = || format!("writing {}", self.0.display());
        let text = serde_json::to_string(&entries).tried(tried())?;
        std::fs::write(&self.0, text).tried(tried())
    }
}

/// The seams of one lane.
pub struct Seams {
    options: SeamOptions,
    proxies: Mutex<BTreeMap<Seam, FaultProxy>>,
    texts: Arc<RwLock<Vec<Fault>>>,
    /// The storage proxy's address while a fault is on that seam.
    storage: Arc<RwLock<Option<SocketAddr>>>,
    storage_upstream: Arc<RwLock<Option<SocketAddr>>>,
}

impl Seams {
    /// Seams without any proxy yet. `texts` and `storage` are what [`Seams::files`] and [`Seams::backends`] look at.
    pub fn new(options: SeamOptions, texts: &Texts, storage: &StorageSeam) -> Self {
        Self {
            options,
            proxies: Mutex::default(),
            texts: texts.0.clone(),
            storage: storage.proxy.clone(),
            storage_upstream: storage.upstream.clone(),
        }
    }

    /// Switches a fault on. The first fault on an API seam replaces the pods behind it, so that they meet the proxy.
    ///
    /// # Errors
    /// When a proxy cannot start or the pods do not come back.
    pub async fn set(&self, fault: Fault, doorway: &harness::doorway::Doorway) -> Result<(), Failure> {
        let seam = fault.seam;
        if seam.has_texts() {
            self.texts.write().expect("no panic while setting").push(fault);
            return Ok(());
        }
        let mut proxies = self.proxies.lock().await;
        let is_new = !proxies.contains_key(&seam);
        if is_new {
            proxies.insert(seam, self.proxy(seam).await?);
        }
        let proxy = proxies.get(&seam).ok_or_else(|| Failure::error("finding a proxy", "it was just put in"))?;
        proxy.set_faults(vec![fault]);
        match seam {
            Seam::ClientRegistry => doorway.place(names::REGISTRY_INTERNAL_HOST, proxy.address()),
            Seam::RegistryStorage => {
                *self.storage.write().expect("no panic while setting") = Some(proxy.address());
            }
            Seam::CliApi => self.lead_commands(&format!("https://{}", proxy.address()))?,
            _ if is_new => {
                self.lead_pods(&proxies)?;
                self.replace_pods(seam).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Switches all faults off.
    ///
    /// # Errors
    /// When the commands' kubeconfig cannot be written.
    pub async fn clear(&self, doorway: &harness::doorway::Doorway) -> Result<(), Failure> {
        self.texts.write().expect("no panic while clearing").clear();
        *self.storage.write().expect("no panic while clearing") = None;
        doorway.displace(names::REGISTRY_INTERNAL_HOST);
        let proxies = self.proxies.lock().await;
        for proxy in proxies.values() {
            proxy.clear();
        }
        if proxies.contains_key(&Seam::CliApi) {
            self.lead_commands(&format!("https://{}", self.options.api_server))?;
        }
        Ok(())
    }

    async fn proxy(&self, seam: Seam) -> Result<FaultProxy, Failure> {
        let options = &self.options;
        let (upstream, serving) = match seam {
            Seam::ClientRegistry => {
                let host = names::REGISTRY_INTERNAL_HOST.split(':').next().unwrap_or_default();
                let upstream =
                    Upstream::https(Address::Resolved(options.registry.clone()), client_tls(&options.trust)?, host);
                (upstream, options.registry_serving.clone())
            }
            Seam::RegistryStorage => {
                let place = self.storage_upstream.clone();
                let resolve: Arc<fault_proxy::Resolve> = Arc::new(move || {
                    let found = place
                        .read()
                        .expect("no panic while setting")
                        .ok_or_else(|| std::io::Error::other("no scenario has opened a storage product yet"));
                    async move { found }.boxed()
                });
                let upstream = Upstream::https(
                    Address::Resolved(resolve),
                    client_tls(&options.trust)?,
                    options.listen.to_string(),
                );
                (upstream, options.storage_serving.clone())
            }
            _ => {
                let address = Address::from(options.api_server);
                let upstream = Upstream::https(address, client_tls(&options.cluster_ca)?, "127.0.0.1");
                (upstream, server_tls(&options.api_serving)?)
            }
        };
        let mut proxy = ProxyOptions::new(upstream);
        proxy.listen = SocketAddr::new(options.listen, 0);
        proxy.server_tls = Some(serving);
        FaultProxy::start(proxy).await.tried(format!("putting a proxy on the seam {seam}"))
    }

    fn lead_pods(&self, proxies: &BTreeMap<Seam, FaultProxy>) -> Result<(), Failure> {
        let detours: Vec<_> = ACCOUNTS
            .iter()
            .filter_map(|(seam, namespace, service_account)| {
                Some(Detour { namespace, service_account, api_server: proxies.get(seam)?.address() })
            })
            .collect();
        self.options.detours.lead(&detours)
    }

    async fn replace_pods(&self, seam: Seam) -> Result<(), Failure> {
        let Some((_, namespace, account)) = ACCOUNTS.iter().find(|(of, ..)| *of == seam) else { return Ok(()) };
        let pods: Api<Pod> = Api::namespaced(self.options.client.clone(), namespace);
        let selector = ListParams::default().fields(&format!("spec.serviceAccountName={account}"));
        let listed = pods.list(&selector).await.tried(format!("listing the pods of {account}"))?;
        let old: Vec<_> = listed.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        for pod in &listed {
            pods.delete(&pod.name_any(), &DeleteParams::default()).await.tried("replacing a pod")?;
        }
        wait(format!("the pods of {account} to be replaced"), self.options.limit)
            .objects(&pods, "", |pods: &[&Pod]| {
                let own = pods.iter().filter(|pod| {
                    pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()) == Some(account)
                });
                let ready = own.clone().filter(|pod| steps::is_serving(pod)).count();
                let fresh = own.clone().all(|pod| !old.iter().any(|uid| pod.metadata.uid.as_ref() == Some(uid)));
                Check::when(fresh && ready == old.len(), || format!("{ready} of {} ready, all new: {fresh}", old.len()))
            })
            .await
            .map_err(|failure| Failure { kind: harness::failure::Kind::Error, ..failure })
    }

    fn lead_commands(&self, server: &str) -> Result<(), Failure> {
        let path = &self.options.command_kubeconfig;
        let tried = || format!("leading commands by {}", path.display());
        let mut kubeconfig = Kubeconfig::read_from(path).tried(tried())?;
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(server.to_owned());
        }
        let text = serde_json::to_string(&kubeconfig).tried(tried())?;
        std::fs::write(path, text).tried(tried())
    }
}

fn client_tls(bundle: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let tried = || format!("reading the authorities of {}", bundle.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(bundle).tried(tried())? {
        roots.add(certificate.tried(tried())?).tried(tried())?;
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

fn server_tls(files: &CertificateFiles) -> Result<Arc<ServerConfig>, Failure> {
    let tried = || format!("reading the certificate {}", files.certificate.display());
    let chain = CertificateDer::pem_file_iter(&files.certificate).tried(tried())?;
    let chain = chain.collect::<Result<Vec<_>, _>>().tried(tried())?;
    let key = PrivateKeyDer::from_pem_file(&files.key).tried(tried())?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).tried(tried())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Faults on texts: node files and commands.
#[derive(Clone, Default)]
pub struct Texts(Arc<RwLock<Vec<Fault>>>);

impl Texts {
    fn seen(&self, seam: Seam, path: &str, text: String) -> Option<String> {
        let faults = self.0.read().expect("no panic while setting");
        faults.iter().filter(|fault| fault.seam == seam).try_fold(text, |text, fault| {
            match fault.apply_to_file(path, &text) {
                FileView::Unchanged => Some(text),
                FileView::Changed(changed) => Some(changed),
                FileView::Absent => None,
            }
        })
    }
}

impl CommandSeam for Texts {
    fn line(&self, line: String) -> String {
        self.seen(Seam::Command, "/command-line", line).unwrap_or_default()
    }

    fn file(&self, path: &str, text: String) -> Option<String> {
        self.seen(Seam::Command, &format!("/{path}"), text)
    }
}

/// Node files with the faults of the seam on the way; a path in a fault begins with the node's name.
pub struct SeamedFiles<F> {
    pub files: F,
    pub texts: Texts,
}

impl<F: NodeFiles> NodeFiles for SeamedFiles<F> {
    fn nodes(&self) -> Vec<String> {
        self.files.nodes()
    }

    fn read<'a>(&'a self, node: &'a str, path: &'a str) -> BoxFuture<'a, std::io::Result<Option<String>>> {
        async move {
            let text = self.files.read(node, path).await?;
            Ok(text.and_then(|text| self.texts.seen(Seam::NodeFiles, &format!("/{node}{path}"), text)))
        }
        .boxed()
    }
}

/// Where the storage proxy is and what it stands before.
#[derive(Clone, Default)]
pub struct StorageSeam {
    proxy: Arc<RwLock<Option<SocketAddr>>>,
    upstream: Arc<RwLock<Option<SocketAddr>>>,
}

/// Storage products, given out by the proxy's address while a fault is on their seam.
pub struct SeamedBackends {
    pub backends: Arc<storage_backends::StorageBackends>,
    pub seam: StorageSeam,
}

impl Backends for SeamedBackends {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<StorageEndpoint, Failure>> {
        async move {
            let endpoint = self.backends.open(name).await?;
            *self.seam.upstream.write().expect("no panic while setting") = endpoint.address;
            let proxy = *self.seam.proxy.read().expect("no panic while setting");
            // The view stays direct: it is how the judge looks past the registry.
            Ok(match proxy {
                // Names lead to the proxy by its address.
                Some(proxy) if endpoint.hosts.is_empty() => {
                    StorageEndpoint { url: format!("https://{proxy}"), address: Some(proxy), ..endpoint }
                }
                Some(proxy) => StorageEndpoint { address: Some(proxy), ..endpoint },
                None => endpoint,
            })
        }
        .boxed()
    }
}

/// The authority's certificate for the proxies of a lane.
pub fn serving(authority: &Authority, hosts: &[impl AsRef<str>]) -> Result<Arc<ServerConfig>, Failure> {
    let hosts: Vec<_> = hosts.iter().map(|host| host.as_ref().to_owned()).collect();
    authority.server_config(&hosts).tried("making a proxy's certificate")
}
