//! A kind cluster that somebody else has made, found in the container engine: its nodes, its network, and the way in as
//! one of its administrators. Nothing is changed here.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use harness::failure::{Failure, Tried as _, chain};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, PartialObjectMeta},
    config::{KubeConfigOptions, Kubeconfig},
};

use super::{admission::OWN_NAMESPACES, engine::Engine, kind_cluster::KIND_LABEL, kubeconfig};

/// The label that says what a container is to its cluster (kind source pkg/cluster/constants).
const ROLE_LABEL: &str = "io.x-k8s.kind.role";
/// Where a node of the control plane keeps an administrator's kubeconfig (kind source pkg/cluster/internal/kubeconfig).
const ADMINISTRATOR: &str = "/etc/kubernetes/admin.conf";
/// How long the first answer of the API server may take.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

/// A cluster that runs.
pub(super) struct RunningKind {
    pub name: String,
    pub nodes: Vec<String>,
    /// The network of its containers.
    pub network: String,
    /// As kind makes it for the user: an administrator with a certificate.
    pub kubeconfig: Kubeconfig,
    pub client: Client,
    /// What tells it from every other cluster, also from a later one of its name: the uid of its namespace kube-system.
    pub id: String,
    /// A pod that somebody runs in it.
    pod_of_others: Option<String>,
}

impl RunningKind {
    /// Finds the cluster of a name; nothing when there is none.
    ///
    /// # Errors
    /// When a container of it does not run, or its API server does not answer.
    pub(super) async fn find(engine: &Engine, name: &str) -> Result<Option<Self>, Failure> {
        let tried = format!("using the running kind cluster {name}");
        let cluster = format!("label={KIND_LABEL}={name}");
        let containers = engine.containers(&[&cluster]).await?;
        if containers.is_empty() {
            return Ok(None);
        }
        let run = engine.containers(&[&cluster, "status=running"]).await?;
        if let Some(stopped) = containers.iter().find(|container| !run.contains(container)) {
            return Err(Failure::error(tried, format!("its container {stopped} does not run"))
                .next(format!("start it with `docker start {stopped}`")));
        }
        let of_role = async |role: &str| engine.containers(&[&cluster, &format!("label={ROLE_LABEL}={role}")]).await;
        let (control_planes, workers) = (of_role("control-plane").await?, of_role("worker").await?);
        let first = control_planes.first().ok_or_else(|| Failure::error(&tried, "it has no control plane"))?;
        // With several control planes clients come by the balancer before them.
        let balancer = of_role("external-load-balancer").await?;
        let published = engine.run(["port", balancer.first().unwrap_or(first), "6443/tcp"]).await?;
        let server = published.lines().find_map(local).ok_or_else(|| {
            Failure::error(&tried, format!("its API server is published at {:?}", published.trim()))
                .next("make it with an apiServerAddress of this machine (kind's own default is 127.0.0.1)")
        })?;
        let text = engine.run(["exec", first, "cat", ADMINISTRATOR]).await?;
        let mut kubeconfig = Kubeconfig::from_yaml(&text).tried(format!("reading {ADMINISTRATOR} of {first}"))?;
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(format!("https://{server}"));
        }
        let network = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}\n{{end}}";
        let networks = engine.run(["inspect", "--format", network, first]).await?;
        let network = networks.lines().next().unwrap_or_default().to_owned();
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await;
        let mut config = config.tried(&tried)?;
        kubeconfig::of_the_suite(&mut config);
        config.proxy_url = None;
        let client = Client::try_from(config).tried(&tried)?;
        let id = identity(&client, &tried).await?;
        let pod_of_others = pod_of_others(&client).await.tried(&tried)?;
        let nodes = control_planes.into_iter().chain(workers).collect();
        Ok(Some(Self { name: name.to_owned(), nodes, network, kubeconfig, client, id, pod_of_others }))
    }

    /// What scenarios need that clusters made for a run have and this one lacks, and why.
    pub(super) fn lacks(&self) -> BTreeMap<String, String> {
        let mut lacks = vec![("kubelet", "its nodes were made without the way to the run's registries".to_owned())];
        match (&self.nodes[..], &self.pod_of_others) {
            ([_], _) => lacks.push(("two-nodes", "the cluster has one node".to_owned())),
            // A claim of several pods needs a folder that all nodes share.
            (_, others) => {
                lacks.push(("free-claim-name", "its nodes share no folder for volumes".to_owned()));
                let drained =
                    |pod| ("two-nodes", format!("nodes would be drained, and somebody's pod {pod} runs there"));
                lacks.extend(others.as_ref().map(drained));
            }
        }
        lacks.into_iter().map(|(need, why)| (need.to_owned(), why)).collect()
    }

    /// As [`RunningKind::find`], for a cluster that has to be there.
    ///
    /// # Errors
    /// Also when there is none of that name, with the names of those there are.
    pub(super) async fn demand(engine: &Engine, name: &str) -> Result<Self, Failure> {
        if let Some(found) = Self::find(engine, name).await? {
            return Ok(found);
        }
        let form = format!("{{{{.Label \"{KIND_LABEL}\"}}}}");
        let printed =
            engine.run(["ps", "--all", "--filter", &format!("label={KIND_LABEL}"), "--format", &form]).await?;
        let mut others: Vec<&str> = printed.lines().collect();
        others.sort_unstable();
        others.dedup();
        let seen = match others.as_slice() {
            [] => "the engine has no kind cluster at all".to_owned(),
            others => format!("the engine has no kind cluster of that name; it has {}", others.join(", ")),
        };
        Err(Failure::error(format!("using the running kind cluster {name}"), seen)
            .next("name one of `kind get clusters`, or leave --cluster out and one is made"))
    }
}

async fn pod_of_others(client: &Client) -> Result<Option<String>, kube::Error> {
    let pods = Api::<Pod>::all(client.clone()).list_metadata(&ListParams::default()).await?;
    let name = |pod: PartialObjectMeta<Pod>| {
        let namespace = pod.namespace().filter(|namespace| !OWN_NAMESPACES.contains(&namespace.as_str()))?;
        Some(format!("{namespace}/{}", pod.name_any()))
    };
    Ok(pods.items.into_iter().find_map(name))
}

/// A published address as this machine reaches it; none for addresses of other machines.
fn local(published: &str) -> Option<SocketAddr> {
    let mut address: SocketAddr = published.trim().parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address.is_ipv4().then_some(address)
}

async fn identity(client: &Client, tried: &str) -> Result<String, Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let seen = match tokio::time::timeout(FIRST_ANSWER, namespaces.get("kube-system")).await {
        Ok(Ok(namespace)) => {
            return namespace.metadata.uid.ok_or_else(|| Failure::error(tried, "kube-system has no uid"));
        }
        Ok(Err(error)) => format!("its API server says: {}", chain(&error)),
        Err(_) => format!("its API server did not answer within {} s", FIRST_ANSWER.as_secs()),
    };
    Err(Failure::error(tried, seen)
        .next("see whether `kubectl get nodes` works in it; a restarted engine can need a moment"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("127.0.0.1:40123", Some("127.0.0.1:40123"))]
    #[case("0.0.0.0:6443\n", Some("127.0.0.1:6443"))]
    #[case("[::]:6443", Some("127.0.0.1:6443"))]
    #[case("[::1]:6443", None)]
    #[case("", None)]
    fn a_published_address_is_reached_on_this_machine(#[case] published: &str, #[case] expected: Option<&str>) {
        assert_eq!(local(published).map(|address| address.to_string()).as_deref(), expected);
    }
}
