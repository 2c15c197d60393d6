//! The platform on a real control plane: what it puts there, what it keeps there, and what its router serves.
//! Pods are sockets of this test; everything between them and the client is real.

mod echo;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use api::config::{ClusterVersion, FeatureGate, Infrastructure};
use api::names;
use api::route::{Route, RouteIngress, Termination};
use echo::Echo;
use futures::TryStreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork};
use platform::Options;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);
const TEAM: &str = "team";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platform_makes_openshift_of_a_plain_control_plane() {
    // Another test of this process may have been faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("folder");
    let tools = local_cluster::tool::locate(|line| eprintln!("{line}")).await.expect("control plane programs");
    let network = PodNetwork::lease().expect("pod network");
    let control_plane =
        ControlPlane::start(ControlPlaneOptions::new(folder.path().join("control-plane"), tools, network))
            .await
            .expect("control plane");
    let cluster = TestCluster::new(&control_plane, &folder.path().join("pki")).await;

    let platform = cluster.start_platform().await;
    configuration_objects_are_there(&cluster).await;
    namespaces_are_furnished(&cluster).await;
    what_exists_is_not_overwritten(&cluster).await;
    let pod = EchoPod::start(&cluster).await;
    serving_certificates_are_made_anew_when_deleted_or_broken(&cluster).await;
    bundles_are_kept_in_config_maps(&cluster).await;
    volumes_come_and_go_with_their_claims(&cluster).await;
    the_lease_of_a_killed_operator_is_freed(&cluster).await;
    routes_are_served(&cluster, &pod).await;
    the_oldest_route_keeps_its_host(&cluster).await;
    platform.stop().await;

    let before = std::fs::read_to_string(cluster.pki.join("service-ca.crt")).expect("published");
    let platform = cluster.start_platform().await;
    let after = std::fs::read_to_string(cluster.pki.join("service-ca.crt")).expect("published");
    assert_eq!(before, after, "a restarted platform goes on with the same authority");
    routes_are_served(&cluster, &pod).await;
    platform.stop().await;
    control_plane.stop().await;
}

/// A control plane and where the platform is to serve.
struct TestCluster {
    client: Client,
    options: Options,
    pki: std::path::PathBuf,
    router: SocketAddr,
    plain: SocketAddr,
    pod: std::net::Ipv4Addr,
}

impl TestCluster {
    async fn new(control_plane: &ControlPlane, pki: &Path) -> Self {
        let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig()).expect("kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("config");
        let network = control_plane.network();
        let router = SocketAddr::new(network.listen_address(0, 200).into(), 20443);
        let plain = SocketAddr::new(network.listen_address(0, 200).into(), 20080);
        Self {
            client: Client::try_from(config).expect("client"),
            options: Options {
                kubeconfig: Some(control_plane.kubeconfig().to_owned()),
                router_address: router,
                router_plain_address: Some(plain),
                base_domain: "apps.conformance.test".into(),
                cluster_domain: "conformance.test".into(),
                pki_dir: pki.to_owned(),
                release_version: "4.6.0".into(),
                platform_type: "None".into(),
                pod_network: platform::PodNetwork::Loopback,
                volumes: Some(pki.with_file_name("volumes")),
            },
            pki: pki.to_owned(),
            router,
            plain,
            pod: network.pod_address(200, 1),
        }
    }

    async fn start_platform(&self) -> RunningPlatform {
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(platform::run_and_tell(self.options.clone(), stop.clone(), ready));
        tokio::time::timeout(DEADLINE, is_ready).await.expect("ready in time").expect("the platform starts");
        RunningPlatform { stop, task }
    }

    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    fn team<K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), TEAM)
    }

    /// A client that finds `host` at the router and believes only the given authority.
    fn visitor(&self, host: &str, authority: &str) -> reqwest::Client {
        let pem = std::fs::read(self.pki.join(authority)).expect("published authority");
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("certificate")])
            .resolve(host, self.router)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("client")
    }
}

struct RunningPlatform {
    stop: CancellationToken,
    task: JoinHandle<Result<(), platform::Error>>,
}

impl RunningPlatform {
    async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.task).await.expect("it ends in time");
        ended.expect("no panic").expect("no error");
    }
}

/// The object once it is as wanted; panics with the last one seen if that takes too long.
async fn until<K>(api: Api<K>, name: &str, what: &str, mut holds: impl FnMut(&K) -> bool) -> K
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut seen = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
    let mut last = None;
    let wait = async {
        while let Some(object) = seen.try_next().await.expect("watch") {
            if holds(&object) {
                return Some(object);
            }
            last = Some(object);
        }
        None
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(Some(object)) => object,
        _ => panic!("waited {DEADLINE:?} for {what}; last seen {last:#?}"),
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("literal object")
}

async fn create<K>(api: Api<K>, value: Value) -> K
where
    K: Resource + Clone + Debug + serde::Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), &object(value)).await.expect("created")
}

async fn configuration_objects_are_there(cluster: &TestCluster) {
    let version = cluster.all::<ClusterVersion>().get("version").await.expect("ClusterVersion").status.expect("status");
    assert_eq!(version.desired.version, "4.6.0");
    assert_eq!(version.available_updates, Some(Vec::new()));
    let gates = cluster.all::<FeatureGate>().get("cluster").await.expect("FeatureGate").status.expect("status");
    assert_eq!(gates.feature_gates[0].version, "4.6.0");
    let platform =
        cluster.all::<Infrastructure>().get("cluster").await.expect("Infrastructure").status.expect("status");
    assert_eq!(platform.platform_status.expect("platform").type_, "None");
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), names::CONFIG_NAMESPACE);
    let pull_secret = secrets.get(names::PULL_SECRET).await.expect("pull secret");
    assert_eq!(pull_secret.type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
    // Aggregation is the controller manager's work, done by our labels.
    until(cluster.all::<ClusterRole>(), "view", "view to allow pulling", |role| {
        let rules = role.rules.iter().flatten();
        rules.flat_map(|rule| rule.resources.iter().flatten()).any(|resource| resource == "imagestreams/layers")
    })
    .await;
}

async fn namespaces_are_furnished(cluster: &TestCluster) {
    create(cluster.all::<Namespace>(), json!({ "metadata": { "name": TEAM } })).await;
    let team = until(cluster.all::<Namespace>(), TEAM, "ranges of ids", |namespace| {
        namespace.annotations().contains_key(names::SUPPLEMENTAL_GROUPS_ANNOTATION)
    })
    .await;
    assert!(team.annotations()[names::SUPPLEMENTAL_GROUPS_ANNOTATION].ends_with("/10000"));
    let pullers = until(cluster.team::<RoleBinding>(), "system:image-pullers", "pullers", |_| true).await;
    assert_eq!(pullers.role_ref.name, "system:image-puller");
}

async fn what_exists_is_not_overwritten(cluster: &TestCluster) {
    let patch = json!({ "spec": { "domain": "elsewhere.test" } });
    let ingresses = cluster.all::<api::config::Ingress>();
    ingresses.patch("cluster", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("patched");
    let second = Options {
        router_address: "127.0.0.1:0".parse().expect("literal"),
        router_plain_address: None,
        ..cluster.options.clone()
    };
    let stop = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let task = tokio::spawn(platform::run_and_tell(second, stop.clone(), ready));
    tokio::time::timeout(DEADLINE, is_ready).await.expect("in time").expect("ready");
    RunningPlatform { stop, task }.stop().await;
    assert_eq!(ingresses.get("cluster").await.expect("Ingress").spec.domain, "elsewhere.test");
}

/// A Service with a serving certificate and a pod behind it.
struct EchoPod {
    tls: Echo,
    plain: Echo,
}

impl EchoPod {
    async fn start(cluster: &TestCluster) -> Self {
        create(
            cluster.team::<Service>(),
            json!({
                "metadata": { "name": "echo", "annotations": { names::SERVING_CERT_ANNOTATION_ALPHA: "echo-tls" } },
                "spec": { "ports": [{ "name": "tls", "port": 443 }, { "name": "plain", "port": 80 }] },
            }),
        )
        .await;
        let secret = until(cluster.team::<Secret>(), "echo-tls", "a serving certificate", |_| true).await;
        let listen = api::address::listen_address(cluster.pod);
        let pod = Self { tls: Echo::tls(listen, &secret).await, plain: Echo::plain(listen).await };
        create(
            cluster.team::<EndpointSlice>(),
            json!({
                "metadata": { "name": "echo-1", "labels": { "kubernetes.io/service-name": "echo" } },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": [cluster.pod], "conditions": { "ready": true } }],
                "ports": [
                    { "name": "tls", "port": pod.tls.address.port() },
                    { "name": "plain", "port": pod.plain.address.port() },
                ],
            }),
        )
        .await;
        pod
    }
}

async fn serving_certificates_are_made_anew_when_deleted_or_broken(cluster: &TestCluster) {
    create(
        cluster.team::<Service>(),
        json!({
            "metadata": { "name": "asking", "annotations": { names::SERVING_CERT_ANNOTATION: "asking-tls" } },
            "spec": { "ports": [{ "port": 443 }] },
        }),
    )
    .await;
    let secrets = || cluster.team::<Secret>();
    let whole = |secret: &Secret| {
        let data = secret.data.as_ref();
        data.and_then(|data| data.get("tls.crt")).is_some_and(|pem| pem.0.starts_with(b"-----BEGIN CERTIFICATE"))
    };
    let first = until(secrets(), "asking-tls", "a serving certificate", whole).await;
    assert_eq!(first.owner_references()[0].kind, "Service");

    secrets().delete("asking-tls", &DeleteParams::default()).await.expect("deleted");
    let second = until(secrets(), "asking-tls", "another certificate", |secret| secret.uid() != first.uid()).await;

    let broken = json!({ "data": { "tls.crt": "bm9uc2Vuc2U=" } });
    secrets().patch("asking-tls", &PatchParams::default(), &Patch::Merge(&broken)).await.expect("broken");
    let third = until(secrets(), "asking-tls", "a mended certificate", whole).await;
    assert_eq!(third.uid(), second.uid(), "the object stays, its content is replaced");

    create(secrets(), json!({ "metadata": { "name": "taken" }, "stringData": { "mine": "1" } })).await;
    create(
        cluster.team::<Service>(),
        json!({
            "metadata": { "name": "greedy", "annotations": { names::SERVING_CERT_ANNOTATION: "taken" } },
            "spec": { "ports": [{ "port": 443 }] },
        }),
    )
    .await;
    until(cluster.team::<Service>(), "greedy", "to be told that the secret is taken", |service| {
        service.annotations().contains_key("service.beta.openshift.io/serving-cert-generation-error")
    })
    .await;
    let taken = secrets().get("taken").await.expect("there").data.unwrap_or_default();
    assert!(taken.contains_key("mine") && taken.len() == 1);
}

async fn bundles_are_kept_in_config_maps(cluster: &TestCluster) {
    let config_maps = || cluster.team::<ConfigMap>();
    create(
        config_maps(),
        json!({ "metadata": { "name": "serviceca", "annotations": { names::INJECT_CA_BUNDLE_ANNOTATION: "true" } } }),
    )
    .await;
    let expected = std::fs::read_to_string(cluster.pki.join("service-ca.crt")).expect("published");
    let holds = |config_map: &ConfigMap| {
        config_map.data.as_ref().and_then(|data| data.get(names::SERVICE_CA_KEY)) == Some(&expected)
    };
    until(config_maps(), "serviceca", "the bundle", holds).await;
    let emptied = json!({ "data": null });
    config_maps().patch("serviceca", &PatchParams::default(), &Patch::Merge(&emptied)).await.expect("emptied");
    until(config_maps(), "serviceca", "the bundle again", holds).await;
}

async fn volumes_come_and_go_with_their_claims(cluster: &TestCluster) {
    create(
        cluster.team::<PersistentVolumeClaim>(),
        json!({
            "metadata": { "name": "data" },
            "spec": { "accessModes": ["ReadWriteMany"], "resources": { "requests": { "storage": "1Gi" } } },
        }),
    )
    .await;
    let claim = until(cluster.team::<PersistentVolumeClaim>(), "data", "the claim to be bound", |claim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    })
    .await;
    let volume = claim.spec.and_then(|spec| spec.volume_name).expect("bound to a volume");
    let folder = cluster.options.volumes.clone().expect("volumes").join(&volume);
    std::fs::write(folder.join("file"), "content").expect("a folder for it");
    let all = cluster.all::<PersistentVolume>();
    let seen = all.get(&volume).await.expect("the volume");
    cluster.team::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await.expect("deleted");
    let uid = seen.uid().expect("a uid");
    let gone = kube::runtime::wait::await_condition(all, &volume, kube::runtime::conditions::is_deleted(&uid));
    tokio::time::timeout(DEADLINE, gone).await.expect("removed in time").expect("watch");
    assert!(!folder.exists(), "the folder goes before the volume");
}

async fn the_lease_of_a_killed_operator_is_freed(cluster: &TestCluster) {
    let pods = || Api::<Pod>::namespaced(cluster.client.clone(), names::REGISTRY_NAMESPACE);
    let leases = || Api::<Lease>::namespaced(cluster.client.clone(), names::REGISTRY_NAMESPACE);
    let name = "cluster-image-registry-operator-1";
    create(
        pods(),
        json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "operator", "image": "any" }] } }),
    )
    .await;
    let state = |started: &str| {
        let running = json!({ "running": { "startedAt": started } });
        let status = json!({
            "name": "operator", "image": "any", "imageID": "", "ready": true, "restartCount": 0, "state": running,
        });
        Patch::Merge(json!({ "status": { "phase": "Running", "containerStatuses": [status] } }))
    };
    pods().patch_status(name, &PatchParams::default(), &state("2026-01-01T00:00:00Z")).await.expect("running");
    create(
        leases(),
        json!({
            "metadata": { "name": names::OPERATOR_LEASE },
            "spec": { "holderIdentity": "host_1", "leaseDurationSeconds": 137, "renewTime": "2026-01-01T00:00:30.000000Z" },
        }),
    )
    .await;
    pods().patch_status(name, &PatchParams::default(), &state("2026-01-01T00:01:00Z")).await.expect("restarted");
    until(leases(), names::OPERATOR_LEASE, "the lease to be freed", |lease| {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some("")
    })
    .await;
}

fn admitted(route: &Route) -> Option<&RouteIngress> {
    let ingress = &route.status.as_ref()?.ingress;
    ingress.iter().find(|ingress| ingress.conditions.iter().any(|condition| condition.status == "True"))
}

async fn route(cluster: &TestCluster, name: &str, spec: Value) -> String {
    let routes = cluster.team::<Route>();
    let wanted: Route = object(json!({
        "apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": { "name": name }, "spec": spec,
    }));
    routes.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&wanted)).await.expect("route");
    let route = until(routes, name, "the route to be admitted", |route| admitted(route).is_some()).await;
    let host = admitted(&route).map(|ingress| ingress.host.clone()).unwrap_or_default();
    assert_eq!(host, route.spec.host, "the host is in spec and status");
    host
}

async fn routes_are_served(cluster: &TestCluster, pod: &EchoPod) {
    let port = cluster.router.port();
    let to = json!({ "kind": "Service", "name": "echo" });

    // Reencrypt, as the registry's default route: no host, no destination CA, no port.
    let host = route(cluster, "reencrypt", json!({ "to": to, "tls": { "termination": "reencrypt" } })).await;
    assert_eq!(host, "reencrypt-team.apps.conformance.test");
    let visitor = cluster.visitor(&host, "router-ca.crt");
    let body = vec![7_u8; 3 << 20];
    for _ in 0..2 {
        let answer =
            visitor.put(format!("https://{host}:{port}/v2/x?y=1")).body(body.clone()).send().await.expect("answer");
        let seen: Value = answer.json().await.expect("the pod's answer");
        assert_eq!(seen["uri"], "/v2/x?y=1");
        assert_eq!(seen["length"], body.len());
        assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
        assert_eq!(seen["headers"]["host"], format!("{host}:{port}"));
    }

    // Edge: plain to the pod; requests without TLS are sent to the TLS port.
    let edge = json!({
        "to": to, "port": { "targetPort": "plain" },
        "tls": { "termination": "edge", "insecureEdgeTerminationPolicy": "Redirect" },
    });
    let host = route(cluster, "edge", edge).await;
    let answer =
        cluster.visitor(&host, "router-ca.crt").get(format!("https://{host}:{port}/")).send().await.expect("answer");
    assert_eq!(answer.json::<Value>().await.expect("answer")["served"], pod.plain.address.to_string());
    let plain =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("client");
    let answer = plain.get(format!("http://{}/a", cluster.plain)).header("host", &host).send().await.expect("answer");
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.headers()["location"], format!("https://{host}/a"));

    // Passthrough: the pod's own certificate is seen, so only the service CA is believed here.
    let passthrough = json!({ "host": "echo.team.svc", "to": to, "tls": { "termination": "passthrough" } });
    let host = route(cluster, "passthrough", passthrough).await;
    let visitor = cluster.visitor(&host, "service-ca.crt");
    let answer = visitor.get(format!("https://{host}:{port}/")).send().await.expect("answer");
    assert_eq!(answer.json::<Value>().await.expect("answer")["served"], pod.tls.address.to_string());

    // Nothing behind it, and nothing at all.
    let nobody = json!({ "kind": "Service", "name": "nobody" });
    let host = route(cluster, "empty", json!({ "to": nobody, "tls": { "termination": "edge" } })).await;
    for host in [host.as_str(), "unknown.apps.conformance.test"] {
        let visitor = cluster.visitor(host, "router-ca.crt");
        assert_eq!(visitor.get(format!("https://{host}:{port}/")).send().await.expect("answer").status(), 503);
    }

    // A destination CA that did not sign the pod's certificate: no request reaches the pod.
    let foreign = std::fs::read_to_string(cluster.pki.join("router-ca.crt")).expect("published");
    let tls = json!({ "termination": Termination::Reencrypt, "destinationCACertificate": foreign });
    let host = route(cluster, "distrusting", json!({ "to": to, "tls": tls })).await;
    let visitor = cluster.visitor(&host, "router-ca.crt");
    assert_eq!(visitor.get(format!("https://{host}:{port}/")).send().await.expect("answer").status(), 503);

    // And one that did, whatever name the certificate is for.
    let own = std::fs::read_to_string(cluster.pki.join("service-ca.crt")).expect("published");
    let tls = json!({ "termination": Termination::Reencrypt, "destinationCACertificate": own });
    let host = route(cluster, "trusting", json!({ "to": to, "tls": tls })).await;
    let visitor = cluster.visitor(&host, "router-ca.crt");
    assert_eq!(visitor.get(format!("https://{host}:{port}/")).send().await.expect("answer").status(), 200);
}

async fn the_oldest_route_keeps_its_host(cluster: &TestCluster) {
    let spec = json!({ "host": "claimed.test", "to": { "kind": "Service", "name": "echo" }, "tls": { "termination": "edge" } });
    create(cluster.all::<Namespace>(), json!({ "metadata": { "name": "rival" } })).await;
    let wanted = json!({
        "apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": { "name": "claim" }, "spec": spec,
    });
    let mut claims = Vec::new();
    for namespace in [TEAM, "rival"] {
        let routes = Api::<Route>::namespaced(cluster.client.clone(), namespace);
        let created = create(routes.clone(), wanted.clone()).await;
        // Times are whole seconds; between equals the lower uid counts as older.
        claims.push(((created.creation_timestamp(), created.uid()), routes));
    }
    claims.sort_by(|(one, _), (other, _)| one.cmp(other));
    let [(_, older), (_, younger)] = &claims[..] else { panic!("two claims") };
    let said = |route: &Route, reason: &str| {
        let ingress = route.status.iter().flat_map(|status| &status.ingress);
        ingress.flat_map(|ingress| &ingress.conditions).any(|condition| condition.reason == reason)
    };
    until(younger.clone(), "claim", "to be refused", |route| said(route, "HostAlreadyClaimed")).await;
    until(older.clone(), "claim", "to be admitted", |route| admitted(route).is_some()).await;
    older.delete("claim", &DeleteParams::default()).await.expect("deleted");
    until(younger.clone(), "claim", "to inherit the host", |route| admitted(route).is_some()).await;
}
