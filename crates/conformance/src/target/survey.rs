//! What a cluster that was there before has, looked at before anything is planned: whether it can be judged at all, and
//! which scenarios it has what they need. Nothing is changed here but what a killed run has changed before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use api::{
    config::{Infrastructure, Ingress},
    image::ImageStream,
    imageregistry::{Config, ManagementState},
    mirror::{ImageContentSourcePolicy, ImageDigestMirrorSet, ImageTagMirrorSet},
    names,
};
use harness::{
    environment::NodeFiles as _,
    failure::{Failure, Tried as _, chain},
    plan::Capabilities,
    scenario::DISRUPTION,
    tenancy::ObjectName,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{Namespace, PersistentVolumeClaim},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::{
    held::Held,
    kubeconfig::{self, Access},
    node_pods::NodePods,
    program,
};
use crate::place::Place;

/// How long the first answer of the API server may take.
const FIRST_ANSWER: Duration = Duration::from_secs(15);
/// Every node has it once its agent has run.
const NODE_FILE: &str = "/etc/containers/registries.conf";

/// A cluster as it was found.
pub(super) struct Survey {
    pub access: Access,
    pub client: Client,
    /// What tells it from every other cluster: the uid of its namespace kube-system.
    pub id: String,
    /// Where its API server is.
    pub api_server: SocketAddr,
    /// Where traffic to its routes enters, if that can be told.
    pub router: Option<SocketAddr>,
    /// The nodes whose files can be read.
    pub nodes: NodePods,
    pub capabilities: Capabilities,
    /// Whether something was put back that a killed run had changed.
    pub recovered: bool,
}

impl Survey {
    /// Looks at the cluster.
    ///
    /// # Errors
    /// When there is no usable kubeconfig, it leads nowhere, its user is no administrator, or the cluster has no image
    /// registry operator.
    pub(super) async fn make(place: &Place) -> Result<Self, Failure> {
        let path = place.kubeconfig.as_deref().ok_or_else(|| {
            Failure::error("using target cluster", "no kubeconfig was given").next("name one with --kubeconfig FILE")
        })?;
        let access = kubeconfig::read(path).await?;
        let client = kubeconfig::client(&access)?;
        let id = identity(&client, &access).await?;
        administrator(&client, &access).await?;
        // What a killed run left is not what the cluster has.
        let recovered = Held::recover(&client, &id).await?.is_some();
        let config = operator(&client, &access).await?;
        let api_server = address(&host_and_port(&access)).await;
        let api_server = api_server.map_err(|seen| Failure::error(format!("finding {}", access.server()), seen))?;
        let nodes = NodePods::find(&client).await?;
        let router = router(&client, place).await?;
        let mut found = Found::default();
        found.note(DISRUPTION, disruption(&client, place).await?);
        found.note("managed-registry", managed(config.as_ref()));
        found.note("routes", router.as_ref().map(drop).map_err(Clone::clone));
        found.note("node-files", readable(&nodes).await);
        found.note(
            "two-nodes",
            match nodes.nodes().len() {
                0 | 1 => Err("the cluster has one node".to_owned()),
                _ => Ok(()),
            },
        );
        found.note("quiet-nodes", Err("others start and end pods in this cluster at any time".to_owned()));
        found.note("own-images", Err("it would prune images of others, and nothing brings them back".to_owned()));
        found.note("kubelet", Err("nodes of this cluster cannot be led to a registry on this machine".to_owned()));
        for kind in ["s3", "gcs", "azure"] {
            let why = "pods of this cluster cannot reach a storage product on this machine";
            found.note(&format!("backend-{kind}"), Err(why.to_owned()));
        }
        for program in ["podman", "skopeo"] {
            found.note(program, program::usable(program));
        }
        found.note("no-mirrors", mirrors(&client).await?);
        let taken = [
            ("free-image-name", ObjectName::of::<ImageStream>(Some(names::OPENSHIFT_NAMESPACE), "image")),
            ("free-role-name", ObjectName::of::<ClusterRole>(None, "prometheus-scraper")),
            ("free-role-name", ObjectName::of::<ClusterRoleBinding>(None, "prometheus-scraper")),
            (
                "free-claim-name",
                ObjectName::of::<PersistentVolumeClaim>(Some(names::REGISTRY_NAMESPACE), names::DEFAULT_CLAIM),
            ),
        ];
        for (need, name) in taken {
            found.note(need, free(&client, name).await?);
        }
        let Found { present, absent } = found;
        let capabilities = Capabilities { target: "cluster".to_owned(), present, absent };
        Ok(Self { access, client, id, api_server, router: router.ok(), nodes, capabilities, recovered })
    }
}

/// What is there and what is not, and why.
#[derive(Default)]
struct Found {
    present: BTreeSet<String>,
    absent: BTreeMap<String, String>,
}

impl Found {
    /// What is noted as absent stays so.
    fn note(&mut self, need: &str, found: Result<(), String>) {
        match found {
            Ok(()) if self.absent.contains_key(need) => {}
            Ok(()) => drop(self.present.insert(need.to_owned())),
            Err(why) => {
                self.present.remove(need);
                self.absent.insert(need.to_owned(), why);
            }
        }
    }
}

/// What tells the cluster from every other one: the uid of its namespace kube-system. It is the first question there is.
///
/// # Errors
/// When there is no answer, or the user is not known or may not ask.
pub(super) async fn identity(client: &Client, access: &Access) -> Result<String, Failure> {
    let tried = format!("asking {} of the kubeconfig {}", access.server(), access.path.display());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let answer = tokio::time::timeout(FIRST_ANSWER, namespaces.get("kube-system")).await;
    let namespace = match answer {
        Err(_) => {
            let seen = format!("no answer within {} s", FIRST_ANSWER.as_secs());
            return Err(Failure::error(tried, seen).next("see whether the cluster runs and this machine reaches it"));
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 401 => {
            let seen = format!("it does not know the user {:?}: {}", access.user, status.message);
            return Err(Failure::error(tried, seen).next("log in again, and give the kubeconfig that comes of it"));
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            return Err(no_administrator(access, &status.message));
        }
        Ok(Err(error)) => {
            return Err(
                Failure::error(tried, chain(&error)).next("see whether the cluster runs and this machine reaches it")
            );
        }
        Ok(Ok(namespace)) => namespace,
    };
    namespace.metadata.uid.ok_or_else(|| Failure::error(tried, "its namespace kube-system has no uid"))
}

async fn administrator(client: &Client, access: &Access) -> Result<(), Failure> {
    let any = || Some("*".to_owned());
    let everything = ResourceAttributes { verb: any(), group: any(), resource: any(), ..Default::default() };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(everything), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
    let answer = answer.tried(format!("asking {} what its user may do", access.server()))?;
    match answer.status {
        Some(status) if status.allowed => Ok(()),
        other => Err(no_administrator(access, &other.and_then(|status| status.reason).unwrap_or_default())),
    }
}

fn no_administrator(access: &Access, reason: &str) -> Failure {
    let tried = format!("judging the cluster at {} as {:?}", access.server(), access.user);
    let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    Failure::error(tried, format!("the user may not do everything in it{because}"))
        .next("give the kubeconfig of a cluster administrator (role cluster-admin)")
}

/// The registry configuration, if the operator has made one.
async fn operator(client: &Client, access: &Access) -> Result<Option<Config>, Failure> {
    let tried = format!("looking for the image registry operator in {}", access.server());
    let lacking = |seen: String| {
        Failure::error(&tried, seen).next(
            "choose a cluster that has one, as OpenShift and OKD have; --target embedded and kind bring a cluster of their own",
        )
    };
    let configs: Api<Config> = Api::all(client.clone());
    let configs = match configs.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(lacking("the cluster knows no configs.imageregistry.operator.openshift.io".to_owned()));
        }
        listed => listed.tried(&tried)?,
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), names::REGISTRY_NAMESPACE);
    if deployments.get_opt(names::OPERATOR_DEPLOYMENT).await.tried(&tried)?.is_none() {
        let (namespace, name) = (names::REGISTRY_NAMESPACE, names::OPERATOR_DEPLOYMENT);
        return Err(lacking(format!("there is no Deployment {namespace}/{name}")));
    }
    Ok(configs.into_iter().find(|config| config.metadata.name.as_deref() == Some(names::CLUSTER)))
}

/// Scenarios that disturb begin with a registry that the operator has bootstrapped as Removed, which it does only where
/// the platform offers no shareable object storage (OpenShift 4.6 registry docs, section 2.1).
async fn disruption(client: &Client, place: &Place) -> Result<Result<(), String>, Failure> {
    let infrastructures: Api<Infrastructure> = Api::all(client.clone());
    let tried = "reading the cluster's Infrastructure";
    let found = infrastructures.get_opt(names::CLUSTER).await.tried(tried)?;
    let infrastructure = serde_json::to_value(found).tried(tried)?;
    let platform = infrastructure["status"]["platformStatus"]["type"].as_str().unwrap_or_default();
    if ["AWS", "Azure", "GCP", "IBMCloud", "AlibabaCloud", "OpenStack", "PowerVS"].contains(&platform) {
        return Ok(Err(format!("on {platform} the operator makes its storage itself and is never Removed at first")));
    }
    Ok(match place.allow_disruption {
        true => Ok(()),
        false => Err("it disturbs those who use the cluster; --allow-disruption lets it run".to_owned()),
    })
}

fn managed(config: Option<&Config>) -> Result<(), String> {
    let state = config.map(|config| config.spec.management_state.unwrap_or(ManagementState::Managed));
    match state {
        Some(ManagementState::Managed) => Ok(()),
        Some(state) => Err(format!("the registry of the cluster is {state:?} and not Managed")),
        None => Err("the cluster has no registry configuration".to_owned()),
    }
}

async fn readable(nodes: &NodePods) -> Result<(), String> {
    let names = nodes.nodes();
    for node in &names {
        let read = nodes.read(node, NODE_FILE).await;
        read.map(drop).map_err(|error| format!("files of node {node} cannot be read: {error}"))?;
    }
    if names.is_empty() { Err("the cluster has no node".to_owned()) } else { Ok(()) }
}

/// Where traffic to routes enters: as told, else where the name of the default route leads.
async fn router(client: &Client, place: &Place) -> Result<Result<SocketAddr, String>, Failure> {
    if let Some(router) = &place.router {
        let found = address(router).await;
        let found = found.map_err(|seen| Failure::error(format!("finding the router {router}"), seen));
        return found.map(Ok).map_err(|failure| failure.next("give HOST:PORT to --router"));
    }
    let ingresses: Api<Ingress> = Api::all(client.clone());
    let ingress = match ingresses.get_opt(names::CLUSTER).await {
        Ok(Some(ingress)) => serde_json::to_value(&ingress).tried("reading the cluster's Ingress")?,
        _ => return Ok(Err("the cluster has no Ingress configuration, which names the domain of routes".to_owned())),
    };
    let domain = ingress["spec"]["domain"].as_str().unwrap_or_default();
    let host = format!("{}-{}.{domain}", names::DEFAULT_ROUTE, names::REGISTRY_NAMESPACE);
    let found = address(&format!("{host}:443")).await;
    Ok(found
        .map_err(|_| format!("{host} does not lead anywhere from here; --router HOST:PORT says where routes enter")))
}

async fn address(name: &str) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host(name).await.map_err(|error| error.to_string())?;
    found.into_iter().next().ok_or_else(|| "the name has no address".to_owned())
}

/// As the doorway is asked for it.
pub(super) fn host_and_port(access: &Access) -> String {
    let url = &access.config.cluster_url;
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", url.host().unwrap_or_default())
}

async fn mirrors(client: &Client) -> Result<Result<(), String>, Failure> {
    let kinds = [
        ObjectName::of::<ImageDigestMirrorSet>(None, ""),
        ObjectName::of::<ImageTagMirrorSet>(None, ""),
        ObjectName::of::<ImageContentSourcePolicy>(None, ""),
    ];
    for kind in kinds {
        let api = kind.api(client);
        let kind = &kind.resource.kind;
        match api.list(&ListParams::default().limit(1)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            listed => {
                if let Some(first) = listed.tried(format!("listing every {kind}"))?.items.first() {
                    let name = first.metadata.name.as_deref().unwrap_or_default();
                    return Ok(Err(format!("the cluster has mirrors of its own ({kind} {name})")));
                }
            }
        }
    }
    Ok(Ok(()))
}

async fn free(client: &Client, name: ObjectName) -> Result<Result<(), String>, Failure> {
    match name.api(client).get_opt(&name.name).await {
        Ok(Some(_)) => Ok(Err(format!("the cluster has a {name} already, and the documents give theirs that name"))),
        Ok(None) => Ok(Ok(())),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Ok(())),
        Err(error) => Err(Failure::error(format!("looking for {name}"), error)),
    }
}
