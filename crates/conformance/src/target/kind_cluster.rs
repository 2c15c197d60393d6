//! A cluster made by kind for one lane, or a running one that is only used: its nodes, people, images and files.
//! What runs in it is up to others.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use api::names;
use container_image::{Archive, OWN_REGISTRY};
use futures::{FutureExt as _, future::BoxFuture};
use harness::{
    environment::{NodeFiles, User},
    failure::{Failure, Tried as _},
};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use local_cluster::{kubeconfig::Credential, secret_file, user};
use serde_json::{Value, json};

use super::{engine::Engine, kind_words, make_folder};
use crate::images::{RunImage, Source};

/// The label by which kind finds the containers of a cluster again (kind source, pkg/cluster/internal/providers/docker).
const KIND_LABEL: &str = "io.x-k8s.kind.cluster";
/// What a cluster is called whose configuration names none.
const NAME: &str = "registry-conformance";
/// The namespace of kind's provisioner of volumes.
const PROVISIONER: &str = "local-path-storage";
/// The image of nodes whose configuration names none: the one that kind v0.33.0 was released with (kind source
/// pkg/apis/config/defaults/image.go).
const NODES: &str =
    "docker.io/kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";
/// What that kind puts before several control planes; it names it by its tag only (kind source
/// pkg/cluster/internal/loadbalancer/const.go), so an archive has the same name.
const BALANCER: &str = "docker.io/envoyproxy/envoy:v1.36.2";
/// Where every node has the folder that they share.
const VOLUMES: &str = "/var/registry-conformance/volumes";
/// How many plain users a cluster has.
const PLAIN_USERS: usize = 32;
/// Where the node of the control plane has the tokens.
const TOKENS: &str = "/etc/registry-conformance/tokens.csv";
/// How long kind waits for the nodes to be ready.
const NODES_READY: &str = "120s";

/// What a cluster is made from.
pub(super) struct KindOptions<'a> {
    pub engine: &'a Engine,
    /// The kind program.
    pub kind: &'a Path,
    /// The text of a file of `kind-config/`.
    pub config: &'a str,
    /// The image of all nodes; those of the configuration when absent, else kind's own.
    pub node_image: Option<&'a str>,
    /// The network of the run.
    pub network: &'a str,
    /// A folder of the engine that all nodes share, for volumes.
    pub volumes: &'a Path,
    /// The doorway, for what the nodes themselves fetch.
    pub proxy: SocketAddr,
    /// The images of our components.
    pub own_images: &'a Archive,
    /// A folder of the cluster's own.
    pub folder: &'a Path,
}

/// A cluster that is up.
pub(super) struct KindCluster {
    pub name: String,
    pub client: Client,
    /// What `client` is made from, as an administrator with a token.
    pub config: Config,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// PEM file of the API server's authority.
    pub authority: PathBuf,
    /// The API server as this machine reaches it, and as pods do.
    pub api_server: SocketAddr,
    pub api_server_inside: String,
    /// The administrator first.
    pub people: Vec<User>,
    pub nodes: Vec<String>,
    engine: Engine,
}

impl KindCluster {
    /// Makes a cluster, gives its nodes our images and labels, and returns when it can be used.
    ///
    /// # Errors
    /// When kind fails, as it does when a cluster of that name exists; with what it said last.
    pub(super) async fn make(options: KindOptions<'_>) -> Result<Self, Failure> {
        let name = name_of(options.config)?;
        let people = user::pool(PLAIN_USERS).tried("making tokens")?;
        let secrets = options.folder.join("secrets");
        make_folder(&secrets)?;
        let tokens = secrets.join("tokens.csv");
        secret_file::write(&tokens, user::token_file(&people).as_bytes()).tried("writing the tokens")?;
        let config = options.folder.join("kind.yaml");
        let text = rendered(options.config, options.node_image, &tokens, options.volumes)?;
        std::fs::write(&config, text).tried(format!("writing {}", config.display()))?;
        let made = options.folder.join("kind.kubeconfig");

        let (tried, log) = (format!("making the kind cluster {name}"), log(options.folder));
        let mut command = options.engine.command(options.kind);
        command
            .args(["create", "cluster", "--wait", NODES_READY, "--name", &name])
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(&made)
            .env("KIND_EXPERIMENTAL_PROVIDER", "docker")
            .env("KIND_EXPERIMENTAL_DOCKER_NETWORK", options.network)
            .env("HTTPS_PROXY", format!("http://{}", options.proxy))
            .env("HTTP_PROXY", "")
            .env("NO_PROXY", "127.0.0.1,localhost");
        kind_words::output(&mut command, &tried, &log).await?;

        let cluster = Self::opened(name, options.engine.clone(), &made, options.folder, people).await?;
        tokio::try_join!(
            cluster.prepare_nodes(),
            cluster.share_volumes(),
            cluster.load(options.kind, options.own_images, &log),
        )?;
        Ok(cluster)
    }

    async fn opened(
        name: String,
        engine: Engine,
        made: &Path,
        folder: &Path,
        people: Vec<local_cluster::User>,
    ) -> Result<Self, Failure> {
        let tried = format!("using the kubeconfig of the kind cluster {name}");
        let read = Kubeconfig::read_from(made).tried(&tried)?;
        let inner = read.clusters.first().and_then(|named| named.cluster.clone()).unwrap_or_default();
        let server = inner.server.unwrap_or_default();
        let api_server = server.trim_start_matches("https://").trim_end_matches('/').parse().tried(&tried)?;
        let data = inner.certificate_authority_data.unwrap_or_default();
        let data: k8s_openapi::ByteString = serde_json::from_value(data.into()).tried(&tried)?;
        let authority = folder.join("cluster-ca.crt");
        std::fs::write(&authority, data.0).tried(&tried)?;
        let administrator = people.first().ok_or_else(|| Failure::error(&tried, "it has no administrator"))?;
        let kubeconfig = folder.join("admin.kubeconfig");
        let credential = Credential::Token(&administrator.token);
        local_cluster::kubeconfig::write(&kubeconfig, &server, &authority, &administrator.name, credential)
            .tried(&tried)?;
        let read = Kubeconfig::read_from(&kubeconfig).tried(&tried)?;
        let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.tried(&tried)?;
        // A silent retry would hide what a fault does, and the API server is not behind a proxy of this machine.
        config.default_retry = false;
        config.proxy_url = None;
        let client = Client::try_from(config.clone()).tried(&tried)?;
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.tried("listing nodes")?;
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        let service = services.get("kubernetes").await.tried("reading the Service of the API server")?;
        let inside = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
        Ok(Self {
            name,
            client,
            config,
            kubeconfig,
            authority,
            api_server,
            api_server_inside: format!("https://{inside}"),
            people: people.into_iter().map(|person| User { name: person.name, token: person.token }).collect(),
            nodes: nodes.iter().map(|node| node.name_any()).collect(),
            engine,
        })
    }

    /// Lets every node run pods, with the roles that the nodes of an OpenShift cluster have.
    async fn prepare_nodes(&self) -> Result<(), Failure> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for (index, name) in self.nodes.iter().enumerate() {
            let mut labels = json!({"node-role.kubernetes.io/worker": ""});
            if index == 0 {
                labels["node-role.kubernetes.io/master"] = "".into();
            }
            let patch = json!({"metadata": {"labels": labels}, "spec": {"taints": null}});
            let tried = format!("giving the node {name} its roles");
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.tried(tried)?;
        }
        Ok(())
    }

    /// Lets kind's provisioner make volumes that pods of all nodes share, as the documents want of a registry's claim. It
    /// reads its configuration when it starts, so its pod is replaced.
    async fn share_volumes(&self) -> Result<(), Failure> {
        let tried = "letting the provisioner make shared volumes";
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), PROVISIONER);
        let config = json!({"nodePathMap": [], "sharedFileSystemPath": VOLUMES}).to_string();
        let patch = json!({"data": {"config.json": config}});
        match maps.patch("local-path-config", &PatchParams::default(), &Patch::Merge(patch)).await {
            // A node image with another provisioner keeps it.
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            other => drop(other.tried(tried)?),
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), PROVISIONER);
        let all = pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        all.map(drop).tried(tried)
    }

    async fn load(&self, kind: &Path, archive: &Archive, log: &Path) -> Result<(), Failure> {
        let tried = format!("loading the images of {OWN_REGISTRY} into the cluster {}", self.name);
        let mut command = self.engine.command(kind);
        command.args(["load", "image-archive", "--name", &self.name]).arg(&archive.path);
        kind_words::output(command.env("KIND_EXPERIMENTAL_PROVIDER", "docker"), &tried, log).await.map(drop)
    }

    /// The label of the containers of its nodes.
    pub(super) fn label(&self) -> String {
        format!("{KIND_LABEL}={}", self.name)
    }

    /// Puts a file of this machine onto every node.
    ///
    /// # Errors
    /// When a node does not take it.
    pub(super) async fn put(&self, file: &Path, path: &str) -> Result<(), Failure> {
        let folder = Path::new(path).parent().unwrap_or(Path::new("/")).display().to_string();
        for node in &self.nodes {
            self.engine.run(["exec", node, "mkdir", "-p", &folder]).await?;
            self.engine.run(["cp", "--quiet", &file.display().to_string(), &format!("{node}:{path}")]).await?;
        }
        Ok(())
    }

    /// The files of its nodes.
    pub(super) fn node_files(&self) -> NodeContainers {
        NodeContainers { engine: self.engine.clone(), nodes: self.nodes.clone() }
    }
}

/// What kind said when it failed, in the folder of a cluster.
fn log(folder: &Path) -> PathBuf {
    folder.join("cluster/logs/kind.log")
}

/// The name in a kind configuration, as kind itself reads it, else ours.
fn name_of(config: &str) -> Result<String, Failure> {
    let value: Value = serde_yaml::from_str(config).tried("reading the kind configuration")?;
    Ok(value["name"].as_str().unwrap_or(NAME).to_owned())
}

/// A cluster of the name in a configuration that is there belongs to somebody: what our own earlier runs left is gone by
/// now.
///
/// # Errors
/// When there is one. It is left alone.
pub(super) async fn refuse_foreign(engine: &Engine, config: &str) -> Result<(), Failure> {
    let name = name_of(config)?;
    let containers = engine.containers(&format!("label={KIND_LABEL}={name}")).await?;
    if containers.is_empty() {
        return Ok(());
    }
    let seen = format!("somebody else has a cluster of that name ({}); it is left alone", containers.join(", "));
    Err(Failure::error(format!("making the kind cluster {name}"), seen).next(format!(
        "judge what is in it with --target cluster, or remove it with `kind delete cluster --name {name}`, or give another name in kind-config/"
    )))
}

/// The images that kind is asked to make a cluster of this configuration from.
///
/// # Errors
/// When it is no kind configuration.
pub(super) fn images(config: &str) -> Result<Vec<RunImage>, Failure> {
    let tried = "finding the images of the kind configuration";
    let value: Value = serde_yaml::from_str(config).tried(tried)?;
    let nodes = value["nodes"].as_array().ok_or_else(|| Failure::error(tried, "it has no list `nodes`"))?;
    let named: BTreeSet<&str> = nodes.iter().map(|node| node["image"].as_str().unwrap_or(NODES)).collect();
    let registry = |image: &str, archive: &str, purpose: &str| RunImage {
        image: image.to_owned(),
        source: Source::Registry,
        archive: Some(archive.to_owned()),
        purpose: purpose.to_owned(),
    };
    let mut images: Vec<_> =
        named.into_iter().map(|image| registry(image, air_gap::NODE_IMAGE, "the cluster's nodes")).collect();
    if nodes.iter().filter(|node| node["role"] == "control-plane").count() > 1 {
        images.push(registry(BALANCER, BALANCER, "the balancer before the cluster's control planes"));
    }
    Ok(images)
}

/// Adds to a kind configuration what a run brings: the image of the nodes, the tokens of its people, on the node of the
/// control plane, and a folder that all nodes share.
fn rendered(config: &str, image: Option<&str>, tokens: &Path, volumes: &Path) -> Result<String, Failure> {
    let tried = "adding people and volumes to the kind configuration";
    let mut value: Value = serde_yaml::from_str(config).tried(tried)?;
    let nodes = value["nodes"].as_array_mut().ok_or_else(|| Failure::error(tried, "it has no list `nodes`"))?;
    for node in nodes.iter_mut() {
        let own = node["image"].as_str().unwrap_or(NODES).to_owned();
        node["image"] = image.unwrap_or(&own).into();
        let mut mounts = vec![json!({"hostPath": volumes, "containerPath": VOLUMES})];
        if node["role"] == "control-plane" {
            mounts.push(json!({"hostPath": tokens, "containerPath": TOKENS, "readOnly": true}));
        }
        match node["extraMounts"].as_array_mut() {
            Some(own) => own.extend(mounts),
            None => node["extraMounts"] = json!(mounts),
        }
    }
    // The argument list is a map in one version of kubeadm's configuration and a list in the next; kind applies the
    // patch that fits the version of the nodes.
    let volume =
        json!([{"name": "tokens", "hostPath": TOKENS, "mountPath": TOKENS, "readOnly": true, "pathType": "File"}]);
    let volume = json!({"op": "add", "path": "/apiServer/extraVolumes", "value": volume});
    let argument = [
        ("v1beta3", json!({"op": "add", "path": "/apiServer/extraArgs/token-auth-file", "value": TOKENS})),
        (
            "v1beta4",
            json!({"op": "add", "path": "/apiServer/extraArgs/-", "value": {"name": "token-auth-file", "value": TOKENS}}),
        ),
    ];
    let patches = argument.map(|(version, argument)| {
        let patch = json!([argument, volume]).to_string();
        json!({"group": "kubeadm.k8s.io", "version": version, "kind": "ClusterConfiguration", "patch": patch})
    });
    match value["kubeadmConfigPatchesJSON6902"].as_array_mut() {
        Some(own) => own.extend(patches),
        None => value["kubeadmConfigPatchesJSON6902"] = json!(patches),
    }
    serde_json::to_string_pretty(&value).tried(tried)
}

/// Files of nodes that are containers.
pub(super) struct NodeContainers {
    engine: Engine,
    nodes: Vec<String>,
}

impl NodeFiles for NodeContainers {
    fn nodes(&self) -> Vec<String> {
        self.nodes.clone()
    }

    fn read<'a>(&'a self, node: &'a str, path: &'a str) -> BoxFuture<'a, std::io::Result<Option<String>>> {
        async move {
            match self.engine.run(["exec", node, "cat", path]).await {
                Ok(text) => Ok(Some(text)),
                Err(failure) if failure.seen.as_deref().unwrap_or_default().contains("No such file") => Ok(None),
                Err(failure) => Err(std::io::Error::other(failure.text())),
            }
        }
        .boxed()
    }
}

/// The variables' value for what pods reach without the doorway: this machine's gateway and everything of the cluster.
pub(super) fn direct(gateway: std::net::IpAddr) -> String {
    let host = names::REGISTRY_INTERNAL_HOST.split(':').next().unwrap_or_default();
    format!("127.0.0.1,localhost,{gateway},{host},.svc,.cluster.local,10.0.0.0/8")
}

/// How long a lane on kind may take to open, from nothing to a system that can be judged.
pub(super) const OPENED: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "kind: Cluster\nname: ours\nnodes: [{role: control-plane}, {role: worker}]\n";

    #[test]
    fn tokens_come_onto_the_control_plane_only_and_for_either_version_of_kubeadm() {
        let text =
            rendered(CONFIG, None, Path::new("/run/tokens.csv"), Path::new("/volumes")).expect("a configuration");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(value["nodes"][0]["extraMounts"][1]["hostPath"], "/run/tokens.csv");
        assert_eq!(value["nodes"][1]["extraMounts"].as_array().map(Vec::len), Some(1));
        let patches = value["kubeadmConfigPatchesJSON6902"].as_array().expect("patches");
        let versions: Vec<_> = patches.iter().map(|patch| patch["version"].as_str().unwrap_or_default()).collect();
        assert_eq!(versions, ["v1beta3", "v1beta4"]);
    }

    #[rstest::rstest]
    #[case::kinds_own(None, None, NODES)]
    #[case::of_the_configuration(Some("example.com/node@sha256:aa"), None, "example.com/node@sha256:aa")]
    #[case::of_an_archive(Some("example.com/node@sha256:aa"), Some("ours.local/node:v1"), "ours.local/node:v1")]
    fn every_node_has_an_image_of_the_list(
        #[case] own: Option<&str>,
        #[case] archive: Option<&str>,
        #[case] expected: &str,
    ) {
        let node = own.map(|image| format!(", image: \"{image}\"")).unwrap_or_default();
        let config = CONFIG.replace("worker}", &format!("worker{node}}}")).replace("plane}", &format!("plane{node}}}"));
        let text = rendered(&config, archive, Path::new("/t"), Path::new("/v")).expect("rendered");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        let nodes = value["nodes"].as_array().expect("nodes");
        assert!(nodes.iter().all(|node| node["image"] == expected), "{text}");
        let listed = images(&config).expect("a list");
        assert_eq!(listed.len(), 1);
        assert!(archive.is_some() || listed[0].image == expected);
    }

    #[test]
    fn several_control_planes_need_a_balancer() {
        let config = CONFIG.replace("worker", "control-plane");
        let listed = images(&config).expect("a list");
        assert_eq!(listed.iter().map(|image| image.image.as_str()).collect::<Vec<_>>(), [NODES, BALANCER]);
    }

    #[test]
    fn what_the_configuration_brings_itself_stays() {
        let config = CONFIG.replace("{role: control-plane}", "{role: control-plane, extraMounts: [{hostPath: /a}]}");
        let text = rendered(&config, None, Path::new("/t"), Path::new("/v")).expect("rendered");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(value["nodes"][0]["extraMounts"].as_array().map(Vec::len), Some(3));
        assert_eq!(name_of(&config).expect("a name"), "ours");
        assert_eq!(name_of("kind: Cluster\n").expect("a name"), NAME);
    }
}
