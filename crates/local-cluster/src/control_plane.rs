//! One control plane from start to stop: etcd, kube-apiserver, kube-controller-manager and kube-scheduler in a folder of their own.
//! Whoever holds the value has a cluster without nodes; dropping it kills the children, `stop` ends them in good order.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::flags::{self, Layout};
use crate::forward::Forward;
use crate::kubeconfig::{self, Credential};
use crate::pki::{self, Authority, CertificateFiles};
use crate::port::ReservedPort;
use crate::process::{Child, ChildOptions, Exit, ReadyLine};
use crate::readiness::{self, LastSeen, Observer};
use crate::{Error, Ledger, PodNetwork, Tool, Tools, User, secret_file, user};

/// Lowest port of kube-apiserver; the number of the pod network is added. Ephemeral ports begin at 32768.
const API_PORT_BASE: u16 = 21000;
/// Starts after the first when another program took the port in between.
const STARTS: usize = 3;

/// What a control plane is made from.
#[derive(Clone, Debug)]
pub struct ControlPlaneOptions {
    /// Folder for keys, data and logs; made if missing.
    pub dir: PathBuf,
    /// The programs.
    pub tools: Tools,
    /// The leased pod network; its addresses are used for everything but kube-apiserver.
    pub network: PodNetwork,
    /// How many users besides `kubeadmin` get a token.
    pub plain_users: usize,
    /// Where children are recorded, so that a later start can remove what a kill -9 left.
    pub ledger: Option<Ledger>,
    /// Limit from the first program's start to a ready cluster.
    pub ready_within: Duration,
    /// How long each program may take to end after SIGTERM.
    pub grace: Duration,
}

impl ControlPlaneOptions {
    /// 32 plain users, no ledger, 60 s to become ready, 1 s to end: kube-apiserver would wait for every open watch, and its data is not kept.
    pub fn new(dir: impl Into<PathBuf>, tools: Tools, network: PodNetwork) -> ControlPlaneOptions {
        ControlPlaneOptions {
            dir: dir.into(),
            tools,
            network,
            plain_users: 32,
            ledger: None,
            ready_within: Duration::from_secs(60),
            grace: Duration::from_secs(1),
        }
    }
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    options: ControlPlaneOptions,
    layout: Layout,
    kubeconfig: PathBuf,
    api_url: String,
    users: Vec<User>,
    cluster_ca: Authority,
    front_proxy_ca: PathBuf,
    kubelet_client_ca: PathBuf,
    started: Instant,
    /// By when [`ControlPlane::ready`] must be done.
    deadline: Instant,
    observer: Observer,
    /// In order of start.
    children: Vec<Child>,
    _doorstep: Forward,
}

impl ControlPlane {
    /// Starts the four programs and returns when `/readyz` is ok, the namespace `default` has its service account,
    /// and the root certificate is published: [`ControlPlane::serve`], then [`ControlPlane::ready`].
    ///
    /// Needs the process-wide rustls provider to be installed.
    ///
    /// # Errors
    /// [`Error::Exited`] with the last log lines when a program ends, [`Error::NotReady`] with what was seen last when time is up,
    /// and the errors of making files. Nothing is left running in any of these cases.
    pub async fn start(options: ControlPlaneOptions) -> Result<ControlPlane, Error> {
        let mut control_plane = ControlPlane::serve(options).await?;
        control_plane.ready().await?;
        Ok(control_plane)
    }

    /// Starts the four programs and returns when kube-apiserver serves administrators, about a second before it is ready
    /// for everybody. What an administrator puts into a new cluster can be put there in that time; whoever runs pods or
    /// acts with fewer rights needs [`ControlPlane::ready`].
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub async fn serve(options: ControlPlaneOptions) -> Result<ControlPlane, Error> {
        let mut start = 1;
        loop {
            match ControlPlane::serve_once(&options).await {
                Err(Error::Exited { exit, .. }) if start < STARTS && exit.port_was_taken() => {
                    tracing::warn!(child = %exit.name, "its port was taken by another program; starting again");
                    start += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn serve_once(options: &ControlPlaneOptions) -> Result<ControlPlane, Error> {
        let started = Instant::now();
        let deadline = started + options.ready_within;
        let wish = API_PORT_BASE + u16::from(options.network.number());
        let port = ReservedPort::near(IpAddr::V4(Ipv4Addr::LOCALHOST), wish)?;
        let api_url = format!("https://{}", port.address());
        let users = user::pool(options.plain_users)?;
        let material = Material::make(options, &port, &api_url, &users)?;
        let layout = &material.layout;
        let doorstep = (IpAddr::V4(options.network.listen_address(255, 1)), port.address().port());
        let doorstep = Forward::start(doorstep.into(), port.address()).await?;
        let parts = Parts { options, layout };

        let mut children = vec![parts.spawn(Tool::EtcD, flags::etcd(layout)).await?];
        port.release();
        children.push(parts.spawn(Tool::KubeApiserver, flags::kube_apiserver(layout)).await?);
        let observer = Observer::new(&api_url, material.cluster_ca.pem(), &users[0].token)?;
        let last_seen = LastSeen::default();
        let serving = observer.ready(&readiness::FOR_OTHERS, &last_seen);
        let awaited = "/readyz to be ok for administrators";
        let serving = readiness::before(deadline, started, &layout.logs, awaited, &last_seen, serving);
        unless_exited(&children, serving).await??;
        tracing::debug!(elapsed = ?started.elapsed(), "kube-apiserver serves administrators");

        children.push(parts.spawn(Tool::KubeControllerManager, flags::kube_controller_manager(layout)).await?);
        children.push(parts.spawn(Tool::KubeScheduler, flags::kube_scheduler(layout)).await?);
        Ok(ControlPlane {
            kubeconfig: material.kubeconfig,
            api_url,
            users,
            cluster_ca: material.cluster_ca,
            front_proxy_ca: material.layout.front_proxy_ca.clone(),
            kubelet_client_ca: material.kubelet_client_ca,
            options: options.clone(),
            layout: material.layout,
            started,
            deadline,
            observer,
            children,
            _doorstep: doorstep,
        })
    }

    /// Waits until the control plane is ready for everybody: `/readyz` is ok, the namespace `default` has its service
    /// account, and the root certificate is published. The limit is that of the whole start.
    ///
    /// # Errors
    /// [`Error::Exited`] and [`Error::NotReady`], as [`ControlPlane::start`].
    pub async fn ready(&mut self) -> Result<(), Error> {
        loop {
            match self.published().await {
                Err(Error::Exited { exit, .. }) if gave_up_waiting(&exit) && Instant::now() < self.deadline => {
                    tracing::warn!(child = %exit.name, "it did not want to wait longer for kube-apiserver; starting it again");
                    self.start_manager_again().await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_manager_again(&mut self) -> Result<(), Error> {
        let parts = Parts { options: &self.options, layout: &self.layout };
        let again = parts.spawn(Tool::KubeControllerManager, flags::kube_controller_manager(&self.layout)).await?;
        match self.children.iter_mut().find(|child| child.name() == again.name()) {
            Some(place) => *place = again,
            None => self.children.push(again),
        }
        Ok(())
    }

    async fn published(&self) -> Result<(), Error> {
        let last_seen = LastSeen::default();
        let published = async {
            self.observer.exists("/api/v1/namespaces/default/serviceaccounts", "default", &last_seen).await;
            self.observer.exists("/api/v1/namespaces/default/configmaps", "kube-root-ca.crt", &last_seen).await;
            self.observer.ready(&[], &last_seen).await;
        };
        let awaited = "the service account and the root certificate of namespace default, and /readyz to be ok";
        let published =
            readiness::before(self.deadline, self.started, &self.layout.logs, awaited, &last_seen, published);
        unless_exited(&self.children, published).await??;
        tracing::debug!(elapsed = ?self.started.elapsed(), "the control plane is ready");
        Ok(())
    }

    /// Kubeconfig of `kubeadmin`, mode 0600; it holds the token, so that it also works through a proxy that terminates TLS.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Address of kube-apiserver, `https://127.0.0.1:PORT`.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// Certificate of the authority behind kube-apiserver's certificate.
    pub fn cluster_ca(&self) -> &Path {
        self.cluster_ca.certificate()
    }

    /// Certificate of the authority behind the certificate that kube-apiserver shows to aggregated API servers.
    pub fn front_proxy_ca(&self) -> &Path {
        &self.front_proxy_ca
    }

    /// Certificate of the authority behind the certificate that kube-apiserver shows to kubelets. It signs nothing else.
    pub fn kubelet_client_ca(&self) -> &Path {
        &self.kubelet_client_ca
    }

    /// A serving certificate for the nodes' endpoints that kube-apiserver accepts: valid for the names and for 127.0.0.1.
    ///
    /// # Errors
    /// [`Error::Certificate`], [`Error::File`].
    pub fn kubelet_serving(&self, node_names: &[String]) -> Result<CertificateFiles, Error> {
        let names: Vec<String> =
            node_names.iter().cloned().chain(["127.0.0.1".to_owned(), "localhost".to_owned()]).collect();
        self.cluster_ca.issue_server("kubelet-serving", &names)
    }

    /// A server certificate of the cluster's authority, such as a proxy in front of kube-apiserver needs.
    /// `stem` names the files; the same stem again replaces them.
    ///
    /// # Errors
    /// [`Error::Certificate`] for a name that is neither a DNS name nor an IP address, [`Error::File`].
    pub fn serving(&self, stem: &str, names: &[String]) -> Result<CertificateFiles, Error> {
        self.cluster_ca.issue_server(stem, names)
    }

    /// A client certificate of the cluster's authority for `user` in `group`.
    ///
    /// # Errors
    /// [`Error::Certificate`], [`Error::File`].
    pub fn client(&self, stem: &str, user: &str, group: Option<&str>) -> Result<CertificateFiles, Error> {
        self.cluster_ca.issue_client(stem, user, group)
    }

    /// `kubeadmin` first, then `user-01`, `user-02` and so on.
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// The leased pod network.
    pub fn network(&self) -> &PodNetwork {
        &self.options.network
    }

    /// Folder with everything of this control plane.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Folder with a log per program and `audit.log`.
    pub fn logs_dir(&self) -> &Path {
        &self.layout.logs
    }

    /// The programs, in order of start.
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// Waits until one of the programs ends, which none does by itself.
    pub async fn wait_exit(&self) -> Exit {
        first_exit(&self.children).await
    }

    /// One channel per program that turns to its exit, for whoever cannot borrow the control plane while waiting.
    pub fn exits(&self) -> Vec<watch::Receiver<Option<Exit>>> {
        self.children.iter().map(Child::exit).collect()
    }

    /// Ends the programs in reverse order and removes keys, tokens and data; the logs stay. Returns how each ended.
    pub async fn stop(mut self) -> Vec<Exit> {
        let mut exits = Vec::new();
        while let Some(child) = self.children.pop() {
            exits.push(child.stop(self.options.grace).await);
        }
        for folder in ["etcd", "pki"] {
            remove(&self.options.dir.join(folder));
        }
        exits
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove");
    }
}

/// kube-controller-manager waits ten seconds for kube-apiserver to be healthy and ends then, which a busy machine
/// passes (Kubernetes cmd/kube-controller-manager/app/controllermanager.go, `WaitForAPIServer`).
fn gave_up_waiting(exit: &Exit) -> bool {
    exit.name == Tool::KubeControllerManager.name()
        && exit.last_lines.iter().any(|line| line.contains("failed to wait for apiserver being healthy"))
}

async fn first_exit(children: &[Child]) -> Exit {
    let waits = children.iter().map(|child| Box::pin(child.wait_exit()));
    futures::future::select_all(waits).await.0
}

/// The outcome of `wait`, unless a child ends first.
async fn unless_exited<T>(children: &[Child], wait: impl Future<Output = T>) -> Result<T, Error> {
    tokio::select! {
        biased;
        exit = first_exit(children) => {
            let log = children.iter().find(|child| child.name() == exit.name).map_or_else(PathBuf::new, |child| child.log().to_owned());
            Err(Error::Exited { exit: Box::new(exit), log })
        }
        outcome = wait => Ok(outcome),
    }
}

/// What the programs of one start share.
struct Parts<'a> {
    options: &'a ControlPlaneOptions,
    layout: &'a Layout,
}

impl Parts<'_> {
    async fn spawn(&self, tool: Tool, args: Vec<OsString>) -> Result<Child, Error> {
        let name = tool.name();
        let mut child =
            ChildOptions::new(name, self.options.tools.path(tool)?, self.layout.logs.join(format!("{name}.log")));
        child.args = args;
        child.env_clear = true;
        child.env = vec![
            ("HOME".into(), self.options.dir.clone().into()),
            ("TMPDIR".into(), std::env::temp_dir().into()),
            // More threads than this only cost memory for a cluster of two nodes.
            (
                "GOMAXPROCS".into(),
                std::thread::available_parallelism().map_or(2, |count| count.get().min(4)).to_string().into(),
            ),
            // A start makes garbage for a second and keeps little: collecting it more seldom saves a quarter of
            // kube-apiserver's processor time for 50 MiB, and the limit brings the collector back before it is more.
            ("GOGC".into(), "300".into()),
            ("GOMEMLIMIT".into(), "512MiB".into()),
        ];
        child.dir = Some(self.options.dir.clone());
        child.ledger = self.options.ledger.clone();
        if tool == Tool::EtcD {
            child.ready = Some(ReadyLine {
                text: "ready to serve client requests".to_owned(),
                within: self.options.ready_within,
            });
        }
        Child::spawn(child).await
    }
}

/// Every file that exists before the first program starts.
struct Material {
    layout: Layout,
    kubeconfig: PathBuf,
    cluster_ca: Authority,
    kubelet_client_ca: PathBuf,
}

impl Material {
    fn make(
        options: &ControlPlaneOptions,
        port: &ReservedPort,
        api_url: &str,
        users: &[User],
    ) -> Result<Material, Error> {
        let dir = std::path::absolute(&options.dir).map_err(Error::file("find", &options.dir))?;
        let (pki, logs, etcd_data) = (dir.join("pki"), dir.join("logs"), dir.join("etcd"));
        for folder in [&dir, &pki, &logs, &etcd_data] {
            secret_file::make_private_folder(folder)?;
        }
        let cluster_ca = Authority::create(&pki, "cluster-ca", "registry-conformance cluster")?;
        let front_proxy_ca = Authority::create(&pki, "front-proxy-ca", "registry-conformance front proxy")?;
        let kubelet_client_ca = Authority::create(&pki, "kubelet-client-ca", "registry-conformance kubelet clients")?;
        let etcd_ca = Authority::create(&pki, "etcd-ca", "registry-conformance etcd")?;
        let network = &options.network;
        let loopback = |address: Ipv4Addr| vec!["localhost".to_owned(), address.to_string()];

        let manager_name = "system:kube-controller-manager";
        // With rights of its own kube-controller-manager needs no token per controller, which saves a second at the start.
        let manager = cluster_ca.issue_client("kube-controller-manager", manager_name, Some("system:masters"))?;
        let manager_kubeconfig = pki.join("kube-controller-manager.kubeconfig");
        let ca = cluster_ca.certificate();
        kubeconfig::write(&manager_kubeconfig, api_url, ca, manager_name, Credential::Certificate(&manager))?;

        let scheduler_name = "system:kube-scheduler";
        // It starts before the roles every cluster has exist; its own would be missing, and it would pause for seconds.
        let scheduler = cluster_ca.issue_client("kube-scheduler", scheduler_name, Some("system:masters"))?;
        let scheduler_kubeconfig = pki.join("kube-scheduler.kubeconfig");
        kubeconfig::write(&scheduler_kubeconfig, api_url, ca, scheduler_name, Credential::Certificate(&scheduler))?;

        let admin_kubeconfig = dir.join("kubeconfig");
        kubeconfig::write(&admin_kubeconfig, api_url, ca, &users[0].name, Credential::Token(&users[0].token))?;

        let layout = Layout {
            network: network.clone(),
            api: port.address(),
            etcd_data,
            token_file: pki.join("tokens.csv"),
            audit_policy: pki.join("audit-policy.yaml"),
            scheduler_config: pki.join("kube-scheduler.yaml"),
            etcd_member: etcd_ca.issue_peer("etcd", &loopback(flags::etcd_address(network)))?,
            etcd_client: etcd_ca.issue_client("etcd-client", "kube-apiserver", None)?,
            etcd_ca: etcd_ca.certificate().to_owned(),
            serving: cluster_ca.issue_server("kube-apiserver", &api_names(network))?,
            cluster_ca: cluster_ca.files().clone(),
            front_proxy_ca: front_proxy_ca.certificate().to_owned(),
            front_proxy_client: front_proxy_ca.issue_client("front-proxy-client", "front-proxy-client", None)?,
            kubelet_client: kubelet_client_ca.issue_client(
                "kubelet-client",
                "kube-apiserver-kubelet-client",
                Some("system:masters"),
            )?,
            service_account: pki::service_account_keys(&pki)?,
            controller_manager_kubeconfig: manager_kubeconfig,
            scheduler_kubeconfig,
            controller_manager_serving: cluster_ca
                .issue_server("kube-controller-manager-serving", &loopback(flags::controllers_address(network)))?,
            scheduler_serving: cluster_ca
                .issue_server("kube-scheduler-serving", &loopback(flags::controllers_address(network)))?,
            logs,
        };
        secret_file::write(&layout.token_file, user::token_file(users).as_bytes())?;
        secret_file::write(&layout.audit_policy, flags::AUDIT_POLICY.as_bytes())?;
        secret_file::write(&layout.scheduler_config, flags::scheduler_config(&layout.scheduler_kubeconfig).as_bytes())?;
        Ok(Material {
            layout,
            kubeconfig: admin_kubeconfig,
            kubelet_client_ca: kubelet_client_ca.certificate().to_owned(),
            cluster_ca,
        })
    }
}

/// Names by which pods and people reach kube-apiserver.
fn api_names(network: &PodNetwork) -> Vec<String> {
    let mut names: Vec<String> = ["127.0.0.1", "::1", "localhost"].map(str::to_owned).into();
    names.extend(["", ".default", ".default.svc", ".default.svc.cluster.local"].map(|end| format!("kubernetes{end}")));
    names.extend(
        [flags::KUBERNETES_SERVICE, network.pod_address(255, 1), network.listen_address(255, 1)]
            .map(|ip| ip.to_string()),
    );
    names
}
