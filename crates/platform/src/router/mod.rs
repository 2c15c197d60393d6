//! A router: admits Routes and serves them, over TLS by server name and, if asked to, without TLS.
//! It behaves towards Routes as OpenShift's default router does; load balancing finesse is not its aim.

mod admission;
mod connection;
mod forward;
mod hello;
mod page;
mod table;
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use api::names;
use api::route::{Route, RouteStatus};
use futures::future;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::certificate::certified_key;
use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::{Error, PodNetwork, cache, pki};
use table::Table;
use tls::Trust;

/// Namespace of the ingress operator, where OpenShift keeps the router's CA.
pub(crate) const OPERATOR_NAMESPACE: &str = "openshift-ingress-operator";
/// Secret with the router's CA.
const ROUTER_CA: &str = "router-ca";
/// Secret in [`names::INGRESS_NAMESPACE`] with the certificate shown for routes that bring none.
const DEFAULT_CERTIFICATE: &str = "router-certs-default";
/// ConfigMap in [`names::CONFIG_MANAGED_NAMESPACE`] that tells everybody what to trust.
const DEFAULT_INGRESS_CERT: &str = "default-ingress-cert";
/// Annotation on routes whose host was chosen for them.
const HOST_GENERATED: &str = "openshift.io/host.generated";

/// Sockets the router takes connections on.
pub(crate) struct Listeners {
    tls: TcpListener,
    plain: Option<TcpListener>,
}

impl Listeners {
    /// Takes the addresses.
    ///
    /// # Errors
    /// If one is in use or not ours.
    pub(crate) async fn bind(tls: SocketAddr, plain: Option<SocketAddr>) -> Result<Self, Error> {
        let bind = async |address| TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source });
        let plain = match plain {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { tls: bind(tls).await?, plain })
    }
}

/// What the router shows when a route brings no certificate.
pub(crate) struct Pki {
    default: Arc<CertifiedKey>,
}

impl Pki {
    /// The kept CA and wildcard certificate, or new ones that are kept from now on.
    ///
    /// Readers find them where OpenShift has them, and the CA's certificate in `router-ca.crt`.
    pub(crate) async fn load(cluster: &Cluster, base_domain: &str, pki_dir: &Path) -> Result<Self, Error> {
        let authority = pki::authority(cluster, OPERATOR_NAMESPACE, ROUTER_CA, "ingress-operator").await?;
        pki::publish(pki_dir, "router-ca.crt", authority.certificate()).await?;
        let hosts = [format!("*.{base_domain}"), base_domain.to_owned()];
        let secrets = Api::<Secret>::namespaced(cluster.client.clone(), names::INGRESS_NAMESPACE);
        let kept = secrets
            .get_opt(DEFAULT_CERTIFICATE)
            .await
            .map_err(Error::api(format!("reading the router's certificate {DEFAULT_CERTIFICATE}")))?;
        let pair = match kept.as_ref().map(pki::pair).filter(|pair| authority.vouches_for(pair, &hosts)) {
            Some(pair) => pair,
            None => {
                let pair = authority.issue(&hosts)?;
                pki::keep(cluster, names::INGRESS_NAMESPACE, DEFAULT_CERTIFICATE, &pair).await?;
                pair
            }
        };
        let mut bundle = ConfigMap::default();
        bundle.metadata.name = Some(DEFAULT_INGRESS_CERT.into());
        bundle.data = Some([("ca-bundle.crt".to_owned(), authority.certificate().to_owned())].into());
        Api::<ConfigMap>::namespaced(cluster.client.clone(), names::CONFIG_MANAGED_NAMESPACE)
            .patch(DEFAULT_INGRESS_CERT, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&bundle))
            .await
            .map_err(Error::api(format!("publishing {DEFAULT_INGRESS_CERT}")))?;
        let default = certified_key(&pair).map_err(Error::certificate("reading the router's certificate"))?;
        Ok(Self { default: Arc::new(default) })
    }
}

/// Admits and serves routes. Returns after all that exist are.
pub(crate) async fn start(
    cluster: &Cluster,
    pki: Pki,
    service_ca: &str,
    base_domain: &str,
    pods: PodNetwork,
    listeners: Listeners,
) -> Result<(), Error> {
    let trust = Trust::new(pki.default, service_ca)?;
    let changed = Arc::new(Notify::new());
    let client = &cluster.client;
    let services = watcher::Config::default().labels(table::SERVICE_LABEL);
    let (routes, slices) = tokio::join!(
        cache::watch(cluster, Api::<Route>::all(client.clone()), watcher::Config::default(), &changed),
        cache::watch(cluster, Api::<EndpointSlice>::all(client.clone()), services, &changed),
    );
    let (publish, served) = watch::channel(Arc::new(Table::empty(&trust)));
    let router = Arc::new(Router {
        cluster: cluster.clone(),
        base_domain: base_domain.to_owned(),
        pods,
        trust,
        routes,
        slices,
        publish,
    });
    let pass = move || {
        let router = Arc::clone(&router);
        async move { router.pass().await }
    };
    cache::drive(cluster, "router", changed, pass).await;
    connection::accept(cluster, listeners.tls, served.clone(), connection::Door::Tls);
    if let Some(plain) = listeners.plain {
        connection::accept(cluster, plain, served, connection::Door::Plain);
    }
    Ok(())
}

struct Router {
    cluster: Cluster,
    base_domain: String,
    pods: PodNetwork,
    trust: Trust,
    routes: Store<Route>,
    slices: Store<EndpointSlice>,
    publish: watch::Sender<Arc<Table>>,
}

impl Router {
    async fn pass(&self) -> Result<(), Error> {
        let decisions = admission::decide(&self.routes.state(), &self.base_domain);
        // Served first: who sees a route admitted may use it at once.
        let table = Table::build(&decisions, &self.slices.state(), &self.trust, self.pods);
        self.publish.send_replace(Arc::new(table));
        future::try_join_all(decisions.iter().map(|decision| self.tell(decision))).await?;
        Ok(())
    }

    async fn tell(&self, decision: &admission::Decision) -> Result<(), Error> {
        let route = &decision.route;
        let name = route.name_any();
        let api = Api::<Route>::namespaced(self.cluster.client.clone(), &route.namespace().unwrap_or_default());
        if route.spec.host.is_empty() {
            let patch = json!({
                "metadata": { "annotations": { HOST_GENERATED: "true" }, "resourceVersion": route.resource_version() },
                "spec": { "host": decision.host },
            });
            // The change comes back as an event, and the status is written then.
            return self.cluster.merge(&api, &name, &patch).await;
        }
        let current = route.status.clone().unwrap_or_default();
        let wanted: RouteStatus = admission::status(decision, &current, &self.base_domain);
        if wanted == current {
            return Ok(());
        }
        let patch = json!({ "metadata": { "resourceVersion": route.resource_version() }, "status": wanted });
        self.cluster.merge_status(&api, &name, &patch).await
    }
}
