//! The doorway: one CONNECT proxy per environment that leads documented host names to where they really are, so that
//! documented commands run verbatim and nothing leaves the machine. A name that nobody placed is refused and recorded.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, RwLock},
};

use api::route::Route;
use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt, reflector,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{event::What, evidence::Evidence};

/// A connection to wherever a name leads.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How a target reaches a port of a pod: directly, by a mapping of addresses, by port-forward.
pub trait Reach: Send + Sync {
    /// Whether that is the address of a pod of this target.
    fn knows(&self, pod: Ipv4Addr) -> bool;
    /// Opens a connection to a pod's port.
    fn connect(&self, pod: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;

    /// What keeps pods themselves from reaching a Service's pods by its address, though the API server says that it leads
    /// there; nothing where nobody can tell.
    fn lag<'a>(&'a self, service: &'a Led) -> BoxFuture<'a, Option<String>> {
        let _ = service;
        Box::pin(std::future::ready(None))
    }
}

/// A Service and where it leads, as the API server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    pub namespace: String,
    pub name: String,
    /// Its own address.
    pub address: String,
    /// The addresses of the pods that are ready, in order.
    pub pods: Vec<String>,
}

/// Reaches pods of the embedded target, whose processes listen on a loopback address that follows from the pod's.
pub struct Loopback;

impl Reach for Loopback {
    fn knows(&self, pod: Ipv4Addr) -> bool {
        pod.octets()[0] == 10
    }

    fn connect(&self, pod: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect((api::address::listen_address(pod), port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Destination {
    Address(SocketAddr),
    Pod { ip: Ipv4Addr, port: u16 },
}

struct Table {
    /// This machine, as whoever comes through the door reaches it.
    own: IpAddr,
    placed: RwLock<BTreeMap<String, SocketAddr>>,
    router: Option<SocketAddr>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    routes: Store<Route>,
    reach: Arc<dyn Reach>,
    record: OnceLock<Record>,
}

/// Where refusals are recorded, and the last one, so that a client that tries again and again is one event.
struct Record {
    evidence: Evidence,
    last: Mutex<Option<(Option<String>, String, String)>>,
}

/// The running proxy; dropping it closes the door.
pub struct Doorway {
    address: SocketAddr,
    table: Arc<Table>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Doorway {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Doorway {
    /// Opens a doorway on `listen` that knows the Services and Routes of the cluster behind `client`. Returns once it
    /// listens; names of Services become known as soon as the watches have listed them.
    pub async fn open(
        listener: TcpListener,
        client: Client,
        reach: Arc<dyn Reach>,
        router: Option<SocketAddr>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let mut tasks = vec![];
        let services = reflect(Api::<Service>::all(client.clone()), &mut tasks);
        let slices = reflect(Api::<EndpointSlice>::all(client.clone()), &mut tasks);
        let routes = reflect(Api::<Route>::all(client), &mut tasks);
        let table = Arc::new(Table {
            own: address.ip(),
            placed: RwLock::default(),
            router,
            services,
            slices,
            routes,
            reach,
            record: OnceLock::new(),
        });
        let serving = table.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let table = serving.clone();
                    tokio::spawn(async move { table.serve(stream).await });
                }
            }
        }));
        Ok(Self { address, table, tasks })
    }

    /// The proxy's URL, as `HTTPS_PROXY` wants it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, what is refused is recorded. The first record given counts.
    pub fn record_in(&self, evidence: Evidence) {
        let _ = self.table.record.set(Record { evidence, last: Mutex::default() });
    }

    /// Makes `host:port` lead to `address`, before anything the cluster says. A placed name wins over a Service.
    pub fn place(&self, name: impl Into<String>, address: SocketAddr) {
        self.table.placed.write().expect("no panic while placing").insert(name.into(), address);
    }

    /// Takes a placed name away.
    pub fn displace(&self, name: &str) {
        self.table.placed.write().expect("no panic while placing").remove(name);
    }

    /// The addresses behind a Service that are ready, as the doorway knows them now, in order.
    pub fn endpoints(&self, namespace: &str, service: &str) -> Vec<String> {
        let slices = self.table.slices.state();
        let own = slices.iter().filter(|slice| is_of(slice, namespace, service));
        let ready = own.flat_map(|slice| slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)));
        let mut addresses: Vec<_> = ready.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect();
        addresses.sort();
        addresses
    }

    /// What keeps pods themselves from reaching a Service by its address; nothing when all nodes lead them there, or where
    /// nobody can tell.
    pub async fn lag(&self, namespace: &str, service: &str) -> Option<String> {
        let found = self.table.services.get(&ObjectRef::new(service).within(namespace));
        let Some(address) = found.and_then(|found| found.spec.as_ref()?.cluster_ip.clone()) else {
            return Some(format!("the Service {namespace}/{service} has no address"));
        };
        let (pods, namespace, name) = (self.endpoints(namespace, service), namespace.to_owned(), service.to_owned());
        self.table.reach.lag(&Led { namespace, name, address, pods }).await
    }

    /// Where a name leads now, for messages and for proxies that stand behind a seam.
    pub async fn connect(&self, asked: &str) -> Result<Box<dyn Stream>, String> {
        self.table.connect(asked).await
    }

    /// A handle through which a proxy behind a seam connects to what the cluster itself says about a name.
    pub fn behind(&self) -> Behind {
        Behind(self.table.clone())
    }
}

/// Connects to what the cluster says about a name, leaving placed names aside.
#[derive(Clone)]
pub struct Behind(Arc<Table>);

impl Behind {
    /// Opens a connection to the Service, pod or route of that name.
    pub async fn connect(&self, asked: &str) -> Result<Box<dyn Stream>, String> {
        let destination = self.0.lookup(asked)?;
        self.0.open(&destination).await.map_err(|error| error.to_string())
    }

    /// The loopback address behind a name, on targets whose pods listen on loopback.
    ///
    /// # Errors
    /// Why the name leads nowhere.
    pub fn loopback(&self, asked: &str) -> Result<SocketAddr, String> {
        Ok(match self.0.lookup(asked)? {
            Destination::Address(address) => address,
            Destination::Pod { ip, port } => SocketAddr::new(api::address::listen_address(ip).into(), port),
        })
    }
}

fn reflect<K>(api: Api<K>, tasks: &mut Vec<JoinHandle<()>>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = reflector(writer, watcher(api, watcher::Config::default()).default_backoff());
    tasks.push(tokio::spawn(stream.for_each(|_| async {})));
    store
}

impl Record {
    fn refusal(&self, asked: &str, why: &str) {
        let this = Some((self.evidence.scenario(), asked.to_owned(), why.to_owned()));
        let mut last = self.last.lock().expect("no panic while recording");
        if *last != this {
            *last = this;
            self.evidence.record(What::DoorwayRefused { asked: asked.to_owned(), reason: why.to_owned() });
        }
    }
}

impl Table {
    async fn serve(&self, mut client: TcpStream) {
        let _ = client.set_nodelay(true);
        let Some(asked) = read_connect(&mut client).await else {
            let body = "this proxy answers CONNECT only\n";
            let answer = format!("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = client.write_all(answer.as_bytes()).await;
            return;
        };
        match self.connect(&asked).await {
            Ok(mut upstream) => {
                if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
                    let _ = copy_bidirectional(&mut client, &mut upstream).await;
                }
            }
            Err(why) => {
                let body = format!("{why}\n");
                let answer = format!("HTTP/1.1 502 Bad Gateway\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = client.write_all(answer.as_bytes()).await;
            }
        }
    }

    async fn connect(&self, asked: &str) -> Result<Box<dyn Stream>, String> {
        let placed = self.placed.read().expect("no panic while placing").get(asked).copied();
        let found = match placed {
            Some(address) => Ok(Destination::Address(address)),
            None => self.lookup(asked),
        };
        let outcome = match &found {
            Ok(destination) => self
                .open(destination)
                .await
                .map_err(|error| format!("{asked} leads to {destination:?}, which does not answer: {error}")),
            Err(why) => Err(why.clone()),
        };
        if let (Err(why), Some(record)) = (&outcome, self.record.get()) {
            record.refusal(asked, why);
        }
        outcome
    }

    async fn open(&self, destination: &Destination) -> io::Result<Box<dyn Stream>> {
        match destination {
            Destination::Address(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Destination::Pod { ip, port } => self.reach.connect(*ip, *port).await,
        }
    }

    fn lookup(&self, asked: &str) -> Result<Destination, String> {
        let (host, port) = asked.rsplit_once(':').ok_or_else(|| format!("'{asked}' has no port"))?;
        let port: u16 = port.parse().map_err(|_| format!("'{asked}' has no port"))?;
        if let Ok(IpAddr::V4(ip)) = host.parse() {
            return if ip.is_loopback() || IpAddr::V4(ip) == self.own {
                Ok(Destination::Address(SocketAddr::new(ip.into(), port)))
            } else if self.reach.knows(ip) {
                Ok(Destination::Pod { ip, port })
            } else {
                self.by_cluster_ip(ip, port)
            };
        }
        let bare = host.strip_suffix(".cluster.local").unwrap_or(host);
        if let Some((name, namespace)) = bare.strip_suffix(".svc").and_then(|rest| rest.split_once('.')) {
            return self.by_service(namespace, name, port);
        }
        let is_route = |route: &Arc<Route>| {
            let admitted = route.status.iter().flat_map(|status| &status.ingress);
            admitted.map(|ingress| &ingress.host).any(|admitted| admitted == host)
        };
        match self.router {
            Some(router) if port == 443 && self.routes.state().iter().any(is_route) => Ok(Destination::Address(router)),
            _ => Err(format!(
                "the doorway knows nothing called {asked}: no Service, no admitted Route and no stand-in has that name"
            )),
        }
    }

    fn by_cluster_ip(&self, ip: Ipv4Addr, port: u16) -> Result<Destination, String> {
        let wanted = ip.to_string();
        let services = self.services.state();
        let service = services
            .iter()
            .find(|service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some(wanted.as_str()));
        match service {
            Some(service) => self.by_service(&service.namespace().unwrap_or_default(), &service.name_any(), port),
            None => Err(format!("no Service has the address {ip}")),
        }
    }

    fn by_service(&self, namespace: &str, name: &str, port: u16) -> Result<Destination, String> {
        let Some(service) = self.services.get(&ObjectRef::new(name).within(namespace)) else {
            return Err(format!("there is no Service {namespace}/{name}"));
        };
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.clone()).unwrap_or_default();
        let Some(entry) = ports.iter().find(|entry| entry.port == i32::from(port)) else {
            return Err(format!("Service {namespace}/{name} has no port {port}"));
        };
        let slices = self.slices.state();
        for slice in slices.iter().filter(|slice| is_of(slice, namespace, name)) {
            let target = slice
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref().unwrap_or_default() == entry.name.as_deref().unwrap_or_default());
            let number = target.and_then(|port| port.port).or(match &entry.target_port {
                Some(IntOrString::Int(number)) => Some(*number),
                _ => None,
            });
            let ready = slice.endpoints.iter().find(|endpoint| is_ready(endpoint));
            let ip = ready.and_then(|endpoint| endpoint.addresses.first()).and_then(|ip| ip.parse().ok());
            if let (Some(ip), Some(port)) = (ip, number.and_then(|number| u16::try_from(number).ok())) {
                return Ok(Destination::Pod { ip, port });
            }
        }
        Err(format!("Service {namespace}/{name} has no ready endpoint"))
    }
}

/// Whether a slice belongs to a Service.
fn is_of(slice: &EndpointSlice, namespace: &str, service: &str) -> bool {
    slice.namespace().as_deref() == Some(namespace)
        && slice.labels().get("kubernetes.io/service-name").map(String::as_str) == Some(service)
}

/// A condition that is not told counts as true, as the API says of it.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// Reads `CONNECT host:port HTTP/1.1` and the header that follows; `None` for anything else.
async fn read_connect(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::with_capacity(512);
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte: what follows the header belongs to the tunnel and must stay in the socket.
        if head.len() > 8192 || client.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let mut words = text.lines().next()?.split(' ');
    (words.next()? == "CONNECT").then_some(())?;
    words.next().map(str::to_owned)
}
