//! Files of the nodes of a cluster that was there before, read in the node agent's own pods, which have the root of their
//! node mounted.

use std::io;

use api::names;
use futures::{FutureExt as _, future::BoxFuture};
use harness::{
    environment::NodeFiles,
    failure::{Failure, Tried as _, chain},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, ListParams},
};
use tokio::io::AsyncReadExt as _;

/// Where the agent has the root of its node (machine-config-operator source
/// manifests/machineconfigdaemon/daemonset.yaml, main).
const ROOT: &str = "/rootfs";

/// The nodes of a cluster.
#[derive(Clone)]
pub(super) struct NodePods {
    client: Client,
    nodes: Vec<String>,
}

impl NodePods {
    /// The nodes there are now.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(super) async fn find(client: &Client) -> Result<Self, Failure> {
        let nodes: Api<Node> = Api::all(client.clone());
        let nodes = nodes.list(&ListParams::default()).await.tried("listing nodes")?;
        Ok(Self { client: client.clone(), nodes: nodes.iter().map(ResourceExt::name_any).collect() })
    }

    async fn cat(&self, node: &str, path: &str) -> io::Result<Option<String>> {
        let failed = |error: kube::Error| io::Error::other(chain(&error));
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), names::MACHINE_CONFIG_NAMESPACE);
        let here = ListParams::default()
            .labels(&format!("k8s-app={}", names::MACHINE_CONFIG_DAEMON))
            .fields(&format!("spec.nodeName={node},status.phase=Running"));
        let listed = pods.list(&here).await.map_err(failed)?;
        let pod = listed.iter().find(|pod| pod.metadata.deletion_timestamp.is_none()).ok_or_else(|| {
            let (namespace, name) = (names::MACHINE_CONFIG_NAMESPACE, names::MACHINE_CONFIG_DAEMON);
            io::Error::other(format!("no pod of {namespace}/{name} runs there"))
        })?;
        let parameters = AttachParams::default().container(names::MACHINE_CONFIG_DAEMON);
        let command = ["cat".to_owned(), format!("{ROOT}{path}")];
        let mut process = pods.exec(&pod.name_any(), command, &parameters).await.map_err(failed)?;
        let (mut text, mut error) = (String::new(), String::new());
        let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
        if let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) {
            tokio::try_join!(stdout.read_to_string(&mut text), stderr.read_to_string(&mut error))?;
        }
        let status = match status {
            Some(status) => status.await.unwrap_or_default(),
            None => Default::default(),
        };
        match status.status.as_deref() {
            Some("Success") => Ok(Some(text)),
            _ if error.contains("No such file") => Ok(None),
            _ => Err(io::Error::other(format!("{} {error}", status.message.unwrap_or_default()).trim().to_owned())),
        }
    }
}

impl NodeFiles for NodePods {
    fn nodes(&self) -> Vec<String> {
        self.nodes.clone()
    }

    fn read<'a>(&'a self, node: &'a str, path: &'a str) -> BoxFuture<'a, io::Result<Option<String>>> {
        self.cat(node, path).boxed()
    }
}
