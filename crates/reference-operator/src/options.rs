//! What the operator is told from outside: one struct, filled from the environment as the real operator fills its own.
//! Nothing here is a switch of behaviour; what to do is read from the Config.

use std::path::PathBuf;

/// Options of the operator process; every value has an environment variable of the name the real operator uses
/// (operator source manifests/07-operator.yaml, main).
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Kubeconfig to use; without it the pod's own environment decides (KUBECONFIG, then the service account).
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Image of the registry pods.
    #[arg(long, env = "IMAGE", default_value = "registry-conformance.local/registry", value_name = "IMAGE")]
    pub image: String,

    /// Image of the pruner jobs; its entry point understands `adm prune images`.
    #[arg(long, env = "IMAGE_PRUNER", default_value = "registry-conformance.local/cli", value_name = "IMAGE")]
    pub image_pruner: String,

    /// Image of the node-ca pods; without it the registry's image is used, as up to version 4.22.
    #[arg(long, env = "IMAGE_NODE_CA", value_name = "IMAGE")]
    pub image_node_ca: Option<String>,

    /// Version reported in the ClusterOperator and on the registry Deployment.
    #[arg(long, env = "RELEASE_VERSION", default_value = "0.0.1-snapshot", value_name = "VERSION")]
    pub release_version: String,

    /// Name the operator uses for itself in leases and logs.
    #[arg(long, env = "OPERATOR_NAME", default_value = "cluster-image-registry-operator", value_name = "NAME")]
    pub operator_name: String,

    /// Namespace of the operator and of everything it makes; POD_NAMESPACE counts when this is not set.
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAMESPACE")]
    pub watch_namespace: Option<String>,

    /// Namespace the operator's own pod runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "openshift-image-registry", value_name = "NAMESPACE")]
    pub pod_namespace: String,

    /// Where Google Cloud Storage answers; the variable is the one that all of Google's client libraries know.
    #[arg(long, env = "STORAGE_EMULATOR_HOST", default_value = "https://storage.googleapis.com", value_name = "URL")]
    pub gcs_endpoint: String,

    /// Port on which `/metrics` is served in plain HTTP; no metrics are served without it.
    #[arg(long, env = "METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<std::net::SocketAddr>,
}

impl Options {
    /// The namespace that is watched and written: WATCH_NAMESPACE, else POD_NAMESPACE.
    pub fn namespace(&self) -> &str {
        self.watch_namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or(&self.pod_namespace)
    }

    /// The image of the node-ca DaemonSet.
    pub fn node_ca_image(&self) -> &str {
        self.image_node_ca.as_deref().filter(|name| !name.is_empty()).unwrap_or(&self.image)
    }
}
