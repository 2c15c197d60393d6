//! Command lines of the four programs: what each flag is set to and, where it is not the obvious value, why.
//! Everything listens on loopback addresses of the leased pod network, so no two control planes can meet.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::PodNetwork;
use crate::pki::CertificateFiles;

/// Range of ClusterIPs, the one OpenShift installs by default.
pub(crate) const SERVICE_RANGE: &str = "172.30.0.0/16";
/// First address of that range, which the Service `kubernetes` always has.
pub(crate) const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// Where the parts of one control plane listen and lie.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) network: PodNetwork,
    pub(crate) api: SocketAddr,
    pub(crate) etcd_data: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) token_file: PathBuf,
    pub(crate) audit_policy: PathBuf,
    pub(crate) scheduler_config: PathBuf,
    pub(crate) etcd_member: CertificateFiles,
    pub(crate) etcd_client: CertificateFiles,
    pub(crate) etcd_ca: PathBuf,
    pub(crate) serving: CertificateFiles,
    pub(crate) cluster_ca: CertificateFiles,
    pub(crate) front_proxy_ca: PathBuf,
    pub(crate) front_proxy_client: CertificateFiles,
    pub(crate) kubelet_client: CertificateFiles,
    pub(crate) service_account: CertificateFiles,
    pub(crate) controller_manager_kubeconfig: PathBuf,
    pub(crate) scheduler_kubeconfig: PathBuf,
    pub(crate) controller_manager_serving: CertificateFiles,
    pub(crate) scheduler_serving: CertificateFiles,
}

impl Layout {
    fn etcd_address(&self) -> Ipv4Addr {
        etcd_address(&self.network)
    }
}

/// Address of etcd, apart from every pod and every server of the platform.
pub(crate) fn etcd_address(network: &PodNetwork) -> Ipv4Addr {
    network.listen_address(254, 1)
}

/// Address of kube-controller-manager's and kube-scheduler's own endpoints.
pub(crate) fn controllers_address(network: &PodNetwork) -> Ipv4Addr {
    network.listen_address(254, 2)
}

/// Builds a list of `--name=value` arguments.
#[derive(Default)]
struct Flags(Vec<OsString>);

impl Flags {
    fn set(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Flags {
        let mut flag = OsString::from(format!("--{name}="));
        flag.push(value);
        self.0.push(flag);
        self
    }

    fn pair(self, certificate: &str, key: &str, files: &CertificateFiles) -> Flags {
        self.set(certificate, &files.certificate).set(key, &files.key)
    }
}

/// etcd speaks TLS with client certificates even on loopback: every user of the machine can reach the port, and the store holds every Secret.
pub(crate) fn etcd(layout: &Layout) -> Vec<OsString> {
    let address = layout.etcd_address();
    let (client, peer) = (format!("https://{address}:2379"), format!("https://{address}:2380"));
    Flags::default()
        .set("name", "local")
        .set("data-dir", &layout.etcd_data)
        .set("listen-client-urls", &client)
        .set("advertise-client-urls", &client)
        .set("listen-peer-urls", &peer)
        .set("initial-advertise-peer-urls", &peer)
        .set("initial-cluster", format!("local={peer}"))
        .pair("cert-file", "key-file", &layout.etcd_member)
        .set("trusted-ca-file", &layout.etcd_ca)
        .set("client-cert-auth", "true")
        .pair("peer-cert-file", "peer-key-file", &layout.etcd_member)
        .set("peer-trusted-ca-file", &layout.etcd_ca)
        .set("peer-client-cert-auth", "true")
        // The data need not outlive the machine.
        .set("unsafe-no-fsync", "true")
        .set("quota-backend-bytes", (512_u32 << 20).to_string())
        .set("snapshot-count", "5000")
        // A single member elects itself; there is nobody to wait for.
        .set("heartbeat-interval", "10")
        .set("election-timeout", "50")
        .0
}

/// kube-apiserver with RBAC, aggregation, an audit log and the token file.
pub(crate) fn kube_apiserver(layout: &Layout) -> Vec<OsString> {
    Flags::default()
        .set("etcd-servers", format!("https://{}:2379", layout.etcd_address()))
        .set("etcd-cafile", &layout.etcd_ca)
        .pair("etcd-certfile", "etcd-keyfile", &layout.etcd_client)
        .set("bind-address", layout.api.ip().to_string())
        .set("secure-port", layout.api.port().to_string())
        // Endpoints refuse loopback addresses; the doorstep of the pod network carries this one to the server.
        .set("advertise-address", layout.network.pod_address(255, 1).to_string())
        .pair("tls-cert-file", "tls-private-key-file", &layout.serving)
        .set("client-ca-file", &layout.cluster_ca.certificate)
        .set("token-auth-file", &layout.token_file)
        .set("authorization-mode", "Node,RBAC")
        .set("allow-privileged", "true")
        .set("service-cluster-ip-range", SERVICE_RANGE)
        .set("service-account-issuer", "https://kubernetes.default.svc")
        .set("service-account-key-file", &layout.service_account.certificate)
        .set("service-account-signing-key-file", &layout.service_account.key)
        .set("requestheader-client-ca-file", &layout.front_proxy_ca)
        .set("requestheader-allowed-names", "front-proxy-client")
        .set("requestheader-username-headers", "X-Remote-User")
        .set("requestheader-group-headers", "X-Remote-Group")
        .set("requestheader-extra-headers-prefix", "X-Remote-Extra-")
        .pair("proxy-client-cert-file", "proxy-client-key-file", &layout.front_proxy_client)
        .set("enable-aggregator-routing", "false")
        .pair("kubelet-client-certificate", "kubelet-client-key", &layout.kubelet_client)
        .set("kubelet-certificate-authority", &layout.cluster_ca.certificate)
        .set("kubelet-preferred-address-types", "InternalIP")
        .set("audit-policy-file", &layout.audit_policy)
        .set("audit-log-path", layout.logs.join("audit.log"))
        .set("profiling", "false")
        .set("v", "1")
        .0
}

/// kube-controller-manager with all controllers. It trusts no lookup at its start, so it may start before kube-apiserver answers.
pub(crate) fn kube_controller_manager(layout: &Layout) -> Vec<OsString> {
    let flags = Flags::default()
        .set("controllers", "*")
        .set("leader-elect", "false")
        .set("root-ca-file", &layout.cluster_ca.certificate)
        .set("service-account-private-key-file", &layout.service_account.key)
        .pair("cluster-signing-cert-file", "cluster-signing-key-file", &layout.cluster_ca)
        .set("service-cluster-ip-range", SERVICE_RANGE)
        .set("allocate-node-cidrs", "false")
        .set("kube-api-qps", "500")
        .set("kube-api-burst", "1000")
        .set("concurrent-gc-syncs", "5")
        .set("pvclaimbinder-sync-period", "2s")
        // A node process that is busy for a while is not a lost node; lost nodes are made by scenarios.
        .set("node-monitor-grace-period", "5m")
        .set("secure-port", "10257");
    controller(flags, layout, &layout.controller_manager_kubeconfig, &layout.controller_manager_serving)
}

/// kube-scheduler; its backoff is in its configuration file.
pub(crate) fn kube_scheduler(layout: &Layout) -> Vec<OsString> {
    let flags = Flags::default().set("config", &layout.scheduler_config).set("secure-port", "10259");
    controller(flags, layout, &layout.scheduler_kubeconfig, &layout.scheduler_serving)
}

fn controller(flags: Flags, layout: &Layout, kubeconfig: &Path, serving: &CertificateFiles) -> Vec<OsString> {
    let flags = flags
        .set("bind-address", controllers_address(&layout.network).to_string())
        .pair("tls-cert-file", "tls-private-key-file", serving)
        .set("client-ca-file", &layout.cluster_ca.certificate)
        .set("authentication-kubeconfig", kubeconfig)
        .set("authorization-kubeconfig", kubeconfig)
        .set("authentication-skip-lookup", "true")
        .set("profiling", "false")
        .set("v", "1");
    // The scheduler's file names its kubeconfig itself.
    if kubeconfig == layout.scheduler_kubeconfig { flags.0 } else { flags.set("kubeconfig", kubeconfig).0 }
}

/// Audit policy: one line per finished request with who, what and the answer, but no bodies, which hold Secrets.
pub(crate) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
  - level: None
    users: ['system:apiserver']
  - level: None
    nonResourceURLs: ['/readyz*', '/livez*', '/healthz*', '/openapi/*', '/version']
  - level: None
    resources:
      - group: coordination.k8s.io
        resources: [leases]
  - level: Metadata
";

/// Scheduler configuration: a pod that did not fit is tried again within two seconds, since here nodes come within one.
pub(crate) fn scheduler_config(kubeconfig: &Path) -> String {
    let kubeconfig = serde_json::to_string(&kubeconfig.to_string_lossy()).expect("text can be quoted");
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
         clientConnection:\n  kubeconfig: {kubeconfig}\n  qps: 500\n  burst: 1000\n\
         leaderElection:\n  leaderElect: false\n\
         podInitialBackoffSeconds: 1\npodMaxBackoffSeconds: 2\n"
    )
}
