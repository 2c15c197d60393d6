//! One node: its object in the API, its heartbeats, and what all its pods share.
//! Pods are run by `pod_worker`, found by `pod_watch`.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            DaemonEndpoint, Node as NodeObject, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
            NodeSystemInfo,
        },
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::events::Recorder,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    address_pool::AddressPool, cluster_access::ClusterAccess, error::Error, image_map::ImageMap, machine,
    pod_table::PodTable, source::Sources, spawner::Spawner,
};

/// The address of every node; the port of its kubelet API tells them apart.
pub(crate) const NODE_ADDRESS: &str = "127.0.0.1";
/// The version that the nodes report; it must not be newer than the API server's.
const KUBELET_VERSION: &str = "v1.34.0-local-node";
/// Lets kube-apiserver pass exec WebSockets through to the node instead of translating them to SPDY (Kubernetes 1.36,
/// feature ExtendWebSocketsToKubelet).
const DECLARED_FEATURES: [&str; 1] = ["ExtendWebSocketsToKubelet"];
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Every so many heartbeats the status is sent, too.
const HEARTBEATS_PER_STATUS: u32 = 6;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
const MANAGER: &str = "local-node";

/// What all nodes of this process share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    /// The nodes' own folder.
    pub(crate) folder: PathBuf,
    pub(crate) images_file: PathBuf,
    pub(crate) images: Arc<Mutex<Arc<ImageMap>>>,
    pub(crate) spawner: Spawner,
    pub(crate) sources: Sources,
    pub(crate) access: ClusterAccess,
    pub(crate) doorway: Option<String>,
    pub(crate) trust_bundle: Option<PathBuf>,
    /// How long a preStop hook may take.
    pub(crate) pre_stop_limit: Duration,
    pub(crate) recorder: Recorder,
    pub(crate) probe_client: reqwest::Client,
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) index: u8,
    pub(crate) kubelet_port: u16,
    pub(crate) addresses: AddressPool,
    pub(crate) pods: PodTable,
    pub(crate) shared: Shared,
}

impl Shared {
    /// The image map, read again from its file if `image` is unknown so far: the file may have grown.
    pub(crate) fn images_with(&self, image: &str) -> Arc<ImageMap> {
        let Ok(mut images) = self.images.lock() else { return Arc::default() };
        if images.find(image).is_none() {
            match ImageMap::read(&self.images_file) {
                Ok(fresh) => *images = Arc::new(fresh),
                Err(error) => tracing::warn!(%error, "keeping the image map read before"),
            }
        }
        images.clone()
    }
}

impl Node {
    /// The folder that holds everything of this node.
    pub(crate) fn folder(&self) -> PathBuf {
        self.shared.folder.join(&self.name)
    }

    /// The node's root: hostPath volumes lie below it.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    /// The folder of one pod.
    pub(crate) fn pod_folder(&self, uid: &str) -> PathBuf {
        self.folder().join("pods").join(uid)
    }

    /// Registers the node and waits until the API shows it Ready and free of the taint for unready nodes.
    ///
    /// Repeats for as long as the API server cannot be reached; an error is final (for instance missing rights).
    pub(crate) async fn register(&self, stop: &CancellationToken) -> Result<(), Error> {
        let mut pause = FIRST_RETRY;
        loop {
            let error = match self.try_register().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if matches!(&error, kube::Error::Api(status) if status.is_forbidden() || status.code == 401) {
                return Err(Error::Register { node: self.name.clone(), source: Box::new(error) });
            }
            tracing::warn!(node = self.name, %error, "registering the node failed; trying again");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // Nothing tells when an unreachable API server is back.
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_RETRY),
            }
        }
    }

    async fn try_register(&self) -> Result<(), kube::Error> {
        let nodes = Api::<NodeObject>::all(self.shared.client.clone());
        if let Err(error) = nodes.create(&PostParams::default(), &self.object()).await
            && !matches!(&error, kube::Error::Api(status) if status.is_already_exists())
        {
            return Err(error);
        }
        self.send_status(true).await?;
        // Admission taints a new node as not ready; waiting for the controller manager to see that it is would cost seconds.
        loop {
            let node = nodes.get(&self.name).await?;
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            let kept: Vec<_> = taints.iter().filter(|taint| taint.key != "node.kubernetes.io/not-ready").collect();
            if kept.len() == taints.len() {
                return Ok(());
            }
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version, "labels": self.labels()},
                "spec": {"taints": kept},
            });
            match nodes.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.is_conflict() => continue,
                result => return result.map(drop),
            }
        }
    }

    /// Keeps the node alive in the eyes of the cluster until `stop`.
    pub(crate) async fn beat(&self, stop: &CancellationToken) {
        let mut beats: u32 = 0;
        loop {
            if let Err(error) = self.renew_lease().await {
                tracing::warn!(node = self.name, %error, "renewing the node's lease failed; trying again at the next heartbeat");
            }
            beats = beats.wrapping_add(1);
            if beats.is_multiple_of(HEARTBEATS_PER_STATUS)
                && let Err(error) = self.send_status(false).await
            {
                tracing::warn!(node = self.name, %error, "sending the node's status failed; trying again later");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(HEARTBEAT) => (),
            }
        }
    }

    async fn renew_lease(&self) -> Result<(), kube::Error> {
        let leases = Api::<Lease>::namespaced(self.shared.client.clone(), LEASE_NAMESPACE);
        let renewal = json!({"spec": {
            "holderIdentity": self.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": MicroTime(Timestamp::now()),
        }});
        match leases.patch(&self.name, &PatchParams::default(), &Patch::Merge(renewal)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => (),
            result => return result.map(drop),
        }
        let node = Api::<NodeObject>::all(self.shared.client.clone()).get(&self.name).await?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: node.metadata.uid.map(|uid| {
                    let (api_version, kind, name) = ("v1".into(), "Node".into(), self.name.clone());
                    vec![OwnerReference { api_version, kind, name, uid, ..OwnerReference::default() }]
                }),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        leases.create(&PostParams::default(), &lease).await.map(drop)
    }

    async fn send_status(&self, restarted: bool) -> Result<(), kube::Error> {
        let nodes = Api::<NodeObject>::all(self.shared.client.clone());
        let mut status = serde_json::to_value(self.status()).map_err(kube::Error::SerdeError)?;
        status["declaredFeatures"] = json!(DECLARED_FEATURES);
        if !restarted && let Some(conditions) = status["conditions"].as_array_mut() {
            // Merged by type: the transition times of the first report stay.
            for condition in conditions {
                condition.as_object_mut().map(|fields| fields.remove("lastTransitionTime"));
            }
        }
        let patch = Patch::Strategic(json!({"status": status}));
        nodes
            .patch_status(
                &self.name,
                &PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() },
                &patch,
            )
            .await?;
        Ok(())
    }

    fn labels(&self) -> serde_json::Value {
        let mut labels = json!({
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": machine::architecture(),
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": machine::architecture(),
            "topology.kubernetes.io/region": "local",
            "topology.kubernetes.io/zone": format!("local-{}", self.index),
            "node.openshift.io/os_id": "rhel",
            "node-role.kubernetes.io/worker": "",
        });
        if self.index == 0 {
            labels["node-role.kubernetes.io/master"] = json!("");
            labels["node-role.kubernetes.io/control-plane"] = json!("");
        }
        labels
    }

    fn object(&self) -> NodeObject {
        NodeObject {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: serde_json::from_value(self.labels()).ok(),
                ..ObjectMeta::default()
            },
            spec: None,
            status: Some(self.status()),
        }
    }

    fn status(&self) -> NodeStatus {
        let now = Time(Timestamp::now());
        let condition = |type_: &str, status: &str, reason: &str, message: &str| NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
        };
        NodeStatus {
            // No Hostname: kube-apiserver would prefer it and look it up.
            addresses: Some(vec![NodeAddress { type_: "InternalIP".into(), address: NODE_ADDRESS.into() }]),
            capacity: Some(machine::capacity()),
            allocatable: Some(machine::capacity()),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.kubelet_port) }),
            }),
            conditions: Some(vec![
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "memory is not watched"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "disk is not watched"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "process ids are not watched"),
                condition("Ready", "True", "KubeletReady", "the node runs pods as processes"),
            ]),
            node_info: Some(NodeSystemInfo {
                architecture: machine::architecture().into(),
                boot_id: machine::boot_id(),
                container_runtime_version: "process://1".into(),
                kernel_version: machine::kernel_version(),
                kube_proxy_version: String::new(),
                kubelet_version: KUBELET_VERSION.into(),
                machine_id: self.name.clone(),
                operating_system: "linux".into(),
                os_image: "local processes".into(),
                system_uuid: self.name.clone(),
                swap: None,
            }),
            ..NodeStatus::default()
        }
    }

    /// Removes what earlier runs left of pods that are not in `alive` (their uids).
    pub(crate) fn sweep(&self, alive: &BTreeSet<String>) {
        let Ok(entries) = std::fs::read_dir(self.folder().join("pods")) else { return };
        for entry in entries.flatten() {
            if !alive.contains(entry.file_name().to_string_lossy().as_ref())
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "the folder of a pod that is gone cannot be removed");
            }
        }
    }
}
